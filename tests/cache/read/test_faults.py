"""What a disk, a clock or a hand can do to a store: refused or harmless, never silent."""

import importlib.util
import json
import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from tokenreel.cache.canonical import seal
from tokenreel.cache.embeddings import EmbeddedClip, read_embeddings, write_embeddings
from tokenreel.cache.errors import (
    Damaged,
    EmbeddingFileError,
    StoreError,
    UsageError,
)
from tokenreel.cache.format.clip import clip_key, folder_of
from tokenreel.cache.format.store_files import create_store, read_failures, record_failure
from tokenreel.cache.manifest import Clip
from tokenreel.cache.read.store_reader import open_store
from tokenreel.cache.tools.verify import verify_store
from tokenreel.cache.write.canary import canary_frames, make_canary
from tokenreel.cache.write.store_writer import StoreWriter

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
_spec = importlib.util.spec_from_file_location("stores", Path(__file__).parents[1] / "stores.py")
stores = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(stores)


def store_with(path: Path, clips: dict[str, int], views: int = 1) -> Path:
    """A store with a canary, a quarantine record and the clips, of so many frames each."""
    identity, calibration = stores.make_identity("int8", views)
    tokens = {b: stores.make_tokens("canary", 0, b, 2) for b in stores.BLOCKS}
    canary = make_canary(canary_frames(16), tokens)
    create_store(path, identity, made_with={}, calibration=calibration, canary=canary)
    record_failure(path, "bad", stage="decode", reason="torn", details={"frame": 3})
    with StoreWriter(path, writer_id="w") as writer:
        for name, frames in clips.items():
            stores.write_clip(writer, name, frames)
    return path


def everything(path: Path) -> dict[str, bytes]:
    """What a reader can get out of a store."""
    store, found = open_store(path), {"failures": repr(read_failures(path)).encode()}
    for name, record in store.records.items():
        found[name] = repr(record).encode() + store.pts(name).tobytes()
        found[name] += store.labels(name).tobytes() + store.frame_index(name).tobytes()
        for view in range(record.num_views):
            tokens = store.read(name, view=view)
            found[name] += store.read_cls(name, view=view).tobytes()
            for block in store.identity.blocks:
                found[name] += tokens.decode(block).tobytes()
                found[name] += store.read_cls(name, block=block, view=view).tobytes()
    return found


def flip_bits(path: Path, count: int, seed: int) -> None:
    """Flip one bit at a time, half by size (mostly data), half by file (mostly metadata)."""
    want = everything(path)
    paths = [p for p in sorted(path.rglob("*")) if p.is_file()]
    sizes = np.array([p.stat().st_size for p in paths])
    rng = np.random.default_rng(seed)
    for i in range(count):
        weights = sizes / sizes.sum() if i % 2 else None
        file = paths[rng.choice(len(paths), p=weights)]
        whole = file.read_bytes()
        torn = bytearray(whole)
        torn[int(rng.integers(len(whole)))] ^= 1 << int(rng.integers(8))
        file.write_bytes(torn)
        with suppress(StoreError):
            assert verify_store(path, deep=True).problems, f"unseen in {file}"
        with suppress(StoreError):
            assert everything(path) == want, f"read as if nothing were wrong with {file}"
        file.write_bytes(whole)
    assert verify_store(path, deep=True).problems == ()


@pytest.mark.parametrize("count", [300, pytest.param(1000, marks=pytest.mark.slow)])
def test_each_flipped_bit_is_detected_or_harmless(tmp_path, count):
    flip_bits(store_with(tmp_path / "s", {"a": 3}), count, 0)


@pytest.mark.slow
def test_each_of_1000_flipped_bits_of_a_store_with_segments_and_views_is_detected(tmp_path):
    flip_bits(store_with(tmp_path / "s", {"a/1": 70, "v/2": 130}, views=2), 1000, 1)


def embedded(count: int = 2) -> list[EmbeddedClip]:
    rng = np.random.default_rng(0)
    return [
        EmbeddedClip(
            f"c{i}",
            "train",
            "turn",
            "",
            rng.standard_normal((5 + i, 4)).astype("f4"),
            np.zeros(5 + i, np.int16),
            np.arange(5.0 + i),
            ("x",),
        )
        for i in range(count)
    ]


