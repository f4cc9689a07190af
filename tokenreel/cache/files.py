"""Atomic file writes: a temporary file in the same folder, flushed to disk, then renamed.

Some file systems (SMB, FUSE and shared folders of virtual machines) cannot flush a folder, or
anything: one line says so, and the work goes on.
"""

import ctypes
import errno
import fnmatch
import logging
import os
import re
import shutil
import stat
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

from tokenreel.cache.errors import (
    Damaged,
    MachineError,
    ServiceError,
    StoreError,
    UsageError,
    is_memory_short,
    machine_error,
)

log = logging.getLogger(__name__)

T = TypeVar("T")

SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B?", re.IGNORECASE)
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
AT_FDCWD, RENAME_EXCHANGE = -100, 2  # of renameat2(2)

IN_THE_WAY = (errno.ENOTEMPTY, errno.EEXIST)  # of a rename: another process was faster
UNSEEN_SECONDS = 60.0  # that the entries of a folder may be old, on NFS by default
NO_FLUSH = (errno.EINVAL, errno.EBADF, errno.ENOSYS, errno.EOPNOTSUPP)  # by a file system
CLOCK = ".tmp-clock-"  # before the names of files that are made to ask it
CLOCK_SECONDS = 60.0  # after which the clock of a disk is asked again

_clocks: dict[str, tuple[float, float]] = {}  # folder -> when it was asked, and what it is ahead
_said_no_flush: set[int] = set()  # processes that have said so

# Limits of this process or machine: the file may be whole, so it must not be repaired.
NOT_DAMAGE = {
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.EACCES,
    errno.EPERM,
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.ENOTCONN,
    errno.EPROTO,
}


def parse_bytes(text: str, *, option: str = "--memory", least: int = 1) -> int:
    """A size in bytes, of an option or a variable of the environment.

    Args:
        text: a number with K, M, G or T, each a thousand times the one before.
        option: named in the error.
        least: the smallest that is taken.

    Raises:
        UsageError: no such size.

    >>> parse_bytes("1.5GB"), parse_bytes("200M")
    (1500000000, 200000000)
    """
    match = SIZE.fullmatch(text.strip())
    size = -1 if match is None else int(float(match[1]) * UNITS[match[2].upper()])
    if not least <= size < 2**63:
        raise UsageError(f"{option} {text!r} is not a size such as 2GB or 500M")
    return size


def sync_directory(path: Path) -> None:
    """Flush the entries of a directory to the disk, so that a rename in it survives a power cut."""
    if isinstance(path, Path):  # a bucket has no directories
        _sync(path)


def make_directory(path: Path) -> None:
    """Create a directory and its parents, each flushed into the one above it."""
    if not isinstance(path, Path) or again_if_stale(path.is_dir):
        return
    if {"s3:", "gs:", "az:"}.intersection(path.parts):
        raise UsageError(
            f"{path}: a bucket, where only token stores and videos can be: name a folder on a disk"
        )
    make_directory(path.parent)
    with suppress(FileExistsError):
        path.mkdir()
    sync_directory(path.parent)


def temporary_name(path: Path) -> Path:
    """An unused name in the same folder: ".tmp-<name>-<random>"."""
    return path.with_name(f".tmp-{path.name}-{uuid.uuid4().hex[:12]}")


