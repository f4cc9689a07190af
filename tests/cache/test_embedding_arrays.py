"""Embedding files as people and other programs write them: types, sizes, damage."""

import io
import json
import os
import subprocess
import sys
import time
import zipfile
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.memory import require_memory
from tokenreel.cache.embedding_arrays import ALWAYS_READ
from tokenreel.cache.embeddings import (
    EmbeddedClip,
    read_embeddings,
    read_names,
    read_provenance,
    write_embeddings,
)
from tokenreel.cache.errors import EmbeddingFileError, UnreadableFile
from tokenreel.evaluate.commands.check import check_file
from tokenreel.evaluate.data.clips import file_sha256

FIELD = os.environ.get("TOKENREEL_FIELD", "")
needs_field = pytest.mark.skipif(not FIELD, reason="TOKENREEL_FIELD names no folder")


def own_arrays(**changes):
    """Two clips of three and two frames; None leaves an array out."""
    arrays = {
        "embeddings": np.arange(10, dtype=np.float32).reshape(5, 2),
        "lengths": np.array([3, 2]),
        "clip_id": np.array(["a", "b"]),
        "split": np.array(["train", "val"]),
        "labels": np.array([0, 1, 1, 0, 1]),
    }
    return {name: value for name, value in (arrays | changes).items() if value is not None}


def write_own(folder, suffix=".npz", **changes):
    path = folder / f"mine{suffix}"
    arrays = own_arrays(**changes)
    if suffix == ".npz":
        np.savez(path, **arrays)
        return path
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            is_text = np.asarray(array).dtype.kind in "UO"
            kind = h5py.string_dtype() if is_text else None
            file.create_dataset(
                name, data=np.asarray(array).tolist() if is_text else array, dtype=kind
            )
    return path


def make_clip(name, **changes):
    fields = {
        "clip_id": name,
        "split": "val",
        "action": "",
        "group": "",
        "embeddings": np.ones((2, 3), np.float32),
        "labels": np.full(2, -1),
        "times_seconds": np.array([0.0, 1.0]),
    }
    return EmbeddedClip(**(fields | changes))


def test_targets_class_names_and_unit_are_written_and_read_back(tmp_path):
    for targets in (np.array([[1, 0, 1], [0, 0, 1]]), np.array([[0.5, 2.0, 0.0], [1, 1, 1.5]])):
        clips = [make_clip(name, targets=row) for name, row in zip("ab", targets, strict=True)]
        path = write_embeddings(
            tmp_path / "e.h5",
            clips,
            provenance={},
            unit="scene",
            class_names=["run", "jump", "\u00e9"],
        )
        file = read_embeddings(path)
        assert (file.unit, file.class_names) == ("scene", ("run", "jump", "\u00e9"))
        np.testing.assert_array_equal(np.stack([clip.targets for clip in file.clips]), targets)
        assert file.clips[0].targets.dtype == targets.dtype
        with h5py.File(path) as raw:
            assert raw.attrs["version"] == 2


def test_a_file_of_frames_without_targets_is_version_1_and_its_unit_a_frame(tmp_path):
    path = write_embeddings(tmp_path / "e.h5", [make_clip("a")], provenance={})
    with h5py.File(path) as raw:
        assert raw.attrs["version"] == 1
        assert "unit" not in raw
    file = read_embeddings(path)
    assert (file.unit, file.class_names, file.clips[0].targets.shape) == ("frame", (), (0,))


@pytest.mark.parametrize("suffix", [".npz", ".h5"])
def test_a_users_own_file_has_targets_unit_class_names_and_provenance(tmp_path, suffix):
    path = write_own(
        tmp_path,
        suffix,
        targets=np.array([[1, 0], [0, 1]]),
        unit=np.array("clip"),
        class_names=np.array(["run", "jump"]),
        provenance=np.array(json.dumps({"run": "mine-1", "recipe": "ours"})),
    )
    file = read_embeddings(path)
    assert (file.unit, file.class_names, file.run_name) == ("clip", ("run", "jump"), "mine-1")
    assert file.provenance["recipe"] == "ours"
    assert [clip.targets.tolist() for clip in file.clips] == [[1, 0], [0, 1]]
    facts = " | ".join(check_file(path).facts)
    assert "a row is a clip" in facts
    assert "2 targets a clip, whole numbers: run, jump" in facts
    assert "made by: run mine-1, recipe ours" in facts


@pytest.mark.parametrize(
    ("path", "name"),
    [("x/mine.npz", "mine"), ("x/embeddings.h5", "x"), ("embeddings.h5", "embeddings")],
)
def test_a_file_without_provenance_is_named_by_itself_or_its_run(path, name):
    from tokenreel.cache.embeddings import EmbeddingFile

    assert EmbeddingFile(Path(path), {}, ()).run_name == name


