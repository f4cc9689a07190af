"""Configuration of a training run of any system: data, optimiser, and what it says of itself."""

from collections.abc import Hashable, Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from tokenreel.cache.read.store_set import StoreSet
from tokenreel.fuse.config.base import FrozenConfig
from tokenreel.fuse.config.windows import SamplingKind

UNAVAILABLE = "unavailable"  # in place of the hash of first weights that cannot be loaded here


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
    num_train_clips: int | None = Field(
        default=None,
        ge=1,
        description="training clips, drawn by data.seed, which run.json lists; None: all",
    )
    clips_per_action: int | None = Field(
        default=None,
        ge=1,
        description="training clips of each action, drawn by data.seed, which run.json lists; "
        "None: all",
    )
    held_out: float = Field(
        default=0.0, ge=0, lt=1, description="share of the training clips kept for a held-out loss"
    )


class OptimConfig(FrozenConfig):
    """Optimiser and schedule.  Source: MV-Former, section 4.4; CARL, section 4.1."""

    name: Literal["adam", "adamw"] = Field(default="adam", description="optimiser")
    lr: float = Field(default=1e-4, gt=0, description="highest learning rate")
    weight_decay: float = Field(default=1e-5, ge=0, description="weight decay")
    betas: tuple[float, float] = Field(
        default=(0.9, 0.999), description="of Adam: shares of the moments that a step keeps"
    )
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


class SystemConfig(FrozenConfig):
    """A training run of a system: what all systems have.

    A system's own config is a subclass with a `system` of one possible value.

    Attributes:
        weight_fields: groups of fields that decide what weights there are and what they mean:
            another run begins from a checkpoint where they are equal, and all shapes are.
        free_fields: beginnings of the names of those that may differ all the same.
    """

    weight_fields: ClassVar[tuple[str, ...]] = ()
    free_fields: ClassVar[tuple[str, ...]] = ()

    system: str
    seed: int = Field(
        default=0,
        ge=0,
        lt=2**63,
        description="of weights, dropout, augmentation, losses and the draw of labelled clips",
    )
    data: DataConfig = DataConfig()
    optim: OptimConfig = OptimConfig()
    init: str | None = Field(
        default=None, description="folder of a run whose last weights are the first of this one"
    )

    @property
    def uses_labels(self) -> bool:
        """Whether it learns from the phases of frames."""
        return False

    @property
    def uses_tags(self) -> bool:
        """Whether it learns from the tags of clips: those without any are no training clips."""
        return False

    @property
    def uses_actions(self) -> bool:
        """Whether it learns the actions of clips: those without one are no training clips."""
        return False

    @property
    def is_trained(self) -> bool:
        """Whether it takes a step."""
        return self.optim.epochs > 0

    @property
    def first_runs(self) -> tuple[str, ...]:
        """Folders of the runs that give first weights."""
        return () if self.init is None else (self.init,)

    def beginning_from(self, runs: tuple[str, ...]) -> Self:
        """The config with runs that give parts of its first weights, unless it names some.

        Args:
            runs: their folders.
        """
        return self

    @classmethod
    def words_of_first_runs(cls, words: list[str]) -> list[str]:
        """Those of the `key=value` words of a run that the runs of its first weights share."""
        return words

    @property
    def stream(self) -> Hashable:
        """What decides the clips and units of its steps: runs of one stream are fed together.

        By default all but the optimiser and the first weights.
        """
        return self.model_dump_json(exclude={"optim", "init"})

    @property
    def units_per_clip(self) -> int:
        """Most units of a clip in a step."""
        return 2 * self.data.num_frames

    @property
    def named_blocks(self) -> tuple[int, ...]:
        """The blocks of a store that it names; none where it takes all."""
        return ()

    @property
    def embedding_channels(self) -> int:
        """Channels of an embedding, or scores of a clip, for the count of memory."""
        return 128

    def why_no_batch(self, clips: str) -> str:
        """Why some clips make no batch, and what to change.

        Args:
            clips: how many of which, such as "2 held-out clips".
        """
        return f"the {clips} make no batch: change data.held_out"

    def for_stores(self, stores: StoreSet) -> Self:
        """The config with what depends on the stores by number, such as the last block."""
        return self

    def as_trained(self, provenance: Mapping[str, Any]) -> Self:
        """The config with what its run took from its own stores: others may hold more.

        Args:
            provenance: what the run's run.json says.
        """
        return self

    def describe(self, stores: StoreSet) -> dict[str, Any]:
        """What the provenance says of a run besides its config: `augmentation` and `blocks`.

        Of first weights that come from elsewhere also `first_weights_sha256`, and `first_weights`,
        their names.
        """
        return {"augmentation": "none", "blocks": list(stores.first.identity.blocks)}

    def require_init(self, held: Mapping[str, Any], provenance: Mapping[str, Any]) -> None:
        """Refuse first weights that were trained on other tokens of the same backbone.

        Args:
            held: what run.json says of the run that gives them.
            provenance: what it says of this one.

        Raises:
            WrongIdentity: the fields that differ.
        """

    @classmethod
    def upgraded(cls, config: dict[str, Any]) -> dict[str, Any]:
        """A config that an earlier version wrote, as this one would have written it."""
        return config

    @model_validator(mode="after")
    def _draws_once(self) -> Self:
        if self.data.num_train_clips is not None and self.data.clips_per_action is not None:
            raise ValueError("data.num_train_clips and data.clips_per_action: give one")
        return self

    @model_validator(mode="after")
    def _has_clips_to_evaluate(self) -> Self:
        if self.optim.evaluate_epochs and not self.data.held_out:
            raise ValueError("optim.evaluate_epochs needs held-out clips: set data.held_out")
        return self
