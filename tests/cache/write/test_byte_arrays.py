"""Arrays of bytes: one string a unit, written segment by segment, checked at every read."""

import importlib.util
import warnings
from fractions import Fraction
from pathlib import Path

import crc32c
import h5py
import numpy as np
import pytest
import zarr

from tokenreel.cache.errors import ClipNotFound, Damaged, UsageError
from tokenreel.cache.format.byte_arrays import BytesSpec, pack_strings, read_index
from tokenreel.cache.format.clip import clip_key, folder_of
from tokenreel.cache.format.store_files import create_store
from tokenreel.cache.read.store_reader import open_store
from tokenreel.cache.tools.copying import merge_store, recode_store
from tokenreel.cache.tools.export import export_store
from tokenreel.cache.tools.maintenance import diff_stores
from tokenreel.cache.tools.verify import verify_store
from tokenreel.cache.write.store_writer import StoreWriter

_spec = importlib.util.spec_from_file_location("stores", Path(__file__).parents[1] / "stores.py")
stores = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(stores)

FILE = "bytes/jpeg/items/c/{}"


def strings(count: int) -> list[bytes]:
    """Random bytes of many lengths; every fifth is empty."""
    rng = np.random.default_rng(3)
    return [rng.bytes(int(rng.integers(1, 40)) if unit % 5 else 0) for unit in range(count)]


def begin(writer: StoreWriter, clip_id: str = "a", arrays: tuple[str, ...] = ("jpeg", "text")):
    return writer.begin(
        stores.make_clip(clip_id),
        dataset="d",
        phases=("x", "y"),
        source=stores.SOURCE,
        time_base=Fraction(1, 25),
        byte_arrays=arrays,
    )


def fill(clip, frames: int, batch: int = 7) -> None:
    for start in range(clip.resume_frames, frames, batch):
        part = strings(frames)[start : start + batch]
        clip.append_bytes("jpeg", part)
        clip.append_bytes("text", [string[::-1] for string in part])


def commit(clip, frames: int):
    count = np.arange(frames)
    return clip.commit(count, count, count % 2, np.zeros(frames, np.uint8))


def make_store(path: Path, frames: int = 130, codec: str = "int8") -> Path:
    stores.make_store(path, codec)
    with StoreWriter(path, writer_id="w") as writer:
        clip = begin(writer)
        stores.append(writer, clip, "a", frames)
        fill(clip, frames)
        commit(clip, frames)
    return path


def change(file: Path, place: int, by: int = 1) -> None:
    data = bytearray(file.read_bytes())
    data[place] = (data[place] + by) % 256
    file.write_bytes(data)


@pytest.mark.parametrize("frames", [1, 64, 65, 130])
def test_the_bytes_of_units_are_read_back_in_any_order(tmp_path, frames):
    store = open_store(make_store(tmp_path / "s", frames))
    wanted = strings(frames)
    assert store.record("a").byte_arrays == ("jpeg", "text")
    assert store.read_bytes("a", "jpeg") == wanted
    order = np.random.default_rng(0).integers(0, frames, 30)
    assert store.read_bytes("a", "jpeg", order) == [wanted[unit] for unit in order]
    assert store.read_bytes("a", "text", slice(0, 3)) == [s[::-1] for s in wanted[:3]]
    assert store.read_bytes("a", "jpeg", []) == []
    assert verify_store(store.path, deep=True).problems == ()


