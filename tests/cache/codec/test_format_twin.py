"""The decoder that FORMAT.md shows gives the tokens of every codec, from the arrays alone."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
import zarr

import tokenreel.cache
from tokenreel.cache.format.clip import folder_of
from tokenreel.cache.read.store_reader import open_store
from tokenreel.cache.write.store_writer import StoreWriter

_spec = importlib.util.spec_from_file_location("stores", Path(__file__).parents[1] / "stores.py")
stores = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(stores)

FORMAT = Path(tokenreel.cache.__file__).parent / "FORMAT.md"


@pytest.fixture(scope="module")
def decode():
    after = FORMAT.read_text(encoding="utf-8").partition("<!-- twin:")[2]
    code = re.search(r"```python\n(.*?)```", after, re.DOTALL)[1]
    names = {}
    exec(compile(code, str(FORMAT), "exec"), names)
    return names["decode"]


@pytest.mark.parametrize(
    "codec",
    [
        "fp16",
        "int8",
        "int4",
        "pool2+int8",
        "mean",
        "pca:6+int4",
        "pca:6+int8",
        "pca:6",
        "pool2+pca:6+int4",
    ],
)
def test_the_decoder_of_the_format_gives_the_tokens(tmp_path, decode, codec):
    path = stores.make_store(tmp_path / "s", codec)
    with StoreWriter(path, writer_id="w") as writer:
        record = stores.write_clip(writer, "a/1", 5)
    calibration = {
        f"{array.parent.parent.name}/{array.parent.name}": zarr.open_array(array.parent, mode="r")[
            :
        ]
        for array in (path / "calibration").glob("*/*/zarr.json")
    }
    view = path / folder_of(record.key) / "views" / "0"
    wanted = open_store(path).read("a/1")
    for block in stores.BLOCKS:
        codes = zarr.open_array(view / "tokens" / str(block), mode="r")[:]
        has_scale = (view / "scale" / str(block)).exists()
        scale = zarr.open_array(view / "scale" / str(block), mode="r")[:] if has_scale else None
        found = decode(codec, codes, scale, calibration, block)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, wanted.decode(block), rtol=1e-5, atol=1e-5)
