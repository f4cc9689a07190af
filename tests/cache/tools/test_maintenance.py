"""Looking after stores, and what writers do when the disk fails them."""

import importlib.util
import os
import shutil
import time
from pathlib import Path
from stat import S_ISDIR

import h5py
import numpy as np
import pytest

from tests.programs import call
from tokenreel.cache import files as files_module
from tokenreel.cache.errors import ClipNotFound, MachineError, StoreError
from tokenreel.cache.format.clip import clip_key, folder_of
from tokenreel.cache.read.store_reader import open_store
from tokenreel.cache.tools import export as export_module
from tokenreel.cache.tools import maintenance
from tokenreel.cache.tools.export import export_store
from tokenreel.cache.tools.maintenance import (
    collect_garbage,
    mend_logs,
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
    assert list((store / "claims").iterdir()) == []
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


def damage(store, *names):
    for name in names:
        (store / folder_of(clip_key(name)) / "zarr.json").write_text("{}")


def test_only_the_clips_that_are_named_are_removed(store):
    damage(store, "a", "b")
    report = verify_store(store)
    assert report.repair == ("a", "b")
    assert remove_damaged(store, report, clips=["b"]) == ["b"]
    assert (store / folder_of(clip_key("a"))).exists()
    assert not (store / folder_of(clip_key("b"))).exists()
    assert not list((store / "clips").rglob(".tmp-*"))
    assert remove_damaged(store, report) == ["a", "b"]
    assert not (store / folder_of(clip_key("a"))).exists()


def test_a_clip_known_by_its_key_alone_or_a_link_is_removed_and_nothing_beyond_the_link(
    store, tmp_path
):
    damage(store, "a")
    (store / "manifest").rename(tmp_path / "manifest")
    (store / "manifest").mkdir()
    report = verify_store(store)
    assert report.repair == (clip_key("a"),)
    outside = tmp_path / "outside"
    (store / folder_of(clip_key("a"))).rename(outside)
    (store / folder_of(clip_key("a"))).symlink_to(outside)
    assert remove_damaged(store, report) == [clip_key("a")]
    assert not (store / folder_of(clip_key("a"))).is_symlink()
    assert (outside / "zarr.json").exists()


def test_a_removed_clip_is_gone_before_its_files_are_deleted(store, monkeypatch):
    damage(store, "a")
    report, seen = verify_store(store), []
    folder = store / folder_of(clip_key("a"))
    real = shutil.rmtree

    def rmtree(path, **given):
        seen.append((path.name, folder.exists(), synced[-1:]))
        real(path, **given)

    synced: list[Path] = []
    monkeypatch.setattr(maintenance, "sync_directory", synced.append)
    monkeypatch.setattr(maintenance.shutil, "rmtree", rmtree)
    remove_damaged(store, report)
    aside = f".tmp-damaged-{folder.name}"
    assert seen == [(aside, True, []), (aside, False, [folder.parent])]


def test_claims_logs_and_notes_that_are_damaged_are_mended_by_name(store):
    (store / "claims" / "torn.json").write_text("{")
    [log] = (store / "manifest").iterdir()
    whole = log.read_bytes()
    log.write_bytes(b"x\n" + whole)
    (store / "sources.json").write_text("{}")
    assert mend_logs(store) == ["torn.json", log.name, "sources.json"]
    assert log.read_bytes() == whole
    assert verify_store(store).problems == ()
    assert mend_logs(store) == []


def test_garbage_counts_files_and_links_of_a_folder_and_no_folder(store, tmp_path):
    left = store / ".tmp-x"
    (left / "sub").mkdir(parents=True)
    (left / "sub" / "file").write_bytes(b"12345")
    (left / "link").symlink_to(tmp_path)
    entry = (str(left), 5 + len(str(tmp_path)))
    assert collect_garbage(store, older_than_seconds=-1) == [entry]
    link = store / ".tmp-y"
    link.symlink_to(tmp_path)
    changed = time.time() - 100
    os.utime(link, (changed, changed), follow_symlinks=False)
    assert collect_garbage(store, older_than_seconds=99)[0][0] == str(link)  # not its target's age
    assert collect_garbage(store, older_than_seconds=-1, delete=True) == [
        entry,
        (str(link), len(str(tmp_path))),
    ]
    assert not left.exists()
    assert not link.is_symlink()
    assert tmp_path.exists()


@pytest.mark.parametrize(("age_seconds", "is_found"), [(0, False), (99, False), (101, True)])
def test_garbage_is_as_old_as_was_asked(store, monkeypatch, age_seconds, is_found):
    left = store / "failed" / ".tmp-x"
    left.write_text("")
    monkeypatch.setattr(time, "time", lambda: 1e9)
    os.utime(left, (1e9 - age_seconds, 1e9 - age_seconds))
    assert bool(collect_garbage(store, older_than_seconds=100)) is is_found
    assert len(collect_garbage(store, older_than_seconds=100, delete=True)) == is_found
    assert left.exists() is not is_found


def test_garbage_that_is_taken_over_meanwhile_is_not_said_to_be_deleted(store, monkeypatch):
    with StoreWriter(store, writer_id="k") as writer:
        clip = stores.begin(writer, "c")
        stores.append(writer, clip, "c", 64)
        clip.suspend()
    left = store / ".tmp-x"
    left.write_text("1")

    def held(*arguments, **given):
        raise maintenance.ClaimHeld("c: another writer works on it")

    monkeypatch.setattr(maintenance, "claim_clip", held)
    assert collect_garbage(store, older_than_seconds=-1, delete=True) == [(str(left), 1)]
    assert list((store / "clips").rglob(".tmp-*"))


def test_an_export_names_files_by_clip_and_block_and_takes_all_where_none_are_named(
    store, tmp_path
):
    with pytest.raises(ValueError, match="kind 'csv': hdf5 or npy"):
        export_store(store, tmp_path / "x", kind="csv")
    assert not (tmp_path / "x").exists()
    keys = [clip_key(name) for name in "ab"]
    files = export_store(store, tmp_path / "x", kind="npy").files
    assert [file.name for file in files] == [
        f"{key}.{block}.npy" for key in keys for block in (1, 3)
    ]
    files = export_store(store, tmp_path / "y").files
    assert [file.name for file in files] == [f"{key}.h5" for key in keys]
    read = open_store(store)
    with h5py.File(files[1]) as file:
        assert dict(file.attrs) == {
            "clip_id": "b",
            "fingerprint": read.fingerprint,
            "codec": "int8",
            "video": "a/v.mp4",
            "split": "train",
            "action": "",
            "group": "",
            "phases": '["x","y"]',
            "tags": "[]",
        }
        assert sorted(file) == ["labels", "times_seconds", "tokens", "units"]
        assert sorted(file["tokens"]) == ["1", "3"]
        assert file["tokens/1"].dtype == np.float32
        np.testing.assert_array_equal(file["labels"], np.arange(70) % 2)
        np.testing.assert_allclose(file["times_seconds"], np.arange(70) / 25)
        np.testing.assert_allclose(file["units"][:, 1], np.arange(1, 71) / 25)


@pytest.mark.parametrize("kind", ["hdf5", "npy"])
def test_a_damaged_clip_is_listed_and_the_other_is_exported_of_the_view_that_is_named(
    tmp_path, kind
):
    path = stores.make_store(tmp_path / "s", views=2)
    with StoreWriter(path, writer_id="w") as writer:
        for name in ("a", "b"):
            stores.write_clip(writer, name, 3)
    shard = path / folder_of(clip_key("a")) / "views/1/tokens/3/c/0/0/0"
    shard.write_bytes(shard.read_bytes()[:-1])
    report = export_store(path, tmp_path / "x", kind=kind, view=1, blocks=[3])
    [failed] = report.failed
    assert (failed.clip_id, failed.stage) == ("a", "read")
    [file] = report.files
    want = open_store(path).read("b", view=1).decode(3)
    if kind == "npy":
        np.testing.assert_array_equal(np.load(file), want)
    else:
        with h5py.File(file) as handle:
            np.testing.assert_array_equal(handle["tokens/3"][:], want)
    assert list((tmp_path / "x").iterdir()) == [file]
    assert len(export_store(path, tmp_path / "y", kind=kind, blocks=[1], view=1).files) == 2


def test_room_is_asked_for_what_the_tokens_of_a_file_take(tmp_path, monkeypatch):
    path = stores.make_store(tmp_path / "s", "pool2+int8")
    with StoreWriter(path, writer_id="w") as writer:
        stores.write_clip(writer, "a", 5)
    asked, create = [], export_module.create_hdf5

    def note(file, **given):
        asked.append(given["num_bytes"])
        return create(file, **given)

    monkeypatch.setattr(export_module, "create_hdf5", note)
    export_store(path, tmp_path / "x")
    export_store(path, tmp_path / "y", blocks=[1])
    assert asked == [4 * 5 * 4 * 16 * 2, 4 * 5 * 4 * 16]  # float32, frames, 2 x 2 tokens, channels


@pytest.mark.parametrize("lacking", [{"clips": ["no"]}, {"blocks": [2]}, {"view": 1}])
@pytest.mark.parametrize("kind", ["hdf5", "npy"])
def test_an_export_of_what_the_store_lacks_is_refused(store, tmp_path, kind, lacking):
    with pytest.raises(ClipNotFound, match=r"no clip 'no'|no block|view 1"):
        export_store(store, tmp_path / "x", kind=kind, **lacking)