def test_times_that_are_unknown_are_not_written_as_times(tmp_path):
    (clip,) = read_embeddings(
        write_embeddings(tmp_path / "e.h5", [make_clip("a", is_timed=False)], provenance={})
    ).clips
    assert (clip.is_timed, clip.moment(1)) == (False, "frame 1")
    assert make_clip("a").moment(1) == "1.00 s"
    with pytest.raises(ValueError, match="some clips have times_seconds and others have none"):
        write_embeddings(
            tmp_path / "e.h5", [make_clip("a"), make_clip("b", is_timed=False)], provenance={}
        )


@pytest.mark.parametrize("suffix", [".npz", ".h5"])
def test_nan_labels_are_unlabelled_counted_and_told(tmp_path, suffix):
    path = write_own(tmp_path, suffix, labels=np.array([0, np.nan, 1, np.nan, 1]))
    file = read_embeddings(path)
    assert file.clips[0].labels.tolist() == [0, -1, 1]
    assert file.notes == ("2 labels are NaN: read as -1, unlabelled",)
    assert file.notes[0] in check_file(path).notes


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.uint64, np.float32, bool])
def test_whole_labels_of_any_type_are_read(tmp_path, dtype):
    path = write_own(tmp_path, labels=np.array([0, 1, 1, 0, 1]).astype(dtype))
    assert read_embeddings(path).clips[1].labels.tolist() == [0, 1]


BAD = [
    ({"labels": np.array([0, 1, 1, 65536, 1])}, "label 65536 of frame 0 of b .1 such labels."),
    ({"labels": np.array([0, 1, 40000, 0, 1], np.uint16)}, "label 40000 of frame 2 of a"),
    ({"labels": np.array([0, 0.5, 1, 0, 1])}, "label 0.5 of frame 1 of a"),
    ({"labels": np.array([0, np.inf, 1, 0, 1])}, "label inf of frame 1 of a"),
    ({"labels": np.array(list("aabab"))}, "labels are text: give numbers from 0"),
    ({"labels": np.ones(5, complex)}, "labels are complex"),
    ({"embeddings": np.ones((5, 2), complex)}, "embeddings are complex numbers .complex128.: give"),
    ({"embeddings": np.ones((5, 2, 1))}, "wanted .frames of all clips, channels."),
    ({"embeddings": np.ones((5, 0))}, "wanted .T >= 1, 0."),
    ({"lengths": np.array([2.5, 2.5])}, "lengths are float64 and not all whole numbers"),
    ({"lengths": np.array([2**63 - 1, 2**63 - 1])}, "do not fit lengths of sum"),
    ({"lengths": np.array([5, 0])}, "do not fit lengths"),
    ({"times_seconds": np.array([0, 1, np.nan, 0, 1])}, "times_seconds are not all finite"),
    ({"targets": np.ones(2)}, r"targets are \(2,\), wanted \(2, K >= 1\)"),
    ({"targets": np.array([[1.0], [np.nan]])}, "targets are not all finite real numbers"),
    ({"targets": np.ones((2, 3)), "class_names": np.array(["a", "b"])}, "2 class_names for 3 col"),
    ({"class_names": np.array(["a", "a"])}, "two class_names are the same"),
    ({"unit": np.array(["scene", "clip"])}, "unit is .*wanted one word"),
    ({"phases": np.array(['["a"', "[]"])}, "phases of a: "),
    ({"phases": np.array(['{"a": 1}', "[]"])}, "phases of a are .*wanted JSON such as"),
    ({"phases": np.array(["[" * 9999, "[]"])}, "phases of a: JSON"),
    ({"provenance": np.array("[1]")}, "its provenance is a list"),
    ({"provenance": np.array('{"evaluate": [1]}')}, "evaluate is .1., wanted an object"),
    ({"provenance": np.array('{"a":' * 70 + "1" + "}" * 70)}, "JSON of more than 64 levels"),
]


@pytest.mark.parametrize("suffix", [".npz", ".h5"])
@pytest.mark.parametrize(("changes", "words"), BAD)
def test_what_cannot_be_read_is_refused_by_name_and_with_what_to_write(
    tmp_path, suffix, changes, words
):
    path = write_own(tmp_path, suffix, **changes)
    with pytest.raises(EmbeddingFileError, match=words):
        read_embeddings(path, finite=False)
    assert not check_file(path).is_good


def test_an_object_array_is_refused_with_what_to_save(tmp_path):
    path = write_own(tmp_path, clip_id=np.array(["a", "b"], dtype=object))
    words = r"clip_id is an object array: save np.array\(clip_id, dtype=str\)"
    with pytest.raises(EmbeddingFileError, match=words):
        read_embeddings(path)
    assert any("clip_id is an object array" in problem for problem in check_file(path).problems)


