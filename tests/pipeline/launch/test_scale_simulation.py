"""The simulation of many workers: its operations are those of the code, its clips all end."""

import importlib
import sys
from pathlib import Path

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
