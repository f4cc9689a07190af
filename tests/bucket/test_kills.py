"""A writer on a bucket that is killed at any of its requests loses no clip and makes none twice."""

import itertools

import numpy as np
import pytest

from tests.cache import stores
from tokenreel.cache.bucket import objects
from tokenreel.cache.bucket.local_cache import FOLDER
from tokenreel.cache.bucket.objects import Bucket
from tokenreel.cache.bucket.path import bucket_path, store_path
from tokenreel.cache.format.index import logged_lines
from tokenreel.cache.read.store_reader import open_store
from tokenreel.cache.tools.maintenance import collect_garbage
from tokenreel.cache.tools.verify import verify_store
from tokenreel.cache.write import bucket_writer, claims
from tokenreel.cache.write.store_writer import StoreWriter

FRAMES = 3


class Killed(BaseException):
    """In the place of a kill."""


@pytest.fixture
def kill_at(monkeypatch):
    """Ends this process's requests at one of them, before it is done or after."""
    call = Bucket._call

    def set_kill(number: int | None, *, after: bool = False) -> list[int]:
        done = [0]

        def dying(self, key, work, *, again=False):
            done[0] += 1
            if number is not None and done[0] >= number + after:
                raise Killed
            return call(self, key, work, again=again)

        monkeypatch.setattr(Bucket, "_call", dying)
        return done

    return set_kill


def write(url, frames, *, replaces=None):
    with StoreWriter(url, writer_id="w") as writer:
        if replaces is None and writer.is_committed("a"):
            return
        clip = stores.begin(writer, "a", replaces=replaces)
        stores.append(writer, clip, "a", frames)
        count = np.arange(frames)
        clip.commit(count, count, count % 2, np.zeros(frames, np.uint8))


def contents(url) -> dict[str, bytes]:
    found = bucket_path(store_path(url))
    files = {p.relative_to(found).as_posix(): p.read_bytes() for p, _ in found.objects()}
    return {name: data for name, data in files.items() if not name.startswith("manifest/")}


KINDS = [(replaces, after) for replaces in (False, True) for after in (False, True)]


def check_kills(memory, kill_at, monkeypatch, tmp_path, numbers, *, replaces, after):
    here, started, seen = stores.make_store(f"{memory}/here"), claims._started, set()
    write(here, FRAMES)
    wanted = contents(here)
    monkeypatch.setattr(objects, "REQUESTS", 1)  # in order
    monkeypatch.setattr(bucket_writer, "SMALL_BYTES", 2**30)
    for number in numbers:
        kill_at(None)
        monkeypatch.setattr(claims, "_started", started)
        monkeypatch.setenv(FOLDER, str(tmp_path / "one"))
        url, old = stores.make_store(f"{memory}/{replaces}-{number}"), None
        if replaces:
            write(url, FRAMES + 2)
            old = open_store(url).record("a")
        kill_at(number, after=after)
        try:
            write(url, FRAMES, replaces=old)
        except Killed:
            pass
        else:
            break
        kill_at(None)
        monkeypatch.setattr(claims, "_started", lambda pid: "")  # its process has ended
        monkeypatch.setenv(FOLDER, str(tmp_path / "another machine"))
        held = open_store(url).records  # of who reads before any other writer comes
        assert {*held} == {"a"} if replaces else {*held} <= {"a"}
        if held:
            frames = held["a"].num_frames
            seen.add(frames)
            assert frames in ((FRAMES, FRAMES + 2) if replaces else (FRAMES,))
            tokens = open_store(url).read("a").codes
            assert len(tokens[1]) == len(tokens[3]) == frames
        write(url, FRAMES)
        if replaces and open_store(url).record("a") == old:
            write(url, FRAMES, replaces=old)
        collect_garbage(url, older_than_seconds=-5, delete=True)
        assert contents(url) == wanted, number
        assert verify_store(url, deep=True).problems == ()
        lines = [record for _, good, _ in logged_lines(url) for record in good.values()]
        assert len(lines) <= 1 + 2 * replaces
    return number, seen


@pytest.mark.parametrize(("replaces", "after"), KINDS)
def test_a_writer_killed_at_some_request_leaves_the_old_clip_or_the_new_one_whole(
    memory, kill_at, monkeypatch, tmp_path, replaces, after
):
    numbers = (70, 95, 104, 130, 137) if replaces else (14, 30, 53)
    check_kills(memory, kill_at, monkeypatch, tmp_path, numbers, replaces=replaces, after=after)


@pytest.mark.slow
@pytest.mark.parametrize(("replaces", "after"), KINDS)
def test_a_writer_killed_at_any_request_leaves_the_old_clip_or_the_new_one_whole(
    memory, kill_at, monkeypatch, tmp_path, replaces, after
):
    last, seen = check_kills(
        memory,
        kill_at,
        monkeypatch,
        tmp_path,
        itertools.count(1),
        replaces=replaces,
        after=after,
    )
    assert last > (100 if replaces else 50)
    assert seen == ({FRAMES, FRAMES + 2} if replaces else {FRAMES})
