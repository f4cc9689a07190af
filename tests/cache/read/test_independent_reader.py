"""A reader written from FORMAT.md alone: its functions use nothing of ours."""

import hashlib
import importlib.util
import json
import struct
from pathlib import Path

import crc32c
import numpy as np
import pytest

from tokenreel.cache.format import layout
from tokenreel.cache.format.byte_arrays import BytesSpec
from tokenreel.cache.read.store_reader import open_store

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


def find_clip(store: Path, clip_id: str) -> tuple[Path, dict]:
    for meta in store.glob("clips/*/*/zarr.json"):
        inner = unseal(json.loads(meta.read_text())["attributes"]["tokenreel"])
        if inner["record"]["clip_id"] == clip_id and not meta.parent.name.startswith(".tmp-"):
            return meta.parent, inner
    raise KeyError(clip_id)


def read_units(store: Path, clip_id: str) -> np.ndarray:
    """Start and stop of each unit in seconds, (T, 2), of either format."""
    clip, inner = find_clip(store, clip_id)
    numerator, denominator = inner["record"]["time_base"]
    starts = read_array(clip / "pts", inner["seals"]["pts"])
    if json.loads((store / "recipe.json").read_text())["format_version"] == 1:
        last = starts[-1] - starts[-2] if len(starts) > 1 else 1
        stops = np.append(starts[1:], starts[-1] + last)
    else:
        stops = read_array(clip / "stop_pts", inner["seals"]["stop_pts"])
    return np.stack([starts, stops], axis=1) * numerator / denominator


def read_strings(store: Path, clip_id: str, name: str) -> list[bytes]:
    """An array of bytes of format 2."""
    clip, inner = find_clip(store, clip_id)
    assert name in inner["record"]["byte_arrays"]
    count, strings = inner["record"]["num_frames"], []
    for number in range(-(-count // 64)):
        data = (clip / f"bytes/{name}/items/c/{number}").read_bytes()
        (stored,) = struct.unpack("<I", data[-4:])
        assert crc32c.crc32c(data[-1028:-4]) == stored
        for offset, length in np.frombuffer(data[-1028:-4], "<u8").reshape(64, 2).tolist():
            if offset != 2**64 - 1:
                one, size = struct.unpack("<II", data[offset : offset + 8])
                assert (one, size) == (1, length - 8)
                strings.append(data[offset + 8 : offset + length])
    sums = read_array(clip / f"bytes/{name}/crc32c", inner["seals"][f"bytes/{name}/crc32c"])
    assert [crc32c.crc32c(string) for string in strings] == sums.tolist()
    return strings


def read_tokens(store: Path, clip_id: str, block: int, view: int = 0) -> np.ndarray:
    folder, inner = find_clip(store, clip_id)
    clip, seals = folder / f"views/{view}", inner["seals"]
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


@pytest.mark.parametrize("name", ["store_v1", "store_v2"])
def test_a_reader_written_from_the_format_alone_reads_the_golden_stores(name):
    path = Path(__file__).parents[2] / "golden" / name
    store = open_store(path)
    np.testing.assert_allclose(
        read_tokens(path, "a/1", 3), store.read("a/1").decode(3), rtol=1e-5, atol=1e-5
    )
    np.testing.assert_allclose(read_units(path, "a/1"), store.units("a/1"))
    fingerprint = hashlib.sha256((path / "recipe.json").read_bytes()).hexdigest()
    root = unseal(json.loads((path / "zarr.json").read_text())["attributes"]["tokenreel"])
    assert root["fingerprint"] == fingerprint
    _, inner = find_clip(path, "a/1")
    if name == "store_v1":
        assert inner.get("fingerprint", fingerprint) == fingerprint
        return
    assert inner["fingerprint"] == fingerprint
    assert read_strings(path, "a/1", "text") == store.read_bytes("a/1", "text")
    labels = read_array(path / find_clip(path, "a/1")[0] / "labels")
    digest = hashlib.sha256(b'["x","y"]' + labels.astype("<i2").tobytes()).hexdigest()
    assert inner["record"]["labels_sha256"] == digest
    assert root["former_fingerprints"] == list(store.facts.former_fingerprints)


def test_the_metadata_in_the_format_is_what_is_written():
    text = (Path(layout.__file__).parents[1] / "FORMAT.md").read_text()
    parts = text.split("```json")[1:]
    plain, sharded, strings = (json.loads(part.split("```")[0]) for part in parts)
    cls = layout.ArraySpec("cls/1", (130, 768), "<f2", float("nan"), 64)
    tokens = layout.ArraySpec("tokens/1", (130, 784, 768), "i1", -128, 64, sharded=True)
    assert (plain, sharded) == (cls.metadata(), tokens.metadata())
    assert strings == BytesSpec("text", 130).metadata()
