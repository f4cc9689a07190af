"""From the tokens of a frame to its entities.

Shapes: F frames, N spatial tokens, D channels of all blocks together, E entities, C channels.
Tokens are frozen, so LSTP needs no key projection of them: with q' = W_K^T q / sqrt(C) the scores
are X q' (the key's bias shifts all of them alike and cancels), and the output is
W_V (sum of a x) + b_V.
"""

import torch
from torch import Tensor, nn

from tokenreel.fuse.config import PoolingConfig

__all__ = ["FixedWidth", "Lstp", "make_pooling", "pool_frozen"]


class Lstp(nn.Module):
    """Learnable Spatial Token Pooling: each entity's query attends over the tokens of a frame.

    Source: MV-Former, section 3.3: one head, keys and values of `channels`, queries the same for
    every frame, softmax over the tokens, no output projection.
    """

    def __init__(self, dim: int, config: PoolingConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.channels
        self.queries = nn.Parameter(torch.empty(config.num_entities, channels))
        self.query_bias = nn.Parameter(torch.zeros(channels))
        self.key = nn.Linear(dim, channels)
        nn.init.xavier_uniform_(self.queries)
        self.value = None if config.value_passthrough else nn.Linear(dim, channels)

    @property
    def channels(self) -> int:
        """Channels of an entity."""
        return self.key.in_features if self.value is None else self.value.out_features

    def forward(self, tokens: Tensor, hidden: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Pool.

        Args:
            tokens: (F, N, D).
            hidden: bool (F, N), True where a token must not be seen; never a whole frame.

        Returns:
            Entities (F, E, C) and the attention (F, E, N) that made them.
        """
        attention = self._scores(tokens)
        if hidden is not None:
            attention = attention.masked_fill(hidden[:, None], -torch.inf)
        attention = attention.softmax(dim=-1)
        if self.config.disjoint:
            winner = attention.argmax(dim=1, keepdim=True)
            own = torch.arange(attention.shape[1], device=tokens.device)[None, :, None] == winner
            attention = attention * own
        pooled = attention @ tokens
        if self.value is None:
            return pooled, attention
        # The bias counts with the sum of the weights, which is 1 unless tokens were given away.
        bias = attention.sum(dim=-1, keepdim=True) * self.value.bias
        return pooled @ self.value.weight.T + bias, attention

    def _scores(self, tokens: Tensor) -> Tensor:
        queries = self.queries + self.query_bias
        scale = queries.shape[-1] ** -0.5
        if self.config.normalise_keys:  # the length of a key needs the projection itself
            keys = nn.functional.normalize(self.key(tokens), dim=-1)
            return scale * queries @ keys.transpose(-1, -2)
        return (scale * queries @ self.key.weight) @ tokens.transpose(-1, -2)


class FixedWidth(nn.Module):
    """The control of MV-Former's Table 4, rows 11 and 12: the CLS token split into E vectors."""

    def __init__(self, dim: int, config: PoolingConfig) -> None:
        super().__init__()
        self.num_entities = config.num_entities
        self.channels = config.channels
        self.split = nn.Linear(dim, config.channels * config.num_entities)

    def forward(self, cls: Tensor) -> Tensor:
        """(F, D) -> (F, E, C)."""
        split: Tensor = self.split(cls)
        return split.unflatten(-1, (self.channels, self.num_entities)).transpose(1, 2)


def pool_frozen(tokens: Tensor, kind: str) -> Tensor:
    """(F, N, D) -> (F, D) without weights: the mean or the maximum of a frame's tokens."""
    return tokens.mean(dim=1) if kind == "mean" else tokens.amax(dim=1)


def make_pooling(config: PoolingConfig, dim: int) -> Lstp | FixedWidth | None:
    """The pooling with weights that a config asks for; None where it has none."""
    if config.kind == "lstp":
        return Lstp(dim, config)
    return FixedWidth(dim, config) if config.kind == "fixed_width" else None
