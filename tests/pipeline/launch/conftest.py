"""Videos of which one is long, and the store that the local engine makes of them."""

import contextlib
import shutil
import time

import pytest

from tests.extract.extraction import differing, write_video
from tests.programs import call
from tokenreel.cache.canonical import parse_json
from tokenreel.cache.errors import Damaged
from tokenreel.cache.write.claims import process_ended, read_claim

WORDS = ("backbone=test_vit", "weights=random:0", "image_size=96", "blocks=1,5", "device=cpu")
WORDS += ("batch_frames=4", "codec=int8")


def claimed_by(store):
    """Processes that have a claim in a store."""
    found = set()
    for path in (store / "claims").glob("*.json"):
        with contextlib.suppress(FileNotFoundError, Damaged):
            found.add(read_claim(path).pid)
    return found


def workers_of(store):
    """Processes that run and have a claim in a store."""
    return {pid for pid in claimed_by(store) if not process_ended(pid)}


def wait_for_workers(store, is_over):
    """Wait until a process works on a store, or none will."""
    deadline = time.monotonic() + 600
    while not workers_of(store) and not is_over():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def begin_anew(store, local):
    """Where a store is complete, compare it with the local engine's, and remove it.

    Returns whether it was.
    """
    if not (store / "recipe.json").is_file() or logged_clips(store) != ["a", "b", "c"]:
        return False
    assert differing(store, local) == []
    shutil.rmtree(store)
    return True


def logged_clips(store):
    """Videos of the clips in the logs of all writers, without their endings."""
    lines = [
        parse_json(line, where=log)
        for log in store.glob("manifest/*.jsonl")
        for line in log.read_bytes().splitlines()
    ]
    return sorted(line["record"]["video"].removesuffix(".mp4") for line in lines)


@pytest.fixture(scope="session")
def words():
    return WORDS


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("engines")
    (folder / "videos").mkdir()
    for name, frames in (("a", 10), ("b", 200), ("c", 70)):
        write_video(folder / "videos" / f"{name}.mp4", frames)
    words = ["--root", "videos", "--out", "local", "--engine", "local", *WORDS]
    status, printed = call("extract", "run", "folder", *words, cwd=folder)
    assert status == 0, printed
    return folder
