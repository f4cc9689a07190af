"""Which clips and frames the metrics see: each clip that is left out has its reason."""

import hashlib
import os
from dataclasses import replace

import numpy as np
import pytest

from tests.evaluate.clips import make_clip
from tokenreel.cache.embeddings import write_embeddings
from tokenreel.cache.errors import EmbeddingFileError
from tokenreel.evaluate.data.clips import (
    FileChanged,
    file_sha256,
    group_reasons,
    load_action,
    load_screened,
    nearest_split,
    screen_clips,
)


def a_clip(name="c", split="val", *, labels=(0, 0, 1, 1, 2, 2), **changes):
    """A clip of six frames of three phases, a, b and c."""
    clip = make_clip(name, split, frames=len(labels))
    return replace(clip, labels=np.array(labels, np.int16), **changes)


def rows(*bad: tuple[int, float]) -> np.ndarray:
    """Embeddings of six frames with a value that is not finite in some."""
    values = np.ones((6, 4), np.float32)
    for frame, value in bad:
        values[frame, 1:3] = value
    return values


OUT = "is out of range"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"labels": [-1] * 6}, None),
        ({"labels": [0] * 5 + [7], "phases": ()}, None),
        ({"labels": [0, 0, 0, 0, 0, 3]}, f"label 3 {OUT}, its action has 3 phases"),
        ({"labels": [0, 0, -2, 0, 0, 0]}, f"label -2 {OUT}, -1 means unlabelled"),
        (
            {"embeddings": rows((2, np.nan), (4, np.inf))},
            "2 of 6 frames have NaN or infinite embeddings, the first is frame 2: write finite "
            "ones, or leave the clip out",
        ),
        ({"split": "Training"}, "its split is 'Training': write 'train'"),
        ({"split": "vall"}, "its split is 'vall': write 'val'"),
        ({"phases": ("a", "c", "b")}, "its phases are a, c, b, those of first, of the same "),
    ],
)
def test_a_clip_that_is_wrong_is_left_out_with_its_reason(changes, reason):
    clips = [a_clip("first", "train"), a_clip(**changes), a_clip("last")]
    sound, left_out = screen_clips(clips)
    if reason is None:
        assert (sound, left_out) == (clips, {})
        return
    assert sound == [clips[0], clips[2]]
    assert list(left_out) == ["act"]
    [sentence] = left_out["act"]
    assert sentence.startswith(f"c: {reason}")


def test_phases_of_another_action_and_of_clips_without_names_are_no_contradiction():
    clips = [
        a_clip("a", phases=()),
        a_clip("b"),
        a_clip("c", phases=()),
        a_clip("d", action="other", phases=("x", "y", "z")),
    ]
    assert screen_clips(clips) == (clips, {})
    wrong = a_clip("e", action="other")
    sentence = (
        "e: its phases are a, b, c, those of d, of the same action, x, y, z: name and number "
        "them alike"
    )
    assert screen_clips([*clips, wrong]) == (clips, {"other": [sentence]})


def test_a_split_of_any_other_name_is_no_part_of_a_metric_unless_there_is_no_other():
    extra = a_clip("x", "extra")
    for split in ("train", "val", "test"):
        assert screen_clips([extra, a_clip("a", split)])[1] == {}
    told = screen_clips([extra, a_clip("a", "training")])[1]
    assert told == {"act": ["a: its split is 'training': write 'train'"]}
    told = screen_clips([extra, a_clip("y", "more", labels=[9] * 6)])
    word = "write one of train, val, test"
    sentences = [f"x: its split is 'extra': {word}", f"y: its split is 'more': {word}"]
    assert told == ([], {"act": sentences})


@pytest.mark.parametrize(
    ("split", "wanted"),
    [
        *(("train", ""), ("val", ""), ("test", "")),
        *((" Train ", "train"), (" trn ", "train"), ("trian", "train"), ("VAL", "val")),
        *(("valid", "val"), ("validation", "val"), ("eval", "val"), ("vall", "val")),
        *(("testing", "test"), ("tst", "test"), ("tests", "test")),
        *(("extra", ""), ("", ""), ("holdout", "")),
    ],
)
def test_another_spelling_of_a_split_is_recognised(split, wanted):
    assert nearest_split(split) == wanted


def test_clips_of_one_reason_are_one_line():
    reasons = ["a: x", "b: y: z", "c: x", "d: x", "e: w: z", "f: w: z"]
    wanted = ["a, and 2 more clip(s): x", "b: y: z", "e, and 1 more clip(s): w: z"]
    assert group_reasons(reasons) == wanted


