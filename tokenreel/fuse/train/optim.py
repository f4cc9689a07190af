"""Optimiser and learning-rate schedule."""

import math

import torch
from torch import nn

from tokenreel.fuse.config.run import OptimConfig

__all__ = ["learning_rate", "make_optimiser"]


def learning_rate(config: OptimConfig, epoch: int) -> float:
    """The rate of an epoch, from 0: linear warm-up, then a cosine that would end one epoch later.

    The released code of CARL and MV-Former gives the cosine one epoch more than it trains.

    >>> config = OptimConfig(lr=1.0, epochs=4, warmup_epochs=2)
    >>> [round(learning_rate(config, epoch), 3) for epoch in range(4)]
    [0.5, 1.0, 1.0, 0.75]
    """
    if epoch < config.warmup_epochs:
        return config.lr * (epoch + 1) / config.warmup_epochs
    rest = config.epochs - config.warmup_epochs + 1
    return config.lr * (1 + math.cos(math.pi * (epoch - config.warmup_epochs) / rest)) / 2


def make_optimiser(config: OptimConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Adam or AdamW over all parameters, each of which is read and written once a step."""
    kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    return kinds[config.name](
        model.parameters(),
        lr=config.lr,
        eps=config.eps,
        weight_decay=config.weight_decay,
        fused=True,
    )
