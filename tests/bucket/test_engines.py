"""Engines, shards and the status of a store on a bucket: the bytes of the local engine."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest

from tests.cache import stores
from tests.extract.extraction import write_video
from tests.pipeline.launch.conftest import WORDS, claimed_by
from tests.pipeline.launch.test_drive import NAMES, Workers
from tests.programs import call
from tokenreel.cache.bucket.objects import Bucket
from tokenreel.cache.bucket.path import bucket_path, put_object, store_path
from tokenreel.cache.canonical import canonical_json, seal
from tokenreel.cache.format import bucket_store
from tokenreel.cache.format.clip import clip_key, folder_of
from tokenreel.cache.format.index import committed_keys
from tokenreel.cache.format.store_files import read_failures
from tokenreel.cache.manifest import Clip, Manifest
from tokenreel.cache.read.store_reader import open_store
from tokenreel.cache.tools.maintenance import collect_garbage
from tokenreel.cache.write import claims
from tokenreel.extract.signals import Stopping
from tokenreel.pipeline.launch.attempts import LEDGER
from tokenreel.pipeline.launch.base import Extraction, Placement
from tokenreel.pipeline.launch.drive import Driver
from tokenreel.pipeline.launch.slurm import shard_jobs

CALL = "from tokenreel.pipeline.cli.extract import main; main()"


class BucketWorkers(Workers):
    """Workers whose claims and clips are objects."""

    def claim(self, name, pid, age=0.0):
        holder = {"owner": "x", "host": "other", "pid": pid, "started": "1", "token": f"{pid}"}
        put_object(self.claim_of(name), canonical_json(seal({**holder, "beat": 0})))

    def commit(self, name):
        self.claim_of(name).unlink()
        put_object(self.store / folder_of(clip_key(name)) / "zarr.json", b"{}")


@pytest.mark.parametrize("is_killed", [False, True])
def test_a_clip_that_ends_its_worker_twice_is_in_quarantine_by_the_ledger_on_the_bucket(
    memory, is_killed
):
    url = stores.make_store(f"{memory}/store")
    part = [Clip(name, f"{name}.mp4", split="train") for name in NAMES]
    manifest = Manifest("folder", store_path(f"{memory}/videos"), tuple(part), {})
    if is_killed:  # the driver, after the first death
        workers = BucketWorkers(url, part, count=1, poison=["c"])
        driver = Driver(workers, manifest, part, url)
        for _ in range(3):
            for event in workers.wait(0):
                driver._take(event)
            driver._give()
        assert (url / LEDGER).is_file()
        for path in (url / "claims").iterdir():
            path.unlink()  # those of the driver, whose process has ended
    workers = BucketWorkers(url, part, count=1 + (not is_killed), poison=["c"])
    report = Driver(workers, manifest, part, url).run(Stopping(), progress=False)
    assert committed_keys(url) == {clip_key(name) for name in "abdef"}
    (record,) = read_failures(url)
    assert (record["clip_id"], record["stage"]) == ("c", "worker")
    assert [failure.clip_id for failure in report.failed] == ["c"]
    assert ["c"] in [names for _, names, is_alone in workers.log if is_alone]
    left = {path.parts[3] for path, _ in bucket_path(url).objects()}
    assert not {"claims", "workers"} & left


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of videos, and what the local engine makes of them on a disk."""
    folder = tmp_path_factory.mktemp("engines")
    (folder / "videos").mkdir()
    for name, frames in (("a", 10), ("b", 70), ("c", 20), ("d", 5)):
        write_video(folder / "videos" / f"{name}.mp4", frames)
    status, printed = call("extract", "run", "folder", *options("local"), cwd=folder)
    assert status == 0, printed
    return folder


def options(out, *more):
    return ["--root", "videos", "--out", out, *more, *WORDS]


def contents(path):
    path = store_path(path)
    files = {f.relative_to(path).as_posix(): f for f in path.rglob("*") if f.is_file()}
    return {name: f.read_bytes() for name, f in files.items() if not name.startswith("manifest/")}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_ray_whose_actor_is_killed_writes_the_store_of_the_local_engine(s3, folder):
    url, killed, ended = store_path(f"{s3}/store"), [], threading.Event()

    def kill():
        while not killed and not ended.is_set():
            killed.extend(claimed_by(url))
            time.sleep(0.05)
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    words = options(str(url), "--engine", "ray", "--nodes", 2)
    status, printed = call("extract", "run", "folder", *words, cwd=folder)
    ended.set()
    killer.join()
    assert status == 0, printed
    # the other worker may take its clips and end before it is started again
    assert re.search(r"worker \d.*(died .* in work|does not answer \(it was killed)", printed)
    assert "4 committed, 0 skipped, 0 failed" in printed
    assert contents(url) == contents(folder / "local")