@pytest.mark.parametrize("name", ["clip_id", "action", "class_names"])
@pytest.mark.parametrize("letter", ["\0", "\ud800"])
def test_text_that_no_other_file_can_hold_is_refused(tmp_path, name, letter):
    path = write_own(tmp_path, **{name: np.array([f"a{letter}b", "b"])})
    with pytest.raises(EmbeddingFileError, match=f"{name} 'a.*b' holds a NUL or half a character"):
        read_embeddings(path)


def test_a_list_of_texts_for_each_clip_is_no_text(tmp_path):
    path = write_own(tmp_path, clip_id=np.array([["a"], ["b"]]))
    with pytest.raises(EmbeddingFileError, match=r"clip_id is \['a'\], wanted one text"):
        read_embeddings(path)


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (None, "a group"),
        (h5py.SoftLink("/nothing"), "a link to nothing"),
        (h5py.Empty("f4"), "an empty array without a shape"),
    ],
)
def test_what_has_the_name_of_an_array_and_is_none_is_refused(tmp_path, item, words):
    path = write_own(tmp_path, ".h5", labels=None)
    with h5py.File(path, "a") as file:
        if item is None:
            file.create_group("labels")
        else:
            file["labels"] = item
    with pytest.raises(EmbeddingFileError, match=f"labels is {words}, wanted an array"):
        read_embeddings(path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"labels": np.array([0, 65536])}, "label 65536 of frame 1 of a"),
        ({"labels": np.array([0, 0.5])}, "label 0.5"),
        ({"embeddings": np.ones((2, 3), complex)}, "complex"),
        ({"targets": np.array([np.nan])}, "targets are not all finite"),
    ],
)
def test_what_cannot_be_read_is_not_written_either(tmp_path, changes, words):
    with pytest.raises(ValueError, match=words):
        write_embeddings(tmp_path / "e.h5", [make_clip("a", **changes)], provenance={})
    assert not (tmp_path / "e.h5").exists()


def test_a_file_that_a_process_has_open_is_said_to_be_open(tmp_path):
    path = write_own(tmp_path, ".h5")
    code = f"import h5py, sys; f = h5py.File({str(path)!r}, 'r+'); print(1, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as writer:
        writer.stdout.readline()
        with pytest.raises(EmbeddingFileError, match="is open in another process"):
            read_embeddings(path)
        assert "is open in another process" in check_file(path).problems[0]
        writer.communicate(b"\n")
    assert len(read_embeddings(path).clips) == 2


def npy_with_header(header: str) -> bytes:
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def replace_member(path, name, data):
    with zipfile.ZipFile(path) as archive:
        kept = {member: archive.read(member) for member in archive.namelist()}
    kept[f"{name}.npy"] = data
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, bytes_ in kept.items():
            archive.writestr(member, bytes_)


@pytest.mark.parametrize("shape", ["(1099511627776, 2)", "(4, 2)", "(6, 2)", "(-5, -2)"])
def test_a_header_that_lies_about_its_size_is_refused_before_memory_is_taken(tmp_path, shape):
    path = write_own(tmp_path)
    lie = npy_with_header(f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}")
    replace_member(path, "embeddings", lie + bytes(40))
    with pytest.raises(EmbeddingFileError, match=r"embeddings says|a shape of"):
        read_embeddings(path)
    assert not check_file(path).is_good


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_an_array_that_is_in_a_file_twice_is_refused(tmp_path):
    path = write_own(tmp_path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("labels.npy", archive.read("labels.npy"))
    with pytest.raises(EmbeddingFileError, match="labels is listed twice"):
        read_embeddings(path)


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_arrays_of_every_version_of_npy_are_read_or_named(tmp_path, version):
    path = write_own(tmp_path)
    data = io.BytesIO()
    np.lib.format.write_array(data, np.zeros(5, np.int64), version=version)
    replace_member(path, "labels", data.getvalue())
    if version != (3, 0):
        assert read_embeddings(path).clips[0].labels.tolist() == [0, 0, 0]
        return
    with pytest.raises(EmbeddingFileError, match=r"version \(3, 0\) of \.npy is not read"):
        read_embeddings(path)


class _AlteredContent:
    """A deflater that alters the last byte, and ends thousands of empty blocks later."""

    def __init__(self, *_):
        self.data = b""

    def compress(self, data):
        self.data += data
        return b""

    def flush(self):
        data = self.data[:-1] + bytes([self.data[-1] ^ 1])
        packer = zlib.compressobj(wbits=-15)
        begin = packer.compress(data) + packer.flush(zlib.Z_FULL_FLUSH)
        empty = b"\0\0\0\xff\xff"
        return begin + 2000 * empty + b"\1" + empty[1:]


def test_the_checksum_of_an_array_is_compared_though_its_data_end_early(tmp_path, monkeypatch):
    path = write_own(tmp_path)
    monkeypatch.setattr(zipfile, "_get_compressor", _AlteredContent)
    data = io.BytesIO()
    np.save(data, np.array([0, 1, 1, 0, 1]))
    replace_member(path, "labels", data.getvalue())
    with pytest.raises(EmbeddingFileError, match="Bad CRC-32"):
        read_embeddings(path)


def test_too_little_memory_for_a_file_is_the_machine_and_not_the_file(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise MemoryError

    path = write_own(tmp_path)
    monkeypatch.setattr(np.lib.format, "read_array", fail)
    with pytest.raises(UnreadableFile, match=r"mine\.npz: not enough memory to read it") as raised:
        read_embeddings(path)
    assert raised.value.exit_status == 6


@pytest.mark.parametrize("suffix", [".npz", ".h5"])
def test_a_small_file_that_unpacks_to_gigabytes_is_not_read(tmp_path, suffix):
    path = write_own(tmp_path, suffix)
    rows = 300_000_000 // 8
    if suffix == ".npz":
        head = npy_with_header(
            f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, 2), }}"
        )
        replace_member(path, "embeddings", head + bytes(rows * 8))
    else:
        with h5py.File(path, "r+") as file:
            del file["embeddings"]
            file.create_dataset("embeddings", (rows, 2), "f4", chunks=(1000, 2))
    with pytest.raises(
        EmbeddingFileError, match=r"would take 0.3 GB of memory, the file has 0\.\d"
    ):
        read_embeddings(path)


