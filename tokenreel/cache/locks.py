"""Locks between processes, where the file system has them: of a folder, and those of HDF5.

NFS without its lock daemon, Lustre without `-o flock`, and some cloud and container mounts have no
locks.  There one line says so, once a process, and the work goes on without one.
"""

import errno
import fcntl
import logging
import multiprocessing
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import h5py

from tokenreel.cache.errors import LIMITS
from tokenreel.cache.files import write_all

log = logging.getLogger(__name__)

NAME = ".tokenreel.lock"  # a killed process leaves it behind; it may be deleted
IN_MEMORY_BYTES = 2**27  # of an HDF5 file that is made in memory
HELD = (errno.EAGAIN, errno.EACCES)  # how systems say that another process has the lock
BUSY = "is open in another process: wait until it is closed, or copy the file"
HDF5_LOCK = re.compile(r"unable to lock file, errno = (\d+), error message = '([^']*)'")

_said: set[int] = set()  # processes that have said that there are no locks


@contextmanager
def lock_folder(folder: Path, *, waiting: str = "") -> Iterator[None]:
    """Hold the lock of a folder; the lock of a process that has ended is free.

    Args:
        folder: an existing one; the lock is a file in it, since NFS cannot lock a folder.
        waiting: a line for the log; then wait while another process holds the lock.

    Raises:
        BlockingIOError: another process holds it, and `waiting` is empty.
    """
    path = folder / NAME
    handle = _acquire(path, waiting)
    while handle is not None and not _is_at(path, handle):  # its last holder removed it meanwhile
        os.close(handle)
        handle = _acquire(path, waiting)
    try:
        yield
    finally:
        if handle is not None:
            with suppress(OSError):
                path.unlink()  # before the lock is free: who waits for it sees that it is gone
            os.close(handle)


def _acquire(path: Path, waiting: str) -> int | None:
    """The lock file, locked where the file system has locks; None where it cannot be made."""
    try:
        handle = _open(path)
    except OSError as error:
        if error.errno in LIMITS:  # of this process: the file system has locks
            raise
        say_no_locks(path.parent, error.strerror)
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in HELD:
            say_no_locks(path.parent, error.strerror)
        elif not waiting:
            os.close(handle)
            held = "held by another process"
            raise BlockingIOError(errno.EAGAIN, held, str(path.parent)) from error
        else:
            log.info("%s: %s", path.parent, waiting)
            _wait(handle)
    return handle


def _wait(handle: int) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
    except BaseException:  # Ctrl-C
        os.close(handle)
        raise


def _is_at(path: Path, handle: int) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(path.stat(), os.fstat(handle))
    return False


def _open(path: Path) -> int:
    """The lock file, made where there is none; another user's may be readable only."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except PermissionError:
        with suppress(OSError):
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        raise


def open_hdf5(path: Path) -> h5py.File:
    """Open an HDF5 file to read, on disks without locks too.

    Raises:
        BlockingIOError: another process has it open for writing.
        OSError: it cannot be opened, or is no HDF5 file.
    """
    try:
        return h5py.File(path, "r")
    except OSError as error:
        found = HDF5_LOCK.search(str(error))
        number = int(found[1]) if found else error.errno
        if number in (*HELD, errno.EBUSY) if found else "already open for" in str(error):
            raise BlockingIOError(errno.EAGAIN, BUSY, str(path)) from error
        if found is None:
            raise
        say_no_locks(path.parent, found[2])
    return h5py.File(path, "r", locking=False)


def is_busy(path: Path) -> bool:
    """Whether a process has an HDF5 file open for writing, without opening it as HDF5."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            return error.errno in HELD
    return False


@contextmanager
def create_hdf5(path: Path, *, num_bytes: int = 0, userblock_size: int = 0) -> Iterator[h5py.File]:
    """Create an HDF5 file that no other process knows of yet: it needs no lock.

    A full disk makes the library raise errors of several kinds, again as each of its objects ends,
    and may crash the process.  So a file that fits in memory is made there and written at once; for
    a larger one there must be room before.  The bytes are the same.

    Args:
        path: of a new file.
        num_bytes: of the arrays, about.
        userblock_size: bytes before the HDF5 part.

    Raises:
        OSError: it cannot be written.
    """
    options: dict[str, Any] = {"locking": False}
    options |= {"userblock_size": userblock_size} if userblock_size else {}
    if num_bytes <= IN_MEMORY_BYTES:
        with h5py.File(path, "w", driver="core", backing_store=False, **options) as file:
            yield file
            file.flush()
            image = file.id.get_file_image()
        with path.open("xb", buffering=0) as handle:
            write_all(handle.fileno(), bytes(userblock_size))
            write_all(handle.fileno(), image)
        return
    if shutil.disk_usage(path.parent).free < num_bytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    with h5py.File(path, "w", **options) as file:
        yield file


def say_no_locks(folder: Path, reason: str | None) -> None:
    """One line a process, and none from worker processes, whose parent has said it."""
    if os.getpid() in _said or multiprocessing.parent_process() is not None:
        return
    _said.add(os.getpid())
    log.warning(
        "%s: no locks on this file system (%s): going on without; let only one command write "
        "to a folder at a time",
        folder,
        reason,
    )
