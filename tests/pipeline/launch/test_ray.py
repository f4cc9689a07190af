"""Ray on this machine: actors that are killed, the driver that is killed, and what is refused."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from tests.extract.extraction import differing, shards
from tests.programs import call
from tokenreel.cache.errors import Damaged, UsageError
from tokenreel.cache.write.claims import read_claim
from tokenreel.pipeline.launch.base import Placement
from tokenreel.pipeline.launch.ray_engine import size_of

CALL = "from tokenreel.pipeline.cli.extract import main; main()"


@pytest.fixture
def start(folder, words):
    """Starts the command; what still runs when the test ends is killed."""
    processes = []

    def begin(store, nodes):
        options = ["--root", "videos", "--out", str(store), "--engine", "ray", "--nodes", nodes]
        command = [sys.executable, "-c", CALL, "run", "folder", *map(str, options), *words]
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        processes.append(process)
        return process

    yield begin
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


def workers_of(store):
    """Processes that have a claim in a store."""
    found = set()
    for path in (store / "claims").glob("*.json"):
        with contextlib.suppress(FileNotFoundError, Damaged):
            found.add(read_claim(path).pid)
    return found


def wait_for_shards(process, store, count):
    deadline = time.monotonic() + 600
    while len(shards(store)) < count and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_an_actor_that_is_killed_is_started_again_and_the_store_is_that_of_the_local_engine(
    start, folder, tmp_path
):
    store = tmp_path / "store"
    process = start(store, 1)
    wait_for_shards(process, store, 3)  # the first segment is whole: 2 blocks, and one has begun
    killed = workers_of(store)
    assert len(killed) == 1
    os.kill(killed.pop(), signal.SIGKILL)
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output
    assert "in work" in output
    assert "3 committed, 0 skipped, 0 failed" in output
    assert differing(store, folder / "local") == []


@pytest.mark.slow
def test_workers_and_drivers_killed_20_times_at_random_leave_the_same_store(
    start, folder, tmp_path
):
    store, draw = tmp_path / "store", random.Random(21)
    for number in range(20):
        process = start(store, 2)
        wait_for_shards(process, store, min(number, 12))
        time.sleep(draw.uniform(0, 1))
        if draw.random() < 2 / 3:
            for pid in workers_of(store):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        if draw.random() < 2 / 3:
            os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=600)
    output, _ = start(store, 2).communicate(timeout=600)
    if "in quarantine" in output or "failed: " in output:  # killed twice, alone, within a segment
        words = ["device=cpu", "--root", "videos"]
        status, output = call("extract", "retry", store, *words, cwd=folder)
        assert status == 0, output
    assert differing(store, folder / "local") == []


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--address", "127.0.0.1:1"], "no Ray cluster answers at 127.0.0.1:1"),
        (["--address", "here:there"], "no Ray cluster answers at here:there"),
        (["--partition", "a"], "--partition is not an option of --engine ray, which takes --gpus"),
    ],
)
def test_an_address_without_a_cluster_and_options_of_others_are_refused(words, why, folder):
    options = ["--root", "videos", "--engine", "ray"]
    status, printed = call("extract", "run", "folder", *options, *words, cwd=folder)
    assert status == 2
    assert why in printed


@pytest.mark.parametrize(
    ("placement", "resources", "why"),
    [
        (Placement(gpus="all"), {"CPU": 4.0}, "--gpus all: the Ray cluster has no GPU"),
        (Placement(gpus="0,1"), {"GPU": 2.0, "CPU": 4.0}, "takes all, or the GPUs of a node"),
        (Placement(cpus=8), {"CPU": 4.0}, "--cpus 8: the Ray cluster has 4 cores"),
    ],
)
def test_workers_for_which_a_cluster_has_no_room_are_refused(placement, resources, why):
    with pytest.raises(UsageError, match=why):
        size_of(placement, resources, 1)
