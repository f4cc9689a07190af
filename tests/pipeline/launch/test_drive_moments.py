"""The driver in odd moments: races, signals, shards, replaced clips, and two commands in a row."""

import os
import time
from collections import deque
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest

from tests.cache import stores
from tests.extract.extraction import write_video
from tests.pipeline.launch.fake_workers import Workers, drive, driver_of
from tests.programs import call
from tokenreel.cache.errors import ClipFailed, MachineError, WrongIdentity
from tokenreel.cache.format.clip import clip_key, folder_of
from tokenreel.cache.format.store_files import read_failures
from tokenreel.cache.manifest import Clip
from tokenreel.cache.read.store_reader import open_store
from tokenreel.cache.write.claims import read_claim
from tokenreel.cache.write.store_writer import StoreWriter
from tokenreel.cache.write.worker_notes import expected_clips
from tokenreel.extract.flow.commits import fingerprint_of_clip
from tokenreel.extract.report import ExtractReport
from tokenreel.extract.signals import Stopping
from tokenreel.pipeline.launch import drive as drive_module
from tokenreel.pipeline.launch.attempts import LEDGER, Attempts
from tokenreel.pipeline.launch.base import Extraction, ready
from tokenreel.pipeline.launch.drive import Away, Done, Driver, Lost, Ready, Task

NAMES = ("a", "b", "c", "d", "e", "f")


@pytest.fixture
def store(tmp_path):
    return stores.make_store(tmp_path / "store")


@pytest.fixture
def part():
    return [Clip(name, f"{name}.mp4", split="train") for name in NAMES]


def held_by(store, name):
    path = store / "claims" / f"{clip_key(name)}.json"
    return read_claim(path).owner if path.exists() else None


def test_a_clip_that_ended_two_workers_beside_others_is_tried_alone_before_it_is_judged(
    store, part, caplog
):
    workers = Workers(store, part, poison=["a"])
    driver = driver_of(workers, store, part)
    for worker in (0, 1):
        driver._take(Ready(worker))
    driver._give()
    for pid in (98, 99):
        workers.claim("a", pid)
        driver._take(Lost(pid - 98, "killed", "other", pid, "1"))
        assert held_by(store, "a") == "driver"
        driver._state.held.pop("a").release()  # another writer is faster than the driver
        driver._take(Ready(pid - 98))
    assert read_failures(store) == []
    workers.tasks, workers.events = {}, []
    workers.log.clear()
    driver._state.suspects.clear()  # run finds it in the ledger
    report = driver.run(Stopping(), progress=False)
    assert [names for _, names, is_alone in workers.log if is_alone and "a" in names] == [["a"]]
    assert [failure.clip_id for failure in report.failed] == ["a"]
    assert "worker 0 on other died (killed) with a in work" in caplog.text


def test_a_worker_that_does_not_answer_is_told_and_its_lone_clip_is_judged_when_it_is_lost(
    store, part, caplog
):
    workers = Workers(store, part, count=1)
    driver = driver_of(workers, store, part)
    driver._attempts.note(clip_key("c"))
    driver._take(Ready(0))
    driver._start(0, Task(only=frozenset("c")))
    workers.claim("c", 5)
    driver._take(Away(0, "no answer"))
    assert "worker 0 does not answer (no answer)" in caplog.text
    assert read_failures(store) == []
    driver._take(Lost(0, "killed", "other", 5, "1"))
    assert [record["clip_id"] for record in read_failures(store)] == ["c"]
    assert driver._state.idle == set()


def test_clips_of_a_dead_run_that_ended_a_worker_are_tried_alone(store, part):
    workers = Workers(store, part, count=1)
    for name in "ef":
        workers.claim(name, 77, age=0.0)
    driver = driver_of(workers, store, part, expiry_seconds=0.3)
    give = workers.give

    def when_dead(worker, task):
        for name in task.only:
            workers.claim_of(name).unlink(missing_ok=True)
        if not task.only:
            driver._attempts.note(clip_key("e"))  # its worker was killed between two clips
        give(worker, task)

    workers.give = when_dead
    report = driver.run(Stopping(), progress=False)
    alone = [names for _, names, is_alone in workers.log if is_alone]
    assert sorted(alone) == [["e"], ["f"]]
    assert sorted(report.committed) == [*NAMES]


