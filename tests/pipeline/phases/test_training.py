"""Jobs of recipes: a command that is typed again finds its run."""

import logging

import pytest

from tests.fuse.tiny import write_store
from tokenreel.fuse.train import processes, train
from tokenreel.pipeline.phases import training
from tokenreel.pipeline.phases.training import make_job, recorded_config, train_jobs, train_recipe


def test_a_run_that_counts_blocks_from_the_last_is_its_own_when_it_is_typed_again(tmp_path, caplog):
    store = write_store(tmp_path / "store")
    words = ["optim.epochs=0"]
    train_recipe("late-fusion", words, store=store, out=tmp_path / "run", progress=False)
    job = make_job("late-fusion", words, store=store, out=tmp_path / "run")
    with caplog.at_level(logging.WARNING):
        assert recorded_config(job) == job.config
    assert job.config.pooling.blocks == (-1,)  # the run has the number: 3
    assert caplog.messages == []


@pytest.mark.parametrize(("count", "taken"), [(1, "lock-step"), (2, "processes")])
def test_runs_of_a_cpu_take_all_its_processors_those_that_are_last_first(
    tmp_path, monkeypatch, count, taken
):
    began = []

    def in_processes(jobs, *, processes):
        assert processes == 2
        began.append(("processes", [job.out.name for job in jobs]))
        return [job.out.name for job in jobs]

    def together(jobs):
        began.append(("lock-step", [job.out.name for job in jobs]))
        return [job.out.name for job in jobs]

    monkeypatch.setattr(training, "num_processors", lambda: count)
    monkeypatch.setattr(processes, "train_in_processes", in_processes)
    monkeypatch.setattr(train, "train_together", together)
    store = write_store(tmp_path / "store")
    jobs = [make_job("untrained", [], store=store, out=tmp_path / name) for name in "abc"]
    assert train_jobs(jobs) == ["a", "b", "c"]
    assert began == [(taken, ["a", "b", "c"] if count == 1 else ["c", "b", "a"])]
