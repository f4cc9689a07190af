"""A real SLURM of one node: an array that is requeued and preempted, one cancelled, and a table.

Debian has it: apt-get install slurm-wlm munge.
"""

import re
import subprocess
import time

import pytest

from tests.extract.extraction import differing
from tests.fuse.tiny import write_store
from tests.pipeline.launch import slurm_cluster
from tests.pipeline.launch.test_tables import WORDS as TABLE
from tests.pipeline.launch.test_tables import assert_same_table
from tests.programs import call

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(slurm_cluster.lacks()), reason=f"no {slurm_cluster.lacks()}: slurm-wlm, munge"
    ),
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    running = slurm_cluster.slurm_cluster(tmp_path_factory.mktemp("slurm") / "c")
    with running as variables, pytest.MonkeyPatch.context() as patch:
        for name, value in (variables | {"OMP_NUM_THREADS": "1"}).items():
            patch.setenv(name, value)
        yield


def run(*words):
    return subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout


def queued():
    """Number -> state of the jobs in the queue, array tasks one by one."""
    lines = run("squeue", "--array", "--noheader", "--format=%i %T").splitlines()
    return dict(line.split() for line in lines)


def wait_for(what, seconds=400):
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, (queued(), run("scontrol", "show", "job"))
        time.sleep(0.1)


def segments(store):
    """Segments of clips in work that are whole."""
    return len(list(store.glob("clips/*/.tmp-*/views/0/tokens/1/c/*")))


def restarts(job):
    """How often each task of a job began anew."""
    found = re.findall(r"Restarts=(\d+)", run("scontrol", "show", "job", job))
    return [int(text) for text in found]


def submit(folder, store, words, *more):
    """Queue the array in the partition that is preempted; returns its number."""
    options = ["--root", "videos", "--out", store, "--engine", "slurm", "--cpus", "1"]
    options += ["--nodes", "2", "--time", "20", "--partition", "low", *more]
    status, printed = call("extract", "run", "folder", *options, *words, cwd=folder)
    assert status == 0, printed
    return re.search(r"job (\d+): 2 shard\(s\) queued", printed)[1]


def logs(folder, store, job):
    return "".join(p.read_text() for p in (folder / "jobs" / store.name).glob(f"{job}*/*.err"))


def test_an_array_that_is_requeued_and_preempted_makes_the_store_of_the_local_engine(
    cluster, folder, words, tmp_path
):
    store = tmp_path / "requeued"
    job = submit(folder, store, words)
    wait_for(lambda: segments(store) >= 1)
    for task in [task for task, state in queued().items() if state == "RUNNING"]:
        run("scontrol", "requeue", task)
    wait_for(lambda: sum(restarts(job)) >= 1)
    wait_for(lambda: "RUNNING" in queued().values())
    before, done = sum(restarts(job)), segments(store)
    wait_for(lambda: segments(store) > done or not queued())
    assert queued(), "it ended before it could be preempted"
    run("sbatch", "--partition=high", "--cpus-per-task=2", "--output=/dev/null", "--wrap=sleep 1")
    wait_for(lambda: sum(restarts(job)) > before)
    wait_for(lambda: not queued())
    printed = logs(folder, store, job)
    assert "received SIGTERM: stopping after the current segments" in printed
    assert "Requeued job" in printed
    status, told = call("tokenreel", "status", store, cwd=folder)
    assert status == 0, told
    assert differing(store, folder / "local") == []


def test_an_array_that_is_cancelled_is_over_and_a_second_one_resumes(
    cluster, folder, words, tmp_path
):
    store = tmp_path / "cancelled"
    job = submit(folder, store, words)
    wait_for(lambda: segments(store) >= 1)
    run("scancel", job)
    wait_for(lambda: not queued())
    assert sum(restarts(job)) == 0
    assert call("tokenreel", "status", store, cwd=folder)[0] == 3
    submit(folder, store, words)
    wait_for(lambda: not queued())
    assert differing(store, folder / "local") == []


def test_a_table_of_jobs_is_that_of_the_local_engine(cluster, tmp_path):
    write_store(tmp_path / "s", val=3)
    options = [*TABLE, "--store", "s", "--seeds", "2", "--device", "cpu"]
    assert call("fuse", "ablate", *options, "--out", "local", cwd=tmp_path)[0] == 0
    more = ["--out", "spread", "--engine", "slurm", "--cpus", "1", "--time", "10"]
    status, printed = call("fuse", "ablate", *options, *more, cwd=tmp_path)
    assert status == 0, printed
    assert re.search(r"job \d+: 3 group.s. of rows queued, .*\njob \d+: 1 table queued", printed)
    wait_for(lambda: not queued())
    assert_same_table(tmp_path, "spread")
    assert list((tmp_path / "spread/jobs").glob("group-rows-*.json"))
