"""The array of jobs for SLURM: its script, its jobs on this machine, and what is refused."""

import contextlib
import logging
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import pytest
from submitit import LocalExecutor

from tests.extract.extraction import differing
from tests.pipeline.launch.conftest import (
    begin_anew,
    logged_clips,
    wait_for_workers,
    workers_of,
)
from tests.pipeline.launch.interruptions import PROCESSES, PreemptedJob
from tests.programs import call
from tokenreel.cache.errors import UsageError, WrongIdentity
from tokenreel.cache.write.claims import start_of
from tokenreel.extract.encode import identity
from tokenreel.extract.flow.changes import StoreChanges
from tokenreel.pipeline.launch import base, ray_engine
from tokenreel.pipeline.launch.base import Extraction, Placement, versions_here
from tokenreel.pipeline.launch.drive import Task
from tokenreel.pipeline.launch.slurm import is_to_resume, shard_jobs
from tokenreel.pipeline.phases.extraction import read_words

log = logging.getLogger(__name__)


@pytest.mark.parametrize("nodes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_jobs_of_which_one_is_preempted_write_the_store_of_the_local_engine(
    nodes, folder, words, tmp_path, monkeypatch
):
    monkeypatch.chdir(folder)
    store = tmp_path / "store"
    jobs = shard_jobs(Extraction("folder", words, folder / "videos", store), Placement(nodes=nodes))
    assert [job.extraction.shard for job in jobs] == [f"{i}/{nodes}" for i in range(nodes)]
    assert (store / "recipe.json").is_file()
    monkeypatch.setenv("PYTHONPATH", PROCESSES["PYTHONPATH"])
    executor = LocalExecutor(tmp_path / "jobs" / "%j")
    executor.update_parameters(timeout_min=30)
    submitted = executor.submit_array([PreemptedJob(job) for job in jobs])
    assert {job.result() for job in submitted} == {0}
    logs = "".join(job.stderr() or "" for job in submitted)
    assert "received SIGUSR2: stopping after the current segments" in logs
    assert "Requeued job" in logs
    assert differing(store, folder / "local") == []


