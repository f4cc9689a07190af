"""What all configs of a run have in common, and what earlier versions called their values."""

import logging

import pytest
from pydantic import ValidationError

from tokenreel.fuse.config import DataConfig, FuseConfig, LavConfig, OptimConfig, SclConfig
from tokenreel.fuse.config.base import _log_renamed


def test_a_changed_copy_is_validated_and_the_config_stays():
    config = FuseConfig()
    assert config.with_(seed=3).seed == 3
    assert config == FuseConfig()
    with pytest.raises(ValidationError, match=r"evaluate_epochs needs held-out clips"):
        config.with_(optim=OptimConfig(evaluate_epochs=1))
    with pytest.raises(ValidationError, match=r"Extra inputs are not permitted"):
        config.with_(sed=3)
    with pytest.raises(ValidationError, match=r"greater than or equal to 2"):
        DataConfig().with_(num_frames=1)


def test_a_value_of_earlier_versions_is_read_with_one_line(caplog):
    _log_renamed.cache_clear()
    caplog.set_level(logging.WARNING)
    for _ in range(2):
        assert SclConfig.model_validate({"negatives": "view"}) == SclConfig(negatives="window")
        assert LavConfig.model_validate({"pairs": "views"}) == LavConfig(pairs="windows")
    assert [record.message for record in caplog.records] == [
        "loss.negatives=view is called loss.negatives=window now",
        "loss.pairs=views is called loss.pairs=windows now",
    ]
