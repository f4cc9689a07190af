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

OLD, NEW = 70, 5  # frames
EVENTS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "shutil.rmtree")


def make(path: Path) -> Path:
    stores.make_store(path)
    with StoreWriter(path, writer_id="z") as writer:  # whose log is read last
        stores.write_clip(writer, "a", OLD)
        stores.write_clip(writer, "b", 3)
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
    assert store.record("b").num_frames == 3
    return count


def killed_at(event: int, work, *arguments) -> bool:
    """Run the work in a process that dies before its n-th change of the disk; whether it died."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0
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


@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_kill_at_any_change_of_the_disk_leaves_the_old_clip_or_the_new_one(
    tmp_path, monkeypatch, can_exchange
):
    if not can_exchange:
        monkeypatch.setattr(clip_writer, "exchange_folders", lambda *_: False)
    whole = make(tmp_path / "whole")
    seen, event = [], 0
    while True:
        path = tmp_path / f"{event}"
        shutil.copytree(whole, path)
        died = killed_at(event, put_another, path)
        if not can_exchange:  # the next writer brings back what was set aside
            StoreWriter(path, writer_id="next")
        seen.append(frames_of(path))
        put_another(path)
        assert frames_of(path) == NEW
        assert not [x for x in (path / "clips").rglob(".tmp-+*") if x.parent.exists()]
        shutil.rmtree(path)
        if not died:
            break
        event += 1 if event % 40 < 3 or event > 60 else 7
    assert seen == sorted(seen, reverse=True)  # the old one, then the new one
    assert set(seen) == {OLD, NEW}
    assert len(seen) > 20


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
