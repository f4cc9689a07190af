"""A bounded cache, on a disk of this machine, of what was read from buckets.

A file holds an object, or a shard of which only the rows that were read are there; beside that one
lies a file with a byte a row that says which.  Both survive the process and serve all processes of
the machine, which count together what they write.  Nothing in it is trusted: what is read from it
is checked by the checksums of the store, and fetched again where it does not match.
"""

import errno
import fcntl
import hashlib
import logging
import mmap
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar
from weakref import WeakSet

from tokenreel.cache.bucket.path import is_bucket, store_path
from tokenreel.cache.errors import Damaged, UsageError
from tokenreel.cache.files import parse_bytes, write_all

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger(__name__)
T = TypeVar("T")

FOLDER, BYTES = "TOKENREEL_CACHE_DIR", "TOKENREEL_CACHE_BYTES"  # of the environment
MOST_BYTES = 10**11  # by default, and at most half of what its disk has beside other files
BLOCK = 4096  # bytes that a file system gives at once
HAVE = ".have"  # ending of the files that say which rows are there, see _have_of
COPY = ".copy"  # ending of whole videos, which are there while a process decodes them
USED = "used"  # the file that says how many bytes all files hold
WRITERS = "writers"  # the file that is locked while bytes are written
TOUCHED = 60  # seconds after which a file that is still read is marked as used again

_open: dict[tuple[Path, int | None], "LocalCache"] = {}
os.register_at_fork(after_in_child=_open.clear)  # a lock may be held by a thread that is not there


