"""A bounded cache, on a disk of this machine, of what was read from buckets.

A file holds an object, or a shard of which only the frames that were read are there; beside that
one lies a file with a byte a frame that says which.  Both survive the process and serve all
processes of the machine.  Nothing in it is trusted: what is read from it is checked by the
checksums of the store, and fetched again where it does not match.
"""

import hashlib
import logging
import mmap
import os
import shutil
import threading
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from tokenreel.cache.errors import Damaged
from tokenreel.cache.files import parse_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger(__name__)
T = TypeVar("T")

FOLDER, BYTES = "TOKENREEL_CACHE_DIR", "TOKENREEL_CACHE_BYTES"  # of the environment
MOST_BYTES = 10**11  # by default, and at most half of what is free on its disk
BLOCK = 4096  # bytes that a file system gives at once
HAVE = ".have"  # ending of the files that say which frames are there

_open: dict[tuple[Path, int | None], "LocalCache"] = {}


def local_cache() -> "LocalCache":
    """The cache of this process, where the environment says; see docs/scale.md."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "tokenreel"
    folder = Path(os.environ.get(FOLDER) or default).absolute()
    given = os.environ.get(BYTES)
    key = folder, None if not given else parse_bytes(given, option=BYTES, least=0)
    if key not in _open:
        _open[key] = LocalCache(*key)
    return _open[key]


class LocalCache:
    """A folder of a bounded size; the files that were used longest ago go first.

    Args:
        folder: made where there is none.
        num_bytes: most that it may hold; None: half of what is free on its disk, at most 100 GB.

    Attributes:
        num_refetched: times that something in it did not match its checksum.
        num_evicted: files that were removed to make room.
    """

    def __init__(self, folder: Path, num_bytes: int | None = None) -> None:
        self.folder, self.num_refetched, self.num_evicted = folder, 0, 0
        self._lock, self._used, self._unseen = threading.Lock(), -1, 0
        try:
            if num_bytes != 0:
                folder.mkdir(parents=True, exist_ok=True)
                free = shutil.disk_usage(folder).free
        except OSError as error:
            log.warning("%s: no cache of buckets (%s): give --cache-dir", folder, error.strerror)
            num_bytes = 0
        self.num_bytes = min(free // 2, MOST_BYTES) if num_bytes is None else num_bytes

    def read(self, key: str, fetch: Callable[[], bytes], parse: Callable[[bytes], T]) -> T:
        """What `parse` makes of an object, from here where it is and parses, else fetched.

        Args:
            key: names the bytes: another object has another key.
            fetch: gets the bytes.
            parse: checks them; raises Damaged.
        """
        path = self._path(key)
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
        if self.has_room(len(data)):
            beside = path.with_name(f".tmp-{uuid.uuid4().hex}")
            with suppress(OSError):
                path.parent.mkdir(parents=True, exist_ok=True)
                beside.write_bytes(data)
                beside.replace(path)
        return value

    def open_frames(
        self, key: str, num_frames: int, frame_bytes: int, tail: bytes
    ) -> "FrameFile | None":
        """The file of a shard, made where there is none; None where the cache has no room for it.

        Args:
            key: names the shard and its bytes.
            num_frames: of the shard.
            frame_bytes: of a frame.
            tail: what follows the frames in the shard.
        """
        path = self._path(key)
        if num_frames * frame_bytes > self.num_bytes // 2:
            return None
        try:
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                beside = path.with_name(f".tmp-{uuid.uuid4().hex}")
                with beside.open("xb") as file:
                    file.seek(num_frames * frame_bytes)
                    file.write(tail)
                with suppress(FileExistsError):
                    os.link(beside, path)
                beside.unlink()
            self._touch(path)
            return FrameFile(self, path, num_frames, frame_bytes)
        except OSError as error:
            log.debug("%s: not cached: %s", path, error)
            return None

    def count_damage(self, key: str) -> None:
        """Note that something here did not match its checksum."""
        self.num_refetched += 1
        log.warning("%s: a damaged copy of %s; it is fetched again", self.folder, key)

    def _path(self, key: str) -> Path:
        digest = hashlib.sha256(key.encode()).hexdigest()
        return self.folder / digest[:2] / digest[2:]

    @staticmethod
    def _touch(path: Path) -> None:
        with suppress(OSError):
            os.utime(path)

    def has_room(self, num_bytes: int) -> bool:
        """Whether some bytes may be written; the oldest files are removed to make room for them."""
        num_bytes += 2 * BLOCK
        if num_bytes > self.num_bytes // 8:
            return False
        with self._lock:
            self._unseen += num_bytes
            is_due = self._unseen > self.num_bytes // 16  # other processes write here too
            if self._used < 0 or is_due or self._used + self._unseen > self.num_bytes:
                self._used, self._unseen = self._evict(self.num_bytes * 3 // 4), num_bytes
        return True

    def _evict(self, num_bytes: int) -> int:
        """Remove the oldest files where there are more bytes than that; the bytes that stay."""
        files = []
        for path in self.folder.glob("??/*"):
            with suppress(OSError):
                status = path.stat()
                files.append((status.st_mtime, status.st_blocks * 512, path))
        used = sum(size for _, size, _ in files)
        if used <= self.num_bytes * 7 // 8:
            return used
        for _, size, path in sorted(files, key=lambda file: file[0]):
            if used <= num_bytes:
                break
            with suppress(OSError):
                for have in path.parent.glob(f"{path.name}.*{HAVE}"):
                    have.unlink(missing_ok=True)  # before its frames: see FrameFile
                path.unlink()
                used -= size
                self.num_evicted += 1
        return used


class FrameFile:
    """A shard in the cache: its file is a whole shard with holes where no frame was read.

    Which frames are there is a file of its own, named after the number of the other's inode, so
    that it never speaks for another file of that name.

    Attributes:
        path: of the shard.
        inode: number of its file.
        have: (t,) uint8, 1 for the frames that are there; shared by all processes.
    """

    def __init__(self, cache: LocalCache, path: Path, num_frames: int, frame_bytes: int) -> None:
        self.path, self._cache, self._frame_bytes = path, cache, frame_bytes
        self._handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            self.inode = os.fstat(self._handle).st_ino
            beside = os.open(
                f"{path}.{self.inode}{HAVE}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644
            )
            try:
                os.truncate(beside, num_frames)
                pages = mmap.mmap(beside, num_frames)
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

    def write(self, first: int, data: memoryview) -> bool:
        """Write frames from `first` on; False where there is no room for them."""
        if not self._cache.has_room(len(data)):
            return False
        try:
            offset, rest = first * self._frame_bytes, data
            while rest:
                count = os.pwrite(self._handle, rest, offset)
                offset, rest = offset + count, rest[count:]
        except OSError as error:  # its disk is full
            log.warning("%s: not cached: %s", self.path, error.strerror)
            return False
        self.have[first : first + len(data) // self._frame_bytes] = 1
        return True
