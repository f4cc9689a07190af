"""From the tokens of a frame to its entities.

Shapes: F frames, N spatial tokens, D channels of all blocks together, E entities, C channels.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from tokenreel.fuse.config.model import FixedWidthConfig, LstpConfig, PoolingConfig
from tokenreel.fuse.kernels import CodedTokens, GainedTokens, QueryWeights, pooled_attention
from tokenreel.fuse.kernels.attention.tokens import check_hidden
from tokenreel.fuse.kernels.attention.weights import apply_values
from tokenreel.fuse.kernels.ops import decode_gained

PART_BYTES = 5 << 18  # of floats that are reduced at once on a CPU


@dataclass(frozen=True, eq=False)
class AttendedTokens:
    """Tokens over which the queries of one LSTP have attended already.

    Attributes:
        tokens: of F frames.
        pooled: (F, E, d), the codes mixed by the attention of each query.
    """

    tokens: CodedTokens
    pooled: Tensor


Tokens = CodedTokens | GainedTokens | AttendedTokens | Tensor
"""Of F frames: as codes, what floats are made of, attended to already, or floats (F, N, D)."""


class Pooling(Protocol):
    """From the tokens or the CLS vectors of distinct frames to their entities.

    Attributes:
        channels: C of an entity.
    """

    channels: int

    def __call__(
        self,
        tokens: Tokens | None,
        cls: Tensor | None,
        hidden: Tensor | None = None,
        context: Tensor | None = None,
    ) -> Tensor:
        """Pool.

        Args:
            tokens: of F frames; None where only CLS is used.
            cls: (F, D of CLS), None where only tokens are used.
            hidden: bool (F, N), True where a token must not be seen; never a whole frame.
            context: (F, K, D of CLS), what dynamic queries are made from; the frame's own CLS, K
                = 1, when None.

        Returns:
            (F, E, C), the dynamic ones last, K times over; (F, N, D) where the grid stays whole.
        """


class Lstp(nn.Module):
    """Learnable Spatial Token Pooling: each entity's query attends over the tokens of a frame.

    Static queries are parameters, the same for every frame; dynamic ones are made from CLS vectors
    by a layer and come after them.

    Source: MV-Former, section 3.3: one head, keys and values of `channels`, softmax over the
    tokens, no output projection; dynamic queries as in the released code.
    """

    def __init__(self, dim: int, cls_dim: int, config: LstpConfig) -> None:
        super().__init__()
        self.config = config
        channels, static = config.channels, config.num_entities
        self.key = nn.Linear(dim, channels)
        self.value = None if config.value_passthrough else nn.Linear(dim, channels)
        self.queries: nn.Parameter | None = None
        self.query_bias: nn.Parameter | None = None
        self.dynamic: nn.Linear | None = None
        if static:
            self.queries = nn.Parameter(torch.empty(static, channels))
            self.query_bias = nn.Parameter(torch.zeros(channels))
            nn.init.xavier_uniform_(self.queries)
        if config.num_dynamic:
            self.dynamic = nn.Linear(cls_dim, channels * config.num_dynamic)
        self.channels = dim if config.value_passthrough else channels

    def weights(self, context: Tensor | None = None) -> QueryWeights:
        """What a kernel needs: queries of all frames (E, C), or of each (F, E, C) with a context.

        Args:
            context: (F, K, D of CLS) what dynamic queries are made from, K times over.
        """
        parts = []
        if self.queries is not None and self.query_bias is not None:
            parts.append(self.queries + self.query_bias)
        if self.dynamic is not None:
            if context is None:
                raise ValueError("dynamic queries are made from CLS vectors: none were given")
            made = self.dynamic(context.to(self.dynamic.weight.dtype))
            made = made.unflatten(-1, (self.config.num_dynamic, -1)).flatten(1, 2)
            parts = [part.expand(made.shape[0], -1, -1) for part in parts] + [made]
        return QueryWeights(
            queries=parts[0] if len(parts) == 1 else torch.cat(parts, dim=1),
            key=self.key.weight,
            key_bias=self.key.bias,
            value=None if self.value is None else self.value.weight,
            value_bias=None if self.value is None else self.value.bias,
        )

    def forward(
        self,
        tokens: Tokens | None,
        cls: Tensor | None,
        hidden: Tensor | None = None,
        context: Tensor | None = None,
    ) -> Tensor:
        """(F, E, C), static entities first; as :class:`Pooling`."""
        assert tokens is not None
        return self.attend(tokens, cls, hidden, context)[0]

    def attend(
        self,
        tokens: Tokens,
        cls: Tensor | None,
        hidden: Tensor | None = None,
        context: Tensor | None = None,
        *,
        with_attention: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Pool, and show where each entity looks.

        Args:
            tokens: as in :class:`Pooling`.
            cls: as there.
            hidden: as there.
            context: as there.
            with_attention: return it too; it has no gradient.

        Returns:
            Entities (F, E, C), static ones first, and the attention (F, E, N) that made them.

        Raises:
            ValueError: dynamic queries of a sequence without its context.
        """
        if isinstance(tokens, Tensor):
            tokens = CodedTokens((tokens.contiguous(),))
        if isinstance(tokens, AttendedTokens):
            with torch.autocast(tokens.pooled.device.type, enabled=False):
                return apply_values(tokens.tokens, self.weights(), tokens.pooled), None
        if context is None and self.dynamic is not None:
            if self.config.asks_sequence or cls is None:
                raise ValueError(
                    f"pooling.dynamic={self.config.dynamic} needs the CLS vectors of the "
                    "sequence: give a context"
                )
            context = cls[:, None]
        with torch.autocast(tokens.device.type, enabled=False):
            weights = self.weights(context)
        if not tokens.num_frames:  # a process without a clip of a small batch
            queries = weights.queries.shape[-2]
            nothing = self.key.weight.new_zeros(0, queries, self.channels)
            return nothing, nothing.new_zeros(0, queries, tokens.num_tokens)
        [pooled] = pooled_attention(
            tokens,
            [weights],
            hidden=hidden,
            normalise_keys=self.config.normalise_keys,
            disjoint=self.config.disjoint,
            with_attention=with_attention,
        )
        return pooled.entities, pooled.attention


