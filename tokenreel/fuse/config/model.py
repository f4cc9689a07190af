"""Configuration of a model: how frames become entities, and entities embeddings."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from tokenreel.fuse.config.base import FrozenConfig


class _Pooling(FrozenConfig):
    """From the tokens of a frame to its entities.

    Attributes:
        uses_tokens: whether it pools spatial tokens.
        makes_entities: whether a frame becomes entities with IDs, not one vector or its grid.
        attends: whether learned queries attend over the tokens, as codes.
    """

    uses_tokens: ClassVar[bool] = True
    makes_entities: ClassVar[bool] = False
    attends: ClassVar[bool] = False

    @property
    def uses_cls(self) -> bool:
        """Whether it pools CLS vectors, or makes queries from them."""
        return not self.uses_tokens

    @property
    def asks_sequence(self) -> bool:
        """Whether queries are made from more than the frame itself."""
        return False

    @property
    def total_entities(self) -> int:
        """Entities E of a frame."""
        return 1


class _TokenPooling(_Pooling):
    blocks: tuple[int, ...] | None = Field(
        default=None,
        min_length=1,
        description="0-based blocks of the store to use, negative ones from its last; None: all",
    )


class _ClsPooling(_Pooling):
    uses_tokens = False
    blocks: ClassVar[None] = None  # the CLS vector is that after the last block


class _EntityPooling(_Pooling):
    makes_entities = True
    num_entities: int = Field(
        default=3, ge=0, le=16, description="entities of a frame whose queries are parameters"
    )
    channels: int = Field(default=384, ge=1, description="channels of a pooled entity")

    @property
    def total_entities(self) -> int:
        """All of them."""
        return self.num_entities

    @model_validator(mode="after")
    def _has_entities(self) -> Any:
        if not self.total_entities:
            raise ValueError("no entities: set num_entities, or num_dynamic with kind=lstp")
        return self


class LstpConfig(_EntityPooling, _TokenPooling):
    """Learnable Spatial Token Pooling.  Source: MV-Former, section 3.3."""

    attends = True
    kind: Literal["lstp"] = "lstp"
    num_dynamic: int = Field(
        default=0, ge=0, le=16, description="further entities whose queries are made from CLS"
    )
    dynamic: Literal["separate", "first", "average"] = Field(
        default="average", description="CLS of the frame itself, of the first of its sequence, mean"
    )
    normalise_keys: bool = Field(default=False, description="L2-normalise the keys")
    disjoint: bool = Field(default=False, description="a token counts for its first entity only")
    value_passthrough: bool = Field(default=False, description="pool tokens, not projections")

    @property
    def uses_cls(self) -> bool:
        """For dynamic queries."""
        return self.num_dynamic > 0

    @property
    def asks_sequence(self) -> bool:
        """Dynamic queries, unless they are made from the frame's own CLS."""
        return self.num_dynamic > 0 and self.dynamic != "separate"

    @property
    def total_entities(self) -> int:
        """With static and with dynamic queries."""
        return self.num_entities + self.num_dynamic

    @model_validator(mode="after")
    def _entities_share_tokens(self) -> "LstpConfig":
        if self.disjoint and self.total_entities == 1:
            raise ValueError(
                "disjoint entities are two or more: set num_entities, or disjoint=false"
            )
        return self


class MeanConfig(_TokenPooling):
    """One entity: the mean of all tokens."""

    kind: Literal["mean"] = "mean"


class MaxConfig(_TokenPooling):
    """One entity: the maximum over all tokens, as in CARL."""

    kind: Literal["max"] = "max"


class ClsConfig(_ClsPooling):
    """One entity: the CLS vector."""

    kind: Literal["cls"] = "cls"


class FixedWidthConfig(_EntityPooling, _ClsPooling):
    """The CLS vector, split into entities by a layer.  Source: MV-Former, Table 4."""

    kind: Literal["fixed_width"] = "fixed_width"


class GridConfig(_TokenPooling):
    """All tokens as they are, for temporal.kind=conv3d."""

    kind: Literal["grid"] = "grid"


PoolingConfig = Annotated[
    LstpConfig | MeanConfig | MaxConfig | ClsConfig | FixedWidthConfig | GridConfig,
    Field(discriminator="kind"),
]
POOLINGS: dict[str, type[_Pooling]] = {
    "lstp": LstpConfig,
    "mean": MeanConfig,
    "max": MaxConfig,
    "cls": ClsConfig,
    "fixed_width": FixedWidthConfig,
    "grid": GridConfig,
}


class TemporalConfig(FrozenConfig):
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
    def _blocks_fit(self) -> "TemporalConfig":
        if self.hidden % self.heads:
            raise ValueError(f"hidden {self.hidden} is not a multiple of heads {self.heads}")
        if self.entity_ids == "encoder" and not self.layers:
            raise ValueError(
                "entity_ids=encoder is for blocks, layers=0 has none: set entity_ids=pool"
            )
        return self
