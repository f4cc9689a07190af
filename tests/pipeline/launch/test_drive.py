"""The driver of workers that die: what is tried again, alone, and what goes into quarantine."""

import time

import pytest

from tests.cache import stores
from tests.pipeline.launch.fake_workers import Workers, drive, driver_of
from tokenreel.cache.errors import ClipFailed, MachineError, TokenReelError, WrongIdentity
from tokenreel.cache.format.store_files import read_failures
from tokenreel.cache.manifest import Clip
from tokenreel.extract.report import ExtractReport
from tokenreel.pipeline.launch.attempts import LEDGER
from tokenreel.pipeline.launch.drive import Away, Done, Ready

NAMES = ("a", "b", "c", "d", "e", "f")


@pytest.fixture
def store(tmp_path):
    return stores.make_store(tmp_path / "store")


@pytest.fixture
def part():
    return [Clip(name, f"{name}.mp4", split="train") for name in NAMES]


def test_every_clip_is_committed_once_and_nothing_else_is_left(store, part):
    workers = Workers(store, part)
    report = drive(workers, store, part)
    assert sorted(report.committed) == [*NAMES]
    assert (report.exit_status, report.num_missing) == (0, 0)
    assert not (store / "workers").exists()


def test_a_clip_that_ends_its_worker_twice_is_in_quarantine_and_its_neighbour_is_not(store, part):
    workers = Workers(store, part, poison=["c"])
    report = drive(workers, store, part)
    assert sorted(report.committed) == ["a", "b", "d", "e", "f"]
    (record,) = read_failures(store)
    assert (record["clip_id"], record["stage"]) == ("c", "worker")
    assert record["reason"] == "it ended its worker 2 times, the last time alone (killed)"
    assert [str(failure) for failure in report.failed] == [f"c: worker: {record['reason']}"]
    alone = [names for _, names, is_alone in workers.log if is_alone]
    assert ["c"] in alone
    assert all(len(names) == 1 for names in alone)
    assert report.exit_status == 3
    assert not (store / LEDGER).exists()


def test_a_driver_that_was_killed_after_the_first_death_leaves_what_the_next_one_needs(store, part):
    workers = Workers(store, part, count=1, poison=["a"])
    driver = driver_of(workers, store, part)
    for _ in range(2):
        for event in workers.wait(0):
            driver._take(event)
        driver._give()
    assert (store / LEDGER).is_file()
    for path in (store / "claims").iterdir():
        path.unlink()  # those of the driver, whose process has ended
    again = Workers(store, part, count=1, poison=["a"])
    report = drive(again, store, part)
    assert [names for _, names, is_alone in again.log if is_alone and "a" in names] == [["a"]]
    assert [failure.clip_id for failure in report.failed] == ["a"]


def test_a_clip_that_progresses_at_each_attempt_is_not_in_quarantine(store, part):
    workers = Workers(store, part, poison=["b"], grows=True)
    report = drive(workers, store, part)
    assert read_failures(store) == []
    assert sorted(report.committed) == [*NAMES]


def test_a_worker_that_dies_before_its_first_clip_ends_the_run_after_three_times(store, part):
    workers = Workers(store, part, count=1, dies_at_once=True)
    with pytest.raises(MachineError, match="worker 0 on other died 3 times before it began a clip"):
        drive(workers, store, part)


def test_clips_whose_claims_outlived_a_killed_run_are_taken_once_these_are_dead(store, part):
    workers, started = Workers(store, part), time.monotonic()
    workers.claim("b", 77, age=0.0)
    give = workers.give

    def when_dead(worker, task):
        if task.only:
            workers.claim_of("b").unlink()  # as a writer breaks a claim that is dead
        give(worker, task)

    workers.give = when_dead
    report = drive(workers, store, part, expiry_seconds=0.3)
    assert time.monotonic() - started >= 0.3
    assert sorted(report.committed) == [*NAMES]


def test_clips_of_another_writer_that_lives_are_left_to_it(store, part, caplog):
    workers = Workers(store, part)
    workers.claim("b", 77, age=-3600.0)
    report = drive(workers, store, part, expiry_seconds=0.2)
    assert sorted(report.committed) == ["a", "c", "d", "e", "f"]
    assert "1 clip(s) are claimed by other writers" in caplog.text
    assert (report.skipped, report.num_in_work, report.num_missing) == (["b"], 1, 0)
    assert report.exit_status == 0


def test_a_worker_that_does_not_answer_for_a_while_gets_its_share_again(store, part):
    workers = Workers(store, part, count=1)
    give = workers.give

    def unreachable(worker, task):
        give(worker, task)
        if len(workers.log) == 1:
            del workers.tasks[worker]
            workers.events += [Away(worker, "no answer"), Ready(worker)]

    workers.give = unreachable
    report = drive(workers, store, part)
    assert [is_alone for _, _, is_alone in workers.log[:2]] == [False, False]
    assert sorted(report.committed) == [*NAMES]


def test_an_error_of_a_worker_stops_the_others_and_is_raised(store, part):
    workers = Workers(store, part)
    workers.events.append(Done(1, ExtractReport(), WrongIdentity("other versions")))
    with pytest.raises(WrongIdentity, match="other versions"):
        drive(workers, store, part)
    assert workers.stopped


def test_more_failures_than_allowed_end_the_run(store, part):
    workers = Workers(store, part)
    failed = [ClipFailed(name, stage="decode", reason="no") for name in "ab"]
    workers.events.append(Done(0, ExtractReport(failed=failed)))
    with pytest.raises(TokenReelError, match="2 clips failed, more than max_failures=1"):
        drive(workers, store, part, max_failures=1)
