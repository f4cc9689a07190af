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
        label: what a table calls it; the recipe's name where it is empty.
        published: task -> the published mean and 2 std (None where not given), as the paper prints
            them: classification and AP in percent, progression and tau from 0 to 1.
    """

    dataset: str
    fuse: FuseConfig
    evaluate: Mapping[str, object] = field(default_factory=dict)
    label: str = ""
    published: Mapping[str, tuple[float, float | None]] = field(default_factory=dict)