@pytest.mark.slow
def test_jobs_of_slurm_of_which_one_is_preempted_write_the_store_of_the_local_engine(
    s3, folder, tmp_path, monkeypatch
):
    submitit = pytest.importorskip("submitit")
    monkeypatch.chdir(folder)
    url = store_path(f"{s3}/store")
    words = options(str(url), "--engine", "slurm", "--nodes", 2, "--dry-run")
    status, printed = call("extract", "run", "folder", *words, cwd=folder)
    assert (status, "#SBATCH --array=0-1" in printed, "jobs/store" in printed) == (0, True, True)
    assert not (url / "recipe.json").is_file()
    jobs = shard_jobs(Extraction("folder", WORDS, folder / "videos", url), Placement(nodes=2))
    executor = submitit.LocalExecutor(tmp_path / "jobs" / "%j")
    executor.update_parameters(timeout_min=5)
    submitted, preempted = executor.submit_array(jobs), set()
    while not all(job.done() for job in submitted):
        if not preempted and (preempted := claimed_by(url)):
            for process in preempted:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGUSR2)
        time.sleep(0.05)
    assert [job.result() for job in submitted] == [0, 0], [job.stderr() for job in submitted]
    assert preempted
    assert contents(url) == contents(folder / "local")


@pytest.mark.slow
def test_two_processes_by_shard_auto_of_which_one_is_killed_and_what_status_says(s3, folder):
    url = f"{s3}/store"

    def start(number):
        environment = os.environ | {
            "SLURM_PROCID": str(number),
            "SLURM_STEP_NUM_TASKS": "2",
            "OMP_NUM_THREADS": "1",
        }
        words = [*options(url, "--shard", "auto")]
        return subprocess.Popen(
            [sys.executable, "-c", CALL, "run", "folder", *words],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def status():
        return call("tokenreel", "status", url, cwd=folder)

    first = start(0)
    while not (store_path(url) / "claims").is_dir():
        assert first.poll() is None, first.communicate()
        time.sleep(0.05)
    first.send_signal(signal.SIGSTOP)  # it is at work, and ends nothing meanwhile
    code, printed = status()
    assert (code, "of 4 done" in printed, " alive " in printed) == (3, True, True), printed
    first.kill()
    first.communicate()
    code, printed = status()
    assert (code, " dead " in printed) == (3, True), printed
    assert "nobody works on it: rerun the command that made it" in printed
    processes = [start(0), start(1)]
    for process in processes:
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
    code, printed = status()
    assert (code, "4 done" in printed, "complete" in printed) == (0, True, True), printed
    code, printed = call("tokenreel", "status", url, "--watch", cwd=folder)
    assert (code, "complete" in printed) == (0, True)
    assert contents(url) == contents(folder / "local")
    assert sorted(open_store(url).records) == ["a.mp4", "b.mp4", "c.mp4", "d.mp4"]


@pytest.mark.slow
@pytest.mark.parametrize("survives", [1, 12, 30, 50, 70, 90, 120, 150, 170])
def test_credentials_that_expire_at_any_request_end_a_run_with_one_sentence_and_it_resumes(
    memory, folder, monkeypatch, survives
):
    request, count, url = Bucket._call, [0], f"{memory}/store"

    def expiring(self, key, work, *, again=False):
        def refuse(client, store):
            text = "status code: 400 Bad Request <Code>ExpiredToken</Code><Key>AKIDOFTESTS</Key>"
            raise client.exceptions.GenericError(text)

        count[0] += 1
        return request(self, key, work if count[0] <= survives else refuse, again=again)

    monkeypatch.setattr(Bucket, "_call", expiring)
    status, printed = call("extract", "run", "folder", *options(url), cwd=folder)
    errors = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert (status, len(errors)) == (6, 1), printed
    assert errors[0].count("the credentials are refused or have expired") == 1
    assert "AKID" not in printed
    assert "Traceback" not in printed
    monkeypatch.setattr(Bucket, "_call", request)
    monkeypatch.setattr(claims, "_started", lambda pid: "")  # the process of the first run ended
    monkeypatch.setattr(bucket_store, "CREATING_SECONDS", 1.0)
    status, printed = call("extract", "run", "folder", *options(url), cwd=folder)
    assert status == 0, printed
    collect_garbage(url, older_than_seconds=-5, delete=True)  # claims that could not be deleted
    assert contents(url) == contents(folder / "local")
