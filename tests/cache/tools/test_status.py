"""`tokenreel status`: who works on a store and how far it is, from its files alone."""

import os
import socket
import time
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from tests.cache import stores
from tokenreel.cache.canonical import canonical_json, seal
from tokenreel.cache.errors import ClipFailed, StoreNotFound
from tokenreel.cache.files import clock_of
from tokenreel.cache.format.store_files import record_failure
from tokenreel.cache.tools.status import StoreStatus, WorkerState, store_status
from tokenreel.cache.tools.verify import verify_store
from tokenreel.cache.write import claims, worker_notes
from tokenreel.cache.write.store_writer import StoreWriter
from tokenreel.cache.write.worker_notes import WorkerNote, WorkerNotes, note_run, settle_run
from tokenreel.pipeline.cli.main import app, worker_table

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


@pytest.mark.parametrize("age", [0, 200, 400])
def test_a_smaller_run_leaves_what_is_noted_of_a_larger_one_while_that_is_at_work(store, age):
    note_run(store, NAMES)
    write(store, "a")
    there = WorkerNote("elsewhere", 7, "cpu", started="1@there")
    path = store / "workers" / "elsewhere.json"
    path.write_bytes(canonical_json(seal(asdict(there))))
    beat = clock_of(store) - age
    os.utime(path, (beat, beat))
    note_run(store, ["a", "b"])
    is_at_work = age < claims.EXPIRY_SECONDS
    assert store_status(store).num_expected == (4 if is_at_work else 2)
    write(store, "b")
    settle_run(store, ["a", "b"])
    found = store_status(store)
    assert (found.num_expected, found.exit_status) == ((4, 3) if is_at_work else (None, 0))
    assert path.exists() == is_at_work
    write(store, "c", "d")
    settle_run(store, NAMES)  # by whoever ends first
    assert store_status(store).exit_status == 0


def test_a_run_of_fewer_clips_after_a_larger_one_that_has_ended_counts_alone(store):
    with WorkerNotes(store, device="cpu"):  # its own note is none of another
        note_run(store, NAMES)
        note_run(store, ["a", "b"])
    assert store_status(store).num_expected == 2


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


def status_of(store, **values):
    """A status by hand, of two committed clips of 10 and 30 frames."""
    fields = {"num_expected": None, "num_committed": 2, "num_frames": 40, "num_bytes": 5 * 10**8}
    fields |= {"failed": (), "num_claimed": 0, "workers": ()}
    return StoreStatus(store, **fields | values)


def worker(state, rate, host="h", pid=1):
    note = WorkerNote(host, pid, "cpu", frames_per_second=rate)
    return WorkerState(note, ("a", "b", "c"), 5.0, state)


def test_a_store_is_complete_once_all_is_committed_and_nobody_works_on_it(store):
    failed = (ClipFailed("x", stage="decode", reason="torn"),)
    complete = [
        status_of(store),
        status_of(store, num_expected=2),
        status_of(store, num_expected=1),
    ]
    assert [found.exit_status for found in complete] == [0, 0, 0]
    assert complete[0].lines()[-1] == "complete"
    left = [
        status_of(store, num_expected=3),
        status_of(store, num_claimed=1),
        status_of(store, num_expected=2, num_claimed=1),
        status_of(store, failed=failed),
        status_of(store, num_committed=0),
    ]
    assert [found.exit_status for found in left] == [3] * 5
    assert [found.num_left for found in left] == [1, 0, 0, 0, 0]
    assert status_of(store, num_expected=3, failed=failed * 2).num_left == 0


def test_the_time_to_go_is_by_the_mean_clip_and_the_workers_that_are_alive(store):
    workers = (worker("alive", 2.0), worker("alive", 3.0), worker("silent", 7), worker("dead", 9))
    found = status_of(store, num_expected=5, workers=workers)
    assert (found.frames_per_second, found.eta_seconds) == (5.0, 3 * 20 / 5)
    assert found.lines()[1:3] == [
        "frames  40, 0.500 GB of tokens",
        "rate    5.0 frames/s, 0 min to go",
    ]
    assert status_of(store, num_expected=5, workers=workers, num_committed=0).eta_seconds is None
    assert status_of(store, num_expected=2, workers=workers).eta_seconds is None
    assert status_of(store, num_expected=5).eta_seconds is None
    assert "rate    5.0 frames/s" in status_of(store, num_expected=2, workers=workers).lines()