class FixedWidth(nn.Module):
    """The control of MV-Former's Table 4, rows 11 and 12: the CLS token split into E vectors."""

    def __init__(self, cls_dim: int, config: FixedWidthConfig) -> None:
        super().__init__()
        self.num_entities = config.num_entities
        self.channels = config.channels
        self.split = nn.Linear(cls_dim, config.channels * config.num_entities)

    def forward(self, tokens: object, cls: Tensor | None, *_: object) -> Tensor:
        """(F, E, C); as :class:`Pooling`."""
        assert cls is not None
        split: Tensor = self.split(cls.to(self.split.weight.dtype))
        return split.unflatten(-1, (self.channels, self.num_entities)).transpose(1, 2)


class Plain(nn.Module):
    """A pooling without weights: the mean or maximum of the tokens, CLS, or the whole grid."""

    def __init__(self, kind: str, channels: int) -> None:
        super().__init__()
        self.kind, self.channels = kind, channels

    def forward(
        self, tokens: Tokens | None, cls: Tensor | None, hidden: Tensor | None = None, *_: object
    ) -> Tensor:
        """(F, 1, C), or (F, N, C) of the grid; as :class:`Pooling`."""
        if self.kind == "cls":
            assert cls is not None
            return cls[:, None]
        if isinstance(tokens, GainedTokens):
            if self.kind == "max":
                return torch.cat(list(_maxima(tokens, hidden)))[:, None]
            tokens = decode_gained(tokens)
        assert isinstance(tokens, CodedTokens | Tensor)
        floats = tokens.decode() if isinstance(tokens, CodedTokens) else tokens
        if self.kind == "grid":
            if hidden is None:
                return floats
            check_hidden(hidden, floats)
            return floats.masked_fill(hidden[..., None], 0.0)
        return reduce_tokens(floats, self.kind, hidden)[:, None]


def _maxima(tokens: GainedTokens, hidden: Tensor | None) -> Iterator[Tensor]:
    """The maximum of the seen tokens of some frames at a time, (f, D): floats stay in the cache."""
    count = tokens.num_frames
    size = max(1, PART_BYTES // (4 * tokens.num_tokens * tokens.dim))
    size = size if tokens.device.type == "cpu" else count
    for start in range(0, count, size):
        at = slice(start, min(start + size, count))
        floats = decode_gained(tokens.frames(at.start, at.stop))
        yield reduce_tokens(floats, "max", None if hidden is None else hidden[at])


def reduce_tokens(tokens: Tensor, kind: str, hidden: Tensor | None = None) -> Tensor:
    """(F, N, D) -> (F, D) without weights: the mean or the maximum of the tokens that are seen.

    Args:
        tokens: of F frames.
        kind: "mean" or "max".
        hidden: bool (F, N), True where a token must not be seen; never a whole frame.

    Raises:
        ValueError: a mask of another shape or dtype.
    """
    if hidden is None:
        return tokens.mean(dim=1) if kind == "mean" else tokens.amax(dim=1)
    check_hidden(hidden, tokens)
    unseen = hidden[..., None]
    if kind == "mean":
        return tokens.masked_fill(unseen, 0.0).sum(dim=1) / (~unseen).sum(dim=1)
    return tokens.masked_fill(unseen, -torch.inf).amax(dim=1)


def make_pooling(config: PoolingConfig, dim: int, cls_dim: int) -> Pooling:
    """The pooling of a config, for tokens of `dim` channels and CLS vectors of `cls_dim`."""
    if isinstance(config, LstpConfig):
        return Lstp(dim, cls_dim, config)
    if isinstance(config, FixedWidthConfig):
        return FixedWidth(cls_dim, config)
    return Plain(config.kind, dim if config.uses_tokens else cls_dim)
