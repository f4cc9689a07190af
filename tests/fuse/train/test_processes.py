"""Runs spread over processes: the bytes of runs alone, and one way to stop them all."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest
import torch

from tests.fuse import kills
from tests.fuse.tiny import tiny_config, write_store
from tests.fuse.train.test_lockstep import assert_same_run
from tokenreel.cache.errors import MachineError, UsageError
from tokenreel.fuse.config import OptimConfig
from tokenreel.fuse.train import processes
from tokenreel.fuse.train.processes import train_in_processes
from tokenreel.fuse.train.train import Job, train


@pytest.fixture
def store(tmp_path):
    return write_store(tmp_path / "store")


def jobs_of(store, folder, **configs):
    return [Job(config, store, folder / name) for name, config in configs.items()]


def long_run(store, folder):
    return jobs_of(store, folder, long=tiny_config(optim=OptimConfig(epochs=100_000)))


def when_it_trains(run, do):
    """Do something in another thread, once a run has ended an epoch."""

    def wait_and_do():
        while not (run / "metrics.jsonl").exists():
            time.sleep(0.02)
        do()

    threading.Thread(target=wait_and_do, daemon=True).start()


def test_runs_end_with_the_bytes_of_runs_alone_and_a_failed_one_with_its_error(store, tmp_path):
    configs = {f"seed{seed}": tiny_config(seed=seed) for seed in range(3)}
    first, *rest = jobs_of(store, tmp_path / "spread", **configs)
    jobs = [first, *jobs_of(store, tmp_path, file=tiny_config()), *rest]
    jobs[1].out.touch()
    found = train_in_processes(jobs, processes=2, progress=False)
    assert [result.path for result in found] == [job.out for job in jobs]
    assert [type(result.error) for result in found if result.error is not None] == [UsageError]
    assert "is a file, a run is a folder" in str(found[1].error)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for name, config in configs.items():
            alone = tmp_path / "alone" / name
            train(config, store=store, out=alone, device="cpu", progress=False)
            assert_same_run(tmp_path / "spread" / name, alone)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)],
)
def test_a_signal_saves_every_run_and_ends_with_one_line_at_most(
    number, status, store, tmp_path, capfd, caplog
):
    [job] = long_run(store, tmp_path)
    when_it_trains(job.out, lambda: os.kill(os.getpid(), number))
    with pytest.raises(SystemExit) as ended:
        train_in_processes([job, *jobs_of(store, tmp_path, other=tiny_config())], processes=1)
    assert ended.value.code == status
    assert (job.out / "checkpoint.pt").exists()
    assert not (tmp_path / "other" / "metrics.jsonl").exists()
    lines = ["received SIGTERM: every run is saved; rerun to resume"]
    assert caplog.messages == (lines if number == signal.SIGTERM else [])
    assert "Traceback" not in capfd.readouterr().err


def test_a_killed_process_is_the_machines_fault(store, tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "_work", kills.die)
    with pytest.raises(MachineError, match=r"a process that trains was killed.* rerun the same"):
        train_in_processes(long_run(store, tmp_path), processes=1, progress=False)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a setting of glibc")
def test_what_a_step_frees_is_kept_for_the_next_one():
    program = """
        import ctypes, resource, sys
        ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: no page of 2 MiB
        from tokenreel.fuse.train.processes import keep_freed_memory
        if "keep" in sys.argv and not keep_freed_memory():
            sys.exit("no glibc")
        size, faults = 24 << 20, []
        for step in range(4):
            parts = [b"x" * size for _ in range(4)]
            del parts
            faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
        print(faults[-1] - faults[-2])
    """
    faults = [
        int(subprocess.check_output([sys.executable, "-c", textwrap.dedent(program), *words]))
        for words in ([], ["keep"])
    ]
    assert faults[0] > 5_000  # pages of 4 KiB that are cleared anew in every step
    assert faults[1] < 100