def processes_of(folder):
    """Processes of jobs that have their files in a folder; those whose starter was killed too."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if bytes(folder) in (entry / "cmdline").read_bytes():
                found.add(int(entry.name))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_jobs_and_what_started_them_killed_5_times_at_random_leave_the_same_store(
    seed, folder, words, tmp_path, monkeypatch
):
    monkeypatch.chdir(folder)
    store, draw, kills = tmp_path / "store", random.Random(seed), Counter()

    def submit():
        jobs = shard_jobs(Extraction("folder", words, folder / "videos", store), Placement(nodes=2))
        executor = LocalExecutor(tmp_path / "jobs" / "%j")
        executor.update_parameters(timeout_min=5)
        return executor.submit_array(jobs)

    def wait(submitted):
        deadline = time.monotonic() + 400
        while not all(job.done() for job in submitted) or processes_of(tmp_path / "jobs"):
            assert time.monotonic() < deadline
            time.sleep(0.05)

    for number in range(5):
        kills["complete"] += begin_anew(store, folder / "local")
        submitted = submit()
        wait_for_workers(store, lambda jobs=submitted: all(job.done() for job in jobs))
        time.sleep(draw.uniform(0, 1))
        what = ("workers", "starters", "both")[(seed + number) % 3]
        if what != "workers":
            for job in submitted:
                if job._process.poll() is None:
                    job._process.kill()
                    kills["starter"] += 1
        if what != "starters":
            for pid in workers_of(store):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    kills["job"] += 1
        wait(submitted)
    submitted = submit()
    wait(submitted)
    assert {job.result() for job in submitted} == {0}
    log.info("seed %d: killed %s", seed, dict(kills))
    assert logged_clips(store) == ["a", "b", "c"]
    assert differing(store, folder / "local") == []


def test_the_script_has_every_option_and_nothing_is_made(folder, words, monkeypatch):
    monkeypatch.chdir(folder)
    options = ["--engine", "slurm", "--dry-run", "--nodes", "16", "--gpus", "4", "--cpus", "32"]
    options += ["--time", "1-12", "--partition", "gpu", "--array-parallelism", "8"]
    options += ["--sbatch", "account=lab", "--sbatch", "exclusive", "--out", "store"]
    status, printed = call(
        "extract", "run", "folder", "--root", "videos", *options, *words, cwd=folder
    )
    assert status == 0, printed
    lines = printed.splitlines()
    for line in (
        *("array=0-15%8", "gpus-per-node=4", "cpus-per-task=32", "time=2160", "partition=gpu"),
        *("account=lab", "exclusive", "requeue", "signal=USR2@120", "job-name=extract-folder"),
    ):
        assert f"#SBATCH --{line}" in lines
    assert not (folder / "store").exists()
    assert not (folder / "jobs").exists()


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--engine", "slum"], "no engine 'slum', did you mean slurm?"),
        (["--partition", "a"], "--partition is not an option of --engine local"),
        (["--engine", "slurm", "--address", "auto"], "--address is not an option of"),
        (["--engine", "slurm", "--gpus", "all"], "--engine slurm takes the GPUs of each node"),
        (["--engine", "slurm", "--time", "long"], "--time 'long' is no time such as 4:00:00"),
        (["--engine", "slurm", "--sbatch", "account="], "'account=' is not KEY=VALUE"),
        (["--engine", "slurm", "--time", "0"], "--time '0' is no time"),
        (
            ["--engine", "slurm", "--partition", "a\nrm -r /"],
            "--partition 'a\\nrm -r /': give a word",
        ),
        (
            ["--engine", "slurm", "--sbatch", "account=a\nb"],
            "--sbatch account 'a\\nb': give a word",
        ),
        (["--engine", "slurm", "--sbatch", "a\nb=c"], "is not KEY=VALUE"),
        (["--engine", "slurm", "--sbatch", "array=0-1"], "gives array to sbatch, from --nodes"),
        (
            ["--engine", "slurm", "--sbatch", "cpus_per_task=2"],
            "cpus-per-task to sbatch, from --cpus",
        ),
        (["--engine", "slurm", "--out", "a\nb/c\nd", "--dry-run"], "the folder of the jobs"),
        (["--engine", "slurm", "--shard", "0/2"], "--engine slurm makes the shards"),
        (["--engine", "slurm"], "has no sbatch and srun: run the command on a login node"),
    ],
)
def test_what_slurm_or_an_engine_would_not_take_is_refused(words, why, folder, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)  # this may be a machine of a cluster
    status, printed = call("extract", "run", "folder", "--root", "videos", *words, cwd=folder)
    assert status == 2
    assert why in printed


def test_a_percent_sign_in_the_name_of_a_store_is_not_in_the_paths_of_its_logs(folder):
    words = [
        "--engine",
        "slurm",
        "--dry-run",
        "--root",
        folder / "videos",
        "--out",
        "s3://lab/50%j",
    ]
    status, printed = call("extract", "run", "folder", *words, cwd=folder)
    assert status == 0, printed
    assert "/jobs/50_j/%A_%a/" in printed
    (folder / "50%").mkdir()
    status, printed = call("extract", "run", "folder", *words, cwd=folder / "50%")
    assert status == 2
    assert "50%/jobs/50_j, has a % in its path, which SLURM replaces" in printed


def test_more_nodes_than_clips_are_refused(folder, words, tmp_path):
    extraction = Extraction("folder", words, folder / "videos", tmp_path / "store")
    with pytest.raises(UsageError, match="--nodes 4: there are 3 clips, at most one job each"):
        shard_jobs(extraction, Placement(nodes=4))


@pytest.mark.parametrize("engine", ["slurm", "ray"])
def test_without_its_package_the_line_that_installs_an_engine_is_shown(engine, monkeypatch, folder):
    def version(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(base, "version", version)
    words = ["--root", "videos", "--engine", engine]
    status, printed = call("extract", "run", "folder", *words, cwd=folder)
    assert status == 2
    assert f"pip install 'tokenreel[{engine}]'" in printed
    assert not (folder / "stores").exists()


def test_a_package_that_is_there_and_cannot_be_imported_is_told_with_the_reason(
    folder, monkeypatch
):
    monkeypatch.setitem(sys.modules, "submitit", None)
    words = ["--root", "videos", "--engine", "slurm", "--dry-run"]
    status, printed = call("extract", "run", "folder", *words, cwd=folder)
    assert status == 2
    assert "--engine slurm needs submitit, which cannot be imported (" in printed
    assert "pip install --force-reinstall 'tokenreel[slurm]'" in printed


def test_the_script_is_one_that_bash_takes_whatever_is_in_its_words(folder, words, tmp_path):
    options = ["--engine", "slurm", "--dry-run", "--partition", 'a b\'; rm -r "$HOME" #']
    options += ["--sbatch", "comment=$(touch x)", "--sbatch", "no-requeue", "--nodes", "4"]
    options += ["--out", "it's a store", "--array-parallelism", "1"]
    status, printed = call(
        "extract", "run", "folder", "--root", "videos", *options, *words, cwd=folder
    )
    assert status == 0, printed
    assert "without --dry-run this is refused: --nodes 4: there are 3 clips" in printed
    lines = printed[printed.index("#!/bin/bash") :].splitlines()
    assert "#SBATCH --array=0-3%1" in lines
    assert "#SBATCH --comment='$(touch x)'" in lines
    assert "#SBATCH --requeue" not in lines
    commands = [line for line in lines if line and line[0] != "#"]
    assert commands[0] == "export SUBMITIT_EXECUTOR=slurm"
    assert [line.split()[0] for line in commands[1:]] == ["srun"]
    if bash := shutil.which("bash"):
        subprocess.run([bash, "-n"], input="\n".join(lines), text=True, check=True)


@pytest.fixture
def job(folder, words, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    extraction = Extraction("folder", words, folder / "videos", tmp_path / "store")
    return shard_jobs(extraction, Placement())[0]


def test_a_worker_with_other_versions_is_refused_before_it_writes(job, monkeypatch):
    monkeypatch.setattr(base, "versions_here", lambda: versions_here() | {"av": "0.1"})
    with pytest.raises(WrongIdentity, match=r"has other versions(?s:.*)av: 0.1, wanted \d"):
        job()
    assert not list(job.extraction.out.glob("clips/*"))


@pytest.mark.parametrize("lost", ["store", "video"])
def test_a_node_that_lacks_a_disk_is_refused_and_makes_no_store_there(job, lost, monkeypatch):
    monkeypatch.setattr(base, "SEEN_SECONDS", 0.0)
    elsewhere = job.extraction.out.with_name("elsewhere")
    other = replace(job, video=elsewhere / "a.mp4")
    if lost == "store":
        other = replace(job, extraction=replace(job.extraction, out=elsewhere))
    with pytest.raises(UsageError, match=r"does not see .*elsewhere.* a disk that all nodes share"):
        other()
    assert not elsewhere.exists()
    assert not list(job.extraction.out.glob("failed/*"))
    assert job.video == job.extraction.root / "a.mp4"


def test_a_store_of_another_identity_at_the_path_is_refused_and_left(job, words):
    store = job.extraction.out
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*")}
    others = [word for word in words if not word.startswith("codec")] + ["codec=fp16"]
    with pytest.raises(WrongIdentity, match="codec"):
        shard_jobs(replace(job.extraction, words=tuple(others)), Placement())
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*")} == before


def test_an_actor_of_ray_with_other_versions_or_tokens_is_refused_before_it_writes(
    job, monkeypatch
):
    store, tokens = job.extraction.out, identity._canary_tokens
    manifest, config = read_words("folder", job.extraction.words, root=job.extraction.root)
    shared = ray_engine.Job(
        *(manifest, manifest.clips, config, store, StoreChanges(), "refuse", job.folder),
        versions_here(),
        processes=1,
    )
    worker = ray_engine.Worker()
    assert worker.hello(shared) == (socket.gethostname(), os.getpid(), start_of(os.getpid()))
    with pytest.raises(WrongIdentity, match=r"other versions(?s:.*)av: .*, wanted 0\.1"):
        worker.hello(replace(shared, versions={**versions_here(), "av": "0.1"}))
    monkeypatch.setattr(base, "SEEN_SECONDS", 0.0)
    with pytest.raises(UsageError, match=r"does not see .*elsewhere"):
        worker.hello(replace(shared, store=store.with_name("elsewhere")))
    with pytest.raises(UsageError, match=r"does not see .*lost.mp4"):
        worker.hello(replace(shared, video=store / "lost.mp4"))
    monkeypatch.setenv("TOKENREEL_CACHE_DIR", "before")
    worker.hello(replace(shared, environment={"TOKENREEL_CACHE_DIR": "given"}))
    assert os.environ["TOKENREEL_CACHE_DIR"] == "given"

    def others(*args, **options):
        return {b: t + np.float32(0.1) for b, t in tokens(*args, **options).items()}

    monkeypatch.setattr(identity, "_canary_tokens", others)
    with pytest.raises(WrongIdentity, match="this process computes other tokens"):
        worker.extract(shared, Task())
    assert not list(store.glob("clips/*"))
    assert not list(store.glob("claims/*"))


def test_a_worker_with_another_canary_is_refused_before_it_writes(job, monkeypatch):
    tokens = identity._canary_tokens

    def others(*args, **options):
        return {b: t + np.float32(0.1) for b, t in tokens(*args, **options).items()}

    monkeypatch.setattr(identity, "_canary_tokens", others)
    with pytest.raises(WrongIdentity, match="this process computes other tokens"):
        job()
    assert not list(job.extraction.out.glob("clips/*"))


@pytest.mark.parametrize(
    ("number", "shown", "is_back"),
    [
        (signal.SIGUSR2, "", True),
        (signal.SIGUSR1, "", True),
        (signal.SIGTERM, "PreemptEligibleTime=2026-11-29T05:38:52 PreemptTime=2026-11-29", True),
        (signal.SIGTERM, "PreemptEligibleTime=2026-11-29T05:38:52 PreemptTime=None", False),
        (signal.SIGINT, "PreemptTime=2026-11-29", False),
    ],
)
def test_a_job_that_slurm_preempts_goes_back_into_the_queue_and_one_that_is_cancelled_does_not(
    number, shown, is_back, monkeypatch, tmp_path
):
    program = tmp_path / "scontrol"
    program.write_text(f'#!/bin/sh\ntest "$*" = "show job 7" && echo {shown}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert is_to_resume(number) == is_back
    monkeypatch.delenv("SLURM_JOB_ID")
    assert is_to_resume(signal.SIGTERM) is False
