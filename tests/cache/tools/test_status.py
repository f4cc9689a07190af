"""`tokenreel status`: who works on a store and how far it is, from its files alone."""

import os
import socket
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from tests.cache import stores
from tokenreel.cache.files import clock_of
from tokenreel.cache.format.store_files import record_failure
from tokenreel.cache.tools.status import store_status
from tokenreel.cache.tools.verify import verify_store
from tokenreel.cache.write import worker_notes
from tokenreel.cache.write.store_writer import StoreWriter
from tokenreel.cache.write.worker_notes import WorkerNote, WorkerNotes, note_run, settle_run
from tokenreel.pipeline.cli.main import app

NAMES = ("a", "b", "c", "d")


def call(*words):
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    return result.exit_code, result.output


@pytest.fixture
def store(tmp_path):
    return stores.make_store(tmp_path / "store")


def write(store, *names):
    with StoreWriter(store, writer_id="w") as writer:
        for name in names:
            stores.write_clip(writer, name, frames=70)


def only_note(store):
    (path,) = (p for p in (store / "workers").glob("*.json") if p.name != "run.json")
    return path


def test_a_store_in_the_making_from_its_first_clip_to_its_last(store, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(worker_notes, "time", SimpleNamespace(monotonic=lambda: now[0]))
    note_run(store, NAMES)
    status, output = call("status", store)
    assert (status, output.splitlines()[0].split()[:4]) == (3, ["clips", "0", "of", "4"])
    assert "nobody works on it: rerun the command that made it, to resume" in output
    with WorkerNotes(store, device="cuda:0 H200") as notes, StoreWriter(store, writer_id="w") as w:
        stores.write_clip(w, "a", frames=70)
        stores.begin(w, "b")
        now[0] += 14.0
        notes.update(num_committed=1, num_failed=0, num_frames=70)
        found = store_status(store)
        assert (found.num_committed, found.num_claimed, found.num_left) == (1, 1, 3)
        assert found.frames_per_second == 5.0
        assert found.eta_seconds == 3 * 70 / 5
        (worker,) = found.workers
        assert (worker.state, worker.note.num_committed) == ("alive", 1)
        status, output = call("status", store)
        row = output.splitlines()[-1]
        assert row.startswith(f"{socket.gethostname()}:{os.getpid()}")
        assert "cuda:0 H200" in row
        assert row.rstrip().endswith(worker.clips[0])
        assert worker.clips[0].startswith("b-")
        assert verify_store(store).problems == ()
        now[0] += 10.5
        notes.update(num_committed=1, num_failed=0, num_frames=178)
        assert store_status(store).frames_per_second == 10.286  # since the last note
    write(store, "b", "c", "d")
    settle_run(store, NAMES)
    status, output = call("status", store)
    assert status == 0
    assert "4 done, 0 in quarantine, 0 in work, 0 left" in output
    assert "complete" in output.splitlines()
    note_run(store, NAMES)
    assert not (store / "workers").exists()


def test_notes_of_killed_workers_are_removed_once_the_store_is_complete(store, monkeypatch):
    note_run(store, NAMES)
    WorkerNotes(store, device="cpu").__enter__()  # and never ended
    write(store, "a", "b", "c")
    settle_run(store, NAMES)
    assert len(list(store.glob("workers/*"))) == 2
    write(store, "d")
    monkeypatch.setattr(
        "tokenreel.cache.write.worker_notes.process_ended", lambda pid, started: True
    )
    settle_run(store, NAMES)
    assert not (store / "workers").exists()


def test_clips_in_quarantine_are_named_with_what_retry_would_do(store):
    note_run(store, NAMES)
    write(store, "a", "b", "c")
    record_failure(store, "d", stage="decode", reason="torn", details={})
    settle_run(store, NAMES)
    status, output = call("status", store)
    assert status == 3
    assert "3 done, 1 in quarantine, 0 in work, 0 left" in output
    assert "in quarantine: d: decode: torn" in output
    assert f"`extract retry {store}` tries 1 clip(s) again, and no other" in output


def test_clips_of_other_runs_do_not_stand_for_those_that_are_left(store):
    write(store, "a", "b", "c")
    record_failure(store, "x", stage="decode", reason="torn", details={})
    note_run(store, ["c", "d", "e"])  # the data set is another one now
    found = store_status(store)
    assert (found.num_expected, found.num_committed, found.num_left) == (6, 3, 2)
    assert found.exit_status == 3
    (store / "failed").joinpath(next((store / "failed").iterdir())).unlink()
    write(store, "d", "e")
    settle_run(store, ["c", "d", "e"])
    assert (store_status(store).num_expected, store_status(store).exit_status) == (None, 0)


def test_workers_are_dead_by_their_process_or_by_the_clock_of_the_disk(store, monkeypatch):
    notes = WorkerNotes(store, device="cpu").__enter__()
    note = only_note(store)
    monkeypatch.setattr(time, "time", lambda: clock_of(store) + 600)  # this host's clock is off
    assert [worker.state for worker in store_status(store).workers] == ["alive"]
    monkeypatch.undo()
    now = clock_of(store)
    os.utime(note, (now - 60, now - 60))
    assert [worker.state for worker in store_status(store).workers] == ["silent"]
    os.utime(note, (now - 600, now - 600))
    assert [worker.state for worker in store_status(store).workers] == ["dead"]
    os.utime(note)
    monkeypatch.setattr(
        "tokenreel.cache.write.worker_notes.process_ended", lambda pid, started: True
    )
    assert [worker.state for worker in store_status(store).workers] == ["dead"]
    elsewhere = WorkerNote("another machine", os.getpid(), "cpu")
    assert not worker_notes.is_dead(elsewhere, 60)
    assert worker_notes.is_dead(elsewhere, 600)
    notes.__exit__()


def test_a_damaged_note_and_a_disk_that_takes_none_harm_nothing(store, monkeypatch):
    notes = WorkerNotes(store, device="cpu").__enter__()
    only_note(store).write_text("{")
    assert store_status(store).workers == ()

    def full(path, data):
        raise OSError(28, "no room")

    monkeypatch.setattr(worker_notes, "write_new", full)
    note_run(store, NAMES)
    assert store_status(store).num_expected is None
    notes.__exit__()
    assert not list(Path(store).glob("workers/*"))


def test_watching_ends_when_the_store_is_complete(store):
    write(store, "a")
    assert call("status", store, "--watch")[0] == 0
