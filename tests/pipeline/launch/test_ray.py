"""Ray on this machine: actors that are killed, the driver that is killed, and what is refused."""

import contextlib
import logging
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest

from tests.extract.extraction import differing
from tests.pipeline.launch.conftest import (
    begin_anew,
    logged_clips,
    wait_for_workers,
    workers_of,
)
from tests.pipeline.launch.interruptions import PROCESSES, KilledWorker, mark_of
from tests.programs import call
from tokenreel.cache.errors import UsageError
from tokenreel.cache.write.claims import process_ended
from tokenreel.pipeline.launch import ray_engine
from tokenreel.pipeline.launch.base import Placement
from tokenreel.pipeline.launch.ray_engine import size_of

log = logging.getLogger(__name__)

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


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_an_actor_that_is_killed_is_started_again_and_the_store_is_that_of_the_local_engine(
    folder, words, tmp_path, monkeypatch
):
    monkeypatch.setattr(ray_engine, "Worker", KilledWorker)
    for name, value in PROCESSES.items():
        monkeypatch.setenv(name, value)
    store = tmp_path / "store"
    options = ["--root", "videos", "--out", store, "--engine", "ray", "--nodes", 1]
    status, output = call("extract", "run", "folder", *options, *words, cwd=folder)
    assert status == 0, output
    assert process_ended(int(mark_of(store).read_text()))
    assert "in work" in output
    assert "3 committed, 0 skipped, 0 failed" in output
    assert differing(store, folder / "local") == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_workers_and_drivers_killed_5_times_at_random_leave_the_same_store(
    seed, start, folder, tmp_path
):
    store, draw = tmp_path / "store", random.Random(seed)
    kills = Counter()
    for number in range(5):
        kills["complete"] += begin_anew(store, folder / "local")
        process = start(store, 2)
        wait_for_workers(store, lambda p=process: p.poll() is not None)
        time.sleep(draw.uniform(0, 1))
        what = ("workers", "driver", "both")[(seed + number) % 3]
        if what != "driver":
            for pid in workers_of(store):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    kills["worker"] += 1
        if what != "workers" and process.poll() is None:
            process.kill()
            kills["driver"] += 1
        process.communicate(timeout=500)
    output, _ = start(store, 2).communicate(timeout=500)
    if "in quarantine" in output or "failed: " in output:  # killed twice, alone, within a segment
        words = ["device=cpu", "--root", "videos"]
        status, output = call("extract", "retry", store, *words, cwd=folder)
        assert status == 0, output
    log.info("seed %d: killed %s", seed, dict(kills))
    assert logged_clips(store) == ["a", "b", "c"]
    assert differing(store, folder / "local") == []


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--address", "127.0.0.1:1"], "no Ray cluster answers at 127.0.0.1:1"),
        (["--address", "ray://head:10001"], "give HOST:6379 of the head of the cluster"),
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
        (Placement(cpus=8), {"CPU": 4.0}, "--cpus 8: no node .* has 4 cores"),
        (Placement(gpus="0"), {"GPU": 2.0, "CPU": 4.0}, "--gpus 0: --engine ray takes all"),
    ],
)
def test_workers_for_which_a_cluster_has_no_room_are_refused(placement, resources, why):
    with pytest.raises(UsageError, match=why):
        size_of(placement, [resources])


@pytest.mark.parametrize(
    ("placement", "nodes", "size"),
    [
        (Placement(), [{"CPU": 8.0}, {"CPU": 2.0}], (2, 0, 4)),  # with 5 one would wait
        (Placement(), [{"CPU": 8.0}] * 3, (3, 0, 8)),
        (Placement(nodes=3), [{"CPU": 8.0}], (3, 0, 2)),
        (Placement(gpus="2"), [{"GPU": 4.0, "CPU": 8.0}], (2, 1, 2)),
        (Placement(gpus="all"), [{"GPU": 2.0, "CPU": 8.0}, {"CPU": 64.0}], (2, 1, 4)),
        (Placement(gpus="2", nodes=2, cpus=3), [{"GPU": 2.0, "CPU": 6.0}] * 2, (4, 1, 3)),
    ],
)
def test_workers_have_the_cores_with_which_all_run_at_once(placement, nodes, size, caplog):
    assert size_of(placement, nodes) == size
    assert "room" not in caplog.text


@pytest.mark.parametrize(
    ("placement", "nodes", "told"),
    [
        (Placement(nodes=3), [{"CPU": 2.0}], "3 workers wanted, .* has room for 2"),
        (Placement(nodes=2, cpus=5), [{"CPU": 8.0}] * 2, ""),
        (Placement(nodes=3, cpus=5), [{"CPU": 8.0}] * 2, "3 workers wanted, .* room for 2"),
        (Placement(gpus="3"), [{"GPU": 2.0, "CPU": 8.0}], "3 workers wanted, .* room for 2"),
        (Placement(gpus="2", cpus=6), [{"GPU": 2.0, "CPU": 8.0}], "2 workers wanted, .* for 1"),
    ],
)
def test_workers_that_have_to_wait_for_the_cluster_to_grow_are_counted(
    placement, nodes, told, caplog
):
    size_of(placement, nodes)
    assert re.search(told, caplog.text)
    assert bool(told) == bool(caplog.text)


def test_cores_that_no_node_has_are_refused_though_the_cluster_has_them():
    with pytest.raises(UsageError, match=r"--cpus 12: no node .* the largest has 8 cores"):
        size_of(Placement(cpus=12), [{"CPU": 8.0}] * 4)
    with pytest.raises(UsageError, match="--cpus 12: no node"):
        size_of(Placement(gpus="all", cpus=12), [{"GPU": 1.0, "CPU": 8.0}, {"CPU": 64.0}])
