"""A full, read-only or vanished disk, a clock that goes backwards: clear errors, whole stores."""

import errno
import importlib.util
import multiprocessing
import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests.open_files import no_more_files
from tokenreel.cache import files, locks
from tokenreel.cache.embeddings import EmbeddedClip, read_embeddings, write_embeddings
from tokenreel.cache.errors import MachineError, TokenReelError, machine_error
from tokenreel.cache.files import sweep_temporary, write_whole
from tokenreel.cache.read.store_reader import open_store
from tokenreel.cache.tools import maintenance
from tokenreel.cache.tools.maintenance import collect_garbage
from tokenreel.cache.tools.verify import verify_store
from tokenreel.cache.write.claims import ClaimHeld
from tokenreel.cache.write.store_writer import StoreWriter

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
_spec = importlib.util.spec_from_file_location("stores", Path(__file__).parents[1] / "stores.py")
stores = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(stores)


def store_with(path: Path, clips: dict[str, int]) -> Path:
    """A store with clips of so many frames each."""
    stores.make_store(path)
    with StoreWriter(path, writer_id="w") as writer:
        for name, frames in clips.items():
            stores.write_clip(writer, name, frames)
    return path


def everything(path: Path) -> dict[str, bytes]:
    """The tokens that a reader can get out of a store."""
    store = open_store(path)
    return {name: store.read(name).decode(1).tobytes() for name in store.records}


def embedded() -> list[EmbeddedClip]:
    rows = np.ones((5, 4), np.float32)
    return [EmbeddedClip("a", "train", "", "", rows, np.zeros(5, np.int16), np.arange(5.0))]


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A file system of that size, where the machine lets us mount one."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs root that may mount")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def write_clips(writer: StoreWriter, count: int) -> None:
    for number in range(count):
        stores.write_clip(writer, f"c{number}", 70)


def test_on_a_full_disk_the_writer_says_so_and_the_store_stays_readable(tmp_path):
    with small_disk(tmp_path / "disk", 1) as disk:
        path = stores.make_store(disk / "s")
        with (
            StoreWriter(path, writer_id="w") as writer,
            pytest.raises(MachineError, match="No space left on device; make room"),
        ):
            write_clips(writer, 100)
        written = len(open_store(path).records)
        assert 0 < written < 99
        assert verify_store(path, deep=True).problems == ()
        for number in range(200):
            try:
                (disk / f"filler{number}").write_bytes(bytes(8192))
            except OSError:
                break
        with pytest.raises(MachineError, match="cannot create a store here: No space"):
            stores.make_store(disk / "t")
        assert not (disk / "t").exists()
        with pytest.raises(OSError, match="No space left"):
            write_embeddings(disk / "e.h5", embedded(), provenance={"x": "y" * 100_000})
        assert not (disk / "e.h5").exists()
        for filler in disk.glob("filler*"):
            filler.unlink()
        subprocess.run(["mount", "-o", "remount,size=32m", str(disk)], check=True)
        with StoreWriter(path, writer_id="w") as writer:
            stores.write_clip(writer, f"c{written}", 70)
        assert verify_store(path, deep=True).problems == ()
        assert collect_garbage(path, older_than_seconds=0) == []


def test_on_a_disk_without_inodes_the_writer_names_them(tmp_path):
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m,nr_inodes=60", "tmpfs", str(tmp_path / "disk")]
    (tmp_path / "disk").mkdir()
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs root that may mount")
    try:
        path = stores.make_store(tmp_path / "disk/s")
        with (
            StoreWriter(path, writer_id="w") as writer,
            pytest.raises(MachineError, match=r"No space left on device \(no inodes are left"),
        ):
            write_clips(writer, 100)
    finally:
        subprocess.run(["umount", "-l", str(tmp_path / "disk")], check=True)


def test_too_many_open_files_are_the_machines(tmp_path):
    path = store_with(tmp_path / "s", {"a": 3})
    file = write_embeddings(tmp_path / "e.h5", embedded(), provenance={})

    def write_again(path: Path) -> None:
        with StoreWriter(path, writer_id="w") as writer:
            stores.write_clip(writer, "b", 3)

    found = []
    with no_more_files():
        for read in (open_store, verify_store, write_again, lambda _: read_embeddings(file)):
            try:
                read(path)
            except MachineError as error:
                found.append(str(error))
    assert len(found) == 4
    assert all("Too many open files" in words for words in found), found


def _write_with_limit(path, results):
    resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))
    try:
        with StoreWriter(path, writer_id="w") as writer:
            stores.write_clip(writer, "b", 70)
    except MachineError as error:
        results.put(str(error))


