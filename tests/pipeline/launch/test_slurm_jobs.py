"""Jobs of SLURM without SLURM: what is submitted, what a job does at its end, and its queue."""

import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError

from tokenreel.cache.errors import ClipFailed, TokenReelError, UsageError
from tokenreel.cache.manifest import Clip, Manifest
from tokenreel.extract.report import ExtractReport
from tokenreel.fuse.train.lockstep import Stopped
from tokenreel.pipeline.launch import slurm
from tokenreel.pipeline.launch.base import Extraction, Launched, Placement, versions_here
from tokenreel.pipeline.launch.slurm import (
    ShardJob,
    job_parameters,
    minutes_of,
    requeue,
    shard_jobs,
)
from tokenreel.pipeline.launch.tables import slurm as tables
from tokenreel.pipeline.launch.tables.base import Group, TableRequest
from tokenreel.pipeline.launch.tables.slurm import GroupJob, Jobs, reasons_in

CLIPS = tuple(Clip(name, f"{name}.mp4", split=name[0]) for name in ("a", "b", "c", "c2"))


@pytest.fixture
def job(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "work").mkdir()
    (tmp_path / "store").mkdir()
    (tmp_path / "store/recipe.json").touch()
    extraction = Extraction("folder", out=tmp_path / "store", shard="1/2")
    return ShardJob(extraction, "all", str(tmp_path / "work"))


@pytest.mark.parametrize(
    ("report", "is_preempted", "status", "is_back"),
    [
        (ExtractReport(num_clips=2, signal=12), True, 143, True),
        (ExtractReport(num_clips=2, signal=12), False, 143, False),
        (ExtractReport(num_clips=2, signal=2), True, 130, True),
        (ExtractReport(num_clips=1, committed=["a"], signal=12), True, 0, False),
        (ExtractReport(num_clips=2, committed=["a", "b"]), True, 0, False),
        (
            ExtractReport(num_clips=1, failed=[ClipFailed("a", stage="decode", reason="no")]),
            *(True, 3, False),
        ),
    ],
)
def test_a_job_goes_back_into_the_queue_where_a_signal_left_clips_and_slurm_wants_it(
    job, report, is_preempted, status, is_back, monkeypatch, capsys
):
    seen = []

    def launch(extraction, placement):
        seen.append((extraction, placement, Path.cwd()))
        return Launched(report, extraction.out)

    monkeypatch.setattr(slurm, "launch_here", launch)
    monkeypatch.setattr(slurm, "is_to_resume", lambda number: seen.append(number) or is_preempted)
    monkeypatch.setattr(slurm, "requeue", lambda: seen.append("back"))
    assert job() == status
    assert seen[0] == (job.extraction, Placement(gpus="all"), Path(job.folder))
    assert seen[1:] == ([report.signal] if status > 128 else []) + ["back"] * is_back
    printed = capsys.readouterr().out
    assert f"{len(report.committed)} committed" in printed
    assert ("failed: a: decode: no" in printed) == bool(report.failed)


def test_what_is_queued_in_the_place_of_a_preempted_job_is_the_job(job):
    assert job.checkpoint().function is job


@pytest.mark.parametrize("name", [None, "USR1"])
def test_the_signal_of_a_requeue_is_the_one_that_submitit_waits_for(name, monkeypatch):
    monkeypatch.delenv("SUBMITIT_PREEMPT_SIGNAL", raising=False)
    if name is not None:
        monkeypatch.setenv("SUBMITIT_PREEMPT_SIGNAL", name)
    heard = []
    numbers = (signal.SIGUSR1, signal.SIGUSR2)
    old = {n: signal.signal(n, lambda number, _: heard.append(number)) for n in numbers}
    try:
        requeue()
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
    assert heard == [signal.SIGUSR1 if name else signal.SIGUSR2]


def test_shards_are_one_for_each_node_and_know_what_made_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "b.mp4").touch()
    manifest = Manifest("folder", tmp_path, CLIPS)
    given = Extraction("folder", ("blocks=1",), limit=1)
    monkeypatch.setattr(slurm, "ready", lambda wanted: (wanted, manifest, None))
    jobs = shard_jobs(given, Placement(nodes=3, gpus="4"))
    assert [job.extraction.shard for job in jobs] == ["0/3", "1/3", "2/3"]
    assert {job.extraction.words for job in jobs} == {("blocks=1",)}
    assert {(job.gpus, job.folder) for job in jobs} == {("all", str(tmp_path))}
    assert jobs[2].versions == versions_here()
    assert jobs[0].video == tmp_path / "b.mp4"
    with pytest.raises(UsageError, match="--nodes 4: there are 3 clips, at most one job each"):
        shard_jobs(given, Placement(nodes=4))
    (alone,) = shard_jobs(given, Placement())
    assert (alone.extraction.shard, alone.gpus) == ("0/1", None)
    monkeypatch.setattr(slurm, "ready", lambda wanted: (wanted, Manifest("f", tmp_path, ()), None))
    with pytest.raises(UsageError, match="--nodes 1: there are 0 clips"):
        shard_jobs(given, Placement())


