"""A loss of MV-Former: a configuration and a function of a batch."""

from typing import Literal

import torch
from pydantic import Field

from tokenreel.fuse.config.loss import LossBase
from tokenreel.fuse.losses import Loss, LossInput


class SlownessConfig(LossBase):
    """Neighbouring frames are near."""

    name: Literal["example-slowness"] = "example-slowness"
    weight: float = Field(default=1.0, gt=0, description="of the squared steps")


def slowness(inputs: LossInput, config: SlownessConfig) -> torch.Tensor:
    """The mean squared step of the embeddings, and of their length's distance from 1."""
    embeddings = inputs.embeddings
    steps = embeddings.diff(dim=2).square().mean()
    return config.weight * steps + (embeddings.norm(dim=-1) - 1).square().mean()


SLOWNESS = Loss(SlownessConfig, slowness)