def test_a_file_that_may_not_grow_is_a_clear_error_and_nothing_is_committed(tmp_path):
    path = store_with(tmp_path / "s", {"a": 3})
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    child = context.Process(target=_write_with_limit, args=(path, results))
    child.start()
    assert "b: cannot write" in (words := results.get(timeout=300))
    assert "File too large; make room" in words
    child.join()
    assert list(open_store(path).records) == ["a"]
    assert verify_store(path, deep=True).problems == ()


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Nobody may write there: a read-only mount for root, permissions for others."""
    if os.geteuid():
        modes = {p: p.stat().st_mode for p in [folder, *folder.rglob("*")] if p.is_dir()}
        for path in modes:
            path.chmod(0o555)
        yield
        for path, mode in modes.items():
            path.chmod(mode)
        return
    bind = subprocess.run(
        ["mount", "--bind", str(folder), str(folder)], capture_output=True, check=False
    )
    if bind.returncode:
        pytest.skip("root without the right to mount")
    subprocess.run(["mount", "-o", "remount,ro,bind", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_read_only_store_is_read_and_verified_and_writing_is_one_clear_error(tmp_path):
    path = store_with(tmp_path / "s", {"a": 3})
    want = everything(path)
    with read_only(path):
        assert everything(path) == want
        assert verify_store(path, deep=True).problems == ()
        with (
            StoreWriter(path, writer_id="w") as writer,
            pytest.raises(MachineError, match=r"cannot be written: (Read-only|Permission)"),
        ):
            stores.write_clip(writer, "b", 3)
    assert everything(path) == want


def test_a_store_that_vanishes_is_an_error_and_is_not_made_again_by_halves(tmp_path):
    path = store_with(tmp_path / "s", {"a": 3})
    with StoreWriter(path, writer_id="w") as writer:
        clip = stores.begin(writer, "b")
        stores.append(writer, clip, "b", 3)
        path.rename(tmp_path / "gone")
        count = np.arange(3)
        with pytest.raises(TokenReelError, match=r"b: cannot (write|commit)"):
            clip.commit(count, count, count, count)
        clip.abort()
    assert not path.exists()
    assert list(open_store(tmp_path / "gone").records) == ["a"]


def test_a_clock_that_goes_backwards_takes_nothing_from_anybody(tmp_path, monkeypatch):
    path = store_with(tmp_path / "s", {"a": 3})
    with StoreWriter(path, writer_id="w") as one:
        clip = stores.begin(one, "b")
        stores.append(one, clip, "b", 3)
        for module in (files, maintenance):
            monkeypatch.setattr(module.time, "time", lambda: 1.0)  # 1970
        assert sweep_temporary(path / "clips", older_than_seconds=0) == []
        assert collect_garbage(path, older_than_seconds=0, delete=True) == []
        with StoreWriter(path, writer_id="x", sweep_seconds=0) as two:
            with pytest.raises(ClaimHeld):
                stores.begin(two, "b")
            stores.write_clip(two, "c", 3)
        count = np.arange(3)
        clip.commit(count, count, count % 2, count * 0)
    assert list(open_store(path).records) == ["a", "b", "c"]
    assert verify_store(path, deep=True).problems == ()


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("room", [0, 100, 600, 3000, 9000])
def test_an_hdf5_file_on_a_full_disk_is_an_error_of_the_disk(
    tmp_path, monkeypatch, in_memory, room
):
    if not in_memory:  # of a large file there is no room before
        monkeypatch.setattr(locks, "IN_MEMORY_BYTES", -1)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=room))
    clip = EmbeddedClip(
        "a", "val", "", "", np.ones((900, 3), "f4"), np.zeros(900, np.int16), np.arange(900.0)
    )
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        with pytest.raises(OSError, match=r"File too large|No space left") as caught:
            write_embeddings(tmp_path / "e.h5", [clip], provenance={})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert machine_error(caught.value).exit_status == 6
    assert list(tmp_path.iterdir()) == []


def test_an_hdf5_file_made_in_memory_has_the_bytes_of_one_on_disk(tmp_path, monkeypatch):
    clip = EmbeddedClip(
        "a", "val", "", "", np.ones((900, 3), "f4"), np.zeros(900, np.int16), np.arange(900.0)
    )
    here = write_embeddings(tmp_path / "a.h5", [clip], provenance={"run": "x" * 999}).read_bytes()
    monkeypatch.setattr(locks, "IN_MEMORY_BYTES", -1)
    there = write_embeddings(tmp_path / "b.h5", [clip], provenance={"run": "x" * 999})
    assert there.read_bytes() == here


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EBADF, errno.ENOSYS, errno.EOPNOTSUPP])
def test_where_nothing_can_be_flushed_one_line_says_so_and_the_work_goes_on(
    tmp_path, monkeypatch, caplog, number
):
    def refuse(_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files, "_said_no_flush", set())
    monkeypatch.setattr(os, "fsync", refuse)
    path = stores.make_store(tmp_path / "s")
    with StoreWriter(path, writer_id="w") as writer:
        stores.write_clip(writer, "a")
    write_whole(tmp_path / "x", b"whole")
    assert (tmp_path / "x").read_bytes() == b"whole"
    assert verify_store(path, deep=True).problems == ()
    assert caplog.text.count("cannot flush to the disk") == 1


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_a_flush_that_fails_is_an_error(tmp_path, monkeypatch, number):
    def refuse(_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match=os.strerror(number)):
        write_whole(tmp_path / "x", b"whole")
    assert list(tmp_path.iterdir()) == []
