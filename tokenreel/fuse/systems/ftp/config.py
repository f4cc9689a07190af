"""Configuration of FTP.

Two readings of the paper's model are options, `main` of its text and `appendix` of its Table A1;
what both leave open is named in the recipes.
"""

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from tokenreel.cache.read.store_reader import Store
from tokenreel.cache.read.store_set import StoreSet
from tokenreel.fuse.config.base import FrozenConfig
from tokenreel.fuse.config.system import DataConfig, OptimConfig, SystemConfig
from tokenreel.fuse.runs.provenance import checkpoint_digest
from tokenreel.fuse.systems.ftp.texts import open_texts
from tokenreel.fuse.systems.ftp.units import frames_of_map, grid_of_map, is_pooled

PROMPTS = ("A", "B", "C", "D")
UNCLIPPED = 1e30  # a norm that no gradient has


class AlignConfig(FrozenConfig):
    """Stage 1: the processors learn the texts of their prompts.  Source: FTP, section 3.2."""

    optim: OptimConfig = OptimConfig(
        name="adamw",
        lr=1e-5,
        betas=(0.9, 0.95),
        weight_decay=0.05,
        epochs=800,
        warmup_epochs=5,
        clip_grad_norm=UNCLIPPED,
    )
    batch_clips: int = Field(default=512, ge=2, description="clips of a step")
    temperature: float = Field(
        default=0.07, gt=0, description="first value; each prompt learns its own"
    )
    text: Literal["pooled", "tokens"] = Field(
        default="pooled",
        description="what is compared: one vector a text, or its tokens, resampled to the rows of "
        "a processor's output",
    )
    project: Literal["visual", "text"] = Field(
        default="visual",
        description="what a learned layer takes into the space of the other",
    )
    dropout: float = Field(default=0.0, ge=0, lt=1, description="of the processors' outputs")


