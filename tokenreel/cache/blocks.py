"""The direct reader: frames of dense, uncompressed shards straight into a buffer.

An uncompressed shard is a raw file, so a run of frames is one `preadv`, or one copy of its pages.
What is not exactly such a shard is refused, never guessed at.
"""

import mmap
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import crc32c
import numpy as np

from tokenreel.cache.codec.base import Array
from tokenreel.cache.errors import Damaged
from tokenreel.cache.layout import INDEX_BYTES, SEGMENT, ArraySpec, shard_index

__all__ = ["Shard", "aligned_empty", "runs"]

PAGE = 4096


def aligned_empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """An uninitialised array that starts at a page, as O_DIRECT wants."""
    count = int(np.prod(shape, dtype=np.int64))
    pages = mmap.mmap(-1, max(count * dtype.itemsize, 1))
    return np.frombuffer(pages, dtype, count).reshape(shape)


def runs(frames: Array) -> Iterator[tuple[int, int, int]]:
    """Runs of consecutive frames that lie in one shard: (first frame, count, place in `frames`).

    >>> list(runs(np.array([3, 4, 5, 63, 64, 9])))
    [(3, 3, 0), (63, 1, 3), (64, 1, 4), (9, 1, 5)]
    """
    start = 0
    cut = (np.diff(frames) != 1) | (frames[1:] % SEGMENT == 0)
    for stop in [*(np.flatnonzero(cut) + 1).tolist(), len(frames)]:
        if stop > start:
            yield int(frames[start]), stop - start, start
        start = stop


class Shard:
    """One shard, opened and its index checked; closed when nobody holds it.

    The first read of a frame goes through the file, so that an error of the disk is an error here,
    and is checked; later ones are copies of the mapped page cache, which costs half of a read.

    Args:
        path: of the file.
        spec: of its array.
        number: which shard of the array.
        sums: crc32c of its frames, (t,); None checks nothing.
        checks: "always", or "once" for the first read of each frame.
        direct: read past the page cache where the buffer and the frames are page-aligned.

    Raises:
        Damaged: missing, of another size, or not a dense shard of version 1.
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
        self._handle = self._direct = -1
        self._num_frames = min(SEGMENT, spec.shape[0] - number * SEGMENT)
        self._seen = np.zeros(self._num_frames, bool)
        self._mapped: Array | None = None
        self._num_bytes = self._num_frames * spec.row_bytes + INDEX_BYTES
        try:
            self._handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            if direct and spec.row_bytes % PAGE == 0:
                with suppress(OSError):  # a file system without O_DIRECT
                    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT
                    self._direct = os.open(path, flags)
            self._check_size()
            index = os.pread(self._handle, INDEX_BYTES, self._num_bytes - INDEX_BYTES)
        except OSError as error:
            raise Damaged(f"{path}: {error.strerror}; run verify, then repair") from error
        if index != shard_index(self._num_frames, spec.row_bytes):
            raise Damaged(f"{path}: not a dense shard of {self._num_frames} frames")

    def __del__(self) -> None:
        for handle in (self._handle, self._direct):
            if handle >= 0:
                os.close(handle)

    def read(self, frames: Array, out: Array) -> None:
        """Fill `out`, (t, n, d) contiguous, with frames of the shard.

        Args:
            frames: (t,) sorted, distinct, counted from the start of the shard.
            out: where to.

        Raises:
            Damaged: the file changed, or a frame has not its checksum.
        """
        rows = out.reshape(len(frames), -1).view(np.uint8)
        seen = self._seen[frames]
        if self._direct < 0 and seen.all():
            self._check_size()  # touching a mapped file beyond its end would kill the process
            mapped = self._map()
            for first, count, place in runs(frames):
                rows[place : place + count] = mapped[first : first + count]
        else:
            for first, count, place in runs(frames):
                self._read_file(first, out[place : place + count])
        for place in np.flatnonzero(~seen | self._always).tolist():
            self._check(rows[place], int(frames[place]))
        self._seen[frames] = True

    def _check(self, row: Array, frame: int) -> None:
        if self._sums is not None and crc32c.crc32c(row.data) != self._sums[frame]:
            raise Damaged(
                f"{self.path}: frame {frame} of the shard is damaged (crc32c); "
                "run verify, then repair"
            )

    def _check_size(self) -> None:
        size = os.fstat(self._handle).st_size
        if size != self._num_bytes:
            raise Damaged(f"{self.path}: {size} bytes, wanted {self._num_bytes}; run verify")

    def _map(self) -> Array:
        if self._mapped is None:
            pages = mmap.mmap(self._handle, self._num_bytes, prot=mmap.PROT_READ)
            count = self._num_frames * self._frame_bytes
            shape = (self._num_frames, self._frame_bytes)
            self._mapped = np.frombuffer(pages, np.uint8, count).reshape(shape)
        return self._mapped

    def _read_file(self, first: int, out: Array) -> None:
        view, offset = out.data.cast("B"), first * self._frame_bytes
        handle = self._handle
        if self._direct >= 0 and out.ctypes.data % PAGE == 0:
            handle = self._direct
        while view:
            try:
                count = os.preadv(handle, [view], offset)
            except OSError as error:
                raise Damaged(f"{self.path}: {error.strerror}") from error
            if count == 0:
                raise Damaged(f"{self.path}: ends at byte {offset}, was it truncated?")
            view, offset = view[count:], offset + count
            if handle == self._direct and count % PAGE:
                handle = self._handle