class Executor:
    """In the place of submitit's for SLURM.

    Attributes:
        made: folder, most requeues, parameters and jobs of each.
        error: of the next array.
        refused: number of the array that is refused.
    """

    made: ClassVar[list] = []
    error: Exception | None = None
    refused = 0

    def __init__(self, folder, **options):
        self.made.append([folder, options])

    def update_parameters(self, **parameters):
        self.made[-1].append(parameters)

    def submit_array(self, jobs):
        if self.error is not None and len(self.made) > self.refused:
            raise self.error
        self.made[-1].append(list(jobs))
        number = 70 + len(self.made)
        return [SimpleNamespace(job_id=f"{number}_{n}") for n in range(len(jobs))]


@pytest.fixture
def executor(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Executor, "made", [])
    monkeypatch.setattr(submitit, "SlurmExecutor", Executor)
    monkeypatch.setattr(slurm, "require_login_node", lambda: None)
    monkeypatch.setattr(tables, "require_login_node", lambda: None)
    return Executor


def test_the_array_is_queued_and_the_command_returns(executor, tmp_path, monkeypatch):
    placement = Placement(nodes=2, gpus="4", cpus=8, time="90", array_parallelism=1)
    store = tmp_path / "stores/mine"
    jobs = [SimpleNamespace(extraction=SimpleNamespace(out=store))] * 2
    monkeypatch.setattr(slurm, "shard_jobs", lambda wanted, place: jobs)
    done = slurm.launch(Extraction("gym"), placement)
    assert executor.made == [
        [
            tmp_path / "jobs/mine/%j",
            {"max_num_timeout": slurm.REQUEUES},
            job_parameters("extract-gym", placement),
            jobs,
        ]
    ]
    assert (done.report, done.store) == (None, store)
    assert done.lines == (
        f"job 71: 2 shard(s) queued, logs in {tmp_path}/jobs/mine/%j",
        f"see `tokenreel status {store}`; `scancel 71` ends it",
    )


@pytest.mark.parametrize("kind", [FailedJobError, FailedSubmissionError])
def test_an_array_that_slurm_refuses_is_told_with_its_reason(executor, kind, monkeypatch):
    jobs = [SimpleNamespace(extraction=SimpleNamespace(out=Path("mine")))]
    monkeypatch.setattr(slurm, "shard_jobs", lambda wanted, place: jobs)
    monkeypatch.setattr(executor, "error", kind("sbatch: error: invalid account\n"))
    with pytest.raises(TokenReelError, match=r"^SLURM refused the job: .*invalid account$"):
        slurm.launch(Extraction("gym"), Placement())


def test_the_options_of_a_job_are_those_of_the_words():
    assert job_parameters("x", Placement()) == {
        "job_name": "x",
        "time": 240,
        "nodes": 1,
        "ntasks_per_node": 1,
        "signal_delay_s": 120,
        "additional_parameters": {"requeue": True},
    }
    found = job_parameters(
        "x", Placement(gpus="2", cpus=3, partition="p", time="0:30", array_parallelism=4)
    )
    assert found["time"] == 1, "rounded up"
    names = ("gpus_per_node", "cpus_per_task", "partition", "array_parallelism")
    assert [found[name] for name in names] == [2, 3, "p", 4]
    for gpus in ("all", "0", "0,1"):
        with pytest.raises(UsageError, match=f"--gpus {gpus}: --engine slurm takes the GPUs"):
            job_parameters("x", Placement(gpus=gpus))


@pytest.mark.parametrize("text", ["", "0", "0-0", "0:00", "1-", "-1", "4:00:00:00", "1.5", "4h"])
def test_times_that_slurm_would_not_take_are_refused(text):
    with pytest.raises(UsageError, match="is no time such as 4:00:00"):
        minutes_of(text)


@pytest.mark.parametrize(
    ("text", "minutes"), [("1:01", 2), ("59:59", 60), ("1:00:01", 61), ("2-1:2:3", 2943)]
)
def test_times_are_rounded_up_to_minutes(text, minutes):
    assert minutes_of(text) == minutes


@pytest.fixture
def request_of_three(monkeypatch):
    """A table with a job of first weights and two of rows."""
    table = SimpleNamespace(name="table")
    monkeypatch.setattr(tables, "table_jobs", lambda *_: Jobs(["first"], ["r1", "r2"], table))
    return TableRequest(("table",), 2, out=Path("results/t1")), table