def local_cache() -> "LocalCache":
    """The cache of this process, where the environment says; see docs/scale.md."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "tokenreel"
    folder = cache_folder(os.environ.get(FOLDER) or str(default), option=FOLDER).absolute()
    given = os.environ.get(BYTES)
    key = folder, None if not given else parse_bytes(given, option=BYTES, least=0)
    if key not in _open:
        _open[key] = LocalCache(*key)
    return _open[key]


def cache_folder(text: str, *, option: str) -> Path:
    """The folder of the cache that a text names.

    Raises:
        UsageError: it names a place on a bucket.
    """
    if is_bucket(path := store_path(text)):
        raise UsageError(f"{option} {path}: name a folder on a disk of this machine")
    return path


class User(Protocol):
    """What keeps files of rows open."""

    def close_removed(self) -> None:
        """Close those that were removed: until then their bytes stay on the disk."""


class LocalCache:
    """A folder of a bounded size; the files that were used longest ago go first.

    Args:
        folder: made where there is none.
        num_bytes: most that it may hold; None: half of what its disk has beside other files, at
            most 100 GB.  0: nothing is read there or written.

    Attributes:
        num_refetched: times that something in it did not match its checksum.
        num_evicted: files that were removed to make room.
    """

    def __init__(self, folder: Path, num_bytes: int | None = None) -> None:
        self.folder, self.num_refetched, self.num_evicted = folder, 0, 0
        self._lock, self._has_failed, self.num_bytes = threading.Lock(), False, num_bytes or 0
        self._users, self._users_lock = WeakSet[User](), threading.Lock()
        if num_bytes == 0:
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with self._ledger() as ledger:
                used = self._evict(2**63) if ledger.used < 0 else ledger.used
                if num_bytes is None:
                    room = shutil.disk_usage(folder).free + used
                    self.num_bytes = min(room // 2, MOST_BYTES)
                if used > self.num_bytes:
                    used = self._evict(self.num_bytes)
                ledger.write(used)
        except OSError as error:
            self.give_up(error)

    def read(self, key: str, fetch: Callable[[], bytes], parse: Callable[[bytes], T]) -> T:
        """What `parse` makes of an object, from here where it is and parses, else fetched.

        Args:
            key: names the bytes: another object has another key.
            fetch: gets the bytes.
            parse: checks them; raises Damaged.
        """
        path = self._path(key)
        if self.num_bytes:
            with suppress(OSError):
                data = path.read_bytes()
                try:
                    value = parse(data)
                except Damaged:
                    self.count_damage(key)
                    path.unlink(missing_ok=True)
                else:
                    self._touch(path)
                    return value
        data = fetch()
        value = parse(data)
        with self.room(len(data)) as fits:
            if fits:
                self._put(path, 0, data)
        return value

    def open_rows(
        self, key: str, starts: Sequence[int], tail: bytes, *, user: User
    ) -> "RowFile | None":
        """The file of a shard, made where there is none; None where the cache has no room for it.

        Args:
            key: names the shard and its bytes.
            starts: byte at which each row of the shard begins, and where the last one ends.
            tail: what follows the rows in the shard.
            user: keeps the file.
        """
        path, num_bytes = self._path(key), starts[-1]
        if num_bytes > self.num_bytes // 2:
            return None
        try:
            if not path.exists():
                with self.room(len(tail) + len(starts)) as fits:
                    if not fits:
                        return None
                    self._put(path, num_bytes, tail)
            self._touch(path)
            with self._flock(WRITERS, fcntl.LOCK_SH):  # nobody makes room meanwhile
                file = RowFile(self, path, starts)
            with self._users_lock:
                self._users.add(user)
            return file
        except FileNotFoundError:  # another process made room in between
            return None
        except OSError as error:
            self.give_up(error)
            return None

    def _put(self, path: Path, offset: int, data: bytes) -> None:
        """Put a file in its place whole, with nothing before `offset`; another's stays."""
        beside = path.with_name(f".tmp-{uuid.uuid4().hex}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with beside.open("xb", buffering=0) as file:
                file.seek(offset)
                write_all(file.fileno(), data)
            try:
                with suppress(FileExistsError):
                    os.link(beside, path)
            except OSError:  # a file system without hard links
                beside.replace(path)
        except OSError as error:
            self.give_up(error)
        finally:
            with suppress(OSError):
                beside.unlink(missing_ok=True)

    @contextmanager
    def copy(self, num_bytes: int, parts: Callable[[], Iterable[memoryview]]) -> Iterator[Path]:
        """A whole object as a file, while it is used: it counts as part of the cache.

        Copies of processes that were killed are removed first.

        Args:
            num_bytes: of the object.
            parts: its bytes, in order.

        Raises:
            OSError: ENOSPC: there is no room for it beside the copies of other processes.
        """
        self._remove_dead_copies()
        path = self._path(uuid.uuid4().hex)
        path = path.with_name(path.name + COPY)
        with ExitStack() as stack:
            with self.room(num_bytes, most=self.num_bytes) as fits:
                if not fits:
                    raise OSError(errno.ENOSPC, "no room in the cache", str(self.folder))
                path.parent.mkdir(parents=True, exist_ok=True)
                file = stack.enter_context(path.open("xb", buffering=0))
                stack.callback(self._remove_copy, path, num_bytes)
                with suppress(OSError):  # a disk without locks: see _is_locked
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.posix_fallocate(file.fileno(), 0, num_bytes)
            for part in parts():
                write_all(file.fileno(), part)
            yield path

    def _remove_copy(self, path: Path, num_bytes: int) -> None:
        with suppress(OSError):
            path.unlink(missing_ok=True)
            with self._ledger() as ledger:
                ledger.write(max(ledger.used - num_bytes, 0))

    def _remove_dead_copies(self) -> None:
        for path in self.folder.glob(f"??/*{COPY}"):
            if not _is_locked(path):
                with suppress(OSError):
                    path.unlink()

    def count_damage(self, key: str) -> None:
        """Note that something here did not match its checksum."""
        self.num_refetched += 1
        log.warning("%s: a damaged copy of %s; it is fetched again", self.folder, key)

    def remove(self, rows: "RowFile") -> None:
        """Remove a file of rows; processes that have it open close it when they next read it."""
        with suppress(OSError):
            if rows.path.stat().st_ino == rows.inode:
                _have_of(rows.path, rows.inode).unlink(missing_ok=True)
                rows.path.unlink(missing_ok=True)

    def close_removed(self) -> None:
        """Close the files of this process that were removed to make room, or as damaged."""
        with self._users_lock:
            users = list(self._users)
        for user in users:
            user.close_removed()

    @contextmanager
    def room(self, num_bytes: int, *, most: int | None = None) -> Iterator[bool]:
        """Whether bytes may be written within; the oldest files are removed to make room.

        Other processes count the bytes from now on, and make no room before they are written.

        Args:
            num_bytes: of them.
            most: that may be written at once; None: an eighth of the cache.
        """
        num_bytes += 2 * BLOCK
        fits = not self._has_failed
        fits = fits and num_bytes <= (self.num_bytes // 8 if most is None else most)
        with ExitStack() as stack:
            if fits:
                try:
                    with self._lock, self._ledger() as ledger:
                        used = ledger.used
                        if used < 0 or used + num_bytes > self.num_bytes:
                            left = min(self.num_bytes * 3 // 4, self.num_bytes - num_bytes)
                            with self._flock(WRITERS, fcntl.LOCK_EX):  # those at work end first
                                used = self._evict(left)
                            self.close_removed()
                        fits = used + num_bytes <= self.num_bytes
                        ledger.write(used + num_bytes if fits else used)
                        stack.enter_context(self._flock(WRITERS, fcntl.LOCK_SH))
                except OSError as error:
                    self.give_up(error)
                    fits = False
            yield fits

    def _path(self, key: str) -> Path:
        digest = hashlib.sha256(key.encode()).hexdigest()
        return self.folder / digest[:2] / digest[2:]

    @staticmethod
    def _touch(path: Path) -> None:
        with suppress(OSError):
            os.utime(path)

    def give_up(self, error: OSError) -> None:
        """Write nothing more, as the disk is full, or may only be read; one line says so."""
        if not self._has_failed:
            self._has_failed = True
            reason = error.strerror or error
            log.warning(
                "%s: nothing more of buckets is kept there (%s): make room, or give another folder "
                "by --cache-dir",
                self.folder,
                reason,
            )

    @contextmanager
    def _ledger(self) -> Iterator["_Ledger"]:
        """The count of bytes of all processes, which wait for one another where locks work."""
        with self._flock(USED, fcntl.LOCK_EX) as handle:
            yield _Ledger(handle)

    @contextmanager
    def _flock(self, name: str, kind: int) -> Iterator[int]:
        handle = os.open(self.folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            with suppress(OSError):  # no locks: the count is about right, and made anew when full
                fcntl.flock(handle, kind)
            yield handle
        finally:
            os.close(handle)

    def _evict(self, num_bytes: int) -> int:
        """Remove the oldest files until no more bytes than that are left; the bytes that are."""
        files: dict[str, list[tuple[float, int, Path]]] = {}  # one, or rows and which are there
        for path in self.folder.glob("??/*"):
            with suppress(OSError):
                status, name = path.stat(), str(path)
                of = name.removesuffix(HAVE) if name.endswith(HAVE) else f"{name}.{status.st_ino}"
                files.setdefault(of, []).append((status.st_mtime, status.st_blocks * 512, path))
        used = sum(size for group in files.values() for _, size, _ in group)
        for group in sorted(files.values(), key=lambda group: max(group)[0]):
            if used <= num_bytes:
                break
            # which rows are there goes before the rows: see RowFile
            for _, size, path in sorted(group, key=lambda file: file[2].suffix != HAVE):
                if path.suffix == COPY and _is_locked(path):
                    continue
                with suppress(OSError):
                    path.unlink()
                    used -= size
                    self.num_evicted += 1
        return used


class _Ledger:
    """The file that says how many bytes the files of a cache hold.

    Attributes:
        used: that many; -1 where the file does not say.
    """

    def __init__(self, handle: int) -> None:
        self._handle = handle
        text = os.pread(handle, 32, 0)
        self.used = int(text) if text.isdigit() else -1

    def write(self, used: int) -> None:
        """Write another count."""
        self.used = used
        os.pwrite(self._handle, b"%020d" % used, 0)


def _have_of(path: Path, inode: int) -> Path:
    """The file that says which rows of a file are there."""
    return path.with_name(f"{path.name}.{inode}{HAVE}")


def _is_locked(path: Path) -> bool:
    """Whether a living process holds a copy; so it is taken where the disk has no locks."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


class RowFile:
    """A shard in the cache: its file is a whole shard with holes where no row was read.

    Which rows are there is a file of its own, named after the number of the other's inode, so that
    it never speaks for another file of that name.

    Args:
        cache: of this machine.
        path: of the shard.
        starts: byte at which each row begins, and where the last one ends.

    Attributes:
        inode: number of its file.
        have: (t,) uint8, 1 for the rows that are there; shared by all processes.
    """

    def __init__(self, cache: LocalCache, path: Path, starts: Sequence[int]) -> None:
        self.path, self._cache, self._starts = path, cache, starts
        self._handle, num_rows = os.open(path, os.O_RDWR | os.O_CLOEXEC), len(starts) - 1
        try:
            self.inode = os.fstat(self._handle).st_ino
            name = _have_of(path, self.inode)
            beside = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                # on a full disk an error here, where a write to a mapped hole ends the process
                os.posix_fallocate(beside, 0, num_rows)
                pages = mmap.mmap(beside, num_rows)
            finally:
                os.close(beside)
        except BaseException:
            os.close(self._handle)
            self._handle = -1
            raise
        import numpy as np  # here, as commands that read no store start without it

        self.have: NDArray[np.uint8] = np.frombuffer(pages, np.uint8)

    def __del__(self) -> None:
        if getattr(self, "_handle", -1) >= 0:
            os.close(self._handle)

    def is_there(self) -> bool:
        """Whether nobody has removed the file."""
        return os.fstat(self._handle).st_nlink > 0

    def use(self) -> bool:
        """Whether nobody has removed the file; then it counts as used now."""
        status = os.fstat(self._handle)
        if abs(time.time() - status.st_mtime) > TOUCHED:
            with suppress(OSError):
                os.utime(self._handle)
        return status.st_nlink > 0

    def write(self, rows: range, data: memoryview) -> bool:
        """Write neighbouring rows; False where there is no room for them."""
        with self._cache.room(len(data)) as fits:
            if not fits:
                return False
            try:
                offset, rest = self._starts[rows.start], data
                while rest:
                    count = os.pwrite(self._handle, rest, offset)
                    offset, rest = offset + count, rest[count:]
            except OSError as error:
                self._cache.give_up(error)
                return False
        self.have[rows.start : rows.stop] = 1
        return True

    def read(self, row: int) -> bytes:
        """The bytes of a row, fewer where the file ends.

        Raises:
            OSError: the disk fails.
        """
        start = self._starts[row]
        return os.pread(self._handle, self._starts[row + 1] - start, start)
