"""Losses, one a file; LOSSES finds the one of a config by its name."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from tokenreel.fuse.losses.cross_entropy import cross_entropy
from tokenreel.fuse.losses.gta import gta
from tokenreel.fuse.losses.inputs import LossInput
from tokenreel.fuse.losses.lav import lav
from tokenreel.fuse.losses.sal import sal
from tokenreel.fuse.losses.scl import scl
from tokenreel.fuse.losses.tcc import tcc
from tokenreel.fuse.losses.tcn import tcn
from tokenreel.fuse.losses.vsp import vsp

__all__ = ["LOSSES", "LossInput"]

LOSSES: dict[str, Callable[[LossInput, Any], Tensor]] = {
    "scl": scl,
    "tcc": tcc,
    "tcn": tcn,
    "sal": sal,
    "lav": lav,
    "gta": gta,
    "vsp": vsp,
    "cross_entropy": cross_entropy,
}
