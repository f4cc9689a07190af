"""The simulation of many workers: its operations are those of the code, its clips all end."""

import importlib
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture
def simulation():
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module("scale_simulation")
    sys.path.remove(str(BENCHMARKS))
    for name in ("scale_simulation", "harness"):
        sys.modules.pop(name, None)


def test_the_claims_cost_few_operations(simulation):
    found = simulation.count_operations()
    assert (found.take, found.beat) == (2, 1)  # a link, and its end; a touch for all claims
    assert (found.look_done, found.help, found.look_begun, found.look_held) == (1, 4, 2, 3)
    assert found.refused == 3  # the link, how old the claim is, and whose
    assert found.start == 257, "256 folders, and theirs"
    assert found.listing in range(258, 262), "and the claims"
    assert found.take_over < 16


def test_the_claims_on_a_bucket_wait_for_few_requests(simulation):
    found = simulation.count_requests(200, 256)
    assert found.take <= 0.2, "some claims side by side; the heartbeat deletes those that ended"
    assert (found.help, found.look_done, found.look_held, found.take_over) == (1, 1, 2, 3)
    assert found.beat == 2, "all claims side by side, and the end of those before"
    assert found.start <= 10
    assert found.listing <= 10, "256 folders, 32 at once, and the claims"
    shares = simulation.simulate(256, found, operation_seconds=simulation.REQUEST_SECONDS)
    assert 0.005 < shares.overhead < 0.02
    assert shares.seconds / shares.ideal_seconds < 1.1


def test_at_256_workers_the_claims_take_less_than_a_hundredth_of_the_time(simulation):
    found = simulation.simulate(256, simulation.count_operations())
    assert 0.004 < found.overhead < 0.01
    assert found.seconds / found.ideal_seconds < 1.1


def test_workers_that_neither_fail_nor_wait_share_the_work_evenly(simulation, monkeypatch):
    monkeypatch.setattr(simulation, "FAILURE_SECONDS", 1e12)
    monkeypatch.setattr(simulation, "SLOW_SHARE", 0.0)
    free = simulation.Operations(*[0] * 10)
    found = simulation.simulate(8, free, clips_a_worker=50)
    assert (found.overhead, found.failures) == (0, 0)
    assert found.ideal_seconds == pytest.approx(50)
    assert 1 <= found.seconds / found.ideal_seconds < 1.05
    dear = simulation.simulate(8, simulation.Operations(*[6] * 10), clips_a_worker=50)
    assert dear.overhead > 6 * 0.002 / 1.02
    assert simulation.simulate(8, free, clips_a_worker=50) == found


def test_clips_of_workers_that_fail_are_made_by_others_sooner_where_deaths_are_seen(
    simulation, monkeypatch
):
    monkeypatch.setattr(simulation, "FAILURE_SECONDS", 100.0)
    operations = simulation.Operations(257, 260, 2, 3, 1, 4, 2, 3, 13, 1)
    seen, unseen = (
        simulation.simulate(16, operations, clips_a_worker=50, sees_deaths=sees)
        for sees in (True, False)
    )
    assert seen.failures > 3
    assert seen.seconds < unseen.seconds < 2000


def costs(simulation, **counts):
    """Operations that cost nothing, but for those given."""
    names = [field.name for field in fields(simulation.Operations)]
    return simulation.Operations(**dict.fromkeys(names, 0) | counts)


@pytest.fixture
def even(simulation, monkeypatch):
    """Neither failures nor stragglers."""
    monkeypatch.setattr(simulation, "FAILURE_SECONDS", 1e12)
    monkeypatch.setattr(simulation, "SLOW_SHARE", 0.0)
    return simulation


def test_one_worker_takes_the_time_that_can_be_added_up(even):
    count, seconds = 50, 0.002
    found = even.simulate(1, costs(even, start=7, take=3, beat=11, listing=1000), clips_a_worker=50)
    drawn = np.random.default_rng([0, 1])
    length = np.sort(drawn.lognormal(0.0, 0.7, count))[::-1]
    length /= length.mean()
    beats = 11 * seconds * 10 / even.EXPIRY_SECONDS
    spent = seconds * (7 + 3 * count) + beats * count
    assert found.seconds == pytest.approx(count + spent)
    assert found.ideal_seconds == pytest.approx(count)
    assert found.overhead == pytest.approx(spent / found.seconds)
    assert found.operations_a_second == pytest.approx(spent / seconds / found.seconds)
    assert found.tail_seconds == pytest.approx(length[-1] * (1 + beats) + 3 * seconds)
    other = even.simulate(1, costs(even), clips_a_worker=50, seed=1)
    assert other.tail_seconds != pytest.approx(length[-1])


def test_a_worker_lists_the_store_once_when_it_begins_to_help(even):
    found = even.simulate(8, costs(even, listing=5), clips_a_worker=50)
    listings = found.overhead * 8 * found.seconds / 0.002 / 5
    assert listings == pytest.approx(round(listings), abs=1e-6)
    assert 1 <= round(listings) <= 8


