"""Jobs of recipes: a command that is typed again finds its run."""

import logging

from tests.fuse.tiny import write_store
from tokenreel.pipeline.phases.training import make_job, recorded_config, train_recipe


def test_a_run_that_counts_blocks_from_the_last_is_its_own_when_it_is_typed_again(tmp_path, caplog):
    store = write_store(tmp_path / "store")
    words = ["optim.epochs=0"]
    train_recipe("late-fusion", words, store=store, out=tmp_path / "run", progress=False)
    job = make_job("late-fusion", words, store=store, out=tmp_path / "run")
    with caplog.at_level(logging.WARNING):
        assert recorded_config(job) == job.config
    assert job.config.pooling.blocks == (-1,)  # the run has the number: 3
    assert caplog.messages == []
