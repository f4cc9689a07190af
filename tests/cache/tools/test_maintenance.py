"""Looking after stores, and what writers do when the disk fails them."""

import importlib.util
import os
import shutil
from pathlib import Path
from stat import S_ISDIR

import h5py
import numpy as np
import pytest

from tests.programs import call
from tokenreel.cache import files as files_module
from tokenreel.cache.errors import MachineError, StoreError
from tokenreel.cache.format.clip import clip_key, folder_of
from tokenreel.cache.read.store_reader import open_store
from tokenreel.cache.tools.export import export_store
from tokenreel.cache.tools.maintenance import (
    collect_garbage,
    remove_damaged,
    store_info,
)
from tokenreel.cache.tools.verify import verify_store
from tokenreel.cache.write.store_writer import StoreWriter

_spec = importlib.util.spec_from_file_location("stores", Path(__file__).parents[1] / "stores.py")
stores = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(stores)


@pytest.fixture
def store(tmp_path):
    path = stores.make_store(tmp_path / "s")
    with StoreWriter(path, writer_id="w") as writer:
        for name in ("a", "b"):
            stores.write_clip(writer, name, 70)
    return path


def test_info_counts_what_is_there(store):
    info = store_info(store)
    assert (info.num_clips, info.num_frames, info.codec) == (2, 140, "int8")
    assert info.num_token_bytes == 140 * 2 * 16 * 16
    assert "num_clips       2" in info.table()


def test_garbage_is_listed_before_it_is_deleted(store):
    with StoreWriter(store, writer_id="k") as writer:
        clip = stores.begin(writer, "c")
        stores.append(writer, clip, "c", 64)
        clip.suspend()
    half_made = store.with_name(".tmp-s-0123")
    half_made.mkdir()
    (store / "claims" / "dead.json").write_text("{}")
    listed = collect_garbage(store, older_than_seconds=0)
    assert [Path(entry).name for entry, _ in listed[1:]] == [".tmp-s-0123", "dead.json"]
    assert listed[0][1] > 64 * 2 * 256
    assert half_made.exists()
    assert collect_garbage(store, older_than_seconds=3600, delete=True) == []
    assert collect_garbage(store, older_than_seconds=0, delete=True) == listed
    assert collect_garbage(store, older_than_seconds=0) == []


def test_damaged_clips_are_taken_out_and_made_again(store):
    before = open_store(store).read("a").codes[1]
    shard = store / folder_of(clip_key("a")) / "views/0/tokens/1/c/0/0/0"
    shard.write_bytes(shard.read_bytes()[:-1])
    assert remove_damaged(store, verify_store(store)) == ["a"]
    with StoreWriter(store, writer_id="r") as writer:
        assert not writer.is_committed("a")
        stores.write_clip(writer, "a", 70)
    assert verify_store(store, deep=True).problems == ()
    np.testing.assert_array_equal(open_store(store).read("a").codes[1], before)


@pytest.mark.parametrize("kind", ["hdf5", "npy"])
def test_an_export_holds_the_decoded_tokens(store, tmp_path, kind):
    (file,) = export_store(store, tmp_path / "out", kind=kind, clips=["b"], blocks=[3]).files
    want = open_store(store).read("b").decode(3)
    if kind == "npy":
        np.testing.assert_array_equal(np.load(file), want)
    else:
        with h5py.File(file) as handle:
            np.testing.assert_array_equal(handle["tokens/3"][:], want)


def test_a_vanished_directory_is_an_error_and_leaves_the_store_readable(store):
    with StoreWriter(store, writer_id="w") as writer:
        clip = stores.begin(writer, "c")
        shutil.rmtree(next((store / "clips").rglob(".tmp-*")))
        with pytest.raises(StoreError, match="No such file"):
            stores.append(writer, clip, "c", 64, batch=64)
        clip.abort()
    assert verify_store(store, deep=True).problems == ()


def test_a_full_disk_is_an_error_and_leaves_the_store_readable(store, monkeypatch):
    def full(handle, data):
        raise OSError(28, "No space left on device")

    with StoreWriter(store, writer_id="w") as writer:
        clip = stores.begin(writer, "c")
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(MachineError, match="No space left"):
            stores.append(writer, clip, "c", 64)
        monkeypatch.undo()
        clip.abort()
    assert verify_store(store, deep=True).problems == ()
    assert not list((store / "clips").rglob(".tmp-*"))


def test_after_a_power_cut_every_committed_clip_is_there(tmp_path, monkeypatch):
    """Files and directory entries that were not flushed are taken away, as the cut would."""
    synced: set[tuple[int, int]] = set()
    real = os.fsync

    def fsync(handle):
        real(handle)
        stat = os.fstat(handle)
        synced.add((stat.st_ino, stat.st_size if not S_ISDIR(stat.st_mode) else 0))

    monkeypatch.setattr(files_module.os, "fsync", fsync)
    path = stores.make_store(tmp_path / "s")
    with StoreWriter(path, writer_id="w") as writer:
        stores.write_clip(writer, "a", 130)
        open_clip = stores.begin(writer, "b")
        stores.append(writer, open_clip, "b", 30)
        open_clip.suspend()
    clip = path / folder_of(clip_key("a"))
    for entry in [*path.rglob("*")]:
        if entry.is_file() and (entry.stat().st_ino, entry.stat().st_size) not in synced:
            entry.write_bytes(b"")
        elif entry.is_dir() and (entry in [clip, *clip.parents] or clip in entry.parents):
            assert (entry.stat().st_ino, 0) in synced, f"{entry} was never flushed"
    assert list(open_store(path).records) == ["a"]
    assert verify_store(path, deep=True).problems == ()


@pytest.mark.parametrize("kind", ["hdf5", "npy"])
def test_a_clip_that_a_file_cannot_hold_is_listed_and_the_rest_is_exported(tmp_path, kind):
    names = ["a/b", ".", "..", "x" * 300, "a/../b", "caf\u00e9\n", "nul\0nul"]
    path = stores.make_store(tmp_path / "s", "fp16")
    with StoreWriter(path, writer_id="w") as writer:
        for name in names:
            stores.write_clip(writer, name, 3)
    report = export_store(path, tmp_path / "out", kind=kind, blocks=[3])
    failed = [failure.clip_id for failure in report.failed]
    assert failed == (["nul\\x00nul"] if kind == "hdf5" else [])
    assert len(set(report.files)) == len(names) - len(failed)
    assert sorted(report.files) == sorted((tmp_path / "out").iterdir())
    if kind == "hdf5":
        assert "hdf5 cannot hold it" in str(report.failed[0])
        assert call("tokenreel", "store", "export", path, tmp_path / "again", cwd=tmp_path)[0] == 3
