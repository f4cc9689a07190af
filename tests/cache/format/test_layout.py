"""Arrays of a clip as FORMAT.md lists them, and their chunk files."""

import json
import re
import struct
from pathlib import Path

import crc32c
import numpy as np
import pytest

from tests.cache import stores
from tokenreel.cache.codec import codec_from_identity
from tokenreel.cache.errors import Damaged
from tokenreel.cache.format import layout
from tokenreel.cache.format.layout import ArraySpec, clip_arrays, group_json, view_arrays

FORMAT = (Path(layout.__file__).parents[1] / "FORMAT.md").read_text()
TABLE = [line for line in FORMAT.splitlines() if " fill " in line]


def test_every_array_has_the_type_fill_and_chunk_of_the_format():
    identity, calibration = stores.make_identity("int8")
    codec = codec_from_identity(identity.codec, calibration)
    specs = [*clip_arrays(70, format_version=2), *view_arrays(identity, codec, 0, 70)]
    words = {"nan": "NaN", str(-(2**63)): "-2^63"}
    for spec in specs:
        if spec.sharded:
            continue  # of its codec
        name = re.sub(r"(?<=/)\d+$", "<block>", spec.path.replace("views/0", "views/<v>"))
        [line] = [line for line in TABLE if line.split()[:1] == [name]]
        fill = words.get(str(spec.fill), str(spec.fill))
        assert re.search(rf"fill {re.escape(fill)} ", line), spec
        assert re.search(rf"chunk {spec.rows}\b", line), spec
        assert np.dtype(spec.dtype).name in line, spec
    assert {spec.path.split("/")[2] for spec in specs if "/" in spec.path} == {
        *("tokens", "scale", "cls", "crc32c", "cls_normed")
    }


def test_a_chunk_file_that_is_longer_is_damaged_though_its_checksum_is_right():
    spec = ArraySpec("flags", (3,), "u1", 255, 4)
    data = spec.chunk_bytes(np.array([1, 2, 3], np.uint8))
    assert spec.parse_chunk(data, where="x").tolist() == [1, 2, 3, 255]
    longer = data[:-4] + b"\0" * 4
    longer += struct.pack("<I", crc32c.crc32c(longer))
    with pytest.raises(Damaged, match="x: 12 bytes, wanted 8"):
        spec.parse_chunk(longer, where="x")


def test_a_group_without_attributes_has_an_empty_object():
    assert json.loads(group_json()) == {"zarr_format": 3, "node_type": "group", "attributes": {}}
