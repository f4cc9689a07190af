"""Configuration of STAN and of the methods that it is compared with.

Where the paper's text and its author's code differ, both are options; the defaults are the text's,
and the code's where the text is silent.
"""

import hashlib
import logging
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from tokenreel.cache.errors import UsageError
from tokenreel.cache.read.store_set import StoreSet
from tokenreel.fuse.config.base import FrozenConfig
from tokenreel.fuse.config.system import UNAVAILABLE, DataConfig, OptimConfig, SystemConfig

log = logging.getLogger(__name__)

PRETRAINED = "pretrained"
STREAMS = ("spatial", "temporal")


class TransformerConfig(FrozenConfig):
    """A CLS token and a post-norm transformer over the scenes.  Source: STAN, section 3."""

    kind: Literal["transformer"] = "transformer"
    width: int = Field(default=896, ge=1, description="channels of a token")
    layers: int = Field(default=4, ge=1, description="layers")
    heads: int = Field(default=2, ge=1, description="heads of the attention")
    feed_forward: int = Field(default=512, ge=1, description="channels of the feed-forward")
    dropout: float = Field(default=0.5, ge=0, lt=1, description="of tokens, attention and layers")
    positions: Literal["sinusoidal", "none"] = Field(
        default="sinusoidal", description="of the scenes, the same in both streams"
    )
    position_base: float = Field(
        default=10000.0, gt=1, description="of the sinusoids: 10000 in the text, 1000 in the code"
    )

    @model_validator(mode="after")
    def _heads_divide_width(self) -> "TransformerConfig":
        if self.width % self.heads:
            raise ValueError(f"width {self.width} does not divide into {self.heads} heads")
        return self


class AverageConfig(FrozenConfig):
    """The mean of the scenes, without weights.  Source: STAN, Table 1."""

    kind: Literal["average"] = "average"


class LstmConfig(FrozenConfig):
    """The last state of an LSTM over the scenes.  Source: STAN, Table 1; sizes of the code."""

    kind: Literal["lstm"] = "lstm"
    width: int = Field(default=512, ge=1, description="channels of a state")
    layers: int = Field(default=4, ge=1, description="layers")
    dropout: float = Field(default=0.2, ge=0, lt=1, description="between layers")


class _Fusion(FrozenConfig):
    """How the vectors of the streams become one.

    Attributes:
        needs_both: whether two streams.
    """

    needs_both: ClassVar[bool] = False


class SumConfig(_Fusion):
    """norm(q(s) + weight q(t)) with one shared MLP q.  Source: STAN, equation 5."""

    kind: Literal["sum"] = "sum"
    weight: float = Field(default=0.6, ge=0, description="lambda, of the temporal stream")
    norm: Literal["layer", "l2"] = Field(
        default="layer", description="layer norm without weights, or unit length as in the code"
    )


class SpatialTwiceConfig(_Fusion):
    """normalize(s) + normalize(s), as the author's code does: the temporal stream has no effect."""

    needs_both = True
    kind: Literal["spatial_twice"] = "spatial_twice"


class ConcatConfig(_Fusion):
    """The vectors end to end.  Source: STAN, Table 3, naive concatenation."""

    kind: Literal["concat"] = "concat"


class GateConfig(_Fusion):
    """Collaborative gating of pairs of streams.  Source: STAN, Tables 1 and 4."""

    needs_both = True
    kind: Literal["gate"] = "gate"
    width: int = Field(default=896, ge=1, description="channels of the gated vector")


class DistilConfig(_Fusion):
    """A token of the spatial stream learns what the temporal one predicts.  Source: STAN, Table 1.

    A clip is scored by the mean of the spatial stream's two heads, as in DeiT.
    """

    needs_both = True
    kind: Literal["distil"] = "distil"
    targets: Literal["hard", "soft"] = Field(
        default="hard", description="the teacher's first tag, or its scores of all of them"
    )


