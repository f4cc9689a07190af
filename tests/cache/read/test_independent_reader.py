"""A reader written from FORMAT.md alone: its functions use nothing of ours."""

import importlib.util
import json
import struct
from pathlib import Path

import crc32c
import numpy as np

from tokenreel.cache.format import layout

_spec = importlib.util.spec_from_file_location("stores", Path(__file__).parents[1] / "stores.py")
stores = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(stores)


def unseal(values: dict) -> dict:
    inner = {key: value for key, value in values.items() if key != "crc32c"}
    text = json.dumps(inner, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert crc32c.crc32c(text.encode()) == values["crc32c"]
    return inner


def read_array(folder: Path, seals: list[int] | None = None) -> np.ndarray:
    meta = json.loads((folder / "zarr.json").read_text())
    shape, chunk = meta["shape"], meta["chunk_grid"]["configuration"]["chunk_shape"]
    rows = []
    for number in range(-(-shape[0] // chunk[0])):
        data = folder.joinpath("c", str(number), *["0"] * (len(shape) - 1)).read_bytes()
        (stored,) = struct.unpack("<I", data[-4:])
        if meta["codecs"][0]["name"] == "sharding_indexed":
            index = np.frombuffer(data[-1028:-4], "<u8").reshape(64, 2)
            assert crc32c.crc32c(data[-1028:-4]) == stored
            present = index[index[:, 0] != 2**64 - 1].astype(int)
            rows += [data[offset : offset + length] for offset, length in present]
        else:
            assert crc32c.crc32c(data[:-4]) == stored
            assert seals is None or seals[number] == stored
            rows.append(data[:-4])
    array = np.frombuffer(b"".join(rows), np.dtype(meta["data_type"]).newbyteorder("<"))
    return array.reshape(-1, *shape[1:])[: shape[0]]


def read_tokens(store: Path, clip_id: str, block: int, view: int = 0) -> np.ndarray:
    for meta in store.glob("clips/*/*/zarr.json"):
        inner = unseal(json.loads(meta.read_text())["attributes"]["tokenreel"])
        if inner["record"]["clip_id"] == clip_id and not meta.parent.name.startswith(".tmp-"):
            break
    clip, seals = meta.parent / f"views/{view}", inner["seals"]
    codes = read_array(clip / f"tokens/{block}")
    sums = read_array(clip / f"crc32c/{block}", seals[f"views/{view}/crc32c/{block}"])
    assert [crc32c.crc32c(frame) for frame in codes] == sums.tolist()
    scale = read_array(clip / f"scale/{block}", seals[f"views/{view}/scale/{block}"])
    mean = read_array(store / f"calibration/mean/{block}")
    sd = read_array(store / f"calibration/sd/{block}")
    return mean + sd * scale[..., None] * codes


def test_a_reader_written_from_the_format_alone_reads_a_store(tmp_path):
    path = stores.make_store(tmp_path / "s", views=2)
    with stores.StoreWriter(path, writer_id="w") as writer:
        stores.write_clip(writer, "a/1", 70)
    tokens = read_tokens(path, "a/1", 3, view=1)
    codec = stores.StoreWriter(path, writer_id="r").codec
    wanted = stores.expected(*stores.make_identity("int8", 2), "a/1", 3, 70, 1)
    np.testing.assert_allclose(tokens, codec.decode(wanted, block=3), rtol=1e-5, atol=1e-5)


def test_the_metadata_in_the_format_is_what_is_written():
    text = (Path(layout.__file__).parents[1] / "FORMAT.md").read_text()
    plain, sharded = (json.loads(part.split("```")[0]) for part in text.split("```json")[1:])
    cls = layout.ArraySpec("cls/1", (130, 768), "<f2", float("nan"), 64)
    tokens = layout.ArraySpec("tokens/1", (130, 784, 768), "i1", -128, 64, sharded=True)
    assert (plain, sharded) == (cls.metadata(), tokens.metadata())
