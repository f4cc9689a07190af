"""Sets made by hand whose answers docs/results.md states."""

import numpy as np
import pytest

from tests.evaluate.clips import labelled_clips, write_run
from tokenreel.evaluate.commands.suite import evaluate_files
from tokenreel.evaluate.protocol import EvaluateConfig


def evaluate(tmp_path, clips, **changes):
    report = evaluate_files(
        [write_run(tmp_path / "run", clips)],
        config=EvaluateConfig(**changes),
        out=tmp_path / "out",
        progress=False,
    )
    runs = [score for score in report.scores if not score.is_clock]
    return report, {score.task: score for score in runs if score.action == "act"}


def cut(clip, frames):
    return type(clip)(
        **{
            name: value[:frames] if isinstance(value, np.ndarray) else value
            for name, value in vars(clip).items()
        }
    )


def test_a_one_frame_clip(tmp_path):
    clips = labelled_clips(noise=0)
    clips[3] = cut(clips[3], 1)
    report, rows = evaluate(tmp_path, clips)
    # 3 clips, 6 ordered pairs, 4 of them with the clip of one frame
    assert (rows["tau"].num_pairs, rows["tau"].num_nan, rows["tau"].value) == (
        6,
        4,
        pytest.approx(1.0),
    )
    assert rows["ap@5"].num_nan == 0
    assert rows["classification"].num_frames == 25
    # it lacks phase 1: a problem of progression alone
    assert report.problems == (
        "run: act: progression: phase 1 is absent from a clip: "
        "choose absent_phase=tcc2021, lav or casa",
    )
    fixed, rows = evaluate(tmp_path, clips, absent_phase="tcc2021")
    assert fixed.exit_status == 0
    assert rows["progression"].num_absent == 1


def test_a_constant_clip(tmp_path):
    clips = labelled_clips(noise=0)
    clips[3].embeddings[:] = 0.5
    report, rows = evaluate(tmp_path, clips)
    assert report.exit_status == 0
    assert (rows["tau"].num_nan, rows["tau"].value) == (4, pytest.approx(1.0))


def test_all_ties(tmp_path):
    clips = labelled_clips()
    for clip in clips:
        clip.embeddings[:] = 0.1
    report, rows = evaluate(tmp_path, clips)
    assert report.exit_status == 0
    assert np.isnan(rows["tau"].value)
    assert (rows["tau"].num_nan, rows["tau"].status) == (6, "undefined")
    assert rows["tau"].note == "every pair of clips gives NaN"
    # the first frames of the first other clip win: strided labels 0 0 1 1 2 2, so of 5 two are 0,
    # two 1 and one 2, and (2 + 2 + 2 + 2 + 1 + 1) / 6 / 5 = 1/3 are right
    assert rows["ap@5"].value == pytest.approx(1 / 3)
    assert rows["classification"].value == pytest.approx(1 / 3)
    assert rows["progression"].value == pytest.approx(0.0, abs=1e-6)


def test_an_absent_phase_under_each_rule(tmp_path):
    clips = labelled_clips()
    clips[2].labels[:] = np.repeat([0, 2], 6)
    values = {}
    for rule in ("tcc2021", "lav", "casa"):
        report, rows = evaluate(tmp_path, clips, absent_phase=rule)
        assert report.exit_status == 0
        values[rule] = rows["progression"].value
    assert len(set(values.values())) == 3


def test_a_phase_that_training_lacks_is_never_right(tmp_path):
    clips = labelled_clips()
    for clip in clips[:2]:
        clip.labels[clip.labels == 2] = 1
    _, rows = evaluate(tmp_path, clips)
    assert rows["classification"].num_classes == 2
    assert rows["classification"].value == pytest.approx(2 / 3)
