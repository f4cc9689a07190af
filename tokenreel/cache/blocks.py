"""The direct reader: frames of dense, uncompressed shards straight into a buffer.

An uncompressed shard is a raw file, so a run of frames is one `preadv`.  What is not exactly such a
shard is refused, never guessed at.
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

    Args:
        path: of the file.
        spec: of its array.
        number: which shard of the array.
        direct: read past the page cache where the buffer and the frames are page-aligned.

    Raises:
        Damaged: missing, of another size, or not a dense shard of version 1.
    """

    def __init__(self, path: Path, spec: ArraySpec, number: int, *, direct: bool) -> None:
        self.path, self._frame_bytes = path, spec.row_bytes
        self._handle = self._direct = -1
        num_frames = min(SEGMENT, spec.shape[0] - number * SEGMENT)
        try:
            self._handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            if direct and spec.row_bytes % PAGE == 0:
                with suppress(OSError):  # a file system without O_DIRECT
                    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT
                    self._direct = os.open(path, flags)
            size, data = os.fstat(self._handle).st_size, num_frames * spec.row_bytes
            index = os.pread(self._handle, INDEX_BYTES, data)
        except OSError as error:
            raise Damaged(f"{path}: {error.strerror}; run verify, then repair") from error
        if size != data + INDEX_BYTES or index != shard_index(num_frames, spec.row_bytes):
            raise Damaged(f"{path}: {size} bytes, not a dense shard of {num_frames} frames")

    def __del__(self) -> None:
        for handle in (self._handle, self._direct):
            if handle >= 0:
                os.close(handle)

    def read(self, first: int, out: Array) -> None:
        """Fill `out`, (t, n, d) contiguous, with frames of the shard from `first` on."""
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


def check_frames(frames: Array, sums: Array, *, where: object) -> None:
    """Raise Damaged unless each frame of (t, n, d) has its checksum of `sums`, (t,)."""
    for place, frame in enumerate(frames):
        if crc32c.crc32c(frame) != sums[place]:
            raise Damaged(f"{where}: a frame is damaged (crc32c); run verify, then repair")
