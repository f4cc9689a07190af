"""One view of a clip that is being written: open shards, and the small arrays of a segment."""

import os
from collections.abc import Mapping
from pathlib import Path

import crc32c
import numpy as np

from tokenreel.cache.codec import Codec, Encoded
from tokenreel.cache.codec.base import Array
from tokenreel.cache.files import write_new
from tokenreel.cache.format.identity import StoreIdentity
from tokenreel.cache.format.layout import SEGMENT, ArraySpec, shard_index, view_arrays

__all__ = ["Track"]


class Track:
    """The frames of one view, segment by segment.

    Tokens go to their shard as they come; the rest of a segment, a few MB, waits until it is full.

    Attributes:
        num_frames: appended so far, those of a resumed run counted.
        seals: array -> crc32c of each chunk file.
    """

    def __init__(
        self, folder: Path, identity: StoreIdentity, codec: Codec, *, view: int, num_segments: int
    ) -> None:
        self._folder = folder
        self._specs = {spec.path: spec for spec in view_arrays(identity, codec, view, SEGMENT)}
        self._base = f"views/{view}"
        self._blocks, self._keeps_cls = identity.blocks, identity.cls != "none"
        self._rows: dict[str, list[Array]] = {}
        self._open: dict[str, int] = {}
        self.num_frames = num_segments * SEGMENT
        self.seals: dict[str, list[int]] = {
            path: [self._seal_of(spec, number) for number in range(num_segments)]
            for path, spec in self._specs.items()
            if not spec.sharded
        }

    def _seal_of(self, spec: ArraySpec, number: int) -> int:
        data = (self._folder / spec.chunk_file(number)).read_bytes()
        return int.from_bytes(data[-4:], "little")

    def append(
        self, encoded: Mapping[int, Encoded], cls: Mapping[int, Array], cls_normed: Array | None
    ) -> None:
        """Append frames; see ClipWriter.append."""
        arrays = self._arrays(encoded, cls, cls_normed)
        total = len(next(iter(arrays.values())))
        for path, array in arrays.items():
            spec = self._specs[path]
            if array.shape != (total, *spec.shape[1:]):
                raise ValueError(f"{path}: {array.shape}, wanted {(total, *spec.shape[1:])}")
            if spec.sharded and array.dtype != np.dtype(spec.dtype):
                raise ValueError(f"{path}: {array.dtype}, wanted {np.dtype(spec.dtype)}")
            if spec.dtype in ("<f2", "<f4") and not np.isfinite(array.astype(spec.dtype)).all():
                raise ValueError(f"{path}: a value that {np.dtype(spec.dtype)} cannot hold")
        start = 0
        while start < total:
            count = min(SEGMENT - self.num_frames % SEGMENT, total - start)
            for path, array in arrays.items():
                self._take(self._specs[path], array[start : start + count])
            start += count
            self.num_frames += count
            if self.num_frames % SEGMENT == 0:
                self._end_segment(SEGMENT)

    def _arrays(
        self, encoded: Mapping[int, Encoded], cls: Mapping[int, Array], cls_normed: Array | None
    ) -> dict[str, Array]:
        arrays: dict[str, Array] = {}
        for block, codes in encoded.items():
            arrays[f"{self._base}/tokens/{block}"] = codes.codes
            if codes.scales is not None:
                arrays[f"{self._base}/scale/{block}"] = codes.scales
        if self._keeps_cls:
            arrays |= {f"{self._base}/cls/{block}": rows for block, rows in cls.items()}
            if cls_normed is not None:
                arrays[f"{self._base}/cls_normed"] = cls_normed
        sums = {f"{self._base}/crc32c/{block}" for block in self._blocks}
        if set(arrays) | sums != set(self._specs):
            raise ValueError(f"given {sorted(arrays)}, wanted {sorted(set(self._specs) - sums)}")
        return arrays

    def _take(self, spec: ArraySpec, rows: Array) -> None:
        if not spec.sharded:
            self._rows.setdefault(spec.path, []).append(np.array(rows, spec.dtype))
            return
        rows = np.ascontiguousarray(rows)
        if spec.path not in self._open:
            path = self._folder / spec.chunk_file(self.num_frames // SEGMENT)
            self._make_room(path)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._open[spec.path] = os.open(path, flags, 0o644)
        _write_all(self._open[spec.path], rows.data.cast("B"))
        sums = np.array([crc32c.crc32c(row) for row in rows], "<u4")
        self._rows.setdefault(spec.path.replace("/tokens/", "/crc32c/"), []).append(sums)

    def _end_segment(self, num_frames: int) -> None:
        number = (self.num_frames - 1) // SEGMENT
        for path, handle in self._open.items():
            _write_all(handle, memoryview(shard_index(num_frames, self._specs[path].row_bytes)))
        self.drop()
        for path, rows in self._rows.items():
            spec = self._specs[path]
            file = self._folder / spec.chunk_file(number)
            self._make_room(file)
            data = spec.chunk_bytes(np.concatenate(rows))
            write_new(file, data)
            self.seals[path].append(int.from_bytes(data[-4:], "little"))
        self._rows = {}

    def _make_room(self, path: Path) -> None:
        """Make the folder of a file, but never the clip's own: it vanished, or was taken over."""
        (self._folder / "begin.json").stat()
        path.parent.mkdir(parents=True, exist_ok=True)

    def close(self) -> None:
        """Write the last segment, when it is not full."""
        if self.num_frames % SEGMENT:
            self._end_segment(self.num_frames % SEGMENT)

    def drop(self) -> None:
        """Close the open shards."""
        for handle in self._open.values():
            os.close(handle)
        self._open = {}


def _write_all(handle: int, view: memoryview) -> None:
    while view:
        view = view[os.write(handle, view) :]
