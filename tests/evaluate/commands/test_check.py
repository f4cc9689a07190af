"""`evaluate check`: what is missing is said in words."""

import h5py
import numpy as np
import pytest

from tests.evaluate.clips import labelled_clips, write_run
from tokenreel.evaluate.commands.check import check_file
from tokenreel.evaluate.commands.suite import evaluate_files
from tokenreel.evaluate.protocol import EvaluateConfig


def arrays_of(clips):
    return {
        "embeddings": np.concatenate([clip.embeddings for clip in clips]),
        "lengths": np.array([clip.num_frames for clip in clips]),
        "clip_id": np.array([clip.clip_id for clip in clips]),
        "split": np.array([clip.split for clip in clips]),
        "action": np.array([clip.action for clip in clips]),
        "labels": np.concatenate([clip.labels for clip in clips]),
    }


def write(path, arrays):
    if path.suffix == ".npz":
        np.savez(path, **arrays)
        return path
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            is_text = values.dtype.kind == "U"
            file.create_dataset(
                name,
                data=values.astype(object) if is_text else values,
                dtype=h5py.string_dtype() if is_text else None,
            )
    return path


@pytest.mark.parametrize("suffix", [".npz", ".h5"])
def test_a_file_of_ones_own_is_good_and_can_be_evaluated(tmp_path, suffix):
    path = write(tmp_path / f"mine{suffix}", arrays_of(labelled_clips()))
    checked = check_file(path)
    assert checked.is_good
    assert checked.facts[0] == "5 clips, 60 frames, 4 channels, 60 frames labelled"
    assert "2 clips of the split 'train', 3 clips of the split 'val'" in checked.facts[1]
    assert "not of unit length" in checked.facts[3]
    assert "no group: classification-unshared cannot be computed" in checked.notes
    report = evaluate_files([path], config=EvaluateConfig(), out=tmp_path / "out", progress=False)
    assert report.exit_status == 0


def test_a_file_of_ours_has_nothing_to_complain_of(tmp_path):
    checked = check_file(write_run(tmp_path / "run", labelled_clips()))
    assert (checked.problems, checked.notes) == ((), ())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"lengths": None}, "no array 'lengths': it is required"),
        ({"split": None}, "no array 'split': it is required"),
        ({"embeddings": np.ones(60)}, "embeddings are (60,), wanted (frames of all clips, chan"),
        ({"labels": np.ones(59)}, "labels are (59,), wanted (60,): one a frame"),
        ({"action": np.array(["a"])}, "action are (1,), wanted (5,): one a clip"),
        ({"lengths": np.full(5, 11)}, "do not fit lengths of sum 55"),
        ({"lengths": np.array([12, 12, 0, 24, 12])}, "lengths[2] is 0, a clip has at least one"),
        ({"split": np.array(["1", "1", "2", "2", "2"])}, "its split is '1': write one of train"),
        ({"clip_id": np.array(["a"] * 5)}, "two clips have the same clip_id"),
        ({"labels": np.zeros(60, int)}, "training clips hold one phase, a classifier needs 2"),
        ({"labels": np.full(60, -7)}, "label -7 is out of range"),
        ({"split": np.array(["train"] * 4 + ["val"])}, "1 labelled clip(s) of the split 'val'"),
        ({"split": np.array(["val"] * 5)}, "no labelled clips of the split 'train'"),
        ({"embeddings": np.full((60, 4), np.nan)}, "12 of 12 frames have NaN or infinite"),
        ({"labels": np.repeat([0, 2], 30)}, "5 clip(s) lack a phase, such as act/t0"),
        ({"labels": np.repeat([1, 2], 30)}, "no frame has phase 0: do its labels begin at 1?"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, change, sentence):
    arrays = arrays_of(labelled_clips()) | change
    path = write(tmp_path / "mine.npz", {k: v for k, v in arrays.items() if v is not None})
    checked = check_file(path)
    assert not checked.is_good
    assert any(sentence in problem for problem in checked.problems), checked.problems


def test_unknown_arrays_and_splits_are_notes(tmp_path):
    arrays = arrays_of(labelled_clips())
    arrays["split"][4] = "dev"
    path = write(tmp_path / "mine.npz", {**arrays, "label": arrays["labels"]})
    checked = check_file(path)
    assert "not read: label" in checked.notes
    assert "splits 'dev' are none of train, val, test" in checked.notes


@pytest.mark.parametrize("name", ["a.npz", "a.h5", "absent.h5"])
def test_what_is_no_such_file_is_a_problem(tmp_path, name):
    if name != "absent.h5":
        (tmp_path / name).write_bytes(b"nothing of the kind")
    assert "neither HDF5 nor .npz" in check_file(tmp_path / name).problems[0]


def test_a_torn_npz_is_a_problem_of_check_and_of_all(tmp_path):
    path = write(tmp_path / "mine.npz", arrays_of(labelled_clips()))
    path.write_bytes(path.read_bytes()[:-40])
    assert "neither HDF5 nor .npz" in check_file(path).problems[0]
    report = evaluate_files([path], config=EvaluateConfig(), out=tmp_path / "out", progress=False)
    assert "torn or not an embedding file" in report.problems[0]
