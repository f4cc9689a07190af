"""Arrays of bytes: one string of any length for each unit of a clip, such as a JPEG or a text.

A file holds the strings of 64 units end to end, then an index of their places: a Zarr v3 shard
whose inner chunks hold one string each (codec vlen-bytes).  The crc32c of the strings are in a
second array, which is sealed in the clip like those of the tokens.
"""

import os
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import crc32c
import numpy as np

from tokenreel.cache.codec.base import Array
from tokenreel.cache.errors import Damaged
from tokenreel.cache.files import file_inside, unreadable
from tokenreel.cache.format.layout import ABSENT, INDEX_BYTES, SEGMENT, ArraySpec

HEADER = struct.Struct("<II")  # of an inner chunk: one string, its length


@dataclass(frozen=True)
class BytesSpec:
    """One array of bytes of a clip.

    Attributes:
        name: of the array.
        num_units: T.
    """

    name: str
    num_units: int

    @property
    def path(self) -> str:
        """Path of the array in the clip."""
        return f"bytes/{self.name}/items"

    @property
    def sums(self) -> ArraySpec:
        """The array of the crc32c of its strings, (T,) uint32."""
        return ArraySpec(f"bytes/{self.name}/crc32c", (self.num_units,), "<u4", 0, SEGMENT)

    @property
    def num_files(self) -> int:
        """Files of the array."""
        return -(-self.num_units // SEGMENT)

    def units_of(self, number: int) -> int:
        """Strings in a file."""
        return min(SEGMENT, self.num_units - number * SEGMENT)

    def chunk_file(self, number: int) -> str:
        """Path of a file in the clip."""
        return f"{self.path}/c/{number}"

    def metadata(self) -> dict[str, Any]:
        """The zarr.json of the array."""
        index = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
        inner = {
            "chunk_shape": [1],
            "codecs": [{"name": "vlen-bytes", "configuration": {}}],
            "index_codecs": index,
            "index_location": "end",
        }
        return {
            "zarr_format": 3,
            "node_type": "array",
            "shape": [self.num_units],
            "data_type": "variable_length_bytes",
            "fill_value": "",
            "codecs": [{"name": "sharding_indexed", "configuration": inner}],
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [SEGMENT]}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "attributes": {},
            "storage_transformers": [],
        }


def is_array_name(name: str) -> bool:
    """Whether an array of bytes may have the name: lower-case letters, digits, "_" and "-".

    >>> [is_array_name(name) for name in ("centre", "pixels-3", "", "a/b", "..")]
    [True, True, False, False, False]
    """
    return re.fullmatch("[a-z0-9][a-z0-9_-]*", name) is not None


def byte_arrays(names: Sequence[str], num_units: int) -> dict[str, BytesSpec]:
    """The arrays of bytes of a clip, by path."""
    specs = [BytesSpec(name, num_units) for name in names]
    return {spec.path: spec for spec in specs}


def pack_strings(strings: Sequence[bytes]) -> bytes:
    """A file of at most 64 strings: each with its header, end to end, and the index."""
    index = np.full((SEGMENT, 2), ABSENT, "<u8")
    lengths = np.array([HEADER.size + len(string) for string in strings], np.int64)
    index[: len(strings), 1] = lengths
    index[: len(strings), 0] = np.cumsum(lengths) - lengths
    parts = [part for string in strings for part in (HEADER.pack(1, len(string)), string)]
    data = index.tobytes()
    return b"".join([*parts, data, struct.pack("<I", crc32c.crc32c(data))])


def read_index(folder: Path, spec: BytesSpec, number: int) -> Array:
    """Places of the strings of a file, int64 (t, 2): offset and length with the header.

    Args:
        folder: of the clip.
        spec: of the array.
        number: of the file.

    Raises:
        Damaged: missing, torn, or not strings end to end.
        MachineError: this process cannot read it now.
    """
    path = file_inside(folder, spec.chunk_file(number))
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - INDEX_BYTES))
            data = file.read()
    except OSError as error:
        raise unreadable(path, error) from error
    return parse_index(data, spec.units_of(number), size, path=path)


def parse_index(data: bytes, count: int, size: int, *, path: Path) -> Array:
    """Places of the strings of a file, from the index at its end; see read_index.

    Args:
        data: the index.
        count: strings of the file.
        size: bytes of the file.
        path: of the file, for the error.

    Raises:
        Damaged: torn, or not strings end to end.
    """
    if len(data) != INDEX_BYTES or crc32c.crc32c(data[:-4]) != int.from_bytes(data[-4:], "little"):
        raise Damaged(f"{path}: its index does not match its checksum")
    index = np.frombuffer(data[:-4], "<u8").reshape(SEGMENT, 2)
    places: Array = index[:count].astype(np.int64)
    stops = np.cumsum(places[:, 1])
    is_dense = (places[:, 1] >= HEADER.size).all() and (places[:, 0] == stops - places[:, 1]).all()
    if not is_dense or (index[count:] != ABSENT).any() or stops[-1] != size - INDEX_BYTES:
        raise Damaged(f"{path}: not {count} strings end to end")
    return places


def read_strings(
    folder: Path, spec: BytesSpec, number: int, rows: Sequence[int], *, places: Array, sums: Array
) -> list[bytes]:
    """Strings of a file, each checked.

    Args:
        folder: of the clip.
        spec: of the array.
        number: of the file.
        rows: which, counted from the start of the file.
        places: of read_index.
        sums: crc32c of the strings of the file, (t,).

    Raises:
        Damaged: missing, torn, or a string that does not match its checksum.
        MachineError: this process cannot read it now.
    """
    path, strings = file_inside(folder, spec.chunk_file(number)), []
    try:
        with path.open("rb") as file:
            for row in rows:
                offset, length = places[row].tolist()
                file.seek(offset)
                data = file.read(length)
                string = data[HEADER.size :]
                if data[: HEADER.size] != HEADER.pack(1, length - HEADER.size) or (
                    crc32c.crc32c(string) != sums[row]
                ):
                    unit = number * SEGMENT + row
                    raise Damaged(f"{path}: the bytes of unit {unit} are damaged; run verify")
                strings.append(string)
    except OSError as error:
        raise unreadable(path, error) from error
    return strings
