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
    # written, linked, its other name removed; then committed?, read, removed
    assert (found.take, found.help, found.look, found.beat) == (6, 8, 2, 1)
    assert found.listing in range(257, 262), "256 folders, theirs, and the claims"


def test_workers_that_neither_fail_nor_wait_share_the_work_evenly(simulation, monkeypatch):
    monkeypatch.setattr(simulation, "FAILURE_SECONDS", 1e12)
    monkeypatch.setattr(simulation, "SLOW_SHARE", 0.0)
    free = simulation.Operations(0, 0, 0, 0, 0)
    found = simulation.simulate(8, free, clips_a_worker=50)
    assert (found.overhead, found.failures) == (0, 0)
    assert found.ideal_seconds == pytest.approx(50)
    assert 1 <= found.seconds / found.ideal_seconds < 1.05
    dear = simulation.simulate(8, simulation.Operations(6, 8, 2, 1, 259), clips_a_worker=50)
    assert dear.overhead > 6 * 0.002 / 1.02
    assert simulation.simulate(8, free, clips_a_worker=50) == found


def test_clips_of_workers_that_fail_are_made_by_others_sooner_where_deaths_are_seen(
    simulation, monkeypatch
):
    monkeypatch.setattr(simulation, "FAILURE_SECONDS", 100.0)
    operations = simulation.Operations(6, 8, 2, 1, 259)
    seen, unseen = (
        simulation.simulate(16, operations, clips_a_worker=50, sees_deaths=sees)
        for sees in (True, False)
    )
    assert seen.failures > 3
    assert seen.seconds < unseen.seconds < 2000
