"""The direct reader: frames of dense, uncompressed shards straight into a buffer.

An uncompressed shard is a raw file, so a run of frames is one `preadv`, or one copy of its pages.
Any other file is refused.
"""

import errno
import fcntl
import logging
import mmap
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import crc32c
import numpy as np

from tokenreel.cache.codec.base import Array
from tokenreel.cache.errors import Damaged
from tokenreel.cache.files import again_if_stale, unreadable
from tokenreel.cache.format.layout import INDEX_BYTES, SEGMENT, ArraySpec, shard_index

log = logging.getLogger(__name__)
PAGE = 4096
STEP = 2**21  # bytes of a thread's scratch pages, for reads that are not page-aligned
PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS  # not shared with a forked child
_own = threading.local()


def aligned_empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """An uninitialised page-aligned array, as O_DIRECT needs, on huge pages where there are any.

    Huge pages matter: the kernel pins every page of the target, and 4 KB ones cost O_DIRECT a
    third of its speed.
    """
    count = int(np.prod(shape, dtype=np.int64))
    pages = mmap.mmap(-1, max(count * dtype.itemsize, 1), flags=PRIVATE)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without them
            pages.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(pages, dtype, count).reshape(shape)


def runs(frames: Array, most: int = SEGMENT) -> Iterator[tuple[int, int, int]]:
    """Runs of consecutive frames that lie in one shard: (first frame, count, place in `frames`).

    >>> list(runs(np.array([3, 4, 5, 63, 64, 9])))
    [(3, 3, 0), (63, 1, 3), (64, 1, 4), (9, 1, 5)]
    >>> list(runs(np.array([3, 4, 5]), most=2))
    [(3, 2, 0), (5, 1, 2)]
    """
    start = 0
    cut = (np.diff(frames) != 1) | (frames[1:] % SEGMENT == 0)
    for stop in [*(np.flatnonzero(cut) + 1).tolist(), len(frames)]:
        while start < stop:
            count = min(most, stop - start)
            yield int(frames[start]), count, start
            start += count


