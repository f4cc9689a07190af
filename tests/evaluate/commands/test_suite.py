"""`evaluate all`: rows, counts, averages, and data that is wrong or has no labels."""

import csv
import dataclasses
import math

import numpy as np
import pytest

from tests.evaluate.clips import labelled_clips, make_clip
from tokenreel.cache.embeddings import write_embeddings
from tokenreel.evaluate.commands import suite
from tokenreel.evaluate.commands.suite import evaluate_files
from tokenreel.evaluate.jobs.plan import plan_file
from tokenreel.evaluate.protocol import EvaluateConfig
from tokenreel.evaluate.tasks.task import load_task


def run(tmp_path, clips, config=None, **provenance):
    path = write_embeddings(
        tmp_path / "run/embeddings.h5", clips, provenance={"recipe": "r", "seed": 0, **provenance}
    )
    return evaluate_files(
        [path], config=config or EvaluateConfig(), out=tmp_path / "out", progress=False
    )


def value(report, task, action="mean"):
    runs = [score for score in report.scores if not score.is_clock]
    [row] = [s for s in runs if (s.task, s.action) == (task, action)]
    return row


def test_separable_phases_are_found_and_averaged_over_actions(tmp_path):
    report = run(tmp_path, labelled_clips("one") + labelled_clips("two", frames=20))

    assert report.exit_status == 0
    assert value(report, "classification").value == 1.0
    one, two = (value(report, "tau", action).value for action in ("one", "two"))
    assert value(report, "tau").value == pytest.approx((one + two) / 2)
    assert value(report, "ap@5").num_clips == 6
    assert value(report, "classification", "two").num_frames == 60


def test_the_tables_are_written_with_their_columns(tmp_path):
    run(tmp_path, labelled_clips())
    with (tmp_path / "out/results.csv").open() as file:
        rows = list(csv.DictReader(file))
    with (tmp_path / "out/summary.csv").open() as file:
        summary, clock = csv.DictReader(file)
    assert {"run", "recipe", "seed", "task", "value", "num_nan", "store_fingerprint"} <= set(
        rows[0]
    )
    assert float(summary["classification mean"]) == 1.0
    assert summary["seeds"] == "1"
    assert (clock["recipe"], clock["kind"], clock["seeds"]) == ("clock", "control", "")


def test_frames_without_a_label_are_dropped_and_counted(tmp_path):
    clips = labelled_clips()
    clips[2].labels[:4] = -1
    report = run(tmp_path, clips)
    assert value(report, "classification", "act").num_dropped == 4
    assert value(report, "classification", "act").num_frames == 32


def test_a_label_fraction_takes_the_first_clips(tmp_path):
    report = run(tmp_path, labelled_clips(), EvaluateConfig(fractions=(0.5, 1.0)))
    rows = [s for s in report.scores if (s.task, s.action) == ("progression", "act")]
    assert [row.fraction for row in rows if not row.is_clock] == [0.5, 1.0]
    assert [row.fraction for row in rows if row.is_clock] == [0.5, 1.0]


def test_the_recipe_of_a_file_changes_the_settings(tmp_path):
    report = run(tmp_path, labelled_clips(), evaluate={"tau_stride": 3})
    assert value(report, "tau").stride == 3


def test_without_labels_tau_is_computed_within_groups(tmp_path):
    clips = [make_clip(n, "train", labelled=False, group="g") for n in ("a", "b")]
    report = run(tmp_path, [*clips, make_clip("c", "train", labelled=False)])
    assert report.exit_status == 0
    assert value(report, "tau", "group g").num_clips == 2
    assert "no phase labels" in report.summary
    assert math.isnan(value(report, "classification").value)


def test_without_labels_or_groups_everything_is_skipped_with_the_reason(tmp_path):
    report = run(tmp_path, [make_clip(n, "train", labelled=False) for n in ("a", "b")])
    assert report.exit_status == 0
    assert "tau: no phase labels in the embedding file, and no group of clips" in report.summary


def write_npz(path, clips, **changes):
    """A user's own file, which nobody checked."""
    arrays = {
        "embeddings": np.concatenate([clip.embeddings for clip in clips]),
        "lengths": np.array([clip.num_frames for clip in clips]),
        "labels": np.concatenate([clip.labels for clip in clips]),
        "phases": np.array(['["a", "b", "c"]' for _ in clips]),
        **{
            name: np.array([getattr(clip, name) for clip in clips])
            for name in ("clip_id", "split", "action")
        },
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **(arrays | changes))
    return path


