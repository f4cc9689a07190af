"""The driver of workers that die: what is tried again, alone, and what goes into quarantine."""

import os
import time
from collections.abc import Mapping

import pytest

from tests.cache import stores
from tokenreel.cache.canonical import canonical_json, seal
from tokenreel.cache.errors import ClipFailed, MachineError, TokenReelError, WrongIdentity
from tokenreel.cache.format.clip import clip_key, folder_of
from tokenreel.cache.format.index import committed_keys
from tokenreel.cache.format.store_files import read_failures
from tokenreel.cache.manifest import Clip, Manifest
from tokenreel.extract.report import ExtractReport
from tokenreel.extract.signals import Stopping
from tokenreel.pipeline.launch.attempts import LEDGER
from tokenreel.pipeline.launch.drive import Away, Done, Driver, Lost, Ready

NAMES = ("a", "b", "c", "d", "e", "f")


class Workers:
    """Workers that commit two clips at each look, in claims of processes of another host.

    Args:
        store: its directory.
        count: of workers.
        poison: clips that end their worker.
        grows: whether each attempt at a poisonous clip leaves another segment.
    """

    def __init__(self, store, part, count=2, poison=(), grows=False, dies_at_once=False):
        self.store, self.part, self.count = store, part, count
        self.poison, self.grows, self.dies_at_once = set(poison), grows, dies_at_once
        self.begun = {}
        self.tasks, self.done, self.events = {}, {}, [Ready(n) for n in range(count)]
        self.log, self.stopped, self.pids = [], 0, 0

    def give(self, worker, task):
        self.tasks[worker] = task
        self.done[worker] = []
        names = [clip.clip_id for clip in task.clips(self.part)]
        self.log.append((worker, names, bool(task.only)))

    def wait(self, seconds):
        events, self.events = self.events, []
        for worker, task in list(self.tasks.items()):
            events += self.step(worker, task)
        return events

    def step(self, worker, task):
        if self.dies_at_once:
            return self.lose(worker)
        names = [clip.clip_id for clip in task.clips(self.part)]
        part, parts = task.share
        names = names[part::parts] + [n for n in reversed(names) if n not in names[part::parts]]
        free = [n for n in names if not self.is_taken(n)][:2]
        if not free or self.stopped:
            del self.tasks[worker]
            return [Done(worker, ExtractReport(committed=self.done[worker]))]
        self.pids += 1
        for name in free:
            self.claim(name, self.pids)
        if self.poison & {*free}:
            for name in free:
                if name in self.poison and self.grows:
                    self.segment(name)
            return self.lose(worker)
        for name in free:
            self.commit(name)
            self.done[worker].append(name)
        return []

    def lose(self, worker):
        del self.tasks[worker]
        self.events.append(Ready(worker))
        return [Lost(worker, "killed", "other", self.pids)]

    def is_taken(self, name):
        return clip_key(name) in committed_keys(self.store) or self.claim_of(name).exists()

    def claim_of(self, name):
        return self.store / "claims" / f"{clip_key(name)}.json"

    def claim(self, name, pid, age=0.0):
        holder = {"owner": "x", "host": "other", "pid": pid, "started": "1", "token": f"{pid}"}
        path = self.claim_of(name)
        path.write_bytes(canonical_json(seal(holder)))
        os.utime(path, (time.time() - age,) * 2)

    def segment(self, name):
        final = self.store / folder_of(clip_key(name))
        folder = final.with_name(f".tmp-{clip_key(name)}-w")
        folder.mkdir(parents=True, exist_ok=True)
        self.begun[name] = self.begun.get(name, 0) + 1
        (folder / str(self.begun[name])).touch()
        if self.begun[name] == 4:
            self.poison.discard(name)

    def commit(self, name):
        self.claim_of(name).unlink()
        (self.store / folder_of(clip_key(name))).mkdir(parents=True)

    def reports(self) -> Mapping[int, ExtractReport]:
        return {}

    def stop(self, number):
        self.stopped = number or -1


@pytest.fixture
def store(tmp_path):
    return stores.make_store(tmp_path / "store")


@pytest.fixture
def part():
    return [Clip(name, f"{name}.mp4", split="train") for name in NAMES]


def drive(workers, store, part, **options):
    manifest = Manifest("folder", store.parent, tuple(part), {})
    return Driver(workers, manifest, part, store, **options).run(Stopping(), progress=False)


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
    manifest = Manifest("folder", store.parent, tuple(part), {})
    driver = Driver(workers, manifest, part, store)
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
    workers = Workers(store, part)
    workers.claim("b", 77, age=0.0)
    started = time.monotonic()
    give = workers.give

    def when_dead(worker, task):
        if task.only:
            workers.claim_of("b").unlink()  # as a writer breaks a claim that is dead
        give(worker, task)

    workers.give = when_dead
    report = drive(workers, store, part, expiry_seconds=1.0)
    assert time.monotonic() - started >= 1.0
    assert sorted(report.committed) == [*NAMES]


def test_clips_of_another_writer_that_lives_are_left_to_it(store, part, caplog):
    workers = Workers(store, part)
    workers.claim("b", 77, age=-3600.0)
    report = drive(workers, store, part, expiry_seconds=0.2)
    assert sorted(report.committed) == ["a", "c", "d", "e", "f"]
    assert "1 clip(s) are claimed by other writers" in caplog.text
    assert report.num_missing == 1


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