class Shard:
    """One open shard whose index was checked; closed when the last reference goes.

    The first read of a frame goes through the file, so that an error of the disk is an error here,
    and is checked; later ones are copies of the mapped page cache, which costs half of a read.

    Args:
        path: of the file.
        spec: of its array.
        number: which shard of the array.
        sums: crc32c of its frames, (t,); None checks nothing.
        checks: "always", or "once" for the first read of each frame.
        direct: read past the page cache, into `out` itself where it and the frames start at a
            page, else through pages of the thread.

    Raises:
        Damaged: missing, of another size, or not a dense shard.
        MachineError: this process cannot read it now.
    """

    def __init__(
        self,
        path: Path,
        spec: ArraySpec,
        number: int,
        *,
        sums: Array | None,
        checks: str = "once",
        direct: bool = False,
    ) -> None:
        self.path, self._frame_bytes = path, spec.row_bytes
        self._sums, self._always = sums, checks == "always"
        self._handle, self._is_direct = -1, direct
        self._num_frames = min(SEGMENT, spec.shape[0] - number * SEGMENT)
        self._seen = np.zeros(self._num_frames, bool)
        self._first = number * SEGMENT  # of its frames, counted in the clip
        self._pages: mmap.mmap | None = None
        self._mapped: Array | None = None
        self._num_bytes = self._num_frames * spec.row_bytes + INDEX_BYTES
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
        index = np.empty(INDEX_BYTES, np.uint8)
        try:
            self._handle = again_if_stale(partial(os.open, path, flags))
            if direct:
                fcntl.fcntl(self._handle, fcntl.F_SETFL, flags | os.O_DIRECT)
        except OSError as error:
            if self._handle < 0:
                raise unreadable(path, error) from error
            self._leave_direct()
        self._check_size()
        self._read_bytes(self._num_bytes - INDEX_BYTES, index)
        if index.tobytes() != shard_index(self._num_frames, spec.row_bytes):
            raise Damaged(f"{path}: not a dense shard of {self._num_frames} frames")

    def __del__(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)

    @property
    def inode(self) -> int:
        """Number of the open file."""
        return os.fstat(self._handle).st_ino

    def read(self, frames: Array, out: Array) -> None:
        """Fill `out`, (t, n, d) contiguous, with frames of the shard.

        Args:
            frames: (t,) sorted, distinct, counted from the start of the shard.
            out: where to.

        Raises:
            Damaged: the file changed, or a frame does not match its checksum.
        """
        rows = out.reshape(len(frames), -1).view(np.uint8)
        seen, mapped, most = self._seen[frames], None, SEGMENT
        checked = ~seen | self._always if self._sums is not None else np.zeros_like(seen)
        if not self._is_direct:
            if seen.all():
                mapped = self._map()
            if checked.any():  # while the processor still has the bytes: twice as fast
                most = max(STEP // 4 // self._frame_bytes, 1)
        for first, count, place in runs(frames, most):
            part = rows[place : place + count]
            if mapped is not None:
                part[:] = mapped[first : first + count]
            else:
                self._read_bytes(first * self._frame_bytes, part.reshape(-1))
            for i in np.flatnonzero(checked[place : place + count]).tolist():
                self._check(part[i], first + i)
        self._seen[frames] = True

    def release_pages(self) -> None:
        """Drop mapped pages from this process's memory; they stay in the page cache."""
        if self._pages is not None:
            self._pages.madvise(mmap.MADV_DONTNEED)

    def _check(self, row: Array, frame: int) -> None:
        if self._sums is not None and crc32c.crc32c(row.data) != self._sums[frame]:
            raise Damaged(
                f"{self.path}: frame {self._first + frame} of the clip is damaged (crc32c); run "
                "verify, then repair"
            )

    def _check_size(self) -> None:
        size = os.fstat(self._handle).st_size
        if size != self._num_bytes:
            raise Damaged(f"{self.path}: {size} bytes, wanted {self._num_bytes}; run verify")

    def _map(self) -> Array:
        """The frames, memory-mapped.  To touch a page beyond the file's end kills the process."""
        self._check_size()
        if self._mapped is None:
            self._pages = mmap.mmap(self._handle, self._num_bytes, prot=mmap.PROT_READ)
            count = self._num_frames * self._frame_bytes
            shape = (self._num_frames, self._frame_bytes)
            self._mapped = np.frombuffer(self._pages, np.uint8, count).reshape(shape)
        return self._mapped

    def _read_bytes(self, offset: int, out: Array) -> None:
        """Fill `out`, (bytes,) uint8, from `offset` of the file on."""
        while len(out):
            target, start = out, offset
            if self._is_direct and (offset | len(out) | out.ctypes.data) % PAGE:
                start = offset // PAGE * PAGE
                target = _own_pages(offset + len(out) - start)
            try:
                count = os.preadv(self._handle, [target.data], start) - (offset - start)
            except OSError as error:
                if error.errno == errno.EINVAL and self._is_direct:
                    self._leave_direct()
                    continue
                raise unreadable(self.path, error) from error
            if count <= 0:
                raise Damaged(f"{self.path}: ends at byte {offset}, was it truncated?")
            if target is not out:
                count = min(count, len(out))
                out[:count] = target[offset - start : offset - start + count]
            out, offset = out[count:], offset + count

    def _leave_direct(self) -> None:
        """Fall back to the page cache: no O_DIRECT on this file system, or another alignment."""
        log.debug("%s: no O_DIRECT here; read through the page cache", self.path)
        self._is_direct = False
        flags = fcntl.fcntl(self._handle, fcntl.F_GETFL)
        fcntl.fcntl(self._handle, fcntl.F_SETFL, flags & ~os.O_DIRECT)


def _own_pages(num_bytes: int) -> Array:
    """Scratch pages of this thread, at most STEP bytes; what is read into them is copied out."""
    wanted = min(-(-num_bytes // PAGE) * PAGE, STEP)
    pages: Array = getattr(_own, "pages", np.empty(0, np.uint8))
    if len(pages) < wanted:  # two for the index of a shard, STEP for frames
        pages = aligned_empty((2 * PAGE if wanted <= 2 * PAGE else STEP,), np.dtype(np.uint8))
        _own.pages = pages
    return pages[:wanted]
