"""Rows of the metrics of files, and how they are called, by hand."""

from dataclasses import replace

import numpy as np
import pytest

from tests.evaluate.tasks.test_draws import BLANK, action_data, compute, file_of, settings_of
from tests.evaluate.tasks.test_paired import ACTIONS, PAIRS, action_clips, clip, pair
from tokenreel.evaluate.methods.sgd_probe import Layer, train_layer
from tokenreel.evaluate.tasks.paired import pairs_of
from tokenreel.evaluate.tasks.scored import Scored, missing_one_tag, missing_scores
from tokenreel.evaluate.tasks.task import (
    Limits,
    Request,
    RowPlan,
    is_error,
    is_percent,
    load_task,
    row_title,
    short_row_title,
    task_of,
)


def test_what_is_missing_of_tags_is_counted_and_six_are_named():
    names = tuple(f"t{number}" for number in range(9))
    targets = np.zeros((3, 9), np.int64)
    targets[0, :3] = 1
    data = Scored(np.zeros((3, 9), np.float32), targets, names)
    assert (data.num_absent, data.num_untagged) == (6, 2)
    assert data.note("val") == (
        "6 of 9 tags have no clip of the split val: t3, t4, t5, t6, t7, t8; "
        "2 of 3 clips have no tag"
    )
    targets[0, 2] = 0
    assert "t2, t3, t4, t5, t6, t7, ...; 2 of 3" in data.note("val")


def test_scores_of_one_tag_each_are_told_from_those_of_several_and_of_other_channels():
    file = file_of(action_clips([[1, 0, 0]] * 2, ["jump", "run"]), ACTIONS)
    assert missing_one_tag(file) == missing_scores(file) == ("", "")
    two = replace(file.clips[0], targets=np.array([1, 1, 0]))
    several = replace(file, clips=(two, *file.clips[1:]))
    assert missing_one_tag(several) == ("1 of 2 clips have several tags", "skipped")
    wide = replace(file.clips[0], embeddings=np.zeros((1, 5), np.float32))
    reason, status = missing_scores(replace(file, clips=(wide, *file.clips[1:])))
    assert (status, reason) == (
        "skipped",
        "its rows are of a clip and have 5 channels, not one of each clip with 3 scores of tags",
    )


def numbers(split, *pairs):
    return [clip(f"{split}{n}", "", [guess], [own], split) for n, (guess, own) in enumerate(pairs)]


def test_squared_errors_are_of_the_split_and_of_one_number_a_clip():
    clips = [*numbers("train", (0, 1), (0, 3)), *numbers("val", (9, 0)), *numbers("test", (1, 4))]
    file = file_of(clips)
    settings = settings_of("numbers", split="test")
    found = compute("mse", file, settings, split="test")
    assert (found["mse"].value, found["mse-mean"].value) == (9, 4)
    lone = compute("mse", replace(file, clips=file.clips[2:]), settings, split="test")
    assert lone["mse-mean"].status == "undefined"
    assert lone["mse-mean"].note == "no training clips, whose mean it is of"
    with pytest.raises(ValueError, match="no clip of the split val"):
        compute("mse", replace(file, clips=file.clips[:2]), settings)
    missing = load_task("mse").missing
    assert missing(file) == ("", "")
    assert missing(replace(file, unit="frame"))[1] == "skipped"
    wide = replace(file.clips[0], embeddings=np.zeros((1, 2), np.float32))
    reason = "2 channels for 1 number(s) to predict"
    assert missing(replace(file, clips=(wide,))) == (reason, "skipped")


def test_tau_is_of_every_n_th_frame():
    data = action_data()
    strided = replace(data.val, embeddings=[frames[::3] for frames in data.val.embeddings])
    one = compute("tau", data, settings_of(tau_stride=3))["tau"]
    other = compute("tau", replace(data, val=strided), settings_of(tau_stride=1))["tau"]
    assert one.value == other.value
    assert (one.stride, other.stride) == (3, 1)


VECTORS = {"prompts": ["A"], "channels": 2, "classes": ["jump", "run", "walk"]}


def vectors(clip_id, action, visual, text, number, scores=(1, 0, 0)):
    return clip(clip_id, action, [*visual, *scores], [*text, number])


def test_texts_look_for_clips_and_clips_for_texts():
    clips = [
        vectors("a", "jump", [1, 0], [1, 0], 0),
        vectors("b", "run", [0.8, 0.6], [0, 1], 1),
        vectors("c", "swim", [0.9, 0.1], [1, 0], 0),
    ]
    file = file_of(clips, pairs=VECTORS)
    t2v = compute("t2v", file, settings_of("pairs"))["t2v-A@1"]
    v2t = compute("v2t", file, settings_of("pairs"))["v2t-A@1"]
    assert (t2v.value, v2t.value) == (1, pytest.approx(2 / 3))  # b is nearer to the text of a
    assert t2v.note == "chance 0.5556 at 1; 2 texts of 3 clips"  # 2, 2 and 1 of 3 are right
    assert v2t.note == "chance 0.5000 at 1; 2 texts of 3 clips"
    request = Request(settings_of("pairs"), RowPlan(("zero-shot@1", "zero-shot@5")), BLANK)
    rows = load_task("zero-shot").compute(file, request)
    assert [(row.value, row.num_classes, row.num_dropped) for row in rows] == [
        (0.5, 3, 1),
        (1, 3, 1),
    ]
    assert rows[0].note == "chance 0.3333 at 1; 2 classes have clips"


def test_files_of_something_else_have_no_pairs():
    file = file_of([pair("v0", "jump", [1, 0, 1, 0], (0, 0))], pairs=PAIRS)
    for task in ("t2v", "v2t", "zero-shot"):
        assert load_task(task).missing(file) == ("", "")
        bare = replace(file, provenance={})
        assert load_task(task).missing(bare)[1] == "skipped"
    none = clip("a", "jump", [1, 0], [0])
    empty = {"prompts": ["A"], "channels": 0, "classes": ["jump", "run"]}
    assert pairs_of(file_of([none], pairs=empty)) is None


def test_rows_are_called_by_their_metric():
    assert short_row_title("t2v@5") == "t2v R@5"
    assert short_row_title("v2t@1") == "v2t R@1"
    assert short_row_title("progression") == "Progress"
    assert row_title("mse-mean") == "Squared error of the training mean"
    assert row_title("t2v-A@1") == "Text to video R-A@1"
    assert is_percent("t2v@1")
    assert is_percent("v2t-A@10")
    assert is_percent("of no metric")
    assert not is_error("of no metric")
    assert task_of("apx") is None
    assert Limits().threads == 1


def test_a_layer_takes_a_whole_batch_and_refuses_what_is_no_number():
    clips = [np.ones((2, 3), np.float32)] * 10
    labels = [np.array([0, 1])] * 10
    drawn = train_layer(clips, labels, num_classes=50, epochs=0)
    bound = 3**-0.5
    for values in (drawn.weight, drawn.bias):
        assert -bound <= values.min() < -0.3
        assert 0.3 < values.max() <= bound
    assert train_layer(clips, labels, num_classes=2, epochs=1).weight.shape == (2, 3)
    layer = Layer(np.ones((2, 3), np.float32), np.zeros(2, np.float32))
    for wrong in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="frames"):
            layer.predict(np.full((1, 3), wrong, np.float32))
    with pytest.raises(ValueError, match="learning_rate is inf"):
        train_layer(clips, labels, num_classes=2, learning_rate=float("inf"))
