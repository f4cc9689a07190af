"""Which frames a read asks for, and the reference way to read them: tensorstore."""

import os
from pathlib import Path
from typing import Any

import crc32c
import numpy as np

from tokenreel.cache.blocks import runs
from tokenreel.cache.codec.base import Array
from tokenreel.cache.errors import ClipNotFound, Damaged, StoreError
from tokenreel.cache.layout import ArraySpec
from tokenreel.cache.records import ClipRecord

__all__ = ["check_with_sums", "frame_numbers", "read_with_tensorstore"]


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


def read_with_tensorstore(folder: Path, spec: ArraySpec, frames: Array, out: Array) -> None:
    """The reference: the library's own reading of the array."""
    import tensorstore

    _USED_IN[:] = _USED_IN or [os.getpid()]
    if os.getpid() not in _USED_IN:
        raise StoreError("tensorstore was used before the fork: spawn workers, or backend='direct'")
    kvstore = {"driver": "file", "path": f"{(folder / spec.path).resolve()}/"}
    try:
        array = tensorstore.open(
            {"driver": "zarr3", "kvstore": kvstore, "fill_missing_data_reads": False}, read=True
        ).result()
        for first, count, place in runs(frames):
            target = tensorstore.array(out[place : place + count], copy=False)
            target.write(array[first : first + count]).result()
    except (ValueError, OSError) as error:
        raise Damaged(f"{folder / spec.path}: {error}") from error


def check_with_sums(frames: Array, sums: Array, *, where: object) -> None:
    """Raise Damaged unless each frame of (t, n, d) has its crc32c of `sums`, (t,)."""
    for place, frame in enumerate(frames):
        if crc32c.crc32c(frame) != sums[place]:
            raise Damaged(f"{where}: a frame is damaged (crc32c); run verify, then repair")
