"""Plans of files: which rows there will be, and what is said of clips that are left out."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.evaluate.clips import labelled_clips, make_clip, write_run
from tokenreel.cache.embeddings import EmbeddedClip, write_embeddings
from tokenreel.evaluate.commands.suite import evaluate_files
from tokenreel.evaluate.data.clips import load_screened
from tokenreel.evaluate.jobs.plan import FilePlan, plan_file
from tokenreel.evaluate.protocol import EvaluateConfig


def plan(folder: Path, clips, **provenance) -> FilePlan:
    return plan_file(write_run(folder, clips, **provenance), EvaluateConfig())


def test_a_clip_with_some_frames_without_a_label_is_a_labelled_one(tmp_path):
    clips = labelled_clips()
    for clip in clips:
        clip.labels[0] = -1
    found = plan(tmp_path / "run", clips)
    assert found.skipped == ()
    assert {job.blank.action for job in found.jobs} == {"act"}


def test_an_action_of_which_all_clips_are_left_out_has_its_rows_with_their_number(tmp_path):
    clips = [*labelled_clips("a"), *labelled_clips("b")]
    for clip in clips[5:]:
        clip.labels[0] = 9
    clips[0].labels[0] = 9
    found = plan(tmp_path / "run", clips)
    counts = {(job.blank.action, job.blank.num_left_out) for job in found.jobs}
    assert counts == {("a", 1), ("b", 5)}
    tasks = [[job.kind for job in found.jobs if job.blank.action == action] for action in "ab"]
    assert "tau" in tasks[1]
    assert set(tasks[1]) <= set(tasks[0])


def of_tags(name: str, split: str) -> EmbeddedClip:
    rows = np.zeros((1, 2), np.float32), np.array([-1], np.int16), np.zeros(1)
    return EmbeddedClip(name, split, "", "", *rows, targets=np.array([1, 0]))


def test_rows_of_a_whole_file_count_all_clips_that_are_left_out(tmp_path):
    splits = ("train", "vall", "val", "trn", "val")
    clips = [of_tags(str(number), split) for number, split in enumerate(splits)]
    path = write_embeddings(
        tmp_path / "e.h5", clips, provenance={}, unit="clip", class_names=("x", "y")
    )
    found = plan_file(path, EvaluateConfig())
    assert {job.blank.num_left_out for job in found.jobs} == {2}
    assert {job.blank.action for job in found.jobs} == {"mean"}


def test_without_labels_groups_of_at_least_two_clips_are_compared(tmp_path):
    groups = {"a": "g", "b": "g", "c": "h", "d": "", "e": ""}
    clips = [make_clip(name, "val", labelled=False, group=groups[name]) for name in groups]
    found = plan(tmp_path / "run", clips)
    assert {(job.blank.action, job.blank.split) for job in found.jobs} == {("group g", "all")}
    assert {row.status for row in found.skipped} == {"skipped"}
    found = plan(tmp_path / "alone", clips[1:])
    assert found.jobs == ()
    notes = {row.task: row.note for row in found.skipped}
    why = "no phase labels in the embedding file"
    assert notes["tau"] == f"{why}, and no group of clips of the same video"
    assert notes["classification"] == why


@pytest.mark.parametrize(("count", "end"), [(1, "v0"), (5, "v4"), (6, "v4"), (9, "v4")])
def test_the_first_five_clips_that_are_left_out_are_named(tmp_path, count, end):
    clips = [make_clip(f"v{number}", "val") for number in range(count)]
    clips = [replace(clip, labels=np.full(12, 9, np.int16)) for clip in clips]
    [problem] = plan(tmp_path / "run", [*clips, make_clip("t", "train")]).problems
    reason = "label 9 is out of range, its action has 3 phases"
    assert problem.startswith(f"run: act: {count} clip(s) left out: v0: {reason}")
    more = f", and {count - 5} more" if count > 5 else ""
    assert problem.endswith(f"{end}: {reason}{more}")


def test_what_was_read_otherwise_is_logged_and_nothing_is_kept_in_memory(tmp_path, caplog):
    path = tmp_path / "mine.npz"
    labels = np.array([0, 1, np.nan, 0, 1, 1])
    values = np.random.default_rng(0).standard_normal((6, 2)).astype(np.float32)
    words = {"clip_id": ["a", "b"], "split": ["train", "val"], "action": ["x", "x"]}
    np.savez(path, embeddings=values, lengths=[3, 3], labels=labels, **words)
    evaluate_files([path], config=EvaluateConfig(), out=tmp_path / "out", progress=False)
    assert f"{path}: 1 labels are NaN: read as -1, unlabelled" in caplog.text
    assert load_screened.cache_info().currsize == 0
