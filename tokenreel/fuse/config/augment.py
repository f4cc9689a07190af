"""Configuration of what is done to cached tokens in training."""

from pydantic import Field

from tokenreel.fuse.config.base import FrozenConfig


class AugmentConfig(FrozenConfig):
    """What is done to cached tokens in training, alike in all frames of a window.

    A variant of the papers' augmentation, which changes pixels: that is what stored views are for.
    """

    crop: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="least share of the tokens in the rectangle of a window",
    )
    flip: bool = Field(
        default=False,
        description="mirror half of the windows: their rectangles, as a pooling is not spatial, "
        "and with pooling.kind=grid their tokens",
    )
    dropout: float = Field(default=0.0, ge=0, lt=1, description="share of tokens that are hidden")
    noise: float = Field(
        default=0.0, ge=0, description="standard deviation of each channel's factor around 1"
    )

    @property
    def changes_tokens(self) -> bool:
        """Whether anything is done to tokens in training."""
        return self.crop < 1 or self.flip or self.dropout > 0 or self.noise > 0

    def describe(self, *, sees_tokens: bool = True) -> str:
        """One line for the provenance of a run and for tables.

        Args:
            sees_tokens: whether the run pools spatial tokens; of CLS vectors nothing is hidden.

        >>> AugmentConfig().describe()
        'none'
        >>> AugmentConfig(crop=0.4, flip=True, noise=0.1).describe()
        'of tokens: crop 0.4, flip, noise 0.1'
        >>> AugmentConfig(crop=0.4, flip=True, noise=0.1).describe(sees_tokens=False)
        'of CLS: noise 0.1'
        """
        if not sees_tokens:
            return f"of CLS: noise {self.noise:g}" if self.noise else "none"
        parts = [f"crop {self.crop:g}"] if self.crop < 1 else []
        parts += ["flip"] if self.flip else []
        parts += [f"dropout {self.dropout:g}"] if self.dropout else []
        parts += [f"noise {self.noise:g}"] if self.noise else []
        return f"of tokens: {', '.join(parts)}" if parts else "none"
