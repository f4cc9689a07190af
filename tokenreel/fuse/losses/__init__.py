"""Losses, one a file, by the names of `tokenreel.fuse.config.loss.LOSSES`."""

from tokenreel.fuse.config.loss import LOSSES
from tokenreel.fuse.losses.inputs import Loss, LossInput

__all__ = ["LOSSES", "Loss", "LossInput"]