def test_the_arrays_of_a_table_wait_for_each_other_and_old_reasons_are_gone(
    executor, request_of_three, tmp_path
):
    wanted, table = request_of_three
    folder = tmp_path / "results/t1/jobs"
    folder.mkdir(parents=True)
    for name in ("group-rows-0.json", "group-first-7.json", "12_0_log.out"):
        (folder / name).touch()
    found = tables.launch(wanted, Placement(gpus="1", nodes=2))
    assert [path.name for path in folder.iterdir()] == ["12_0_log.out"]
    assert [jobs for *_, jobs in executor.made] == [["first"], ["r1", "r2"], [table]]
    assert {(str(f), o["max_num_timeout"]) for f, o, *_ in executor.made} == {
        (str(folder / "%j"), slurm.REQUEUES)
    }
    parameters = [parameters for _, _, parameters, _ in executor.made]
    waits = [p["additional_parameters"].get("dependency") for p in parameters]
    assert waits == [None, "afterany:71", "afterany:72"]
    assert [p.get("gpus_per_node") for p in parameters] == [1, 1, None]
    assert {p["job_name"] for p in parameters} == {"ablate-t1"}
    assert all(p["additional_parameters"]["requeue"] for p in parameters)
    assert found.report is None
    assert found.lines == (
        f"job 71: 1 group(s) of first weights queued, logs in {folder}",
        f"job 72: 2 group(s) of rows queued, logs in {folder}",
        f"job 73: 1 table queued, logs in {folder}",
        f"{folder.parent}/ablation.csv is written by job 73; rerun the command for what failed",
    )


def test_a_table_without_first_weights_has_two_arrays(executor, monkeypatch):
    monkeypatch.setattr(tables, "table_jobs", lambda *_: Jobs([], ["r"], "table"))
    found = tables.launch(TableRequest(("t",), 2, out=Path("t")), Placement())
    assert [jobs for *_, jobs in executor.made] == [["r"], ["table"]]
    assert executor.made[1][2]["additional_parameters"]["dependency"] == "afterany:71"
    assert len(found.lines) == 3


def test_a_table_of_which_slurm_refuses_a_part_names_what_is_queued(
    executor, request_of_three, monkeypatch
):
    monkeypatch.setattr(executor, "error", FailedJobError("too many jobs"))
    with pytest.raises(TokenReelError, match=r"^SLURM refused the job: too many jobs$"):
        tables.launch(request_of_three[0], Placement())
    executor.made.clear()
    monkeypatch.setattr(executor, "refused", 1)
    with pytest.raises(TokenReelError, match=r"many jobs; job 71 is queued, `scancel 71` ends it"):
        tables.launch(request_of_three[0], Placement())


def test_a_job_that_is_not_of_slurm_is_over_after_a_signal(monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setenv("PATH", os.devnull)
    assert [slurm.is_to_resume(n) for n in (10, 12, 15, 2)] == [True, True, False, False]
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert not slurm.is_to_resume(15), "no scontrol"


@pytest.mark.parametrize("absent", ["sbatch", "srun"])
def test_a_machine_that_lacks_a_program_of_slurm_is_no_login_node(absent, monkeypatch):
    monkeypatch.setattr(slurm.shutil, "which", lambda name: None if name == absent else name)
    with pytest.raises(UsageError, match="run the command on a login node"):
        slurm.require_login_node()


def test_a_limit_that_leaves_nothing_is_refused_in_a_dry_run_too():
    with pytest.raises(UsageError, match="--limit 0"):
        slurm.launch(Extraction("folder", limit=0), Placement(dry_run=True))


@pytest.mark.parametrize("is_back", [True, False])
def test_a_group_goes_back_into_the_queue_where_slurm_wants_it(tmp_path, monkeypatch, is_back):
    seen = []

    def stop(group):
        raise Stopped(15)

    monkeypatch.setattr(Group, "train", stop)
    monkeypatch.setattr(tables, "is_to_resume", lambda number: seen.append(number) or is_back)
    monkeypatch.setattr(tables, "requeue", lambda: seen.append("back"))
    job = GroupJob(Group((), "cpu", "auto", None, ""), tmp_path / "jobs/group-0.json")
    with pytest.raises(Stopped):
        job()
    assert seen == [15] + ["back"] * is_back
    assert not job.reasons.exists()


def test_the_status_of_a_group_says_whether_a_run_failed(tmp_path, monkeypatch):
    job = GroupJob(Group((), "cpu", "auto", None, ""), tmp_path / "jobs/group-0.json")
    for found, status in (({"a": None, "b": None}, 0), ({"a": "no", "b": None}, 3)):
        monkeypatch.setattr(Group, "train", lambda group, found=found: found)
        assert job() == status
        assert reasons_in(job.reasons.parent) == found