def test_what_is_to_be_done_is_said_where_nobody_does_it(store):
    assert store_status(store).lines()[-1] == (
        "no clip yet, and no run says how many there are to be"
    )
    idle = "nobody works on it: rerun the command that made it, to resume"
    assert idle in status_of(store, num_expected=3).lines()
    assert idle not in status_of(store, num_expected=3, num_claimed=1).lines()
    for state in ("alive", "silent"):  # between two clips
        assert idle not in status_of(store, num_expected=3, workers=(worker(state, 1),)).lines()
    assert idle in status_of(store, num_expected=3, workers=(worker("dead", 1),)).lines()
    assert len(status_of(store, num_expected=3, num_claimed=1).lines()) == 2
    failed = tuple(ClipFailed(f"c{n:02}", stage="decode", reason="torn") for n in range(12))
    lines = status_of(store, failed=failed).lines()
    assert [line for line in lines if line.startswith("in quarantine: ")][-1].startswith(
        "in quarantine: c09"
    )
    assert idle not in lines
    assert lines[-1] == f"`extract retry {store}` tries 12 clip(s) again, and no other"


def claim(store, name, host, pid, beat, started="1@there"):
    path = store / "claims" / f"{name}.json"
    holder = {"owner": "x", "host": host, "pid": pid, "started": started, "token": name}
    path.write_bytes(canonical_json(seal(holder)))
    os.utime(path, (beat, beat))


def test_claims_and_workers_of_other_hosts_live_by_their_heartbeat(store, monkeypatch):
    now = clock_of(store)
    for module in (claims, worker_notes):
        monkeypatch.setattr(module, "clock_of", lambda _: now)
    for name, host, pid, age in (("a", "z", 2, 5), ("b", "z", 2, 25), ("c", "y", 9, 5)):
        claim(store, name, host, pid, now - age)
    (store / "claims/d.json").write_text("{")
    (store / "workers").mkdir()
    for host, pid, age in (("z", 2, 5), ("y", 9, 25), ("y", 1, 35)):
        values = seal(asdict(WorkerNote(host, pid, "cpu", started="1@there")))
        path = store / f"workers/{host}-{pid}.json"
        path.write_bytes(canonical_json(values))
        os.utime(path, (now - age, now - age))
    found = store_status(store)
    assert found.num_claimed == 3
    rows = [(w.note.host, w.note.pid, w.state, w.clips) for w in found.workers]
    assert rows == [
        ("y", 1, "silent", ()),
        ("y", 9, "alive", ("c",)),
        ("z", 2, "alive", ("a", "b")),
    ]
    found = store_status(store, expiry_seconds=15)
    assert found.num_claimed == 2
    assert [w.state for w in found.workers] == ["dead", "dead", "alive"]


def test_the_table_names_two_of_the_clips_of_a_worker_and_says_that_there_are_more():
    rows = worker_table([worker("alive", 2.5), worker("dead", 0.0, "g", 77)]).splitlines()
    assert rows[1].split()[:4] == ["h:1", "cpu", "alive", "5"]
    assert rows[1].endswith("a, b, ...")
    two = replace(worker("alive", 1.0), clips=("a", "b"))
    assert worker_table([two]).splitlines()[1].rstrip().endswith("a, b")


def test_watching_prints_the_status_again_until_it_is_complete(store, monkeypatch):
    write(store, "a")
    note_run(store, ["a", "b"])
    slept = []

    def sleep(seconds):
        slept.append(seconds)
        if len(slept) == 2:
            write(store, "b")

    monkeypatch.setattr("tokenreel.pipeline.cli.main.time.sleep", sleep)
    status, output = call("status", store, "--watch", "--seconds", "3")
    assert (status, slept) == (0, [3.0, 3.0])
    assert output.count("clips   1 of 2 done") == 2
    assert output.count("clips   2 of 2 done") == 1
    assert "worker " not in output, "no table without workers"
    with pytest.raises(StoreNotFound, match="nowhere"):
        call("status", store.parent / "nowhere")