def evaluate(path, out, config=None, **limits):
    return evaluate_files(
        [path], config=config or EvaluateConfig(), out=out, progress=False, **limits
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_clip_that_is_not_finite_is_left_out_named_and_counted(tmp_path, bad):
    clips = labelled_clips()
    embeddings = np.concatenate([clip.embeddings for clip in clips])
    embeddings[40:43, 1] = bad
    path = write_npz(tmp_path / "mine.npz", clips, embeddings=embeddings)
    report = evaluate(path, tmp_path / "out")
    assert report.exit_status == 3
    assert report.problems == (
        "mine: act: 1 clip(s) left out: act/v1: 3 of 12 frames have NaN or infinite embeddings, "
        "the first is frame 4: write finite ones, or leave the clip out",
    )
    row = value(report, "classification", "act")
    assert (row.value, row.num_clips, row.num_left_out) == (1.0, 2, 1)
    assert value(report, "tau", "act").num_pairs == 2


@pytest.mark.parametrize("split", ["vall", "Valid", "vla "])
def test_a_split_that_is_nearly_one_leaves_its_clip_out(tmp_path, split):
    clips = labelled_clips()
    names = np.array([split if clip.clip_id == "act/v1" else clip.split for clip in clips])
    report = evaluate(write_npz(tmp_path / "mine.npz", clips, split=names), tmp_path / "out")
    if split == "vla ":  # any other word is no part of any metric, as evaluate check notes
        assert report.exit_status == 0
    else:
        assert report.exit_status == 3
        assert report.problems == (
            f"mine: act: 1 clip(s) left out: act/v1: its split is {split!r}: write 'val'",
        )


def test_clips_of_an_action_that_name_its_phases_otherwise_are_left_out(tmp_path):
    clips = labelled_clips()
    phases = [
        '["a", "b", "c"]' if clip.clip_id != "act/v1" else '["c", "b", "a"]' for clip in clips
    ]
    path = write_npz(tmp_path / "mine.npz", clips, phases=np.array(phases))
    report = evaluate(path, tmp_path / "out")
    assert report.exit_status == 3
    (problem,) = report.problems
    assert problem.startswith(
        "mine: act: 1 clip(s) left out: act/v1: its phases are c, b, a, those"
    )
    unnamed = np.array(["[]" if clip.clip_id == "act/v1" else '["a", "b", "c"]' for clip in clips])
    path = write_npz(tmp_path / "some.npz", clips, phases=unnamed)
    assert evaluate(path, tmp_path / "some").exit_status == 0


def test_labels_out_of_range_leave_their_clip_out(tmp_path):
    clips = labelled_clips()
    labels = np.concatenate([clip.labels for clip in clips])
    labels[0], labels[15] = 3, -2
    report = evaluate(write_npz(tmp_path / "a/mine.npz", clips, labels=labels), tmp_path / "out")
    assert report.exit_status == 3
    [problem] = report.problems
    assert "act/t0: label 3 is out of range, its action has 3 phases" in problem
    assert "act/t1: label -2 is out of range" in problem
    assert value(report, "classification").status == "skipped"
    assert value(report, "ap@5").status == "ok"


def test_lengths_that_disagree_are_named_and_the_other_files_go_on(tmp_path):
    bad = write_npz(tmp_path / "bad.npz", labelled_clips(), lengths=np.array([12, 12, 12, 12, 11]))
    short = write_npz(tmp_path / "short.npz", labelled_clips(), labels=np.zeros(59, int))
    good = write_npz(tmp_path / "good.npz", labelled_clips())
    report = evaluate_files(
        [bad, short, good], config=EvaluateConfig(), out=tmp_path / "out", progress=False
    )
    assert report.exit_status == 3
    assert "bad.npz: embeddings (60, 4) do not fit lengths of sum 59" in report.problems[0]
    assert (
        "short.npz: labels are (59,), wanted (60,): one a frame of the 5 clips"
        in report.problems[1]
    )
    assert value(report, "classification").value == 1.0


def test_one_phase_only_is_a_problem_of_what_learns(tmp_path):
    clips = labelled_clips()
    path = write_npz(
        tmp_path / "mine.npz", clips, labels=np.zeros(60, int), phases=np.array([""] * 5)
    )
    report = evaluate(path, tmp_path / "out")
    assert report.exit_status == 3
    assert "the training frames hold 1 phase(s), a classifier needs 2" in report.problems[0]
    assert "progression: one phase has no boundary" in report.problems[1]
    assert value(report, "tau", "act").status == "ok"
    assert value(report, "ap@5", "act").value == 1.0


def test_no_second_clip_of_an_action_is_a_problem_of_what_needs_two(tmp_path):
    report = run(tmp_path, labelled_clips()[:3])
    assert value(report, "tau").note == "1 labelled clip(s) of the split val, it needs 2"
    assert value(report, "classification").value == 1.0
    assert report.exit_status == 3
    (problem,) = report.problems
    assert (
        problem
        == "run: act: tau, ap@5, ap@10, ap@15: 1 labelled clip(s) of the split val, it needs 2"
    )


def test_without_training_clips_what_learns_is_skipped(tmp_path):
    report = run(tmp_path, labelled_clips()[2:])
    assert report.exit_status == 0
    assert value(report, "classification").note == "no labelled clips of the split train"
    assert value(report, "tau").status == "ok"


def test_an_absent_phase_is_a_problem_of_progression_alone(tmp_path):
    clips = labelled_clips()
    clips[2].labels[clips[2].labels == 1] = 2
    report = run(tmp_path, clips)
    assert report.exit_status == 3
    assert "progression: phase 1 is absent" in report.problems[0]
    assert value(report, "ap@5").value > 0.5
    fixed = run(tmp_path, clips, EvaluateConfig(absent_phase="tcc2021"))
    assert fixed.exit_status == 0


def test_a_file_that_is_no_embedding_file_is_named_and_the_others_go_on(tmp_path):
    good = write_embeddings(tmp_path / "run/embeddings.h5", labelled_clips(), provenance={})
    bad = tmp_path / "bad.h5"
    bad.write_bytes(b"no")
    report = evaluate_files([bad, good], config=EvaluateConfig(), out=tmp_path, progress=False)
    assert report.exit_status == 3
    assert "bad.h5" in report.problems[0]
    assert value(report, "classification").value == 1.0


def test_a_file_without_a_sound_clip_says_so(tmp_path):
    path = write_npz(tmp_path / "a/mine.npz", labelled_clips(), labels=np.full(60, 9))
    report = evaluate(path, tmp_path / "out")
    assert report.exit_status == 3
    assert "5 clip(s) left out" in report.problems[0]
    assert "no sound clip with phase labels" in value(report, "classification").note


def test_more_than_five_bad_clips_are_counted_and_not_all_named(tmp_path):
    clips = [make_clip(f"v{i}", "val") for i in range(8)]
    path = write_npz(tmp_path / "a/mine.npz", clips, labels=np.full(96, 9))
    [problem] = evaluate(path, tmp_path / "out").problems
    assert problem.startswith("mine: act: 8 clip(s) left out: v0: label 9")
    assert problem.endswith("; v4: label 9 is out of range, its action has 3 phases, and 3 more")


@pytest.mark.parametrize(
    ("memory_bytes", "jobs", "wanted"),
    [(10**9, 4, 4), (10**9, 1, 1), (200_000_000, 4, 2), (1, 4, 1)],
)
def test_no_more_processes_than_their_embeddings_fit_in_half_of_the_memory(
    tmp_path, memory_bytes, jobs, wanted
):
    path = write_embeddings(tmp_path / "run/embeddings.h5", labelled_clips(), provenance={})
    plan = dataclasses.replace(plan_file(path, EvaluateConfig()), num_bytes=50_000_000)
    assert suite._num_processes([plan], plan.jobs, jobs, memory_bytes) == wanted


def test_a_small_evaluation_starts_no_process(tmp_path):
    path = write_embeddings(tmp_path / "run/embeddings.h5", labelled_clips(), provenance={})
    plan = plan_file(path, EvaluateConfig())
    assert suite._num_processes([plan], plan.jobs, 4, 10**9) == 1
    slow = plan_file(path, EvaluateConfig(protocol="tcc"))
    assert suite._num_processes([slow], slow.jobs, 4, 10**9) == 4
    [first, *_] = [job for job in slow.jobs if load_task(job.kind).is_slow]
    assert suite._num_processes([slow], [first] * 2, 4, 10**9) == 2


def test_the_same_file_named_twice_is_evaluated_once(tmp_path):
    path = write_embeddings(tmp_path / "run/embeddings.h5", labelled_clips(), provenance={})
    report = evaluate_files(
        [path, path], config=EvaluateConfig(), out=tmp_path / "out", progress=False
    )
    rows = [score for score in report.scores if score.task == "tau"]
    assert [row.is_clock for row in rows] == [False, False, True, True]  # an action, the mean
