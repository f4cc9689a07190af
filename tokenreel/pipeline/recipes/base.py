"""What a recipe is."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from tokenreel.fuse.config import FuseConfig

__all__ = ["Recipe"]


@dataclass(frozen=True)
class Recipe:
    """An experiment.

    Attributes:
        dataset: the data set whose store it reads by default.
        fuse: how it trains.
        evaluate: settings of phase 3 that differ from the defaults, by field.
    """

    dataset: str
    fuse: FuseConfig
    evaluate: Mapping[str, object] = field(default_factory=dict)
