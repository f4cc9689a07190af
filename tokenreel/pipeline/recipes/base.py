"""What a recipe is."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from tokenreel.cache.errors import UsageError
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
        backbone: how the backbone of its store is named in timm, or begins: "resnet"; any if empty.
    """

    dataset: str
    fuse: FuseConfig
    evaluate: Mapping[str, object] = field(default_factory=dict)
    label: str = ""
    published: Mapping[str, tuple[float, float | None]] = field(default_factory=dict)
    backbone: str = ""

    def require_backbone(self, architecture: str) -> None:
        """Refuse a store of another kind of backbone than the recipe is about.

        Raises:
            UsageError: what the store has, and the command that would make another.
        """
        if not architecture.startswith(self.backbone):
            raise UsageError(
                f"the store's backbone is {architecture}, this recipe is about {self.backbone}: "
                f"`extract run {self.dataset} backbone={self.backbone} --out STORE`, "
                "and name that store with --store"
            )