class FtpConfig(SystemConfig):
    """A training run of FTP, or of one of its stages, on a store of clip maps.

    The optimiser and `data` are those of stage 2, `align` has those of stage 1.
    """

    weight_fields = (
        "prompts",
        "reading",
        "map",
        "pool",
        "projections",
        "blocks",
        "head_channels",
        "conv_after_sum",
        "head_width",
        "align",
    )
    free_fields = ("align.",)

    system: Literal["ftp"] = "ftp"
    data: DataConfig = DataConfig(num_frames=8, batch_clips=512)
    optim: OptimConfig = OptimConfig(
        name="adamw", lr=1.5e-6, weight_decay=0.05, epochs=40, warmup_epochs=5
    )
    align: AlignConfig = AlignConfig()
    stage: Literal["both", "align", "classify"] = Field(
        default="both",
        description="both stages; stage 1 alone, whose file has vectors of clips and texts; or "
        "stage 2 alone",
    )
    prompts: tuple[str, ...] = Field(
        default=PROMPTS, description="a processor for each; [] for the head without processors"
    )
    texts: str | None = Field(
        default=None, description="file of the texts' vectors, which stage 1 learns"
    )
    texts_lacking: Literal["refuse", "leave_out"] = Field(
        default="refuse",
        description="clips without a text of a prompt: refused, or left out for that prompt alone",
    )
    text_encoder: str | None = Field(default=None, description="of the file of texts; found there")
    text_encoder_sha256: str | None = Field(default=None, description="of that encoder")
    text_channels: int | None = Field(default=None, ge=1, description="of a text; found there")
    class_texts: str | None = Field(
        default=None,
        description="file with a text for each action's name, by which stage 1 alone scores clips",
    )
    processors: tuple[str, ...] = Field(
        default=(), description="folders of runs of stage 1 whose processors stage 2 takes, frozen"
    )
    processors_aligned: bool = Field(
        default=True,
        description="whether stage 2 wants aligned processors; false: as they begin, a control",
    )
    reading: Literal["main", "appendix"] = Field(
        default="main", description="of the paper's model: its text, or its Table A1"
    )
    map: Literal["full", "pooled"] = Field(
        default="full",
        description="what the blocks see: all tokens, or the means over space and over time; that "
        "of a pooled store is pooled",
    )
    pooled_grid: tuple[int, int] | None = Field(
        default=None, description="rows and columns of the maps of a pooled store; found there"
    )
    pool: Literal["mean", "max"] = Field(
        default="mean", description="of tokens over space and over time"
    )
    projections: Literal[1, 2] = Field(
        default=2, description="of a processor: one for both poolings, or one for each"
    )
    blocks: int = Field(default=2, ge=0, description="transformer blocks after the sum")
    head_channels: int = Field(default=64, ge=1, description="channels of a head of the attention")
    conv_after_sum: bool = Field(
        default=False, description="a 3x3 convolution before the blocks, as in Table A1"
    )
    head_width: int = Field(
        default=0, ge=0, description="channels of a first layer of the classifier; 0: none"
    )
    draws: Literal["even", "sparse"] = Field(
        default="even",
        description="frames of a step: evenly spaced, or one at random of each of data.num_frames "
        "equal parts of the stored ones",
    )
    segments: int = Field(
        default=1, ge=1, description="of the stored frames, whose scores are averaged at test"
    )
    label_smoothing: float = Field(default=0.0, ge=0, lt=1, description="of stage 2")
    mixup: float = Field(
        default=0.0, ge=0, description="of clip maps in stage 2: alpha of the Beta; 0: none"
    )
    repeats: int = Field(
        default=1, ge=1, description="of a clip in a step of stage 2, each of another stored view"
    )

    @property
    def uses_actions(self) -> bool:
        """The action of a clip is what stage 2 learns."""
        return self.stage != "align"

    @property
    def is_trained(self) -> bool:
        """Whether one of its stages takes a step."""
        first, last = self.stage != "classify", self.stage != "align"
        return bool(first and self.align.optim.epochs) or bool(last and self.optim.epochs)

    @property
    def stream(self) -> Hashable:
        """What decides the clips and units of its steps, whatever its model and its prompts."""
        return (self.system, self.data, self.repeats, self.draws)

    @property
    def units_per_clip(self) -> int:
        """The frames of a clip, of each of its views."""
        return self.repeats * self.data.num_frames

    @property
    def first_runs(self) -> tuple[str, ...]:
        """The runs that give weights: of `init`, and the processors."""
        return (*super().first_runs, *self.processors)

    def beginning_from(self, runs: tuple[str, ...]) -> Self:
        """The processors of stage 1's runs, unless it names some."""
        return self if self.processors else self.with_(processors=runs)

    def for_stores(self, stores: StoreSet) -> Self:
        """With the frames of the store's maps, and the encoder of its texts."""
        changes: dict[str, Any] = {}
        frames = frames_of_map(stores.first)
        if frames < self.data.num_frames or is_pooled(stores.first):
            changes["data"] = self.data.with_(num_frames=max(2, frames))
        if is_pooled(stores.first):
            changes |= {"map": "pooled", "pooled_grid": grid_of_map(stores.first)}
        if self.texts is not None and self.text_encoder is None and Path(self.texts).exists():
            texts = open_texts(Path(self.texts))
            changes |= {
                "text_encoder": texts.encoder,
                "text_encoder_sha256": texts.encoder_sha256,
                "text_channels": texts.dim,
            }
        return self.with_(**changes) if changes else self

    def describe(self, stores: StoreSet) -> dict[str, Any]:
        """The last block is read; the texts that it learned, and what its vectors are of."""
        described: dict[str, Any] = {
            "augmentation": "none" if self.data.views == "clean" else "stored views",
            "blocks": list(stores.first.identity.blocks[-1:]),
        }
        if self.stage != "classify" and self.texts is not None and Path(self.texts).exists():
            texts = open_texts(Path(self.texts))
            described |= {"texts_sha256": texts.sha256, "text_encoder": texts.encoder}
        if self.stage == "align":
            described["pairs"] = self._pairs(stores.first)
        if self.processors:
            runs = map(Path, self.processors)
            described["first_weights_sha256"] = [checkpoint_digest(run) for run in runs]
        return described

    def _pairs(self, store: Store) -> dict[str, Any]:
        """Of the file of stage 1: its prompts, and the channels of a vector that is compared."""
        channels = self.text_channels if self.align.project == "visual" else store.identity.dim
        if self.align.text == "tokens":
            height, width = grid_of_map(store)
            frames = frames_of_map(store) if is_pooled(store) else self.data.num_frames
            channels = (channels or 0) * (frames + height * width)
        pairs: dict[str, Any] = {"prompts": list(self.prompts), "channels": channels}
        if self.class_texts is not None and Path(self.class_texts).exists():
            pairs["classes"] = list(open_texts(Path(self.class_texts)).clip_ids)
        return pairs

    @classmethod
    def words_of_first_runs(cls, words: list[str]) -> list[str]:
        """Those of stage 1 among the words of a run of stage 2."""
        kept = ("align.", "texts", "pool", "projections", "data.num_frames", "data.views")
        more = ("data.seed", "seed=", "text_")
        return [word for word in words if word.startswith((*kept, *more))]

    def require_init(self, held: Mapping[str, Any], provenance: Mapping[str, Any]) -> None:
        """Processors of any tokens of the same backbone and weights are taken."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        _require_prompts(self.prompts)
        defaults = DataConfig()
        for name in ("sampling", "alpha", "beta", "label_share", "action"):
            if getattr(self.data, name) != getattr(defaults, name):
                raise ValueError(
                    f"data.{name} is of windows of frames and their labels, {self.system} takes "
                    "whole clips of all actions: leave it out"
                )
        if self.stage == "align" and not self.prompts:
            raise ValueError("stage=align trains processors: name prompts, such as prompts=A,B")
        if self.stage != "classify" and self.prompts and self.processors:
            raise ValueError("processors= are trained already: set stage=classify")
        if self.stage != "classify" and self.align.optim.precision == "float16":
            raise ValueError(
                "align.optim.precision=float16 has one scale of the loss for all processors, which "
                "must not depend on one another: use bfloat16 or float32"
            )
        if self.class_texts is not None and self.stage != "align":
            raise ValueError("class_texts= scores clips by stage 1 alone: set stage=align")
        if self.repeats > 1 and self.data.views == "clean":
            raise ValueError(
                f"repeats={self.repeats} takes as many stored views of a clip: set data.views=all "
                "or augmented"
            )
        if self.map == "pooled" and self.stage != "align":
            self._require_pooled()
        return self

    def _require_pooled(self) -> None:
        """Refuse what needs all tokens of a map."""
        needing = {
            "reading=appendix": self.reading == "appendix",
            "conv_after_sum=true": self.conv_after_sum,
            "pool=max": self.pool == "max",
            f"segments={self.segments}": self.segments > 1 and self.pooled_grid is not None,
            "draws=sparse": self.draws == "sparse" and self.pooled_grid is not None,
        }
        for word, is_set in needing.items():
            if is_set:
                raise ValueError(
                    f"{word} needs whole maps, map=pooled has their means: leave out one"
                )


def _require_prompts(prompts: tuple[str, ...]) -> None:
    if len(set(prompts)) < len(prompts):
        raise ValueError(f"prompts={','.join(prompts)} names one twice")
    if wrong := [name for name in prompts if not name.isidentifier()]:
        raise ValueError(f"prompts: {wrong[0]!r} is no name of a prompt, such as A")
