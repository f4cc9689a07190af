"""What a model of a run is told: how frames become entities, and entities embeddings."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = ["PoolingConfig", "TemporalConfig"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class PoolingConfig(_Frozen):
    """From the tokens of a frame to its entities.  Source: MV-Former, section 3.3."""

    kind: Literal["lstp", "mean", "max", "cls", "fixed_width", "grid"] = Field(
        default="lstp",
        description="LSTP; one entity from all tokens; CLS; CLS split by a layer; all tokens as "
        "they are, for temporal.kind=conv3d",
    )
    blocks: tuple[int, ...] | None = Field(
        default=None,
        min_length=1,
        description="0-based blocks of the store to use, negative ones from its last; None: all",
    )
    num_entities: int = Field(
        default=3, ge=0, le=16, description="entities of a frame whose queries are parameters"
    )
    num_dynamic: int = Field(
        default=0, ge=0, le=16, description="further entities whose queries are made from CLS"
    )
    dynamic: Literal["separate", "first", "average"] = Field(
        default="average", description="CLS of the frame itself, of the first of its sequence, mean"
    )
    channels: int = Field(default=384, ge=1, description="channels of a pooled entity")
    normalise_keys: bool = Field(default=False, description="L2-normalise the keys")
    disjoint: bool = Field(default=False, description="a token counts for its first entity only")
    value_passthrough: bool = Field(default=False, description="pool tokens, not projections")

    @property
    def total_entities(self) -> int:
        """Entities E of a frame, with static and with dynamic queries."""
        return self.num_entities + self.num_dynamic

    @property
    def makes_entities(self) -> bool:
        """Whether a frame becomes so many entities, not one vector or its grid."""
        return self.kind in ("lstp", "fixed_width")

    @model_validator(mode="after")
    def _has_entities(self) -> "PoolingConfig":
        if not self.total_entities:
            raise ValueError("no entities: set num_entities or num_dynamic")
        if self.disjoint and self.total_entities == 1:
            raise ValueError(
                "disjoint entities are two or more: set num_entities, or disjoint=false"
            )
        return self

    @model_validator(mode="after")
    def _queries_are_asked(self) -> "PoolingConfig":
        names = ("num_dynamic", "normalise_keys", "disjoint", "value_passthrough")
        told = [f"{name}={value}" for name in names if (value := getattr(self, name))]
        if told and self.kind != "lstp":
            raise ValueError(
                f"kind={self.kind} has no queries for {', '.join(told)}: set kind=lstp"
            )
        return self


class TemporalConfig(_Frozen):
    """From entities over time to embeddings.  Source: MV-Former, section 3.4; CARL, section 3.3."""

    kind: Literal["transformer", "conv3d"] = Field(
        default="transformer",
        description="attention over all frames; 3D convolutions over their grids (CARL, Table 5)",
    )
    entity_ids: Literal["pool", "encoder", "none"] = Field(
        default="pool", description="where the one-hot ID of an entity is appended"
    )
    fc_width: int = Field(default=512, ge=1, description="width of the two layers before fusion")
    hidden: int = Field(
        default=256, ge=1, description="channels inside the transformer, of a convolution"
    )
    heads: int = Field(default=8, ge=1, description="attention heads")
    feed_forward: int = Field(default=1024, ge=1, description="width inside a block")
    layers: int = Field(default=3, ge=0, description="transformer blocks, or convolutions")
    output: Literal["one", "avg", "max", "lin"] = Field(
        default="one", description="entity 0 (CLS-style), mean, maximum or a layer over entities"
    )
    embedding: int = Field(default=128, ge=1, description="channels C of an embedding")
    l2_normalise: bool = Field(default=True, description="embeddings have unit length")
    dropout: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        description="before each FC layer, after the positions, on the residual branches",
    )

    @model_validator(mode="after")
    def _heads_divide(self) -> "TemporalConfig":
        if self.hidden % self.heads:
            raise ValueError(f"hidden {self.hidden} is not a multiple of heads {self.heads}")
        return self

    @model_validator(mode="after")
    def _ids_enter_blocks(self) -> "TemporalConfig":
        if self.entity_ids == "encoder" and not self.layers:
            raise ValueError(
                "entity_ids=encoder is for blocks, layers=0 has none: set entity_ids=pool"
            )
        return self
