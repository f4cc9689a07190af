"""Formats 1 and 2 of the store on disk: which arrays a clip has, their metadata, and chunk bytes.

FORMAT.md defines the format; this module is the only code that repeats it.
"""

import struct
from dataclasses import dataclass
from typing import Any

import crc32c
import numpy as np

from tokenreel.cache.canonical import canonical_json
from tokenreel.cache.codec import Codec
from tokenreel.cache.codec.base import Array
from tokenreel.cache.errors import Damaged
from tokenreel.cache.format.identity import StoreIdentity

SEGMENT = 64  # frames of a shard, and of a chunk of every array of a view
ROWS = 4096  # frames of a chunk of the arrays of a clip
INDEX_BYTES = 16 * SEGMENT + 4
ABSENT = 2**64 - 1

NAMES = {
    "i1": "int8",
    "u1": "uint8",
    "<i2": "int16",
    "<i8": "int64",
    "<u4": "uint32",
    "<f2": "float16",
    "<f4": "float32",
}


@dataclass(frozen=True)
class ArraySpec:
    """One array of a store.

    Attributes:
        path: inside its group.
        shape: frames first.
        dtype: numpy's spelling, little-endian.
        fill: a value that no row has; NaN for floats.
        rows: frames of a chunk file.
        sharded: whether a chunk file is a shard of one-frame chunks.
    """

    path: str
    shape: tuple[int, ...]
    dtype: str
    fill: float | int
    rows: int
    sharded: bool = False

    @property
    def num_files(self) -> int:
        """Chunk files of the array."""
        return -(-self.shape[0] // self.rows)

    @property
    def row_bytes(self) -> int:
        """Bytes of a frame."""
        return int(np.prod(self.shape[1:], dtype=np.int64)) * np.dtype(self.dtype).itemsize

    def chunk_file(self, number: int) -> str:
        """Path of a chunk file inside the group."""
        return "/".join([self.path, "c", str(number), *["0"] * (len(self.shape) - 1)])

    def metadata(self) -> dict[str, Any]:
        """The zarr.json of the array."""
        fill = "NaN" if self.fill != self.fill else self.fill
        little: dict[str, Any] = {"name": "bytes", "configuration": {"endian": "little"}}
        checksum: dict[str, Any] = {"name": "crc32c"}
        codecs: list[dict[str, Any]] = [little, checksum]
        if self.sharded:
            inner = {
                "chunk_shape": [1, *self.shape[1:]],
                "codecs": [little],
                "index_codecs": [little, checksum],
                "index_location": "end",
            }
            codecs = [{"name": "sharding_indexed", "configuration": inner}]
        return {
            "zarr_format": 3,
            "node_type": "array",
            "shape": list(self.shape),
            "data_type": NAMES[self.dtype],
            "fill_value": fill,
            "codecs": codecs,
            "chunk_grid": {
                "name": "regular",
                "configuration": {"chunk_shape": [self.rows, *self.shape[1:]]},
            },
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "attributes": {},
            "storage_transformers": [],
        }

    def chunk_bytes(self, rows: Array) -> bytes:
        """A chunk file of an array that is not sharded: padded rows and their crc32c."""
        full = np.full((self.rows, *self.shape[1:]), self.fill, self.dtype)
        full[: len(rows)] = rows
        data = full.tobytes()
        return data + struct.pack("<I", crc32c.crc32c(data))

    def parse_chunk(self, data: bytes, *, where: object, checksum: int | None = None) -> Array:
        """The rows of a chunk file, (rows, ...) with the padding.

        Raises:
            Damaged: a wrong length, or a checksum unlike the file's own or the clip's seal.
        """
        expected = self.rows * self.row_bytes
        if len(data) != expected + 4:
            raise Damaged(f"{where}: {len(data)} bytes, wanted {expected + 4}")
        (stored,) = struct.unpack("<I", data[-4:])
        if crc32c.crc32c(memoryview(data)[:-4]) != stored or checksum not in (None, stored):
            raise Damaged(f"{where}: its bytes do not match their checksum")
        return np.frombuffer(
            data, self.dtype, self.rows * self.row_bytes // np.dtype(self.dtype).itemsize
        ).reshape(self.rows, *self.shape[1:])


def shard_index(num_frames: int, frame_bytes: int) -> bytes:
    """The index at the end of a shard that holds its first `num_frames` frames, and its crc32c."""
    index = np.full((SEGMENT, 2), ABSENT, "<u8")
    index[:num_frames, 0] = np.arange(num_frames) * frame_bytes
    index[:num_frames, 1] = frame_bytes
    data = index.tobytes()
    return data + struct.pack("<I", crc32c.crc32c(data))


def view_arrays(
    identity: StoreIdentity, codec: Codec, view: int, num_frames: int
) -> list[ArraySpec]:
    """The arrays of one view, in the order they are written: a block's crc32c is the last of it."""
    base, count, nan = f"views/{view}", num_frames, float("nan")
    frame = identity.num_tokens, identity.dim, identity.grid
    codes, scale = (count, *codec.stored_shape(*frame)), codec.scale_shape(*frame)
    dtype, cls = codec.dtype.str.replace("|", ""), (count, identity.dim)
    specs = []
    for block in identity.blocks:
        path = f"{base}/tokens/{block}"
        specs.append(ArraySpec(path, codes, dtype, codec.fill_value, SEGMENT, sharded=True))
        if scale is not None:
            specs.append(ArraySpec(f"{base}/scale/{block}", (count, *scale), "<f4", nan, SEGMENT))
        if identity.cls != "none":
            specs.append(ArraySpec(f"{base}/cls/{block}", cls, "<f2", nan, SEGMENT))
        specs.append(ArraySpec(f"{base}/crc32c/{block}", (count,), "<u4", 0, SEGMENT))
    if identity.cls != "none":
        specs.append(ArraySpec(f"{base}/cls_normed", cls, "<f2", nan, SEGMENT))
    return specs


def clip_arrays(num_frames: int, *, format_version: int) -> list[ArraySpec]:
    """The arrays of a clip that its views share."""
    kinds = {
        "pts": ("<i8", -(2**63)),
        **({"stop_pts": ("<i8", -(2**63))} if format_version > 1 else {}),
        "frame_index": ("<i8", -(2**63)),
        "labels": ("<i2", -(2**15)),
        "flags": ("u1", 255),
    }
    return [
        ArraySpec(name, (num_frames,), dtype, fill, ROWS) for name, (dtype, fill) in kinds.items()
    ]


def default_stops(pts: Array) -> Array:
    """When each frame ends, int64 (T,) ticks: at the next one's start.

    The last lasts as long as the one before it; the only frame of a clip lasts one tick.

    >>> default_stops(np.array([0, 2, 6])), default_stops(np.array([5]))
    (array([ 2,  6, 10]), array([6]))
    """
    starts: Array = np.asarray(pts, np.int64)
    if len(starts) < 2:
        return starts + 1
    return np.append(starts[1:], 2 * starts[-1] - starts[-2])


def group_json(attributes: dict[str, Any] | None = None) -> bytes:
    """The zarr.json of a group."""
    return canonical_json({"zarr_format": 3, "node_type": "group", "attributes": attributes or {}})


def segments(num_frames: int) -> list[range]:
    """The frames of each segment.

    >>> segments(70)
    [range(0, 64), range(64, 70)]
    """
    return [range(i, min(i + SEGMENT, num_frames)) for i in range(0, num_frames, SEGMENT)]
