"""The lock of a run: its heartbeat while the process waits, and a lock whose host is gone."""

import os
import threading
import time

import pytest

from tests.fuse.tiny import tiny_config
from tokenreel.cache.canonical import canonical_json, seal
from tokenreel.cache.read.store_set import StoreSet
from tokenreel.fuse.runs import run_folder
from tokenreel.fuse.runs.provenance import describe_run
from tokenreel.fuse.runs.run_folder import STALE_SECONDS, RunFolder, RunLocked, heartbeat
from tokenreel.fuse.train.run import Run
from tokenreel.fuse.train.train import train


def lock_of(out):
    return out / "lock.json"


def test_a_lock_has_a_heartbeat_while_its_process_waits(store, tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder, "BEAT_SECONDS", 0.02)
    described = describe_run(tiny_config(), StoreSet({"tokens": store}), {})
    with RunFolder(tmp_path / "run", described) as folder:
        with heartbeat([folder]):
            os.utime(lock_of(folder.path), (1, 1))
            deadline = time.monotonic() + 300
            while lock_of(folder.path).stat().st_mtime < 2:
                assert time.monotonic() < deadline
                time.sleep(0.01)
        assert "tokenreel-heartbeat" not in [thread.name for thread in threading.enumerate()]


def test_a_run_beats_while_it_trains(store, tmp_path, monkeypatch):
    seen, has_beaten = [], threading.Event()
    descend = Run.descend

    def beat(folder):
        seen.append(folder.path.name)
        has_beaten.set()

    def wait_and_descend(run, batch):
        assert has_beaten.wait(300)
        return descend(run, batch)

    monkeypatch.setattr(run_folder, "BEAT_SECONDS", 0.001)
    monkeypatch.setattr(run_folder.RunFolder, "beat", beat)
    monkeypatch.setattr(Run, "descend", wait_and_descend)
    train(tiny_config(), store=store, out=tmp_path / "run", device="cpu", progress=False)
    assert {*seen} == {"run"}


@pytest.mark.parametrize("age", [0.5, 1.5])
def test_the_lock_of_a_host_that_is_gone_is_dead_after_five_minutes(store, tmp_path, age):
    assert STALE_SECONDS == 300
    out = tmp_path / "run"
    out.mkdir()
    holder = {"owner": "x", "host": "other", "pid": 7, "started": "1", "token": "7"}
    lock_of(out).write_bytes(canonical_json(seal(holder)))
    os.utime(lock_of(out), (time.time() - age * STALE_SECONDS,) * 2)
    if age < 1:
        with pytest.raises(RunLocked, match="is in use"):
            train(tiny_config(), store=store, out=out, device="cpu", progress=False)
    else:
        train(tiny_config(), store=store, out=out, device="cpu", progress=False)
        assert not lock_of(out).exists()
