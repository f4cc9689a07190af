"""Which frames a read asks for, and the reference way to read them: tensorstore."""

import os
from pathlib import Path
from typing import Any

import crc32c
import numpy as np

from tokenreel.cache.codec.base import Array
from tokenreel.cache.errors import ClipNotFound, Damaged, StoreError
from tokenreel.cache.format.clip_record import ClipRecord
from tokenreel.cache.format.layout import ArraySpec

__all__ = [
    "check_with_sums",
    "frame_numbers",
    "open_with_tensorstore",
    "read_with_tensorstore",
]


def frame_numbers(record: ClipRecord, frames: Any) -> Array:
    """Frame indices, int64, of None, a slice or a list; ClipNotFound beyond the clip."""
    every = np.arange(record.num_frames)
    if frames is None:
        return every
    if isinstance(frames, slice):
        return every[frames]
    rows = np.asarray(frames)
    if rows.ndim != 1 or (rows.size and rows.dtype.kind not in "iu"):
        raise TypeError(f"frames: wanted a 1-d list of integers, got {rows.dtype}{rows.shape}")
    if rows.size and (rows.min() < 0 or rows.max() >= record.num_frames):
        raise ClipNotFound(
            f"{record.clip_id} has frames 0 to {record.num_frames - 1}, "
            f"asked for {rows.min()} to {rows.max()}"
        )
    return rows.astype(np.int64)


_USED_IN: list[int] = []  # the process tensorstore's threads live in


def open_with_tensorstore(folder: Path, spec: ArraySpec, *, mapped: bool) -> Any:
    """The library's handle of an array, for read_with_tensorstore; not for a forked child.

    Args:
        folder: of the clip.
        spec: of the array.
        mapped: copy from the page cache, which is twice as fast when the frames are there.

    Raises:
        Damaged: the library cannot open it.
        StoreError: this process was forked after the library had been used.
    """
    import tensorstore

    _USED_IN[:] = _USED_IN or [os.getpid()]
    if os.getpid() not in _USED_IN:
        raise StoreError("tensorstore was used before the fork: spawn workers, or backend='direct'")
    kvstore = {
        "driver": "file",
        "path": f"{(folder / spec.path).resolve()}/",
        "file_io_mode": {"mode": "memmap" if mapped else "default"},
    }
    wanted = {"driver": "zarr3", "kvstore": kvstore, "fill_missing_data_reads": False}
    try:
        return tensorstore.open(wanted, read=True).result()
    except (ValueError, OSError) as error:
        raise Damaged(f"{folder / spec.path}: {error}") from error


def read_with_tensorstore(array: Any, frames: Array, out: Array, *, where: object) -> None:
    """The reference: the library's own reading of the array.

    Args:
        array: of open_with_tensorstore.
        frames: (t,) sorted.
        out: contiguous (t, n, d), which the library fills.
        where: the array, for the error.
    """
    import tensorstore

    try:
        tensorstore.array(out, copy=False).write(array[frames]).result()
    except (ValueError, OSError) as error:
        raise Damaged(f"{where}: {error}") from error


def check_with_sums(frames: Array, sums: Array, *, where: object) -> None:
    """Raise Damaged unless each frame of (t, n, d) has its crc32c of `sums`, (t,)."""
    for place, frame in enumerate(frames):
        if crc32c.crc32c(frame) != sums[place]:
            raise Damaged(f"{where}: a frame is damaged (crc32c); run verify, then repair")
