"""The embedding file: round trip, whole or absent, refusals, users' own files."""

import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from tokenreel.cache.embeddings import FORMAT, EmbeddedClip, read_embeddings, write_embeddings
from tokenreel.cache.errors import EmbeddingFileError


def make_clip(name: str, frames: int = 5, channels: int = 4, **changes) -> EmbeddedClip:
    rng = np.random.default_rng(frames)
    fields = {
        "clip_id": name,
        "split": "train",
        "action": "pour",
        "group": "",
        "embeddings": rng.standard_normal((frames, channels)).astype(np.float32),
        "labels": np.arange(frames, dtype=np.int16) - 1,
        "times_seconds": np.arange(frames) / 25,
        "phases": ("lift", "tilt"),
        "frame_index": np.arange(frames) * 2,
        "video": f"{name}.mp4",
    }
    return EmbeddedClip(**(fields | changes))


def test_what_is_written_is_read_back(tmp_path):
    clips = [make_clip("a/\u00e9"), make_clip("b", 1)]
    provenance = {"run": "r1", "seed": 3, "config": {"x": None}}
    file = read_embeddings(
        write_embeddings(tmp_path / "run" / "e.h5", clips, provenance=provenance)
    )
    assert file.provenance == provenance
    for got, want in zip(file.clips, clips, strict=True):
        for name in EmbeddedClip.__dataclass_fields__:
            np.testing.assert_array_equal(getattr(got, name), getattr(want, name))
        assert got.embeddings.dtype == np.float32
        assert got.labels.dtype == np.int16


def test_a_failed_write_leaves_the_former_file(tmp_path):
    path = write_embeddings(tmp_path / "e.h5", [make_clip("a")], provenance={})
    with pytest.raises(ValueError, match="b: 2 labels for 5 frames"):
        write_embeddings(path, [make_clip("b", labels=np.zeros(2))], provenance={})
    assert [entry.name for entry in tmp_path.iterdir()] == ["e.h5"]
    assert read_embeddings(path).clips[0].clip_id == "a"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"embeddings": np.full((5, 4), np.nan)}, "NaN"),
        ({"embeddings": np.zeros((5, 3))}, "wanted"),
        ({"clip_id": "a"}, "same clip_id"),
    ],
)
def test_clips_that_do_not_fit_are_refused(tmp_path, changes, words):
    with pytest.raises(ValueError, match=words):
        write_embeddings(
            tmp_path / "e.h5", [make_clip("a"), make_clip("b", **changes)], provenance={}
        )