def test_500_mutated_files_give_an_error_of_ours_or_are_read(tmp_path):
    rng = np.random.default_rng(3)
    own = own_arrays(phases=np.array(['["x", "y"]', "[]"]), provenance=np.array('{"run": "r"}'))
    np.savez(tmp_path / "a.npz", **own)
    np.savez_compressed(tmp_path / "b.npz", **own)
    write_embeddings(tmp_path / "c.h5", [make_clip("a"), make_clip("b")], provenance={"run": "r"})
    started, errors = time.process_time(), []
    for number in range(500):
        source = tmp_path / ("a.npz", "b.npz", "c.h5")[number % 3]
        data = bytearray(source.read_bytes())
        for place in rng.integers(0, len(data), int(rng.integers(1, 6))):
            data[place] = int(rng.integers(256))
        if number % 7 == 0:
            del data[int(rng.integers(1, len(data))) :]
        path = tmp_path / f"mutant{source.suffix}"
        path.write_bytes(data)
        with require_memory(ALWAYS_READ):
            try:
                read_embeddings(path, finite=False)
            except EmbeddingFileError as error:
                errors.append(str(error))
            check_file(path)
    assert len(errors) > 250
    assert all(str(tmp_path) in error for error in errors)
    assert time.process_time() - started < 30


@needs_field
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("labels_65536.npz", "label 65536 of frame"),
        ("embeddings/cplx.npz", "embeddings are complex"),
        ("embeddings/deepphases.npz", "JSON of more than"),
        ("embeddings/lie.npz", "embeddings says"),
        ("embeddings/listprov.h5", "its provenance is a list"),
    ],
)
def test_bad_files_of_the_field_are_refused(name, words):
    with pytest.raises(EmbeddingFileError, match=words):
        read_embeddings(Path(FIELD, name))


@needs_field
def test_nan_labels_of_the_field_are_those_of_the_truth():
    found, truth = (
        read_embeddings(Path(FIELD, f"labels_{name}.npz")) for name in ("nan", "minus1_truth")
    )
    assert found.notes
    for one, other in zip(found.clips, truth.clips, strict=True):
        assert one.labels.tolist() == other.labels.tolist()


@pytest.mark.parametrize(
    ("suffix", "name"), [(".npz", "mine.h5"), (".h5", "mine2.npz"), (".npz", "MINE.NPZ")]
)
def test_a_file_is_read_by_its_content_whatever_its_name(tmp_path, suffix, name):
    path = write_own(tmp_path, suffix).rename(tmp_path / name)
    assert [clip.clip_id for clip in read_embeddings(path).clips] == ["a", "b"]
    assert check_file(path).facts[0].startswith("2 clips")


@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path, kind):
    path = tmp_path / "embeddings.h5"
    os.mkfifo(path) if kind == "pipe" else path.mkdir()
    for read in (read_embeddings, read_names, read_provenance, file_sha256):
        with pytest.raises(EmbeddingFileError, match=r"embeddings\.h5: no (such embedding )?file"):
            read(path)
    assert "no file" in check_file(path).problems[0]