class CnnConfig(FrozenConfig):
    """The CNN that a stream trains from the pictures of its scenes."""

    name: Literal["none", "resnet18", "seresnet50", "r2plus1d_18", "small"] = Field(
        default="none",
        description="trained from the pictures of scenes; none: tokens of a frozen CNN are read",
    )
    weights: str = Field(
        default=PRETRAINED,
        description="its first weights: pretrained, the file of torchvision or timm, random:SEED",
    )

    @property
    def is_trained(self) -> bool:
        """Whether there is one."""
        return self.name != "none"

    @property
    def random_seed(self) -> int | None:
        """The seed of untrained weights; None where they come from elsewhere."""
        kind, _, seed = self.weights.partition(":")
        return int(seed) if kind == "random" and seed.isdecimal() else None

    @model_validator(mode="after")
    def _has_weights(self) -> "CnnConfig":
        if self.weights.startswith("random") and self.random_seed is None:
            raise ValueError(f"weights={self.weights}: random:SEED, such as random:0")
        if (self.name, self.weights) == ("small", PRETRAINED):
            raise ValueError("name=small has no trained weights: set weights=random:0, or a file")
        return self


class PicturesConfig(FrozenConfig):
    """How the pictures of scenes are cut in training, all those of a scene alike.

    The paper does not say how.  In evaluation the centre is seen.
    """

    least_area: float = Field(
        default=0.6, gt=0, le=1, description="of a random crop, as a share of the centre's; 1: all"
    )
    flip: bool = Field(default=True, description="mirror half of the scenes")


class HeadConfig(FrozenConfig):
    """Three layers with a non-linearity between them, then a score for each tag."""

    widths: tuple[int, int] = Field(default=(512, 128), description="channels between the layers")
    gate: Literal["glu", "gelu"] = Field(
        default="glu", description="gated as in the text, or GELU as in the code"
    )
    dropout: float = Field(default=0.5, ge=0, lt=1, description="before each layer")


EncoderConfig = TransformerConfig | AverageConfig | LstmConfig
FusionConfig = SumConfig | SpatialTwiceConfig | ConcatConfig | GateConfig | DistilConfig