def test_refused_claims_of_an_own_share_are_few(even):
    found = even.simulate(8, costs(even, refused=1, take=0), clips_a_worker=50)
    refused = found.overhead * 8 * found.seconds / 0.002
    assert refused == pytest.approx(round(refused), abs=1e-6)
    assert 1 <= refused < 50
    helped = even.simulate(8, costs(even, help=1), clips_a_worker=50)
    assert 0 < helped.overhead * 8 * helped.seconds / 0.002 < 100


def test_a_straggler_leaves_its_share_to_the_others_and_the_first_worker_is_none(even, monkeypatch):
    monkeypatch.setattr(even, "SLOW_SHARE", 1.0)
    alone = even.simulate(1, costs(even), clips_a_worker=50)
    assert alone.seconds == pytest.approx(50)
    found = even.simulate(2, costs(even), clips_a_worker=100)
    assert found.seconds / found.ideal_seconds == pytest.approx(2 / (1 + 1 / 3), rel=0.05)


def test_a_worker_that_fails_looks_again_at_the_store_and_its_clip_waits_for_its_claim(
    simulation, monkeypatch
):
    monkeypatch.setattr(simulation, "SLOW_SHARE", 0.0)
    monkeypatch.setattr(simulation, "FAILURE_SECONDS", 30.0)
    free = costs(simulation, start=1, take_over=2)
    seen = simulation.simulate(1, free, clips_a_worker=100)
    assert seen.failures >= 2
    # each failure costs the restart, what was done of the clip, a start and a take-over
    low = 100 + simulation.RESTART_SECONDS * seen.failures
    assert low < seen.seconds < low + 10 * seen.failures
    spent = seen.overhead * seen.seconds / 0.002
    assert spent == pytest.approx(1 + 3 * seen.failures)
    unseen = simulation.simulate(1, free, clips_a_worker=100, sees_deaths=False)
    assert unseen.seconds > 100 + simulation.EXPIRY_SECONDS * min(unseen.failures, 1)


class Drawn:
    """Draws that a test has chosen: when workers fail, one after another."""

    def __init__(self, first, later):
        self.first, self.later = first, later

    def lognormal(self, mean, sigma, count):
        return np.ones(count)

    def random(self, count):
        return np.ones(count)

    def exponential(self, scale, count=None):
        return self.later.pop(0) if count is None else np.array(self.first)


@pytest.mark.parametrize(
    ("sees", "later", "counts", "seconds"),
    [
        # worker 0 fails at .5 and begins again at 300.5; worker 1 finds its clip held, at 1
        (
            False,
            [1e9],
            {"start": 3, "take": 2, "listing": 1, "look_held": 1, "take_over": 1},
            301.5,
        ),
        # and again at 300.7, where the other one is idle: it has the clip once the claim is dead
        (
            False,
            [270.2, 1e9],
            {"start": 4, "take": 2, "listing": 2, "look_held": 2, "take_over": 2},
            601.7,
        ),
        # the claim is dead at once: worker 1 takes the clip of worker 0 when its own is done
        (True, [1e9], {"start": 2, "take": 2, "listing": 1, "help": 1}, 2.0),
    ],
)
def test_a_failure_of_one_of_two_workers_by_hand(
    simulation, monkeypatch, sees, later, counts, seconds
):
    names = ("start", "take", "listing", "look_held", "take_over", "help")
    weights = {name: 100**power for power, name in enumerate(names)}
    monkeypatch.setattr(simulation.np.random, "default_rng", lambda _: Drawn([0.5, 1e9], later))
    found = simulation.simulate(
        2,
        costs(simulation, **weights),
        operation_seconds=1e-14,
        clips_a_worker=1,
        sees_deaths=sees,
    )
    assert found.seconds == pytest.approx(seconds, abs=1e-3)
    assert later == []
    spent = round(found.operations_a_second * found.seconds)
    assert {n: spent // weights[n] % 100 for n in names if spent // weights[n] % 100} == counts


def test_one_worker_that_fails_again_and_again_by_hand(simulation, monkeypatch):
    monkeypatch.setattr(simulation, "SLOW_SHARE", 0.0)
    monkeypatch.setattr(simulation, "FAILURE_SECONDS", 20.0)
    drawn = np.random.default_rng([0, 1])
    length = np.sort(drawn.lognormal(0.0, 0.7, 60))[::-1]
    drawn.random(1)
    now, fails, failures = 0.0, drawn.exponential(20.0, 1)[0], 0
    for work in length / length.mean():
        while fails < now + work:
            failures += 1
            now, fails = fails + 30, fails + 30 + drawn.exponential(20.0)
        now += work
    found = simulation.simulate(1, costs(simulation), clips_a_worker=60)
    assert (found.failures, found.seconds) == (failures, pytest.approx(now))
