"""A clip that takes the place of another: the old one or the new one is there, whatever happens."""

import importlib.util
import os
import shutil
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from tokenreel.cache import files
from tokenreel.cache.format.index import load_records
from tokenreel.cache.read.store_reader import open_store
from tokenreel.cache.tools.maintenance import collect_garbage
from tokenreel.cache.tools.verify import verify_store
from tokenreel.cache.write import clip_writer
from tokenreel.cache.write.claims import ClaimHeld
from tokenreel.cache.write.store_writer import StoreWriter

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
_spec = importlib.util.spec_from_file_location("stores", Path(__file__).parents[1] / "stores.py")
stores = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(stores)

OLD, NEW = 3, 5  # frames
EVENTS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "shutil.rmtree")


def make(path: Path) -> Path:
    stores.make_store(path)
    with StoreWriter(path, writer_id="z") as writer:  # whose log is read last
        stores.write_clip(writer, "a", OLD)
        stores.write_clip(writer, "b", 4)
    return path


def put_another(path: Path) -> None:
    """Replace clip a by one of another video."""
    held = open_store(path).record("a")
    if held.source["num_bytes"] == 11:
        return
    with StoreWriter(path, writer_id="a") as writer:
        clip = writer.begin(
            stores.make_clip("a"),
            dataset="d",
            phases=("x", "y"),
            source=replace(stores.SOURCE, num_bytes=11, sha256="1" * 64),
            time_base=Fraction(1, 25),
            replaces=held,
        )
        stores.append(writer, clip, "a", NEW)
        count = np.arange(NEW)
        clip.commit(count, count, count % 2, np.zeros(NEW, np.uint8))


def frames_of(path: Path) -> int:
    """Frames of clip a, once every byte of the store was found sound."""
    assert verify_store(path, deep=True).problems == ()
    store = open_store(path)
    count = store.record("a").num_frames
    assert len(store.read("a").codes[1]) == len(store.labels("a")) == count
    assert store.record("a").source["num_bytes"] == (10 if count == OLD else 11)
    assert store.record("b").num_frames == 4
    return count


def killed_at(event: int, work, *arguments) -> None:
    """Run the work in a process that dies before its n-th change of the disk, if it comes to it."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    left = event

    def count(name: str, args: tuple) -> None:
        nonlocal left
        if name in EVENTS and not (name == "open" and not args[2] & (os.O_WRONLY | os.O_RDWR)):
            left -= 1
            if left < 0:
                os._exit(1)

    sys.addaudithook(count)
    work(*arguments)
    os._exit(0)


class Kills:
    """Kills of a writer that replaces a clip, each before another change of the disk."""

    def __init__(self, folder: Path, *, can_exchange: bool) -> None:
        self._folder, self._can_exchange = folder, can_exchange
        self._whole = make(folder / "whole")
        self.found: dict[int, int] = {}  # frames of the clip that a kill left, by its number

    def kill(self, event: int) -> int:
        """Kill the writer, then finish; the frames that the kill left."""
        path = self._folder / "killed"
        shutil.copytree(self._whole, path)
        killed_at(event, put_another, path)
        if not self._can_exchange:  # the next writer brings back what was set aside
            StoreWriter(path, writer_id="next")
        self.found[event] = frames_of(path)
        put_another(path)
        assert open_store(path).record("a").num_frames == NEW
        assert verify_store(path).problems == ()
        shutil.rmtree(path)
        return self.found[event]

    def turn(self, last: int = 512) -> int:
        """The first kill that leaves the new clip."""
        first = 0
        while last - first > 1:
            middle = (first + last) // 2
            first, last = (first, middle) if self.kill(middle) == NEW else (middle, last)
        return last


@pytest.fixture(params=[True, False], ids=["exchange", "two renames"])
def kills(tmp_path, monkeypatch, request):
    if not request.param:
        monkeypatch.setattr(clip_writer, "exchange_folders", lambda *_: False)
    return Kills(tmp_path, can_exchange=request.param)


def test_a_kill_at_any_change_of_the_disk_leaves_the_old_clip_or_the_new_one(kills):
    turn = kills.turn()
    for event in range(turn - 3, turn + 3):
        if event not in kills.found:
            kills.kill(event)
    frames = [kills.found[event] for event in sorted(kills.found)]
    assert frames == sorted(frames)  # three frames before, five after
    assert set(frames) == {OLD, NEW}


@pytest.mark.slow
def test_a_kill_at_every_change_of_the_disk(kills):
    for event in range(kills.turn() + 120):
        kills.kill(event)
    frames = [kills.found[event] for event in sorted(kills.found)]
    assert frames == sorted(frames)


def test_readers_see_the_old_clip_until_the_new_one_is_committed(tmp_path):
    path = make(tmp_path / "s")
    held = load_records(path)["a"]
    before = open_store(path).read("a").codes[1]
    with StoreWriter(path, writer_id="w") as writer:
        clip = writer.begin(
            stores.make_clip("a"),
            dataset="d",
            phases=(),
            source=replace(stores.SOURCE, sha256="1" * 64),
            time_base=Fraction(1, 25),
            replaces=held,
        )
        stores.append(writer, clip, "a", NEW)
        np.testing.assert_array_equal(open_store(path).read("a").codes[1], before)
        clip.abort()
    assert frames_of(path) == OLD


def test_a_clip_that_another_writer_has_replaced_by_now_is_not_replaced_again(tmp_path):
    path = make(tmp_path / "s")
    held = load_records(path)["a"]
    put_another(path)
    with (
        StoreWriter(path, writer_id="w") as writer,
        pytest.raises(ClaimHeld, match="already committed"),
    ):
        writer.begin(
            stores.make_clip("a"),
            dataset="d",
            phases=(),
            source=stores.SOURCE,
            time_base=Fraction(1, 25),
            replaces=held,
        )
    assert frames_of(path) == NEW


def test_garbage_collection_leaves_a_clip_that_a_kill_set_aside(tmp_path):
    path = make(tmp_path / "s")
    (folder,) = (path / "clips").glob("*/a-*")
    folder.rename(clip_writer.set_aside_name(folder))
    assert collect_garbage(path, older_than_seconds=-1, delete=True) == []
    StoreWriter(path, writer_id="w")
    assert frames_of(path) == OLD


def test_directories_are_exchanged_at_once(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    if not files.exchange_folders(tmp_path / "a", tmp_path / "b"):
        pytest.skip("this file system cannot exchange directories")
    assert [x.name for x in (tmp_path / "b").iterdir()] == ["a"]
    with pytest.raises(FileNotFoundError):
        files.exchange_folders(tmp_path / "a", tmp_path / "no")
