"""Configurations of the losses, chosen by `loss.name`.

They are here and not beside the losses because those import torch: a wrong word on the command line
is refused before torch is imported.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from tokenreel.cache.errors import UsageError
from tokenreel.cache.plugins import Table
from tokenreel.fuse.config.base import FrozenConfig, renamed


class LossBase(FrozenConfig):
    """Base of the configs of losses; that of a package has a `name` of one possible value."""

    name: str

    @property
    def pairs_by_action(self) -> bool:
        """Whether it aligns clips of one action, so that a batch must hold several of each."""
        return False

    @property
    def pair_window(self) -> int:
        """How far before each frame of a sequence a second one is drawn, in frames; 0: none is."""
        return 0

    @property
    def uses_labels(self) -> bool:
        """Whether it needs the phase of frames."""
        return False

    @property
    def min_frames(self) -> int:
        """The shortest sequence that it learns from, in frames."""
        return 1


class _AlignmentLoss(LossBase):
    pairs: Literal["action", "windows"] = Field(
        default="action",
        description="aligned are two clips of one action (weak labels), or a clip's two windows",
    )

    @field_validator("pairs", mode="before")
    @classmethod
    def _pairs_of_views(cls, value: Any) -> Any:
        return renamed("loss.pairs", "views", "windows", value)

    @property
    def pairs_by_action(self) -> bool:
        """Unless it aligns two windows of one clip."""
        return self.pairs == "action"


class SclConfig(LossBase):
    """Sequence contrastive loss.  Source: CARL, section 3.4, equations 1 and 2."""

    name: Literal["scl"] = "scl"
    temperature: float = Field(default=0.1, gt=0, description="tau")
    label_variance: float = Field(default=10.0, gt=0, description="sigma squared, frames squared")
    label_mode: Literal["official", "stable"] = Field(
        default="official", description="Gaussian labels as float32 that underflow, or in log space"
    )
    negatives: Literal["window", "clip", "batch_noself", "batch"] = Field(
        default="window",
        description="frames of the clip's other window (released: single_noself); those of the "
        "same window too (single); of the other window and the other clips; all of the batch",
    )
    projection_hidden: int = Field(default=128, ge=1, description="hidden width of the head")

    @field_validator("negatives", mode="before")
    @classmethod
    def _negatives_of_a_view(cls, value: Any) -> Any:
        return renamed("loss.negatives", "view", "window", value)


class TccConfig(_AlignmentLoss):
    """Temporal cycle consistency, on embeddings of any length (temporal.l2_normalise=false).

    Source: Dwibedi et al., Temporal Cycle-Consistency Learning, 2019, as CARL compares with it.
    """

    name: Literal["tcc"] = "tcc"
    kind: Literal["mse_var", "mse", "huber", "classification", "classification_kl"] = Field(
        default="mse_var",
        description="regression of the time that a cycle returns to, weighed by its variance or "
        "not; cross-entropy of its frame; the same as CARL released it, KL of plain logits",
    )
    similarity: Literal["l2", "cosine"] = Field(
        default="l2",
        description="minus the squared distance; or the product, the cosine at unit length",
    )
    temperature: float = Field(default=0.1, gt=0, description="of both similarities")
    label_smoothing: float = Field(
        default=0.1, ge=0, lt=1, description="share of the target on the frames of no cycle"
    )
    variance_weight: float = Field(default=1e-3, ge=0, description="lambda, of the log variance")
    huber_delta: float = Field(default=1.0, gt=0, description="where huber becomes linear")
    normalise_times: bool = Field(default=True, description="frame numbers as shares of the clip")


class TcnConfig(LossBase):
    """Time-contrastive n-pairs loss of one window: an anchor and a frame just before it.

    Source: Sermanet et al., Time-Contrastive Networks, 2018, as TCC and CARL compare with it.
    """

    name: Literal["tcn"] = "tcn"
    regularisation: float = Field(
        default=0.002, ge=0, description="weight of the embeddings' squared length"
    )
    positive_window: int = Field(
        default=5, ge=1, description="frames that a positive lies before its anchor, at most"
    )

    @property
    def pair_window(self) -> int:
        """Sequences are anchors and positives in turn."""
        return self.positive_window

    @property
    def min_frames(self) -> int:
        """Two pairs: the positive of one anchor is a negative of the other."""
        return 4


class SalConfig(LossBase):
    """Shuffle and learn: tell ordered triplets of frames from shuffled ones.

    Source: Misra et al., Shuffle and Learn, 2016, as TCC compares with it.
    """

    name: Literal["sal"] = "sal"
    triplets: int = Field(default=8, ge=1, description="triplets drawn from each sequence")
    shuffled: float = Field(default=0.75, gt=0, lt=1, description="share of shuffled triplets")
    hidden: tuple[PositiveInt, PositiveInt] = Field(
        default=(128, 64), description="widths of the classifier"
    )

    @property
    def min_frames(self) -> int:
        """The five frames that a triplet is taken from."""
        return 5


class LavConfig(_AlignmentLoss):
    """Learning by aligning videos in time: soft-DTW and contrastive inverse difference moments.

    Source: Haresh et al., Learning by Aligning Videos in Time, 2021.
    """

    name: Literal["lav"] = "lav"
    gamma: float = Field(default=0.1, gt=0, description="softness of the minimum in soft-DTW")
    normalise: bool = Field(
        default=False, description="take from soft-DTW the halves of both self-alignments"
    )
    weight: float = Field(default=0.5, ge=0, description="alpha, of the inverse difference moment")
    window: float = Field(default=10.0, gt=0, description="sigma: frames that count as near")
    margin: float = Field(default=2.0, gt=0, description="squared distance wanted of far frames")
    normalise_times: bool = Field(default=True, description="frame numbers as shares of the clip")


class GtaConfig(_AlignmentLoss):
    """Global temporal alignment: a differentiable DTW and the consistency of both directions.

    Source: Hadji et al., Representation Learning via Global Temporal Alignment and
    Cycle-Consistency, 2021.
    """

    name: Literal["gta"] = "gta"
    consistency: bool = Field(
        default=True, description="add the cycle's loss; the path's cost counts alignment_weight"
    )
    minimum: Literal["expected", "soft"] = Field(
        default="expected", description="smooth minimum: mean under a softmax, or log-sum-exp"
    )
    gamma_path: float = Field(default=0.1, gt=0, description="softness of the minimum")
    gamma_match: float = Field(default=0.1, gt=0, description="temperature of a frame's matches")
    alignment_weight: float = Field(
        default=0.1, ge=0, description="weight of a path's cost beside the cycle's loss"
    )
    label_smoothing: float = Field(default=0.1, ge=0, lt=1, description="of the cycle's target")


class VspConfig(LossBase):
    """Process contrastive loss over a Brownian bridge.

    Source: Zhang et al., Modeling Video as Stochastic Processes for Fine-Grained Video
    Representation Learning, 2023.
    """

    name: Literal["vsp"] = "vsp"
    segments: int = Field(
        default=1, ge=1, description="bridges of a sequence, end to end: 5 on Pouring and K400"
    )
    overlap: float = Field(
        default=0.2, ge=0, lt=1, description="how far neighbouring bridges overlap, as a share"
    )
    supervision: Literal["none", "phase", "frame"] = Field(
        default="none",
        description="bridges of segments; of phases, by their boundaries alone (VSP-P); and a "
        "contrastive loss of phases besides (VSP-F)",
    )
    temperature: float = Field(default=0.1, gt=0, description="of that loss")

    @property
    def uses_labels(self) -> bool:
        """Where bridges are those of phases."""
        return self.supervision != "none"

    @property
    def min_frames(self) -> int:
        """Both ends of a bridge and a frame between them, in each segment."""
        return 3 * self.segments

    @model_validator(mode="after")
    def _segments_are_bridged(self) -> "VspConfig":
        if self.segments > 1 and self.supervision != "none":
            raise ValueError(
                f"segments={self.segments} with supervision={self.supervision}: bridges are of "
                "phases then, set segments=1"
            )
        return self


class CrossEntropyConfig(LossBase):
    """Supervised: a linear classifier of the phases of frames."""

    name: Literal["cross_entropy"] = "cross_entropy"

    @property
    def uses_labels(self) -> bool:
        """It does."""
        return True


LossConfig = Annotated[
    SclConfig
    | TccConfig
    | TcnConfig
    | SalConfig
    | LavConfig
    | GtaConfig
    | VspConfig
    | CrossEntropyConfig,
    Field(discriminator="name"),
]

LOSSES = Table(
    "loss",
    "tokenreel.losses",
    {
        "scl": "tokenreel.fuse.losses.scl:SCL",
        "tcc": "tokenreel.fuse.losses.tcc:TCC",
        "tcn": "tokenreel.fuse.losses.tcn:TCN",
        "sal": "tokenreel.fuse.losses.sal:SAL",
        "lav": "tokenreel.fuse.losses.lav:LAV",
        "gta": "tokenreel.fuse.losses.gta:GTA",
        "vsp": "tokenreel.fuse.losses.vsp:VSP",
        "cross_entropy": "tokenreel.fuse.losses.cross_entropy:CROSS_ENTROPY",
    },
)


def loss_of_package(value: Any) -> LossBase | None:
    """The config of a loss that a package adds, from its fields; None for one of ours.

    Raises:
        ValueError: the package cannot be imported, or its fields do not validate.
    """
    name = value.get("name") if isinstance(value, dict) else getattr(value, "name", None)
    if not isinstance(name, str) or name in LOSSES.ours or name not in LOSSES:
        return None
    try:
        kind = LOSSES.load(name).config
    except UsageError as error:
        raise ValueError(str(error)) from error
    found: LossBase = kind.model_validate(value)
    return found