def test_a_file_is_read_by_the_hash_of_its_bytes_and_tells_what_was_left_out_before(tmp_path):
    path = tmp_path / "e.h5"
    bad = a_clip("bad", labels=[5] * 6)
    told = {"left_out": {"act": ["gone: no bytes", 7]}}
    write_embeddings(path, [a_clip("good"), bad], provenance=told)
    sha256 = file_sha256(path)
    assert sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    found = load_screened(path, sha256)
    assert [clip.clip_id for clip in found.file.clips] == ["good"]
    sentence = f"bad: label 5 {OUT}, its action has 3 phases"
    assert found.left_out == {"act": ["gone: no bytes", "7", sentence]}
    write_embeddings(path, [a_clip("other")], provenance={})
    found = load_screened(path, file_sha256(path))
    assert [clip.clip_id for clip in found.file.clips] == ["other"]
    with pytest.raises(FileChanged, match=r"e\.h5 changed while it was evaluated: run this again"):
        load_screened(path, sha256)


def test_a_clip_with_nan_does_not_make_its_file_unreadable(tmp_path):
    path = tmp_path / "mine.npz"
    values = np.ones((5, 4), np.float32)
    values[3, 0] = np.nan
    words = {"clip_id": ["a", "b"], "split": ["train", "val"]}
    np.savez(path, embeddings=values, lengths=[2, 3], labels=[0, 1, 0, 0, 1], **words)
    found = load_screened(path, file_sha256(path))
    assert [clip.split for clip in found.file.clips] == ["train"]
    [[reason]] = found.left_out.values()
    assert "1 of 3 frames have NaN or infinite embeddings, the first is frame 1" in reason


def test_a_pipe_is_no_embedding_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(EmbeddingFileError, match="pipe"):
        file_sha256(tmp_path / "pipe")


def test_the_labelled_frames_of_an_action_are_by_split_in_the_order_of_the_file(tmp_path):
    names = ("a", "b", "c", "d", "e")
    numbered = np.arange(24, dtype=np.float32).reshape(6, 4)
    clips = [
        a_clip("v1", labels=[-1, 1, -1, 0, -1, 2], group="g", embeddings=numbered, phases=names),
        a_clip("t1", "train", labels=[0, 1, 2, 2, 2, -1], group="g", phases=names),
        a_clip("t2", "train", labels=[-1] * 6, group="h"),
        a_clip("v2", group="h"),
        a_clip("v3", group="shared:x"),
        a_clip("v4", group=""),
        a_clip("t3", "train", group=""),
        a_clip("x1", "test", labels=[4] * 6, group="g", phases=names),
        a_clip("o1", action="other"),
    ]
    path = write_embeddings(
        tmp_path / "e.h5", [replace(c, phases=()) for c in clips], provenance={}
    )
    data = load_action(path, file_sha256(path), "act")
    assert data.train.clip_ids == ["t1", "t3"]
    assert data.val.clip_ids == ["v1", "v2", "v3", "v4"]
    np.testing.assert_array_equal(data.val.embeddings[0], numbered[[1, 3, 5]])
    assert [rows.tolist() for rows in data.val.labels][:2] == [[1, 0, 2], [0, 0, 1, 1, 2, 2]]
    assert data.val.labels[0].dtype == np.int64
    assert (data.val.num_dropped, data.val.num_frames) == (3, 21)
    assert (data.train.num_dropped, data.train.num_frames) == (1, 11)
    assert data.is_shared == [True, False, True, False]  # h: its training clip has no label
    assert data.num_phases == 5  # label 4, of the test clip
    named = [replace(clip, phases=names) for clip in clips if clip.split != "test"]
    path = write_embeddings(tmp_path / "named.h5", named, provenance={})
    assert load_action(path, file_sha256(path), "act").num_phases == 5  # by their names
    some = [a_clip(n, labels=[0] * 6) for n in "nm"] + [a_clip("k", "train")]
    some[0] = replace(some[0], phases=())
    path = write_embeddings(tmp_path / "some.h5", some[:2], provenance={})
    assert load_action(path, file_sha256(path), "act").num_phases == 3
    beyond = a_clip("l", labels=[4] * 6, phases=())  # a clip that names none may know more
    path = write_embeddings(tmp_path / "more.h5", [some[2], beyond], provenance={})
    assert load_action(path, file_sha256(path), "act").num_phases == 5
