"""Locks where there are some, and one line where there are none; HDF5 files that are busy."""

import errno
import fcntl
import logging
import multiprocessing
import os

import h5py
import numpy as np
import pytest

from tokenreel.cache import locks
from tokenreel.cache.embedding_arrays import array_specs
from tokenreel.cache.embeddings import EmbeddedClip, read_embeddings, write_embeddings
from tokenreel.cache.errors import EmbeddingFileError, UsageError
from tokenreel.cache.locks import create_hdf5, lock_folder, open_hdf5
from tokenreel.cache.tools.import_features import ImportStatement, import_features
from tokenreel.evaluate.commands.check import check_file

CLIPS = [
    EmbeddedClip(
        "a", "val", "", "", np.ones((2, 3), np.float32), np.zeros(2, np.int16), np.arange(2.0)
    )
]
WITHOUT = [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM, errno.EINVAL, errno.EBADF]


@pytest.fixture
def lines(caplog, monkeypatch):
    """The lines of the log, as a new process would print them."""
    monkeypatch.setattr(locks, "_said", set())
    caplog.set_level(logging.INFO)
    return caplog


@pytest.mark.parametrize("number", WITHOUT)
def test_where_there_are_no_locks_one_line_says_so_and_the_work_goes_on(
    tmp_path, monkeypatch, lines, number
):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    for _ in range(3):
        with lock_folder(tmp_path):
            pass
        with lock_folder(tmp_path, waiting="waiting"):
            pass
    [line] = [record.getMessage() for record in lines.records]
    assert line.startswith(f"{tmp_path}: no locks on this file system ({os.strerror(number)})")


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EACCES])
def test_a_lock_that_another_process_has_is_no_missing_lock(tmp_path, monkeypatch, lines, number):
    tries = []

    def held_once(handle, operation):
        tries.append(operation)
        if operation & fcntl.LOCK_NB:
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", held_once)
    with pytest.raises(BlockingIOError, match="held by another process"), lock_folder(tmp_path):
        pass
    with lock_folder(tmp_path, waiting="another makes a store; waiting"):
        pass
    assert tries[-1] == fcntl.LOCK_EX
    assert [record.getMessage() for record in lines.records] == [
        f"{tmp_path}: another makes a store; waiting"
    ]


def test_the_lock_is_on_a_file_and_is_free_again_when_it_ends(tmp_path, lines):
    with lock_folder(tmp_path):
        with pytest.raises(BlockingIOError), lock_folder(tmp_path):
            pass
        handle = os.open(tmp_path, os.O_RDONLY)
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the folder itself is not locked
        os.close(handle)
    with lock_folder(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []
    assert lines.records == []


def _count(folder, times):
    for _ in range(times):
        with lock_folder(folder, waiting="waiting"):
            value = int((folder / "count").read_text())
            (folder / "count").write_text(str(value + 1))


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_of_many_processes_one_has_the_lock_though_each_removes_the_file(tmp_path):
    (tmp_path / "count").write_text("0")
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_count, args=(tmp_path, 100)) for _ in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert (tmp_path / "count").read_text() == "600"
    assert [entry.name for entry in tmp_path.iterdir()] == ["count"]


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC, errno.EDQUOT])
def test_a_folder_that_holds_no_lock_file_is_used_without(tmp_path, monkeypatch, lines, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(locks.os, "open", refuse)
    with lock_folder(tmp_path):
        pass
    assert len(lines.records) == 1


@pytest.mark.parametrize("number", WITHOUT)
def test_hdf5_files_are_read_on_disks_without_locks(tmp_path, monkeypatch, lines, number):
    path = write_embeddings(tmp_path / "e.h5", CLIPS, provenance={})
    real = h5py.File

    def without(name, mode="r", locking=None, **options):
        if locking is None:
            words = f"unable to lock file, errno = {number}, error message = 'none here'"
            raise OSError(f"[Errno {number}] Unable to synchronously open file ({words})")
        return real(name, mode, locking=locking, **options)

    monkeypatch.setattr(h5py, "File", without)
    assert read_embeddings(path).clips[0].clip_id == "a"
    assert array_specs(path)["embeddings"].shape == (2, 3)
    write_embeddings(path, CLIPS, provenance={"again": 1})
    assert len(lines.records) == 1
    assert "no locks on this file system (none here)" in lines.text


def _hold(path, mode, ready, done):
    with h5py.File(path, mode, locking=True):
        ready.set()
        done.wait(600)


@pytest.fixture
def hold():
    """Open an HDF5 file for writing in another process."""
    context = multiprocessing.get_context("fork")
    done, processes = context.Event(), []

    def start(path, mode="r+"):
        ready = context.Event()
        processes.append(context.Process(target=_hold, args=(path, mode, ready, done)))
        processes[-1].start()
        assert ready.wait(600)

    yield start
    done.set()
    for process in processes:
        process.join()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("mode", ["r+", "a"])
def test_an_hdf5_file_that_another_process_writes_is_busy_wherever_it_is_opened(
    tmp_path, hold, mode, lines
):
    path = write_embeddings(tmp_path / "e.h5", CLIPS, provenance={})
    folder = tmp_path / "features"
    folder.mkdir()
    with create_hdf5(folder / "c.h5") as file:
        file["tokens/1"] = np.zeros((2, 4, 8), np.float32)
    hold(path, mode)
    hold(folder / "c.h5", mode)
    with pytest.raises(BlockingIOError):
        open_hdf5(path)
    for read in (read_embeddings, array_specs):
        with pytest.raises(EmbeddingFileError, match=r"e\.h5: is open in another process: wait"):
            read(path)
    assert any("is open in another process" in text for text in check_file(path).problems)
    statement = ImportStatement(
        dataset="d",
        architecture="a",
        weights_sha256="0" * 64,
        blocks=(1,),
        grid=(2, 2),
        dim=8,
        image_size=(16, 16),
        transform={"name": "t"},
        fps=25,
    )
    with pytest.raises(UsageError, match=r"c\.h5: is open in another process: wait"):
        import_features(folder, tmp_path / "s", statement)
    assert not (tmp_path / "s").exists()
    assert lines.records == []