def test_a_claim_that_ends_while_the_driver_is_stopped_is_looked_at_once_more(
    store, part, monkeypatch
):
    workers, now = Workers(store, part, count=1), [0.0]
    workers.claim("b", 77)
    wait = workers.wait

    def is_live(path, **options):
        found = path.exists()
        if found:  # the driver is stopped after its look, and the claim is released meanwhile
            now[0] += 1000.0
            path.unlink()
        return found

    def wait_a_second(seconds):
        now[0] += 1.0
        return wait(seconds)

    workers.wait = wait_a_second
    monkeypatch.setattr(drive_module, "is_live", is_live)
    monkeypatch.setattr(drive_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    report = drive(workers, store, part)
    assert sorted(report.committed) == [*NAMES]


def test_clips_that_stay_taken_are_given_three_times_and_then_named(store, part, caplog):
    workers = Workers(store, part, count=1)
    workers.claim("b", 77, age=3600.0)  # dead for the driver, and never broken
    report = drive(workers, store, part)
    assert [names for _, names, is_alone in workers.log if is_alone] == [["b"]] * 3
    assert sorted(report.committed) == ["a", "c", "d", "e", "f"]
    assert "not extracted: b: rerun to resume" in caplog.text
    assert (report.num_missing, report.num_in_work, report.exit_status) == (1, 0, 3)


def test_clips_that_failed_or_changed_are_not_given_again(store, part):
    workers = Workers(store, part, count=1)
    for name in "abc":
        workers.claim(name, 77, age=3600.0)
    reported = ExtractReport(
        failed=[ClipFailed("a", stage="decode", reason="no")],
        quarantined=[ClipFailed("b", stage="decode", reason="no")],
        changed={"c": "was, is"},
    )
    workers.events.append(Done(0, reported))
    drive(workers, store, part)
    assert [names for _, _, is_alone in workers.log if is_alone for names in workers.log] == []


def test_a_shard_does_not_complete_a_store(store, part):
    half, names = part[:3], [clip.clip_id for clip in part]
    report = driver_of(Workers(store, half), store, half, run=names).run(Stopping(), progress=False)
    assert (report.num_clips, sorted(report.committed)) == (3, ["a", "b", "c"])
    assert expected_clips(store) == 6
    rest = part[3:]
    driver_of(Workers(store, rest), store, rest, run=names).run(Stopping(), progress=False)
    assert expected_clips(store) is None


def test_clips_that_are_to_be_replaced_are_left_until_they_are(tmp_path):
    store = stores.make_store(tmp_path / "store")
    with StoreWriter(store, writer_id="w") as writer:
        for name in ("a", "b"):
            stores.write_clip(writer, name, frames=8)
    part = [stores.make_clip(name) for name in ("a", "b", "c")]
    records = open_store(store).records
    workers = Workers(store, part, count=1)
    driver = driver_of(workers, store, part, replaced=records)
    keys = {name: clip_key(name) for name in "abc"}
    assert driver._left() == {*keys.values()}
    workers.claim("a", 5)
    driver._take(Lost(0, "killed", "other", 5, "1"))
    assert driver._state.suspects == deque(["a"])
    with StoreWriter(store, writer_id="w") as writer:
        driver._state.held.pop("a").release()
        clip = writer.begin(
            part[0],
            dataset="d",
            phases=(),
            source=stores.SOURCE,
            time_base=Fraction(1, 25),
            replaces=records["a"],
        )
        stores.append(writer, clip, "a", 9)
        count = np.arange(9)
        clip.commit(count, count * 2, count % 2, np.zeros(9, np.uint8))
        stores.write_clip(writer, "c", frames=8)
    assert driver._left() == {keys["b"]}
    workers.claim_of("b").write_bytes(b"")
    (store / folder_of(keys["b"]) / "zarr.json").rename(tmp_path / "away")  # is swapped just now
    assert driver._left() == {keys["b"]}
    (tmp_path / "away").rename(store / folder_of(keys["b"]) / "zarr.json")
    driver._state.reports.append(ExtractReport(committed=["c"], skipped=["b", "a"]))
    report = driver._end(Stopping())
    assert (report.committed, report.replaced, report.skipped) == (["c", "a"], ["a"], ["b"])
    assert report.num_in_work == 1, "the claim on b is being written"


def test_a_signal_lets_the_workers_end_and_gives_nothing_more(store, part, caplog):
    workers, stopping = Workers(store, part, count=1), Stopping()
    give = workers.give

    def stop(worker, task):
        give(worker, task)
        workers.step(worker, task)  # two clips
        stopping.stop(10)

    workers.give = stop
    report = driver_of(workers, store, part).run(stopping, progress=False)
    assert (workers.stopped, len(workers.log)) == (10, 1)
    assert (sorted(report.committed), report.signal) == (["a", "b", "c", "d"], 10)
    assert (report.exit_status, report.num_missing) == (143, 2)
    assert "not extracted" not in caplog.text, "the report says so"
    assert expected_clips(store) == 6


def test_workers_that_do_not_end_after_a_signal_are_given_up(store, part, monkeypatch):
    workers, stopping = Workers(store, part, count=1), Stopping()
    now = [0.0]
    monkeypatch.setattr(drive_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    stops = []

    def wait(seconds):
        events, workers.events = workers.events, []
        now[0] += 1.0
        if now[0] == 3:
            stopping.stop(15)
        return events

    workers.wait, workers.stop = wait, stops.append
    workers.reports = lambda: {0: ExtractReport(num_frames=7)}
    report = driver_of(workers, store, part).run(stopping, progress=False)
    assert stops == [15], "once"
    assert report.num_frames == 7
    assert now[0] == pytest.approx(3 + drive_module.STOP_SECONDS, abs=1.5)


def test_an_error_after_a_signal_is_not_raised(store, part):
    workers, stopping = Workers(store, part), Stopping()
    workers.events.append(Done(1, ExtractReport(), WrongIdentity("other versions")))
    stopping.stop(2)
    assert driver_of(workers, store, part).run(stopping, progress=False).exit_status == 130


def test_the_first_error_is_raised_and_no_worker_gets_a_task_after_it(store, part):
    workers = Workers(store, part)
    workers.events += [
        Done(1, ExtractReport(), WrongIdentity("first")),
        Done(0, ExtractReport(), WrongIdentity("second")),
    ]
    with pytest.raises(WrongIdentity, match="first"):
        drive(workers, store, part)
    assert workers.log == []


def test_claims_on_clips_that_wait_to_be_tried_alone_are_kept_alive_and_released(store, part):
    workers, stopping = Workers(store, part, count=1), Stopping()
    driver = driver_of(workers, store, part, expiry_seconds=100.0)
    workers.claim("a", 5)
    driver._take(Lost(0, "killed", "other", 5, "1"))
    claim = workers.claim_of("a")
    os.utime(claim, (1, 1))
    driver._next_beat = 0.0
    driver._beat()
    assert claim.stat().st_mtime > 1
    assert driver._next_beat == pytest.approx(time.monotonic() + 10, abs=5)
    os.utime(claim, (1, 1))
    driver._beat()
    assert claim.stat().st_mtime == 1, "ten seconds have not gone by"
    stopping.stop(15)
    workers.events, driver._next_beat, beats = [], 0.0, []
    workers.stop = lambda number: beats.append(claim.stat().st_mtime)
    driver.run(stopping, progress=False)
    assert beats > [1.0]
    assert not claim.exists()


def test_what_a_worker_did_before_it_died_is_counted_once(store, part):
    workers = Workers(store, part, count=2)
    driver = driver_of(workers, store, part)
    for worker in (0, 1):
        driver._take(Ready(worker))
    driver._give()
    assert [log[0] for log in workers.log] == [0, 1]
    assert [task.share for task in workers.tasks.values()] == [(0, 2), (1, 2)]
    driver._state.latest = {0: ExtractReport(num_frames=3), 1: ExtractReport(num_frames=4)}
    assert driver._total().num_frames == 7
    driver._take(Away(0, "no answer"))
    driver._take(Lost(0, "killed", "other", 5, "1"))
    assert driver._total().num_frames == 7
    driver._take(Done(1, ExtractReport(num_frames=6)))
    assert driver._total().num_frames == 9
    assert driver._state.latest == {}


def test_a_worker_that_works_between_its_deaths_is_not_given_up(store, part):
    workers = Workers(store, part, count=1)
    driver = driver_of(workers, store, part)
    for _ in range(3):
        for _ in range(2):
            driver._take(Lost(0, "killed"))
        driver._take(Done(0, ExtractReport()))
    assert driver._state.error is None
    for pid in (1, 2, 3):  # with a clip in work
        workers.claim("abc"[pid - 1], pid)
        driver._take(Lost(0, "killed", "other", pid, "1"))
    assert driver._state.error is None
    for _ in range(3):
        driver._take(Lost(0, "killed"))
    with pytest.raises(MachineError, match=r"worker 0 died 3 times .* \(killed\)"):
        driver.run(Stopping(), progress=False)


def test_clips_of_the_ledger_are_left_out_of_the_shares_and_tried_alone(store, part):
    for name in ("b", "d", "elsewhere"):
        Attempts(store).note(clip_key(name))
    workers = Workers(store, part, count=2)
    workers.claim("d", 1)
    workers.commit("d")
    drive(workers, store, part)
    assert ["b" in names for _, names, is_alone in workers.log if not is_alone] == [False, False]
    assert [names for _, names, is_alone in workers.log if is_alone] == [["b"]]
    assert not (store / LEDGER).exists() or Attempts(store).found.keys() >= {clip_key("elsewhere")}


def late(workers, seconds):
    """Let no worker answer for a while."""
    events, wait, start = workers.events, workers.wait, time.monotonic()
    workers.events = []

    def wait_for(timeout):
        time.sleep(0.02)
        if events and time.monotonic() > start + seconds:
            workers.events, events[:] = [*events], []
        return wait(timeout)

    workers.wait = wait_for


def test_clips_of_others_are_not_given_up_before_a_worker_has_looked_at_them(store, part):
    workers = Workers(store, part, count=1)
    for name in NAMES:
        workers.claim(name, 7, age=-3600.0)
    late(workers, 0.2)
    drive(workers, store, part, expiry_seconds=0.05)
    assert workers.log == [(0, [*NAMES], False)]


def test_a_clip_that_is_to_be_tried_alone_waits_for_a_worker_that_is_started_again(store, part):
    workers = Workers(store, part, count=1)
    for name in "abdef":
        workers.claim(name, 1)
        workers.commit(name)
    driver = driver_of(workers, store, part, expiry_seconds=0.05)
    driver._attempts.note(clip_key("c"))
    driver._hold(clip_key("c"))
    driver._state.is_through = True
    driver._state.served.add(0)
    late(workers, 0.2)
    report = driver.run(Stopping(), progress=False)
    assert workers.log == [(0, ["c"], True)]
    assert "c" in report.committed


def test_what_a_dead_worker_had_committed_was_not_in_work(store, part, caplog):
    workers = Workers(store, part, count=1)
    workers.claim("a", 5)
    workers.commit("a")
    workers.claim("a", 5)  # not released yet
    driver = driver_of(workers, store, part)
    driver._take(Ready(0))
    driver._take(Lost(0, "killed", "other", 5, "1"))
    assert (driver._state.idle, [*driver._state.suspects]) == (set(), [])
    assert "with no clip in work" in caplog.text
    assert not (store / LEDGER).exists()
    assert not workers.claim_of("a").exists()


def test_a_clip_among_others_that_nobody_claims_is_not_judged_by_their_death(store, part):
    workers = Workers(store, part, count=1)
    driver = driver_of(workers, store, part)
    driver._attempts.note(clip_key("c"))
    driver._start(0, Task(only=frozenset("ac")))
    workers.claim("c", 5)
    driver._take(Lost(0, "killed", "other", 5, "1"))
    assert read_failures(store) == []
    assert driver._state.suspects == deque(["c"])
    driver._state.error = first = WrongIdentity("first")
    for _ in range(3):
        driver._take(Lost(0, "killed"))
    assert driver._state.error is first


def test_a_clip_that_another_writer_takes_first_is_left_to_it(store, part):
    workers = Workers(store, part, count=1)
    driver = driver_of(workers, store, part)
    workers.claim("c", 5, age=1.0)
    driver._hold(clip_key("c"))
    assert driver._state.held == {}
    assert held_by(store, "c") == "x"


def test_a_clip_that_is_tried_alone_is_in_no_share_meanwhile(store, part):
    workers = Workers(store, part, count=2)
    driver = driver_of(workers, store, part)
    driver._take(Ready(0))
    driver._state.served.add(0)
    driver._state.suspects.append("d")
    driver._hold(clip_key("d"))
    driver._give()
    assert (workers.log, held_by(store, "d")) == ([(0, ["d"], True)], None)
    assert driver._state.held == {}, "a claim that is released has no heartbeat"
    driver._take(Ready(1))
    driver._give()
    assert workers.log[1] == (1, ["a", "b", "c", "e", "f"], False)


def test_a_quarantined_clip_is_tried_again_by_a_run_once_its_video_is_another(store, part):
    (store.parent / "c.mp4").write_bytes(b"one")
    os.utime(store.parent / "c.mp4", (1, 1))
    drive(Workers(store, part, poison=["c"]), store, part)
    (record,) = read_failures(store)
    assert record["details"]["source"]["num_bytes"] == 3
    assert record["details"]["clip"] == fingerprint_of_clip(part[2])
    assert record["details"]["video"] == "c.mp4"


@pytest.fixture
def videos(tmp_path):
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos/a.mp4", 6)
    return tmp_path


def test_a_video_that_ends_its_worker_under_two_commands_is_in_quarantine_until_it_is_retried(
    videos, monkeypatch
):
    monkeypatch.chdir(videos)
    words = ("backbone=test_vit", "weights=random:0", "image_size=32", "blocks=5", "device=cpu")
    wanted = Extraction("folder", words, videos / "videos", videos / "store")
    wanted, manifest, _ = ready(wanted)
    store, part = wanted.out, list(manifest.clips)
    name = part[0].clip_id
    workers = Workers(store, part, count=1, poison=[name])
    driver = Driver(workers, manifest, part, store)
    for _ in range(2):  # the first death, and the driver is killed
        for event in workers.wait(0):
            driver._take(event)
        driver._give()
    workers.claim_of(name).unlink(missing_ok=True)
    assert read_failures(store) == []
    second = Workers(store, part, count=1, poison=[name])
    report = Driver(second, manifest, part, store).run(Stopping(), progress=False)
    assert [(f.clip_id, f.stage) for f in report.failed] == [(name, "worker")]
    assert report.exit_status == 3
    status, printed = call("tokenreel", "status", store, cwd=videos)
    assert status == 3
    assert f"in quarantine: {name}: worker: it ended its worker 2 times" in printed
    assert "tries 1 clip(s) again, and no other" in printed
    status, printed = call("extract", "retry", store, "device=cpu", "--root", "videos", cwd=videos)
    assert (status, read_failures(store)) == (0, []), printed
    assert "1 committed" in printed
    assert call("tokenreel", "status", store, cwd=videos)[0] == 0
