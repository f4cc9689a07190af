"""Parts of the engines of tables, by hand: groups, jobs of rows and of the table, and results."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from tokenreel.cache.errors import TokenReelError, UsageError, WrongIdentity
from tokenreel.pipeline.defaults import EMBEDDINGS
from tokenreel.pipeline.launch.base import Placement, versions_here
from tokenreel.pipeline.launch.tables import ray_engine, slurm
from tokenreel.pipeline.launch.tables.base import (
    Group,
    TableRequest,
    groups_of,
    result_of,
    spread,
    train_rest,
)
from tokenreel.pipeline.launch.tables.slurm import GroupJob, TableJob, reasons_in, table_jobs


def run(folder, name):
    return SimpleNamespace(out=folder / name)


@pytest.fixture
def trained(monkeypatch):
    """What train_together was given; it raises `error`, or says that runs named "bad" failed."""
    found = SimpleNamespace(calls=[], error=None)

    def train(jobs, **options):
        found.calls.append((list(jobs), options, Path.cwd()))
        if found.error is not None:
            raise found.error
        return [
            SimpleNamespace(path=job.out, error=OSError("no") if "bad" in job.out.name else None)
            for job in reversed(jobs)
        ]

    monkeypatch.setattr("tokenreel.fuse.train.train.train_together", train)
    return found


@pytest.fixture
def group(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "work").mkdir()
    jobs = (run(tmp_path, "a"), run(tmp_path, "bad"), run(tmp_path, "c"))
    return Group(jobs, "cuda", "disk", 9, str(tmp_path / "work"), versions_here())


def test_a_group_trains_where_the_command_was_given_and_says_of_each_run_how_it_ended(
    group, trained, tmp_path
):
    assert group.train() == {
        str(tmp_path / "c"): None,
        str(tmp_path / "bad"): "no",
        str(tmp_path / "a"): None,
    }
    options = {"device": "cuda", "placement": "disk", "memory_bytes": 9, "progress": False}
    assert trained.calls == [(list(group.jobs), options, tmp_path / "work")]
    assert group.name == "a and 2 more"
    assert replace(group, jobs=group.jobs[1:2]).name == "bad"


def test_an_error_of_the_node_is_the_reason_of_every_run(group, trained, tmp_path):
    trained.error = WrongIdentity("another store")
    assert group.train() == {str(job.out): "another store" for job in group.jobs}
    found = replace(group, versions={"torch": "0.1"}).train()
    assert all("torch" in str(reason) for reason in found.values())
    assert [*found] == [str(job.out) for job in group.jobs]
    assert len(trained.calls) == 1, "not with another torch"


def test_an_error_of_a_group_that_is_not_ours_is_noted_for_every_run_and_raised(group, trained):
    trained.error = RuntimeError("no kernel")
    job = GroupJob(group, Path(group.folder) / "jobs/group-rows-0.json")
    with pytest.raises(RuntimeError, match="no kernel"):
        job()
    assert reasons_in(job.reasons.parent) == {
        str(run.out): "RuntimeError: no kernel" for run in group.jobs
    }
    assert job.checkpoint().function is job


def test_groups_know_the_command(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tokenreel.fuse.train.train.lockstep_groups", lambda jobs: ["abc", "d"])
    request = TableRequest(("t",), 1, placement="memory", memory_bytes=5)
    made = groups_of(request, "abcd", 3, "cpu")
    assert [group.jobs for group in made] == [("a", "b"), ("c",), ("d",)]
    kept = {(g.device, g.placement, g.memory_bytes, g.folder) for g in made}
    assert kept == {("cpu", "memory", 5, str(tmp_path))}
    assert made[0].versions == versions_here()


def test_the_largest_groups_are_halved_and_dealt_out_first():
    groups = ["i", "gh", "abcdef"]
    assert spread(groups, None) == [[*"abcdef"], [*"gh"], [*"i"]]
    assert spread(groups, 2) == [[*"abcdef"], [*"ghi"]]
    assert spread(groups, 4) == [[*"abc"], [*"def"], [*"gh"], [*"i"]]
    assert spread(["abcde"], 2) == [[*"abc"], [*"de"]]
    assert len(spread(groups, 99)) == 9
    assert spread([], 3) == []


def test_runs_that_are_done_are_looked_at_here_and_the_rest_elsewhere(trained, tmp_path):
    jobs = [run(tmp_path, name) for name in ("a", "b", "c")]
    jobs[1].out.mkdir()
    (jobs[1].out / EMBEDDINGS).parent.mkdir(exist_ok=True, parents=True)
    (jobs[1].out / EMBEDDINGS).touch()
    asked = []

    def elsewhere(rest):
        asked.append(list(rest))
        return [result_of(job, None) for job in reversed(rest)]

    found = train_rest(jobs, elsewhere)
    assert [result.path for result in found] == [job.out for job in jobs]
    assert asked == [[jobs[0], jobs[2]]]
    ((done, options, _),) = trained.calls
    assert (done, options) == ([jobs[1]], {"device": "cpu", "progress": False})
    trained.calls.clear()
    assert train_rest([], elsewhere) == []
    train_rest(jobs[:1], elsewhere)
    train_rest(jobs[1:2], elsewhere)
    assert [call[0] for call in trained.calls] == [[jobs[1]]]
    assert len(asked) == 2


def test_a_result_of_elsewhere_has_its_reason(tmp_path):
    found = result_of(run(tmp_path, "a"), "no room")
    assert (found.path, found.embeddings) == (tmp_path / "a", tmp_path / "a" / EMBEDDINGS)
    assert (str(found.error), type(found.error)) == ("no room", TokenReelError)
    assert (result_of(run(tmp_path, "a"), None).error, found.was_done) == (None, False)


def test_the_job_of_the_table_takes_the_reasons_of_the_groups(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "work").mkdir()
    (tmp_path / "jobs").mkdir()
    jobs = [run(tmp_path, name) for name in ("a", "b", "c")]
    (tmp_path / "jobs/group-rows-0.json").write_text(f'{{"{jobs[0].out}":"no room"}}')
    (tmp_path / "jobs/group-rows-1.json").write_text(f'{{"{jobs[1].out}":null}}')
    (tmp_path / "jobs/group-torn.json").write_text("{")
    (tmp_path / "jobs/other.json").write_text(f'{{"{jobs[2].out}":"of another"}}')
    seen = []

    def make(request, train, *, progress):
        seen.append(([str(r.error) for r in train(jobs)], progress, Path.cwd()))
        return SimpleNamespace(text="the table", problems=["a: no room"], exit_status=3)

    monkeypatch.setattr(TableRequest, "make", make)
    job = TableJob(TableRequest(("t",), 1), str(tmp_path / "work"), tmp_path / "jobs")
    assert job() == 3
    lost = f"its job ended before it; its log is in {tmp_path / 'jobs'}"
    assert seen == [(["no room", lost, lost], False, tmp_path / "work")]
    printed = capsys.readouterr().out
    assert "left out: " in printed
    assert "the table\nproblem: a: no room\n" in printed


@pytest.fixture
def planned(tmp_path, monkeypatch):
    """Two runs of first weights and three of rows, of which one of each is done."""
    monkeypatch.chdir(tmp_path)
    first = [run(tmp_path, name) for name in ("f0", "f1")]
    rows = [run(tmp_path, name) for name in ("r0", "r1", "r2")]
    for job in (first[0], rows[1]):
        (job.out / EMBEDDINGS).parent.mkdir(parents=True)
        (job.out / EMBEDDINGS).touch()
    seen = SimpleNamespace(parts=None, pending=None, groups=[])

    def of_rows(words, seeds, parts, out, pending):
        seen.parts, seen.pending = parts, pending
        return [("row", seed, job) for seed, job in enumerate(rows)], []

    def groups(request, jobs, count, device):
        seen.groups.append((list(jobs), count, device))
        return [f"group of {len(jobs)}"] * 2

    monkeypatch.setattr(slurm, "plan_rows", lambda words: words)
    monkeypatch.setattr(slurm, "runs_of_first_weights", lambda *_: (first, []))
    monkeypatch.setattr(slurm, "runs_of_rows", of_rows)
    monkeypatch.setattr(slurm, "name_backbones", lambda words, found: (words, found, None))
    monkeypatch.setattr(slurm, "split_stores", lambda stores: {"by split": stores})
    monkeypatch.setattr(slurm, "groups_of", groups)
    seen.first, seen.rows = first, rows
    return seen


def test_jobs_are_made_of_the_runs_that_are_left(planned, tmp_path):
    request = TableRequest(("t",), 2, ("s",), out=tmp_path / "out")
    jobs = table_jobs(request, Placement(nodes=4))
    assert planned.groups == [
        (planned.first[1:], 4, "cpu"),
        ([planned.rows[0], planned.rows[2]], 4, "cpu"),
    ]
    assert planned.pending == {job.out for job in planned.first}
    assert planned.parts == {"": ["s"]}
    folder = tmp_path / "out/jobs"
    names = [job.reasons for job in (*jobs.first, *jobs.rows)]
    assert names == [
        folder / f"group-{kind}-{number}.json" for kind in ("first", "rows") for number in (0, 1)
    ]
    assert jobs.table == TableJob(replace(request, device="cpu"), str(Path.cwd()), folder)


@pytest.mark.parametrize(
    ("device", "gpus", "used"),
    [("auto", None, "cpu"), ("auto", "1", "cuda"), ("cpu", "1", "cuda"), ("cuda", None, "cuda")],
)
def test_the_device_of_a_group_is_that_of_its_job(planned, tmp_path, device, gpus, used):
    request = TableRequest(("t",), 2, ("s",), True, tmp_path / "out", device)
    jobs = table_jobs(request, Placement(gpus=gpus))
    assert {device for *_, device in planned.groups} == {used}
    assert planned.parts == {"by split": ("s",)}
    assert jobs.table.request.device == "cpu"


@pytest.mark.parametrize(
    ("engine", "placement", "why"),
    [
        (slurm, Placement(address="auto"), "--address is not an option of --engine slurm"),
        (slurm, Placement(gpus="2"), "--gpus 2: a job of a table trains on one GPU"),
        (slurm, Placement(time="long"), "--time 'long' is no time"),
        (ray_engine, Placement(time="1"), "--time is not an option of --engine ray"),
    ],
)
def test_what_an_engine_of_tables_would_not_take_is_refused_before_anything(
    engine, placement, why, monkeypatch
):
    monkeypatch.setattr(slurm, "table_jobs", None)
    monkeypatch.setattr(ray_engine, "connected", None)
    with pytest.raises(UsageError, match=why):
        engine.launch(TableRequest(("t",), 1), placement)


def test_a_command_that_cannot_queue_jobs_removes_no_reason(planned, tmp_path, monkeypatch):
    def refuse():
        raise UsageError("no login node")

    folder = tmp_path / "out/jobs"
    folder.mkdir(parents=True)
    (folder / "group-rows-0.json").touch()
    monkeypatch.setattr(slurm, "require_login_node", refuse)
    request = TableRequest(("t",), 2, ("s",), out=tmp_path / "out")
    with pytest.raises(UsageError, match="no login node"):
        slurm.launch(request, Placement())
    script = slurm.launch(request, Placement(dry_run=True, nodes=2)).lines
    assert [("array=0-1%2" in text, "afterany:JOB_1" in text) for text in script[:2]] == [
        (True, False),
        (True, True),
    ]
    assert "afterany:JOB_2" in script[2]
    assert (folder / "group-rows-0.json").exists()
