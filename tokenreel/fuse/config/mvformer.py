"""Configuration of MV-Former, of CARL and of the baselines."""

import functools
import logging
from collections.abc import Hashable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Literal, Self

from pydantic import (
    Field,
    SerializeAsAny,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)

from tokenreel.cache.errors import WrongIdentity
from tokenreel.cache.read.store_set import StoreSet
from tokenreel.fuse.config.augment import AugmentConfig
from tokenreel.fuse.config.loss import LOSSES, LossConfig, SclConfig, loss_of_package
from tokenreel.fuse.config.model import POOLINGS, LstpConfig, PoolingConfig, TemporalConfig
from tokenreel.fuse.config.system import SystemConfig

log = logging.getLogger(__name__)


class FuseConfig(SystemConfig):
    """A training run of MV-Former, of CARL or of a baseline, on one store."""

    weight_fields = ("pooling", "temporal", "loss")
    # Of a pooling's blocks there may be others: they are those of the store.
    free_fields = ("pooling.blocks", "temporal.dropout", "temporal.l2_normalise", "loss.")

    tables = MappingProxyType({"loss": LOSSES})

    system: Literal["mvformer"] = "mvformer"

    augment: AugmentConfig = AugmentConfig()
    pooling: PoolingConfig = LstpConfig()
    temporal: TemporalConfig = TemporalConfig()
    loss: SerializeAsAny[LossConfig] = SclConfig()
    embed_frames: int = Field(
        default=1000, ge=1, description="longest piece of a clip that is embedded at once"
    )

    @field_validator("loss", mode="wrap")
    @classmethod
    def _loss_of_a_package(cls, value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
        return loss_of_package(value) or validate(value)

    @property
    def uses_labels(self) -> bool:
        """Where its loss does."""
        return self.loss.uses_labels

    @property
    def stream(self) -> Hashable:
        """What decides its windows, the rules of its loss among it, whatever its seed."""
        labelled_seed = self.seed if self.data.label_share < 1 else None
        by_action, pair_window = self.loss.pairs_by_action, self.loss.pair_window
        return (self.system, self.data, by_action, pair_window, labelled_seed)

    @property
    def named_blocks(self) -> tuple[int, ...]:
        """Those that it pools."""
        return self.pooling.blocks or ()

    @property
    def embedding_channels(self) -> int:
        """Those that the fusion leaves."""
        return self.temporal.embedding

    def why_no_batch(self, clips: str) -> str:
        """Its loss aligns two clips of one action."""
        return (
            f"no two of the {clips} have one action, as loss.name={self.loss.name} wants: change "
            "it, or set loss.pairs=windows"
        )

    def for_stores(self, stores: StoreSet) -> Self:
        """The config with the blocks of the store by number, where it counts from the last."""
        kept, words = stores.first.identity.blocks, self.pooling.blocks or ()
        if min(words, default=0) >= 0:
            return self
        return self.with_blocks([kept[b] if -len(kept) <= b < 0 else b for b in words])

    def as_trained(self, provenance: Mapping[str, Any]) -> Self:
        """The config with the blocks that its run pooled by number: another store may have more."""
        return self.with_blocks(provenance["blocks"]) if self.pooling.uses_tokens else self

    def with_blocks(self, blocks: Iterable[int]) -> Self:
        """The config with other blocks."""
        return self.with_(pooling=self.pooling.with_(blocks=tuple(blocks)))

    def describe(self, stores: StoreSet) -> dict[str, Any]:
        """What is changed in the tokens, and which blocks are pooled."""
        identity = stores.first.identity
        tokens = self.augment.describe(sees_tokens=self.pooling.uses_tokens)
        if self.data.views != "clean":
            stored = f"{identity.num_views - 1} stored view(s)"
            stored += " and the clean one" if self.data.views == "all" else ""
            tokens = stored if tokens == "none" else f"{stored}; {tokens}"
        return {"augmentation": tokens, "blocks": list(self.pooling.blocks or identity.blocks)}

    def require_init(self, held: Mapping[str, Any], provenance: Mapping[str, Any]) -> None:
        """Refuse the weights of a run that pools other blocks."""
        theirs, ours = (sorted(of["blocks"]) for of in (held, provenance))
        if theirs != ours and self.pooling.uses_tokens:
            raise WrongIdentity(
                f"init={self.init} pools other blocks:\n  blocks: it has {theirs}, asked {ours}\n"
                f"set pooling.blocks={','.join(map(str, theirs))} if the store has them"
            )

    @classmethod
    def upgraded(cls, config: dict[str, Any]) -> dict[str, Any]:
        """A config of an earlier version without what is not used any more, as a line says.

        Before `data.seed` the order of clips was that of the run's seed; until `pooling.kind` chose
        a group of fields, all kinds had those of all; augmentation of tokens was ignored where none
        are pooled; and there was `model`.
        """
        config = {name: dict(v) if isinstance(v, dict) else v for name, v in config.items()}
        if isinstance(config.get("data"), dict) and "seed" in config:
            config["data"] = {"seed": config["seed"]} | config["data"]
        dropped = []
        if config.get("model") == "mvformer":
            dropped.append(f"model={config.pop('model')}")
        pooling, augment = config.get("pooling"), config.get("augment")
        kind = POOLINGS.get(pooling.get("kind", "")) if isinstance(pooling, dict) else None
        if isinstance(pooling, dict) and kind is not None:
            every = {name for other in POOLINGS.values() for name in other.model_fields}
            for name in sorted(pooling.keys() & every - kind.model_fields.keys()):
                dropped.append(f"pooling.{name}={pooling.pop(name)}")
            if isinstance(augment, dict) and not kind().uses_tokens:
                for name in ("crop", "dropout", "flip"):
                    if augment.pop(name, None) not in (None, 1.0, 0.0):
                        dropped.append(f"augment.{name}")
        if dropped:
            log_dropped(", ".join(dropped))
        return config

    @model_validator(mode="after")
    def _labels_are_used(self) -> Self:
        if self.data.label_share < 1 and not self.loss.uses_labels:
            raise ValueError(
                f"data.label_share={self.data.label_share:g} is of clips with labels, loss.name="
                f"{self.loss.name} learns from none: set loss.name=cross_entropy, or give the "
                "probe fewer with `evaluate all fractions=SHARE`"
            )
        return self

    @model_validator(mode="after")
    def _batches_suit_the_loss(self) -> Self:
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
    def _model_fits_its_tokens(self) -> Self:
        entities, hidden = self.pooling.total_entities, self.temporal.hidden
        is_appended = self.temporal.entity_ids == "encoder" and self.pooling.makes_entities
        if is_appended and entities >= hidden:
            raise ValueError(
                f"temporal.entity_ids=encoder takes {entities} channels of temporal.hidden="
                f"{hidden} for the IDs of the entities: set a larger hidden, or entity_ids=pool"
            )
        if (self.temporal.kind == "conv3d") != (self.pooling.kind == "grid"):
            raise ValueError(
                f"temporal.kind={self.temporal.kind} with pooling.kind={self.pooling.kind}: "
                "conv3d convolves over the grid that pooling.kind=grid leaves whole"
            )
        hiding = self.augment.with_(noise=0.0)
        if hiding.changes_tokens and not self.pooling.uses_tokens:
            raise ValueError(
                f"augment changes tokens ({hiding.describe().removeprefix('of tokens: ')}), "
                f"pooling.kind={self.pooling.kind} pools none: set augment.crop=1 "
                "augment.flip=false augment.dropout=0 (noise may stay), or another kind"
            )
        return self


@functools.cache
def log_dropped(fields: str) -> None:
    """Log once that fields of an earlier version are of no effect."""
    log.info("config of an earlier version: %s: of no effect, dropped", fields)