class StanConfig(SystemConfig):
    """A training run of STAN, or of a method it is compared with, on one or two stores of scenes.

    The optimiser is the author's; the number of epochs is not published.
    """

    weight_fields = (
        "streams",
        "feature",
        "spatial_cnn",
        "temporal_cnn",
        "encoder",
        "fusion",
        "head",
    )
    free_fields = (
        "encoder.dropout",
        "head.dropout",
        "fusion.weight",
        "fusion.targets",
        "spatial_cnn.weights",
        "temporal_cnn.weights",
    )

    system: Literal["stan"] = "stan"
    data: DataConfig = DataConfig(num_frames=13, batch_clips=2)
    optim: OptimConfig = OptimConfig(name="adamw", lr=5e-6, weight_decay=0.09, epochs=100)
    streams: Literal["both", "spatial", "temporal"] = Field(
        default="both", description="which of the stores spatial and temporal it reads"
    )
    feature: Literal["mean", "cls"] = Field(
        default="mean", description="of a scene: mean of its tokens in the last block, or CLS"
    )
    spatial_cnn: CnnConfig = CnnConfig()
    temporal_cnn: CnnConfig = CnnConfig()
    pictures: PicturesConfig = PicturesConfig()
    fill: Literal["mask", "cycle"] = Field(
        default="mask",
        description="a clip of fewer scenes than data.num_frames: padded and masked as in the "
        "text, or its scenes again from the first as in the code",
    )
    order: Literal["time", "shuffled"] = Field(
        default="time",
        description="of the scenes; shuffled: a control that has other positions in each step, and "
        "in an evaluation those that the name of the clip draws",
    )
    encoder: EncoderConfig = Field(default=TransformerConfig(), discriminator="kind")
    fusion: FusionConfig = Field(default=SumConfig(), discriminator="kind")
    head: HeadConfig = HeadConfig()
    loss: Literal["bce", "cross_entropy", "mse"] = Field(
        default="bce",
        description="for clips of several tags each, of exactly one, or of one that is a number "
        "to predict",
    )

    @property
    def uses_tags(self) -> bool:
        """The tags of a clip are what it learns."""
        return True

    @property
    def stream_names(self) -> tuple[str, ...]:
        """The streams that it reads."""
        return STREAMS if self.streams == "both" else (self.streams,)

    @property
    def cnns(self) -> dict[str, CnnConfig]:
        """The CNNs that it trains, by stream."""
        both = {"spatial": self.spatial_cnn, "temporal": self.temporal_cnn}
        return {name: both[name] for name in self.stream_names if both[name].is_trained}

    @property
    def stream(self) -> Hashable:
        """What decides the clips and scenes of its steps, whatever its model."""
        return (self.system, self.data, self.fill, self.order)

    @property
    def units_per_clip(self) -> int:
        """The scenes of a clip."""
        return self.data.num_frames

    def describe(self, stores: StoreSet) -> dict[str, Any]:
        """The last block of each store, how pictures are cut, and the first weights of CNNs.

        Pre-trained weights have the name that their library gives them and the hash of their
        tensors, those of a file its hash.
        """
        described: dict[str, Any] = {
            "augmentation": "none",
            "blocks": [*stores.first.identity.blocks[-1:]],
        }
        if self.cnns:
            mirrored = ", half of them mirrored" if self.pictures.flip else ""
            area = f"{self.pictures.least_area:.0%} of the area or more"
            described["augmentation"] = f"crops of scenes, {area}{mirrored}"
            if self.init is None:
                described |= _first_weights(self.cnns)
        return described

    @model_validator(mode="after")
    def _fits_together(self) -> "StanConfig":
        defaults = DataConfig()
        for name in ("sampling", "alpha", "beta", "views", "label_share"):
            if getattr(self.data, name) != getattr(defaults, name):
                raise ValueError(
                    f"data.{name} is of windows of frames and their labels, {self.system} takes "
                    "the scenes of whole clips: leave it out"
                )
        if self.fusion.needs_both and self.streams != "both":
            raise ValueError(
                f"fusion.kind={self.fusion.kind} joins two streams: set streams=both, or "
                "fusion.kind=sum or concat"
            )
        if isinstance(self.fusion, DistilConfig) and self.loss == "mse":
            raise ValueError("loss=mse predicts a number, fusion.kind=distil is of tags: set bce")
        if isinstance(self.fusion, DistilConfig) and self.encoder.kind != "transformer":
            raise ValueError("fusion.kind=distil adds a token: set encoder.kind=transformer")
        for name in STREAMS:
            cnn: CnnConfig = getattr(self, f"{name}_cnn")
            if cnn.is_trained and name not in self.stream_names:
                raise ValueError(
                    f"{name}_cnn.name={cnn.name} is of a stream that streams={self.streams} leaves "
                    f"out: set streams=both or streams={name}"
                )
        return self


def _first_weights(cnns: Mapping[str, CnnConfig]) -> dict[str, Any]:
    """Of CNNs by stream: the hash of each one's first weights, and the name of pre-trained ones."""
    hashes = {name: _sha256_of(cnn) for name, cnn in cnns.items()}
    pretrained = {name: cnn for name, cnn in cnns.items() if cnn.weights == PRETRAINED}
    if not pretrained:
        return {"first_weights_sha256": hashes}
    from tokenreel.fuse.systems.stan.cnn_library import pretrained_name

    names = {name: pretrained_name(cnn.name) for name, cnn in pretrained.items()}
    return {"first_weights_sha256": hashes, "first_weights": names}


def _sha256_of(cnn: CnnConfig) -> str:
    """The hash of first weights; `random:SEED` as it is."""
    if cnn.weights == PRETRAINED:
        from tokenreel.fuse.systems.stan.cnn_library import pretrained_sha256

        try:
            return pretrained_sha256(cnn.name)
        except UsageError as error:
            log.warning("%s", error)
            return UNAVAILABLE
    path = Path(cnn.weights)
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else cnn.weights