def write_synced(path: Path, data: bytes) -> None:
    """Write a new file and flush it; the caller flushes the directory."""
    with path.open("xb", buffering=0) as file:
        write_all(file.fileno(), data)
        flush(file.fileno(), path)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write; on success it becomes `path`, on an error it is removed."""
    beside = temporary_name(path)
    try:
        yield beside
        _sync(beside)
        beside.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        if error.errno is not None:
            error.filename = error.filename or str(path)  # a write that fails names no file
        elif is_memory_short():  # HDF5 gives no number for it
            raise MachineError(f"{path}: not enough memory to write it ({error})") from error
        raise
    finally:
        beside.unlink(missing_ok=True)


def write_whole(path: Path, data: bytes) -> None:
    """Replace a file atomically: after a power cut it holds the old bytes or the new ones."""
    if not isinstance(path, Path):  # on a bucket
        path.write_bytes(data)
        return
    with whole_file(path) as beside:
        write_synced(beside, data)


def write_new(path: Path, data: bytes) -> None:
    """Write a new file; sync_tree flushes it later, together with its neighbours."""
    with path.open("xb", buffering=0) as file:
        write_all(file.fileno(), data)


def write_all(handle: int, data: bytes | memoryview) -> None:
    """Write all of the bytes to an open file; os.write may take only some of them."""
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]


def exchange_folders(here: Path, there: Path) -> bool:
    """Exchange two directories atomically; False where the file system or the kernel cannot."""
    try:
        exchange = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):  # not Linux, or an old C library
        return False
    names = os.fsencode(here), os.fsencode(there)
    if exchange(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(number, os.strerror(number), str(there))


def sync_tree(root: Path) -> None:
    """Flush every file and directory below and at `root`.

    Several at once, because a journaling file system flushes neighbours in one transaction.
    """
    folders, files = _walk(root)
    with ThreadPoolExecutor(16) as pool:
        for paths in (files, folders):
            list(pool.map(_sync, paths))


def _walk(
    root: Path, *, leaves_out: tuple[type[OSError], ...] = ()
) -> tuple[list[Path], list[Path]]:
    """Folders at and below a folder, and the files and links in them.

    Args:
        root: the folder.
        leaves_out: errors of folders whose entries are left out.

    Raises:
        OSError: a folder cannot be listed.
    """
    folders, files = [root], list[Path]()
    for folder in folders:
        with suppress(*leaves_out):
            for entry in again_if_stale(partial(_entries, folder)):
                to = folders if entry.is_dir(follow_symlinks=False) else files
                to.append(Path(entry.path))
    return folders, files


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return list(entries)


def _sync(path: Path) -> None:
    handle = again_if_stale(partial(os.open, path, os.O_RDONLY | os.O_CLOEXEC))
    try:
        flush(handle, path)
    finally:
        os.close(handle)


def flush(handle: int, path: Path) -> None:
    """Flush an open file or directory to the disk, where its file system can.

    Args:
        handle: of the file.
        path: of the file, for the log.

    Raises:
        OSError: the disk is full or fails.
    """
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in NO_FLUSH:
            raise
        if os.getpid() not in _said_no_flush:
            _said_no_flush.add(os.getpid())
            log.warning(
                "%s: this file system cannot flush to the disk (%s): going on without; after a "
                "power cut run `tokenreel store verify`",
                path.parent,
                error.strerror,
            )


def entries_of(folder: Path, pattern: str = "*") -> list[Path]:
    """Entries of a folder whose name matches a pattern, in order; none where there is no folder.

    Raises:
        StoreError: the folder cannot be read.  `Path.glob` would pass over it in silence.
    """
    try:
        names = again_if_stale(partial(os.listdir, folder))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        what = f"{folder}: it cannot be listed"
        raise machine_error(error, what) or StoreError(f"{what}: {error.strerror}") from error
    return sorted(folder / name for name in names if fnmatch.fnmatchcase(name, pattern))


def names_in(folder: Path) -> list[str]:
    """Names of the entries of a folder, in order; none where there is no folder."""
    if not isinstance(folder, Path):
        return sorted(entry.name for entry in folder.iterdir())
    try:
        return sorted(again_if_stale(partial(os.listdir, folder)))
    except (FileNotFoundError, NotADirectoryError):
        return []


def files_in(folder: Path, pattern: str = "*") -> list[Path]:
    """Files below a folder whose name matches a pattern, in order; links to folders not entered.

    Raises:
        StoreError: a folder that cannot be read.  `Path.rglob` would pass over it in silence.
    """
    return sorted(path for path in _files_in(folder) if fnmatch.fnmatchcase(path.name, pattern))


def _files_in(folder: Path) -> Iterator[Path]:
    def fail(error: OSError) -> None:
        what = f"{error.filename}: nothing below it can be listed"
        raise machine_error(error, what) or StoreError(f"{what}: {error.strerror}")

    for inner, _, names in os.walk(folder, onerror=fail):
        yield from (Path(inner, name) for name in names)


def files_below(folder: Path) -> list[Path]:
    """Files and links at any depth below a folder, in no order."""
    if not isinstance(folder, Path):
        return list(folder.rglob("*"))
    try:
        return _walk(folder, leaves_out=(PermissionError,))[1]
    except (FileNotFoundError, NotADirectoryError):
        return []


def clock_of(folder: Path) -> float:
    """The time now by the clock that stamps the files of a folder, seconds since 1970.

    On a shared disk that is the clock of its server; those of the hosts may differ by minutes.
    It is asked once a minute, by making a file; where none can be made, this host's clock counts.
    """
    key = str(folder.absolute())
    asked, offset = _clocks.get(key, (-CLOCK_SECONDS, 0.0))
    if time.monotonic() - asked >= CLOCK_SECONDS:
        probe = folder / f"{CLOCK}{uuid.uuid4().hex[:12]}"
        if not isinstance(folder, Path):  # on a bucket
            with suppress(PermissionError):  # of who may only read: this host's clock counts
                probe.write_bytes(b"clock")
                _clocks[key] = time.monotonic(), probe.stat().st_mtime - time.monotonic()
                probe.unlink()
                return time.monotonic() + _clocks[key][1]
            return time.time()
        try:
            handle = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError:
            return time.time()
        try:
            offset = os.fstat(handle).st_mtime - time.monotonic()
        finally:
            os.close(handle)
            with suppress(OSError):
                probe.unlink()
        _clocks[key] = time.monotonic(), offset
    return time.monotonic() + offset


def again_if_stale(call: Callable[[], T]) -> T:
    """What a call returns; made again where a handle of a shared disk was stale.

    ESTALE says that the file of a name was replaced on the server since this host looked it up.
    """
    try:
        return call()
    except OSError as error:
        if error.errno != errno.ESTALE:
            raise
        return call()


def is_made_by_another(error: OSError, is_there: Callable[[], bool]) -> bool:
    """Whether a rename failed since another process had put the same at the name.

    On a shared disk this host may not see for some seconds what the server has refused for.

    Args:
        error: of the rename.
        is_there: whether what was to be put there is seen.
    """
    deadline = time.monotonic() + (UNSEEN_SECONDS if error.errno in IN_THE_WAY else 0.0)
    while not is_there():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


def newest_change(entry: Path) -> float:
    """When a file, or the newest file or folder in a directory, was changed, seconds since 1970."""
    status = again_if_stale(entry.lstat)
    latest = status.st_mtime
    if not stat.S_ISDIR(status.st_mode):
        return latest
    folders, files = _walk(entry)
    for path in (*folders, *files):
        with suppress(FileNotFoundError):
            latest = max(latest, again_if_stale(path.lstat).st_mtime)
    return latest


def sweep_temporary(
    folder: Path, *, older_than_seconds: float, keep: Callable[[Path], bool] = lambda _: False
) -> list[Path]:
    """Remove the `.tmp-*` entries of a folder that are older than that, and list them.

    The age of a directory is that of the newest file in it.  A clock that went backwards makes
    entries look recent: they stay, which is safe.

    Args:
        folder: where they are.
        older_than_seconds: a more recent one may belong to a running writer.
        keep: whether an entry belongs to a running writer, whatever its age.
    """
    removed = []
    for entry in entries_of(folder, ".tmp-*"):
        with suppress(FileNotFoundError):
            if time.time() - newest_change(entry) < older_than_seconds or keep(entry):
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
            removed.append(entry)
    return removed


def file_inside(root: Path, relative: str) -> Path:
    """The path of `relative` below `root`; one that could leave `root` is refused.

    Raises:
        Damaged: for an absolute path, a ".." or a symbolic link on the way.
    """
    if not isinstance(root, Path) and {"", ".."}.isdisjoint(relative.split("/")):
        return root / relative  # on a bucket, which has no links
    parts = relative.split("/")  # as text: a Path for each part would cost ten times as much
    if relative.startswith("/") or "\\" in relative or {"", ".."} & set(parts):
        raise Damaged(f"{root}: the path {relative!r} points outside the store; refused")
    path = str(root)
    for part in parts:
        path = f"{path}/{part}"
        with suppress(FileNotFoundError, NotADirectoryError):
            if stat.S_ISLNK(again_if_stale(partial(os.lstat, path)).st_mode):
                raise Damaged(f"{path} is a symbolic link; a store holds files only; refused")
    return Path(path)


def read_file(path: Path) -> bytes:
    """The bytes of a file of a store.

    Raises:
        Damaged: it is missing or cannot be read.
        MachineError: only this process cannot read it now.
    """
    try:
        return again_if_stale(path.read_bytes)
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: OSError) -> StoreError:
    """The error for a file that cannot be read: Damaged unless only this process cannot.

    >>> unreadable(Path("a"), OSError(errno.EMFILE, "Too many open files"))
    MachineError('a: Too many open files; this process cannot read it now (see ulimit -n)')
    >>> type(unreadable(Path("a"), OSError(errno.ENOENT, "No such file"))).__name__
    'Damaged'
    """
    if error.errno in NOT_DAMAGE:
        if isinstance(error, ServiceError):
            return MachineError(f"{path}: {error.strerror}")
        hint = " (see ulimit -n)" if error.errno == errno.EMFILE else ""
        return MachineError(f"{path}: {error.strerror}; this process cannot read it now{hint}")
    return Damaged(f"{path}: {error.strerror or error}; run verify, then repair")
