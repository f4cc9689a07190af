"""A loss that a package adds: from its entry point to an embedding file."""

import pytest
from pydantic import ValidationError

from tests.fuse.tiny import tiny_config
from tokenreel.cache.errors import UsageError
from tokenreel.fuse.config import FuseConfig, parse_config
from tokenreel.fuse.runs.provenance import read_config, read_provenance
from tokenreel.fuse.train.train import train
from tokenreel.pipeline.override import apply_overrides

MODULE = """
from typing import Literal

from torch import nn

from tokenreel.fuse.config.loss import LossBase
from tokenreel.fuse.losses import Loss


class NearConfig(LossBase):
    name: Literal["near"] = "near"
    scale: float = 1.0

    @property
    def min_frames(self):
        return 2


def near(inputs, config):
    return config.scale * inputs.embeddings.diff(dim=2).square().mean()


def make_head(config, width, num_classes):
    return nn.Linear(width, 2)


LOSS = Loss(NearConfig, near, make_head, lambda head, config, embeddings: head(embeddings))
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "packages"
    info = folder / "near_loss-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "near_loss.py").write_text(MODULE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: near_loss\nVersion: 1.0\n")
    points = "near = near_loss:LOSS\nbroken = no_such_module:LOSS\n"
    (info / "entry_points.txt").write_text(f"[tokenreel.losses]\n{points}")
    monkeypatch.syspath_prepend(folder)


def test_a_loss_of_a_package_is_trained_and_its_run_is_read_again(package, store, tmp_path):
    config = apply_overrides(tiny_config(), ["loss.name=near", "loss.scale=2"], root="fuse")
    assert (config.loss.name, config.loss.scale) == ("near", 2.0)
    result = train(config, store=store, out=tmp_path / "run", device="cpu", progress=False)
    assert result.embeddings.exists()
    assert train(config, store=store, out=tmp_path / "run", device="cpu", progress=False).was_done
    about = read_provenance(tmp_path / "run")
    assert about["config"]["loss"] == {"name": "near", "scale": 2.0}
    assert read_config(tmp_path / "run", about) == config
    assert config.with_(seed=1).loss == config.loss


def test_wrong_words_of_a_loss_of_a_package_are_told(package):
    told = r"^fuse\.loss\.name: no loss 'nea', did you mean near\?.*entry point tokenreel\.losses"
    with pytest.raises(UsageError, match=told):
        apply_overrides(FuseConfig(), ["loss.name=nea"], root="fuse")
    with pytest.raises(UsageError, match=r"^fuse\.loss\.scale: Input should be a valid number"):
        apply_overrides(FuseConfig(), ["loss.name=near", "loss.scale=x"], root="fuse")
    with pytest.raises(UsageError, match=r"fuse\.loss\.scal: no such field, did you mean scale"):
        apply_overrides(FuseConfig(), ["loss.name=near", "loss.scal=1"], root="fuse")
    with pytest.raises(UsageError, match=r"loss 'broken' of near_loss 1\.0 .*cannot be imported"):
        apply_overrides(FuseConfig(), ["loss.name=broken"], root="fuse")


def test_a_config_with_a_loss_whose_package_is_gone_is_refused():
    with pytest.raises(ValidationError, match="near"):
        parse_config({"loss": {"name": "near", "scale": 2.0}})