def test_a_flipped_bit_in_an_embedding_file_is_detected_before_the_library_sees_it(tmp_path):
    path = write_embeddings(tmp_path / "e.h5", embedded(), provenance={"seed": 1})
    whole, want = path.read_bytes(), repr(read_embeddings(path))
    rng = np.random.default_rng(0)
    for position in rng.integers(len(whole), size=1000):
        torn = bytearray(whole)
        torn[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(torn)
        if position >= 512:  # some of these make the HDF5 library loop for ever
            with pytest.raises(EmbeddingFileError, match="do not match the sha256"):
                read_embeddings(path)
        else:
            with suppress(EmbeddingFileError):
                assert repr(read_embeddings(path)) == want


def test_files_and_directories_swapped_are_detected(tmp_path):
    path = store_with(tmp_path / "s", {"a": 70, "b": 70}, views=2)
    one, two = (path / folder_of(clip_key(name)) for name in ("a", "b"))
    pairs = [
        (one / "views/0/tokens/1/c/0/0/0", one / "views/1/tokens/1/c/0/0/0"),
        (one / "views/0/tokens/1/c/0/0/0", two / "views/0/tokens/1/c/0/0/0"),
        (one / "views/0/tokens/1", one / "views/0/tokens/3"),
        (one / "views/0/crc32c/1", two / "views/0/crc32c/1"),
        (one / "views/0/cls/1/c/0/0", one / "views/0/cls/3/c/0/0"),
        (one / "views/0/scale/1/c/0/0", one / "views/0/scale/1/c/1/0"),
        (one / "views/0", two / "views/0"),
        (one / "views/0", one / "views/1"),
        (one / "pts", one / "frame_index"),
        (one / "labels/c/0", two / "pts/c/0"),
        (one / "zarr.json", two / "zarr.json"),
        (one, two),
        (path / "calibration/mean/1", path / "calibration/mean/3"),
        (path / "canary/tokens/1", path / "canary/tokens/3"),
    ]
    for first, second in pairs:
        aside = tmp_path / "aside"
        for source, target in ((first, aside), (second, first), (aside, second)):
            source.rename(target)
        assert verify_store(path, deep=True).exit_status == 5, f"{first} and {second}"
        if "canary" not in first.parts:
            with pytest.raises(Damaged):
                everything(path)
        for source, target in ((first, aside), (second, first), (aside, second)):
            source.rename(target)
    assert verify_store(path, deep=True).problems == ()


@pytest.mark.parametrize(
    "name",
    [
        "recipe.json",
        "zarr.json",
        "manifest",
        "clips",
        "calibration",
        "calibration/mean/1",
        "manifest/LOG",
        "clips/HH",
        "clips/HH/CLIP",
        "clips/HH/CLIP/zarr.json",
        "clips/HH/CLIP/views/0/tokens/1/c",
        "failed/FAILED",
    ],
)
def test_a_symbolic_link_anywhere_is_refused(tmp_path, name):
    path = store_with(tmp_path / "s", {"a": 3})
    clip = folder_of(clip_key("a"))
    name = name.replace("clips/HH/CLIP", clip).replace("clips/HH", str(Path(clip).parent))
    name = name.replace("LOG", next((path / "manifest").iterdir()).name)
    name = name.replace("FAILED", next((path / "failed").iterdir()).name)
    shutil.move(path / name, tmp_path / "outside")
    (path / name).symlink_to(tmp_path / "outside")
    with pytest.raises(Damaged, match=r"symbolic link|refused|calibration"):
        everything(path)
    assert verify_store(path, deep=True).exit_status == 5


@pytest.mark.parametrize("video", ["/v.mp4", "../v.mp4", "a/../../v.mp4"])
def test_a_record_that_points_outside_is_refused(tmp_path, video):
    path = store_with(tmp_path / "s", {"a": 3})
    with (
        StoreWriter(path, writer_id="w") as writer,
        pytest.raises(UsageError, match="not a path below"),
    ):
        writer.begin(
            Clip("b", video),
            dataset="d",
            phases=(),
            source=stores.SOURCE,
            time_base=stores.Fraction(1, 25),
        )
    (log,) = [file for file in (path / "manifest").iterdir() if file.stat().st_size]
    record = json.loads(log.read_text())["record"]
    for change in ({"video": video}, {"key": f"../../{record['key']}"}, {"key": "/etc/x-00000000"}):
        log.write_text(json.dumps(seal({"record": record | change})) + "\n")
        assert verify_store(path).exit_status == 5
        assert list(open_store(path).records) == ["a"]
