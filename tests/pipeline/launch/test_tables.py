"""Tables whose groups of runs are spread: over submitit's jobs and tasks of Ray on this machine."""

import os
import pickle
import shutil
import signal

import pytest
from submitit import LocalExecutor

from tests.fuse.tiny import write_store
from tests.pipeline.launch.interruptions import PROCESSES, KilledGroup, mark_of
from tests.programs import call
from tokenreel.cache.write.claims import process_ended
from tokenreel.pipeline.launch import base
from tokenreel.pipeline.launch.base import Placement, versions_here
from tokenreel.pipeline.launch.tables import base as tables
from tokenreel.pipeline.launch.tables import ray_engine, slurm
from tokenreel.pipeline.launch.tables.base import TableRequest, groups_of, spread
from tokenreel.pipeline.launch.tables.slurm import GroupJob, launch, reasons_in, table_jobs

WORDS = (
    *("sample", "untrained", "data.num_frames=6,8", "data.batch_clips=2", "optim.epochs=2"),
    *("pooling.channels=8", "temporal.hidden=8", "temporal.heads=2", "temporal.fc_width=8"),
    *("temporal.feed_forward=8", "temporal.layers=1", "temporal.embedding=4"),
    "optim.checkpoint_minutes=0",
)
COMPARED = ("ablation.csv", "ablation.txt", "results.csv")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A store, and the table that the local engine makes of it, two seeds a row."""
    path = tmp_path_factory.mktemp("tables")
    write_store(path / "s", val=3)
    status, printed = call("fuse", "ablate", *options("local"), cwd=path)
    assert status == 0, printed
    return path


def options(out, *more):
    return [*WORDS, "--store", "s", "--seeds", "2", "--device", "cpu", "--out", out, *more]


def request(folder, out):
    return TableRequest(WORDS, 2, (folder / "s",), out=folder / out, device="cpu")


def assert_same_table(folder, out):
    for name in COMPARED:
        made, wanted = ((folder / which / name).read_text() for which in (out, "local"))
        assert made.replace(out, "local") == wanted, name
    runs = sorted(path.name for path in (folder / "local/runs").iterdir())
    assert sorted(path.name for path in (folder / out / "runs").iterdir()) == runs
    for name in runs:
        for file in ("checkpoint.pt", "metrics.jsonl"):
            made, wanted = (folder / which / "runs" / name / file for which in (out, "local"))
            assert made.exists() == wanted.exists()
            assert not made.exists() or made.read_bytes() == wanted.read_bytes()


def test_a_group_that_fails_is_listed_and_the_table_is_that_of_the_local_engine_once_mended(
    folder, monkeypatch, capsys
):
    monkeypatch.chdir(folder)
    wanted = request(folder, "spread")
    jobs = table_jobs(wanted, Placement())
    assert jobs.first == []
    assert sorted(len(job.group.jobs) for job in jobs.rows) == [2, 2, 4], "6 and 8 frames, none"
    assert len({job.reasons for job in jobs.rows}) == 3
    bad = next(job for job in jobs.rows if "num_frames=8" in job.group.name).group.jobs
    for job in bad:
        job.out.parent.mkdir(parents=True, exist_ok=True)
        job.out.touch()
    executor = LocalExecutor(folder / "spread/jobs/%j")
    executor.update_parameters(timeout_min=30)
    [sent] = executor.submit_array(jobs.rows[:1])
    assert sorted(pickle.loads(pickle.dumps(job))() for job in jobs.rows[1:]) == [0, 3]
    assert sent.result() == 0
    assert jobs.table() == 3
    printed = capsys.readouterr().out
    for job in bad:
        assert f"problem: {job.out.name}: {job.out} is a file, a run is a folder" in printed
    table = (folder / "spread/ablation.csv").read_text()
    assert table != (folder / "local/ablation.csv").read_text()

    for job in bad:
        job.out.unlink()
    again = table_jobs(wanted, Placement(nodes=3))
    assert [[job.out for job in left.group.jobs] for left in again.rows] == [
        [job.out] for job in bad
    ]
    for job in again.rows:
        assert job() == 0
    assert again.table() == 0
    assert_same_table(folder, "spread")
    assert table_jobs(wanted, Placement()).rows == []


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_tasks_of_ray_of_which_one_is_killed_make_the_table_of_the_local_engine(
    folder, monkeypatch
):
    monkeypatch.setattr(ray_engine, "Group", KilledGroup)
    for name, value in PROCESSES.items():
        monkeypatch.setenv(name, value)
    more = ["--engine", "ray", "--nodes", "2", "--cpus", "1"]
    status, printed = call("fuse", "ablate", *options("ray", *more), cwd=folder)
    assert status == 0, printed
    assert "8 runs in 2 task(s)" in printed
    assert process_ended(int(mark_of(folder / "ray/runs").read_text()))
    assert_same_table(folder, "ray")


def test_a_job_that_ended_before_it_noted_its_runs_is_told_with_its_logs(
    folder, monkeypatch, capsys
):
    monkeypatch.chdir(folder)
    jobs = table_jobs(request(folder, "lost"), Placement(nodes=2))
    assert jobs.rows[0]() == 0
    (jobs.table.reasons / "group-torn.json").write_text("{")
    assert jobs.table() == 3
    printed = capsys.readouterr().out
    for job in jobs.rows[1].group.jobs:
        logs = f"its job ended before it; its log is in {folder / 'lost/jobs'}"
        assert f"problem: {job.out.name}: {logs}" in printed
    assert "left out: " in printed


def test_an_error_that_is_not_ours_is_noted_and_raised(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    [group, *_] = table_jobs(request(folder, "raised"), Placement()).rows
    job = GroupJob(group.group, tmp_path / "jobs/group-0.json")

    def fail(group):
        raise RuntimeError("no kernel")

    monkeypatch.setattr(tables.Group, "train", fail)
    with pytest.raises(RuntimeError, match="no kernel"):
        job()
    found = reasons_in(tmp_path / "jobs")
    assert set(found.values()) == {"RuntimeError: no kernel"}
    assert [*found] == [str(job.out) for job in group.group.jobs]


def test_a_node_with_other_versions_trains_nothing(folder, monkeypatch):
    monkeypatch.chdir(folder)
    [group, *_] = table_jobs(request(folder, "versions"), Placement()).rows
    monkeypatch.setattr(base, "versions_here", lambda: versions_here() | {"torch": "0.1"})
    found = group.group.train()
    assert all("torch: 0.1, wanted" in str(reason) for reason in found.values())
    assert len(found) == len(group.group.jobs)
    assert not (folder / "versions/runs").exists()


def test_a_preempted_job_saves_its_runs_and_goes_back_into_the_queue(folder, monkeypatch, tmp_path):
    from tokenreel.fuse.train import run

    monkeypatch.chdir(folder)
    jobs = table_jobs(request(folder, "preempted"), Placement(nodes=1)).rows
    requeued = []
    monkeypatch.setattr(slurm, "requeue", lambda: requeued.append(True))
    monkeypatch.setattr(signal, "SIGUSR2", signal.SIGUSR2)
    descend = run.Run.descend

    def preempt(training, batch):
        if training.position == (1, 0):
            os.kill(os.getpid(), signal.SIGUSR2)
        return descend(training, batch)

    monkeypatch.setattr(run.Run, "descend", preempt)
    with pytest.raises(SystemExit) as end:
        jobs[0]()
    assert (end.value.code, requeued) == (143, [True])
    assert not jobs[0].reasons.exists()
    monkeypatch.setattr(run.Run, "descend", descend)
    assert jobs[0]() == 0
    assert jobs[0].checkpoint().function is jobs[0]


def test_the_scripts_of_the_jobs_wait_for_each_other(folder):
    more = ["--engine", "slurm", "--dry-run", "--gpus", "1", "--cpus", "8", "--partition", "gpu"]
    status, printed = call("fuse", "ablate", *options("dry", *more), cwd=folder)
    assert status == 0, printed
    rows, table = printed.split("#!/bin/bash")[1:]
    for line in ("array=0-2%3", "gpus-per-node=1", "cpus-per-task=8", "partition=gpu", "requeue"):
        assert f"#SBATCH --{line}\n" in rows
    assert "#SBATCH --job-name=ablate-dry" in rows
    assert "dependency" not in rows
    assert "#SBATCH --dependency=afterany:JOB_1\n" in table
    assert "#SBATCH --requeue\n" in table
    assert "gpus-per-node" not in table
    assert not (folder / "dry").exists()


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--engine", "slum"], "no engine of tables 'slum', did you mean slurm?"),
        (["--nodes", "2"], "--nodes is not an option of --engine local, which takes none"),
        (["--engine", "slurm", "--gpus", "4"], "a job of a table trains on one GPU"),
        (["--engine", "slurm", "--time", "long"], "--time 'long' is no time"),
        (["--engine", "slurm"], "has no sbatch and srun"),
        (["--engine", "slurm", "--dry-run", "--out", "s3://lab/t"], "where tables and runs cannot"),
        (["--out", "s3://lab/t"], "s3://lab/t is on a bucket, where tables and runs cannot be"),
        (["--engine", "ray", "--time", "1:00"], "--time is not an option of --engine ray"),
    ],
)
def test_what_an_engine_would_not_take_is_refused(words, why, folder, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)  # this may be a machine of a cluster
    status, printed = call("fuse", "ablate", *options("refused", *words), cwd=folder)
    assert (status, why in printed) == (2, True), printed


def test_groups_are_dealt_out_evenly_and_halved_where_there_are_too_few():
    groups = [list("abcdef"), list("gh"), list("i")]
    assert spread(groups, None) == [list("abcdef"), list("gh"), list("i")]
    assert spread(groups, 2) == [list("abcdef"), list("ghi")]
    assert spread(groups[::-1], 2) == [list("abcdef"), list("ghi")], "the largest first"
    assert spread(groups, 4) == [list("abc"), list("def"), list("gh"), list("i")]
    assert sorted(map(len, spread(groups, 99))) == [1] * 9
    assert spread([], 4) == spread([], None) == []


def test_first_weights_come_in_jobs_of_their_own(folder, monkeypatch):
    monkeypatch.chdir(folder)
    wanted = request(folder, "first")
    one = table_jobs(wanted, Placement()).rows[0].group.jobs[:1]
    seen = {}

    def plan(rows, seeds, parts, out, pending=()):
        seen["pending"] = {*pending}
        return original(rows, seeds, parts, out, pending)

    original = slurm.runs_of_rows
    monkeypatch.setattr(slurm, "runs_of_first_weights", lambda *_: (list(one), []))
    monkeypatch.setattr(slurm, "runs_of_rows", plan)
    jobs = table_jobs(wanted, Placement())
    assert [job.group.jobs for job in jobs.first] == [tuple(one)]
    assert jobs.first[0].reasons.name == "group-first-0.json"
    assert seen["pending"] == {one[0].out}
    lines = launch(wanted, Placement(dry_run=True)).lines
    assert ["afterany" in text for text in lines] == [False, True, True]
    assert "afterany:JOB_2" in lines[2]


def test_the_groups_keep_what_the_command_asked_for(folder, monkeypatch):
    monkeypatch.chdir(folder)
    wanted = TableRequest(WORDS, 2, (folder / "s",), placement="disk", memory_bytes=10**9)
    jobs = table_jobs(request(folder, "kept"), Placement()).rows[0].group.jobs
    [group] = groups_of(wanted, jobs, None, "cuda")
    assert (group.placement, group.memory_bytes, group.device) == ("disk", 10**9, "cuda")
    assert (group.folder, group.versions) == (str(folder), versions_here())
