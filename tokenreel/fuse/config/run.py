"""Configuration of a training run: data, pooling, fusion, loss, optimiser."""

from typing import Literal

from pydantic import Field, model_validator

from tokenreel.fuse.config.base import FrozenConfig
from tokenreel.fuse.config.loss import LossConfig, SclConfig
from tokenreel.fuse.config.model import LstpConfig, PoolingConfig, TemporalConfig
from tokenreel.fuse.config.windows import SamplingKind


class DataConfig(FrozenConfig):
    """Which frames a step sees.  Source: CARL, section 3.2."""

    seed: int = Field(
        default=0,
        ge=0,
        lt=2**63,
        description="of the order of clips and of their windows: not that of the run, so that one "
        "stream over the store feeds runs of all seeds",
    )
    num_frames: int = Field(default=80, ge=2, description="frames T of a window")
    batch_clips: int = Field(default=4, ge=1, description="clips B of a step, two windows each")
    sampling: SamplingKind = Field(
        default="paper", description="which windows: as in the text, or as the released code does"
    )
    alpha: float = Field(
        default=1.5, ge=1, description="a window is drawn from [T, alpha T] frames"
    )
    beta: float = Field(default=0.2, ge=0, le=1, description="least overlap of the two windows")
    views: Literal["clean", "augmented", "all"] = Field(
        default="clean",
        description="views of the store that the two windows are drawn from: the clean one; "
        "two different augmented ones, as in the papers; two different ones of all that it has",
    )
    action: str | None = Field(
        default=None, description="train on and embed the clips of this action alone; None: of all"
    )
    label_share: float = Field(
        default=1.0, gt=0, le=1, description="share of the labelled clips to train on; 1: all clips"
    )
    held_out: float = Field(
        default=0.0, ge=0, lt=1, description="share of the training clips kept for a held-out loss"
    )


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


class OptimConfig(FrozenConfig):
    """Optimiser and schedule.  Source: MV-Former, section 4.4; CARL, section 4.1."""

    name: Literal["adam", "adamw"] = Field(default="adam", description="optimiser")
    lr: float = Field(default=1e-4, gt=0, description="highest learning rate")
    weight_decay: float = Field(default=1e-5, ge=0, description="weight decay")
    eps: float = Field(
        default=1e-8, gt=0, description="of Adam: weights whose gradients are smaller hardly move"
    )
    epochs: int = Field(default=500, ge=0, description="passes over the training clips; 0: none")
    warmup_epochs: int = Field(default=0, ge=0, description="epochs of linear warm-up")
    clip_grad_norm: float = Field(default=10.0, gt=0, description="largest norm of the gradient")
    checkpoint_epochs: int = Field(default=10, ge=1, description="epochs between checkpoints")
    checkpoint_minutes: float = Field(
        default=10.0, ge=0, description="minutes between checkpoints, wherever in an epoch"
    )
    evaluate_epochs: int = Field(
        default=0, ge=0, description="epochs between losses on the held-out clips; 0: never"
    )
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="of the forward pass; auto: bfloat16 on a GPU, else float32"
    )
    compile: bool = Field(default=False, description="compile the temporal fusion")


class FuseConfig(FrozenConfig):
    """A training run on one store."""

    seed: int = Field(
        default=0,
        ge=0,
        lt=2**63,
        description="of weights, dropout, augmentation, losses and the draw of labelled clips",
    )
    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    pooling: PoolingConfig = LstpConfig()
    temporal: TemporalConfig = TemporalConfig()
    loss: LossConfig = SclConfig()
    optim: OptimConfig = OptimConfig()
    init: str | None = Field(
        default=None, description="folder of a run whose last weights are the first of this one"
    )
    embed_frames: int = Field(
        default=1000, ge=1, description="longest piece of a clip that is embedded at once"
    )

    @model_validator(mode="after")
    def _has_clips_to_evaluate(self) -> "FuseConfig":
        if self.optim.evaluate_epochs and not self.data.held_out:
            raise ValueError("optim.evaluate_epochs needs held-out clips: set data.held_out")
        return self

    @model_validator(mode="after")
    def _labels_are_used(self) -> "FuseConfig":
        if self.data.label_share < 1 and not self.loss.uses_labels:
            raise ValueError(
                f"data.label_share={self.data.label_share:g} is of clips with labels, loss.name="
                f"{self.loss.name} learns from none: set loss.name=cross_entropy, or give the "
                "probe fewer with `evaluate all fractions=SHARE`"
            )
        return self

    @model_validator(mode="after")
    def _batches_suit_the_loss(self) -> "FuseConfig":
        name, fewest = f"loss.name={self.loss.name}", self.loss.min_frames
        frames, clips = self.data.num_frames, self.data.batch_clips
        if frames < fewest:
            raise ValueError(
                f"{name} learns from sequences of {fewest} frames or more: data.num_frames="
                f"{frames} is too few"
            )
        if self.loss.pair_window and frames % 2:
            raise ValueError(f"{name} draws pairs of frames: data.num_frames={frames} must be even")
        if self.loss.pairs_by_action and clips < 2:
            raise ValueError(
                f"{name} aligns two clips of one action, data.batch_clips={clips} holds one: set "
                "2 or more, or set loss.pairs=windows"
            )
        return self

    @model_validator(mode="after")
    def _ids_leave_channels(self) -> "FuseConfig":
        entities, hidden = self.pooling.total_entities, self.temporal.hidden
        is_appended = self.temporal.entity_ids == "encoder" and self.pooling.makes_entities
        if is_appended and entities >= hidden:
            raise ValueError(
                f"temporal.entity_ids=encoder takes {entities} channels of temporal.hidden="
                f"{hidden} for the IDs of the entities: set a larger hidden, or entity_ids=pool"
            )
        return self

    @model_validator(mode="after")
    def _convolutions_have_a_grid(self) -> "FuseConfig":
        if (self.temporal.kind == "conv3d") != (self.pooling.kind == "grid"):
            raise ValueError(
                f"temporal.kind={self.temporal.kind} with pooling.kind={self.pooling.kind}: "
                "conv3d convolves over the grid that pooling.kind=grid leaves whole"
            )
        return self

    @model_validator(mode="after")
    def _augmentation_meets_tokens(self) -> "FuseConfig":
        hiding = self.augment.with_(noise=0.0)
        if hiding.changes_tokens and not self.pooling.uses_tokens:
            raise ValueError(
                f"augment changes tokens ({hiding.describe().removeprefix('of tokens: ')}), "
                f"pooling.kind={self.pooling.kind} pools none: set augment.noise, or another kind"
            )
        return self
