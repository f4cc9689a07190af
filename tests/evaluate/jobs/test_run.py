"""A job of an evaluation: the clips of its group, and what becomes of errors."""

from dataclasses import replace

import pytest

from tests.evaluate.clips import labelled_clips, make_clip, write_run
from tokenreel.evaluate.data.results import MEAN
from tokenreel.evaluate.jobs import run
from tokenreel.evaluate.jobs.plan import plan_file
from tokenreel.evaluate.protocol import EvaluateConfig
from tokenreel.evaluate.tasks.task import Limits, load_task

LIMITS = Limits(threads=1, memory_bytes=10**8)


def a_job(folder, clips, kind="tau"):
    plan = plan_file(write_run(folder, clips), EvaluateConfig())
    return next(job for job in plan.jobs if job.kind == kind)


def test_a_group_is_its_own_clips_and_their_frames(tmp_path):
    groups = {"a": "g", "b": "g", "c": "h", "d": "h", "e": "h"}
    clips = [make_clip(name, "val", labelled=False, group=groups[name]) for name in groups]
    [row] = run.run_job(a_job(tmp_path / "run", clips), LIMITS)
    assert (row.action, row.num_clips, row.num_frames, row.num_pairs) == ("group g", 2, 24, 2)


def with_compute(monkeypatch, compute):
    monkeypatch.setattr(run, "load_task", lambda kind: replace(load_task(kind), compute=compute))


def test_a_metric_that_gives_other_rows_than_planned_is_a_problem(tmp_path, monkeypatch):
    job = a_job(tmp_path / "run", labelled_clips())
    with_compute(monkeypatch, lambda data, request: [replace(job.blank, task="other")])
    [row] = run.run_job(job, LIMITS)
    assert (row.task, row.status, row.note) == ("tau", "problem", "rows other instead of tau")
    assert row.action != MEAN


def test_a_file_that_cannot_be_read_any_more_is_a_problem_and_a_fault_of_ours_an_error(
    tmp_path, monkeypatch
):
    job = a_job(tmp_path / "run", labelled_clips())

    def fail(error):
        def compute(data, request):
            raise error

        return compute

    with_compute(monkeypatch, fail(PermissionError(13, "Permission denied")))
    [row] = run.run_job(job, LIMITS)
    assert row.status == "problem"
    assert row.note.startswith("[Errno 13] Permission denied: ")
    assert row.note.endswith("changed while it was evaluated: run this again")
    with_compute(monkeypatch, fail(ValueError("no such thing")))
    assert run.run_job(job, LIMITS)[0].note == "no such thing"
    with_compute(monkeypatch, fail(RuntimeError("a fault")))
    with pytest.raises(RuntimeError, match="a fault"):
        run.run_job(job, LIMITS)