def test_the_zarr_library_reads_an_array_of_bytes(tmp_path):
    folder = make_store(tmp_path / "s") / folder_of(clip_key("a"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the data type has no Zarr v3 specification yet
        array = zarr.open_array(folder / "bytes" / "jpeg" / "items", mode="r")
        assert [bytes(string) for string in array[:]] == strings(130)


@pytest.mark.parametrize("name", ["c/0", "c/2"])
@pytest.mark.parametrize("where", ["header", "string", "index", "length", "short"])
def test_a_changed_byte_is_damage_and_never_another_string(tmp_path, name, where):
    path = make_store(tmp_path / "s")
    file = path / folder_of(clip_key("a")) / "bytes/jpeg/items" / name
    size = file.stat().st_size
    if where == "length":
        file.write_bytes(file.read_bytes()[1:])
    elif where == "short":
        file.write_bytes(file.read_bytes()[:5])
    else:  # string 0 of a file may be empty: the byte before the index is of its last
        change(file, {"header": 0, "string": size - 16 * 64 - 5, "index": size - 1000}[where])
    with pytest.raises(Damaged, match=r"damaged|checksum|end to end"):
        open_store(path, checks="never").read_bytes("a", "jpeg")
    report = verify_store(path, deep=True)
    assert report.repair == ("a",)


def test_files_of_bytes_that_are_missing_swapped_or_extra_are_found(tmp_path):
    path = make_store(tmp_path / "s")
    folder = path / folder_of(clip_key("a"))
    one, two = folder / FILE.format(0), folder / FILE.format(1)
    keep = one.read_bytes(), two.read_bytes()
    one.write_bytes(keep[1]), two.write_bytes(keep[0])
    with pytest.raises(Damaged, match="unit 0 are damaged"):
        open_store(path).read_bytes("a", "jpeg", [0])
    with pytest.raises(Damaged, match="unit 64 are damaged"):
        open_store(path).read_bytes("a", "jpeg", [64])
    one.write_bytes(keep[0]), two.unlink()
    with pytest.raises(Damaged):
        open_store(path).read_bytes("a", "jpeg", [64])
    assert open_store(path).read_bytes("a", "jpeg", [0]) == strings(1)
    assert verify_store(path).repair == ("a",)
    two.write_bytes(keep[1])
    assert verify_store(path, deep=True).problems == ()
    (folder / FILE.format(9)).write_bytes(b"x")
    assert "does not belong here" in verify_store(path).table()


def test_an_index_of_more_strings_or_fewer_bytes_than_a_file_has_is_damage(tmp_path):
    spec, data = BytesSpec("jpeg", 2), pack_strings([b"a", b"bc"])
    file = tmp_path / spec.chunk_file(0)
    file.parent.mkdir(parents=True)
    file.write_bytes(data)
    assert read_index(tmp_path, spec, 0).tolist() == [[0, 9], [9, 10]]
    index = bytearray(data[19:-4])
    index[32:48] = index[16:32]
    third = data[:19] + index + crc32c.crc32c(index).to_bytes(4, "little")
    for wrong in (third, data[:19] + b"x" + data[19:]):
        file.write_bytes(wrong)
        with pytest.raises(Damaged, match="not 2 strings end to end"):
            read_index(tmp_path, spec, 0)


def test_a_killed_writers_segments_of_bytes_are_resumed_to_the_same_bytes(tmp_path):
    whole, path = make_store(tmp_path / "s"), stores.make_store(tmp_path / "t")
    with StoreWriter(path, writer_id="k") as writer:
        clip = begin(writer)
        stores.append(writer, clip, "a", 130)
        fill(clip, 100)
        clip.suspend()
    left = next((path / "clips").glob("*/.tmp-*"))
    with StoreWriter(path, writer_id="w") as writer:
        clip = begin(writer)
        assert clip.resume_frames == 64
        stores.append(writer, clip, "a", 130)
        fill(clip, 130)
        commit(clip, 130)
    assert not left.exists()
    here, there = (
        {
            file.relative_to(root): file.read_bytes()
            for file in (root / "clips").rglob("*")
            if file.is_file()
        }
        for root in (path, whole)
    )
    assert here == there


def test_a_damaged_segment_of_bytes_is_not_resumed(tmp_path):
    path = stores.make_store(tmp_path / "s")
    with StoreWriter(path, writer_id="k") as writer:
        clip = begin(writer)
        stores.append(writer, clip, "a", 70)
        fill(clip, 70)
        clip.suspend()
    change(next((path / "clips").glob("*/.tmp-*")) / FILE.format(0), 40)
    with StoreWriter(path, writer_id="w") as writer:
        assert begin(writer).resume_frames == 0


def test_a_store_of_bytes_alone_is_written_copied_and_resumed(tmp_path):
    identity, _ = stores.make_identity("fp16")
    identity = identity.model_copy(update={"blocks": (), "cls": "none", "unit": "scene"})
    path = create_store(tmp_path / "s", identity, made_with={})
    with StoreWriter(path, writer_id="k") as writer:
        clip = begin(writer)
        fill(clip, 70)
        clip.suspend()
    with StoreWriter(path, writer_id="w") as writer:
        clip = begin(writer)
        assert clip.resume_frames == 64
        with pytest.raises(ValueError, match="neither blocks nor CLS"):
            clip.append(0, {}, {}, None)
        fill(clip, 70)
        commit(clip, 70)
    copy = create_store(tmp_path / "t", identity, made_with={})
    assert merge_store(path, copy).copied == ("a",)
    assert open_store(copy).read_bytes("a", "jpeg") == strings(70)
    assert verify_store(copy, deep=True).problems == ()


def test_merge_recode_and_diff_know_arrays_of_bytes(tmp_path):
    path = make_store(tmp_path / "s", codec="fp16")
    other = stores.make_store(tmp_path / "t", "fp16")
    assert merge_store(path, other).copied == ("a",)
    assert diff_stores(path, other) == []
    recode_store(path, tmp_path / "u", codec="int8")
    for copy in (other, tmp_path / "u"):
        assert open_store(copy).read_bytes("a", "jpeg") == strings(130)
        assert verify_store(copy, deep=True).problems == ()
    third = stores.make_store(tmp_path / "v", "fp16")
    with StoreWriter(third, writer_id="w") as writer:
        stores.write_clip(writer, "a", 130)
    assert diff_stores(path, third) == ["differs: a"]


def test_exports_hold_the_bytes(tmp_path):
    path, wanted = make_store(tmp_path / "s", 5), strings(5)
    (file,) = export_store(path, tmp_path / "x").files
    with h5py.File(file) as content:
        assert [row.tobytes() for row in content["bytes/jpeg"][:]] == wanted
        assert content["units"][0].tolist() == [0.0, 0.04]
    files = export_store(path, tmp_path / "y", kind="npy").files
    folder = tmp_path / "y" / f"{clip_key('a')}.jpeg"
    assert [(folder / f"00000{unit}.bin").read_bytes() for unit in range(5)] == wanted
    assert folder / "000004.bin" in files


def test_wrong_names_and_counts_are_refused(tmp_path):
    path = stores.make_store(tmp_path / "s")
    with StoreWriter(path, writer_id="w") as writer:
        with pytest.raises(UsageError, match=r"array of bytes '\.\./x'"):
            begin(writer, arrays=("../x",))
        clip = begin(writer)
        with pytest.raises(ValueError, match=r"begun with arrays of bytes \['jpeg', 'text'\]"):
            clip.append_bytes("other", [b""])
        stores.append(writer, clip, "a", 5)
        clip.append_bytes("jpeg", [b"x"] * 5)
        clip.append_bytes("text", [b"x"] * 4)
        with pytest.raises(ValueError, match="differ in frames"):
            commit(clip, 5)
        clip.abort()
        stores.write_clip(writer, "b", 3)
    with pytest.raises(ClipNotFound, match="no array of bytes 'jpeg'; it has none"):
        open_store(path).read_bytes("b", "jpeg")