def test_truncation_and_every_flipped_bit_are_refused_or_harmless(tmp_path):
    path = write_embeddings(
        tmp_path / "e.h5", [make_clip("a"), make_clip("b")], provenance={"s": 1}
    )
    whole, clean = path.read_bytes(), read_embeddings(path)
    rng = np.random.default_rng(0)
    for position in rng.integers(0, len(whole), 200):
        torn = bytearray(whole)
        torn[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(torn)
        try:
            found = read_embeddings(path)
        except EmbeddingFileError:
            continue
        assert found.provenance == clean.provenance
        for got, want in zip(found.clips, clean.clips, strict=True):
            for name in EmbeddedClip.__dataclass_fields__:
                np.testing.assert_array_equal(getattr(got, name), getattr(want, name))
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(EmbeddingFileError, match="torn"):
        read_embeddings(path)


def test_provenance_under_former_names_is_renamed_with_one_warning(tmp_path, caplog):
    former = {"seed": 1, "store_recipe": {"dim": 4}, "layers": [3]}
    path = write_embeddings(tmp_path / "e.h5", [make_clip("a")], provenance=former)
    for _ in range(2):
        found = read_embeddings(path).provenance
        assert found == {"seed": 1, "store_identity": {"dim": 4}, "blocks": [3]}
    (warning,) = caplog.messages
    assert "e.h5" in warning
    assert "layers (now blocks), store_recipe (now store_identity)" in warning


@pytest.mark.parametrize("suffix", [".npz", ".h5"])
def test_a_users_own_file_needs_four_arrays(tmp_path, suffix):
    path = tmp_path / f"mine{suffix}"
    arrays = {"embeddings": np.ones((3, 2)), "lengths": np.array([1, 2])}
    if suffix == ".npz":
        np.savez(path, **arrays, clip_id=np.array(["a", "b"]), split=np.array(["train", "val"]))
    else:
        with h5py.File(path, "w") as file:
            for name, array in arrays.items():
                file[name] = array
            file["clip_id"], file["split"] = ["a", "b"], ["train", "val"]
    first, second = read_embeddings(path).clips
    assert second.split == "val"
    assert second.labels.tolist() == [-1, -1]
    assert second.times_seconds.tolist() == [0, 1]
    assert first.phases == ()


@pytest.mark.parametrize("kind", ["npz of bytes", "npz of text", "h5 of bytes", "h5 of text"])
def test_text_is_read_from_bytes_of_any_kind(tmp_path, kind):
    suffix, _, stored = kind.partition(" of ")
    texts = {
        "clip_id": ["c0", "caf\u00e9"],
        "split": ["train", "val"],
        "action": ["squat", ""],
        "phases": ['["down", "up"]', "[]"],
    }
    coded = {name: [text.encode() for text in values] for name, values in texts.items()}
    arrays = {"embeddings": np.ones((3, 2)), "lengths": np.array([1, 2])}
    path = tmp_path / f"mine.{suffix}"
    if suffix == "npz":
        chosen = coded if stored == "bytes" else texts
        np.savez(path, **arrays, **{name: np.array(values) for name, values in chosen.items()})
    else:
        with h5py.File(path, "w") as file:
            for name, array in arrays.items():
                file[name] = array
            for name, values in texts.items():
                file[name] = np.array(coded[name]) if stored == "bytes" else values
    first, second = read_embeddings(path).clips
    assert (first.clip_id, first.split, first.action) == ("c0", "train", "squat")
    assert (second.clip_id, second.split, second.action) == ("caf\u00e9", "val", "")
    assert first.phases == ("down", "up")


def test_provenance_of_bytes_is_text(tmp_path):
    path = tmp_path / "mine.h5"
    write_embeddings(path, [make_clip("a")], provenance={})
    arrays = read_embeddings(path).clips[0]
    with h5py.File(path, "w") as file:
        file["embeddings"], file["lengths"] = arrays.embeddings, [5]
        file["clip_id"], file["split"] = ["a"], ["val"]
        file.attrs["provenance"] = np.bytes_(b'{"run": "r"}')
    assert read_embeddings(path).provenance == {"run": "r"}


@pytest.mark.parametrize("name", ["clip_id", "split"])
def test_bytes_that_are_not_utf8_are_refused(tmp_path, name):
    path = tmp_path / "mine.npz"
    texts = {"clip_id": np.array(["a"]), "split": np.array(["val"])} | {name: np.array([b"\xe9"])}
    arrays = {"embeddings": np.ones((1, 2)), "lengths": np.array([1])} | texts
    np.savez(path, **arrays)
    with pytest.raises(EmbeddingFileError, match=r"b'\\xe9' is not UTF-8 text: save it as str"):
        read_embeddings(path)
    with h5py.File(tmp_path / "mine.h5", "w") as file:
        for key, array in arrays.items():
            file[key] = array.astype("S") if array.dtype.kind == "U" else array
    with pytest.raises(EmbeddingFileError, match=f"h5: {name} is not UTF-8 text .*save it as str"):
        read_embeddings(tmp_path / "mine.h5")


@pytest.mark.skipif("TOKENREEL_FIELD" not in os.environ, reason="TOKENREEL_FIELD names no folder")
def test_text_as_bytes_of_the_field_is_read():
    clips = read_embeddings(Path(os.environ["TOKENREEL_FIELD"], "text_as_bytes.npz")).clips
    assert [clip.clip_id for clip in clips] == [f"c{i}" for i in range(8)]
    assert {clip.split for clip in clips} <= {"train", "val", "test"}
    assert {clip.action for clip in clips} == {"squat"}


def test_a_file_that_is_absent_or_lacks_an_array_is_named(tmp_path):
    with pytest.raises(EmbeddingFileError, match="no such"):
        read_embeddings(tmp_path / "none.h5")
    np.savez(tmp_path / "x.npz", embeddings=np.ones((1, 1)))
    with pytest.raises(EmbeddingFileError, match="no array 'lengths'"):
        read_embeddings(tmp_path / "x.npz")


@pytest.mark.parametrize(
    "embeddings",
    [
        np.arange(10.0).reshape(5, 2) + 1e9,
        np.arange(10).reshape(5, 2) + 2**60,
        np.arange(10, dtype=np.int32).reshape(5, 2) + 2**30,
    ],
    ids=["float64", "int64", "int32"],
)
def test_numbers_of_which_float32_keeps_too_little_are_refused(tmp_path, embeddings):
    arrays = {"lengths": [2, 3], "clip_id": ["a", "b"], "split": ["train", "val"]}
    np.savez(tmp_path / "e.npz", embeddings=embeddings, **arrays)
    message = rf"embeddings are {embeddings.dtype} and lose .* as float32, channel 0 has a range"
    with pytest.raises(EmbeddingFileError, match=message):
        read_embeddings(tmp_path / "e.npz")
    np.savez(tmp_path / "e.npz", embeddings=embeddings - embeddings.mean(axis=0), **arrays)
    assert len(read_embeddings(tmp_path / "e.npz").clips) == 2


def test_wide_numbers_that_float32_holds_are_read(tmp_path):
    values = np.array([[1e9, 3.0], [-1e9, 3.0], [np.nan, 3.0]])
    arrays = {"lengths": [3], "clip_id": ["a"], "split": ["train"]}
    np.savez(tmp_path / "e.npz", embeddings=values, **arrays)
    assert read_embeddings(tmp_path / "e.npz", finite=False).clips[0].num_frames == 3


def write_plain(path: Path, provenance: str = "{}", **attributes) -> Path:
    """A user's own file of one clip, with attributes."""
    with h5py.File(path, "w") as file:
        file["embeddings"], file["lengths"] = np.ones((2, 3), np.float32), [2]
        file["clip_id"], file["split"] = ["a"], ["val"]
        file.attrs["provenance"] = provenance
        for name, value in attributes.items():
            file.attrs[name] = value
    return path


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"version": 3}, "not version 1 or 2 of the embedding file, but 3"),
        ({}, "not version 1 or 2 of the embedding file, but none"),
        ({"version": [1, 2]}, "not version 1 or 2 of the embedding file"),
        ({"format": "another", "version": 1}, "not version 1 or 2 of the embedding file"),
        ({"version": 1, "sha256": "0" * 64}, "its contents do not match its sha256"),
        ({"version": 1}, "its contents do not match its sha256"),
    ],
)
def test_a_file_that_names_our_format_is_checked_as_one(tmp_path, attributes, message):
    path = write_plain(tmp_path / "e.h5", **({"format": FORMAT} | attributes))
    with pytest.raises(EmbeddingFileError, match=message):
        read_embeddings(path)


@pytest.mark.parametrize(
    ("provenance", "message"),
    [
        ("[]", "its provenance is a list, wanted an object of names"),
        ("{", "its provenance: not JSON"),
        ('{"evaluate": 5}', "its provenance: evaluate is 5, wanted an object"),
        ('{"config": "x"}', "its provenance: config is 'x', wanted an object"),
        ('{"left_out": []}', r"its provenance: left_out is \[\], wanted an object"),
        ('{"left_out": {"a": "b"}}', "its provenance: left_out of 'a' is no list of sentences"),
    ],
)
def test_a_provenance_of_another_form_is_refused(tmp_path, provenance, message):
    with pytest.raises(EmbeddingFileError, match=message):
        read_embeddings(write_plain(tmp_path / "e.h5", provenance))


def test_a_file_has_one_provenance(tmp_path):
    arrays = {"embeddings": np.ones((1, 2)), "lengths": [1], "clip_id": ["a"], "split": ["val"]}
    np.savez(tmp_path / "e.npz", **arrays, provenance=["{}", "{}"])
    with pytest.raises(EmbeddingFileError, match="its provenance is 2 texts, wanted one"):
        read_embeddings(tmp_path / "e.npz")


@pytest.mark.parametrize(
    ("changes", "given", "message"),
    [
        ({"is_timed": False}, {}, "some clips have times_seconds and others have none"),
        ({"targets": np.array([1])}, {}, r"targets of the clips are \(0,\) and \(1,\), wanted one"),
        ({}, {"class_names": ("x", "x")}, "two class_names are the same"),
    ],
)
def test_clips_and_names_that_contradict_each_other_are_refused(tmp_path, changes, given, message):
    clips = [make_clip("a"), make_clip("b", **changes)]
    with pytest.raises(ValueError, match=message):
        write_embeddings(tmp_path / "e.h5", clips, provenance={}, **given)


def test_class_names_are_one_for_each_column_and_a_unit_is_a_word(tmp_path):
    clip = make_clip("a", targets=np.array([1, 0]))
    with pytest.raises(ValueError, match="3 class_names for 2 columns of targets"):
        write_embeddings(tmp_path / "e.h5", [clip], provenance={}, class_names=("x", "y", "z"))
    path = write_embeddings(tmp_path / "e.h5", [clip], provenance={}, unit="")
    with pytest.raises(EmbeddingFileError, match=r"unit is \[''\], wanted one word such as"):
        read_embeddings(path)
