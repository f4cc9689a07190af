"""From the scenes of a stream to the vectors of its clip.

Shapes: B clips, T scenes, D channels of a scene, C channels of a vector, Q vectors of a clip.
"""

import math

import torch
from torch import Tensor, nn

from tokenreel.fuse.systems.stan.config import (
    AverageConfig,
    EncoderConfig,
    LstmConfig,
    TransformerConfig,
)


def position_table(count: int, channels: int, base: float) -> Tensor:
    """Sinusoidal positions, (count, C) float32: sine at even channels, cosine of it at odd ones.

    Source: STAN, equation 2.
    """
    pairs = torch.arange(channels, dtype=torch.float64) // 2
    positions = torch.arange(count, dtype=torch.float64)
    angles = positions[:, None] / base ** (2 * pairs / channels)
    is_even = torch.arange(channels) % 2 == 0
    return torch.where(is_even, angles.sin(), angles.cos()).float()


class TransformerLayer(nn.Module):
    """A post-norm layer with a ReLU feed-forward: the numbers of nn.TransformerEncoderLayer.

    Its dropouts are modules, so that several processes can share their masks.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)
        self.norm1 = nn.LayerNorm(config.width)
        self.fc1 = nn.Linear(config.width, config.feed_forward)
        self.fc2 = nn.Linear(config.feed_forward, config.width)
        self.norm2 = nn.LayerNorm(config.width)
        self.dropout = nn.Dropout(config.dropout)
        nn.init.xavier_uniform_(self.qkv.weight)
        nn.init.zeros_(self.qkv.bias)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """(B, S, C) -> (B, S, C); no token attends to one that is not valid, (B, S)."""
        mixed = self.attention(x, valid) @ self._heads(x, 2)
        x = self.norm1(x + self.dropout(self.out(mixed.transpose(1, 2).flatten(2))))
        hidden = self.dropout(self.fc1(x).relu())
        out: Tensor = self.norm2(x + self.dropout(self.fc2(hidden)))
        return out

    def attention(self, x: Tensor, valid: Tensor) -> Tensor:
        """Weights of each token over all, (B, heads, S, S); rows sum to 1 without dropout."""
        query, key = self._heads(x, 0), self._heads(x, 1)
        scores = query @ key.transpose(2, 3) / math.sqrt(key.shape[-1])
        scores = scores.masked_fill(~valid[:, None, None], float("-inf"))
        weights: Tensor = self.dropout(scores.softmax(dim=-1))
        return weights

    def _heads(self, x: Tensor, part: int) -> Tensor:
        """Queries, keys or values, (B, heads, S, C of a head)."""
        width = x.shape[-1]
        rows = slice(part * width, (part + 1) * width)
        made = nn.functional.linear(x, self.qkv.weight[rows], self.qkv.bias[rows])
        return made.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class TransformerEncoder(nn.Module):
    """A layer from the backbone's channels, Q tokens of the clip, positions, transformer layers.

    Args:
        config: sizes.
        dim: channels D of a scene.
        queries: tokens of the clip, CLS first; all have position 0.
    """

    def __init__(self, config: TransformerConfig, dim: int, queries: int = 1) -> None:
        super().__init__()
        self.config, self.channels, self.queries = config, config.width, queries
        self.project = nn.Linear(dim, config.width)
        self.cls = nn.Parameter(torch.randn(queries, config.width))
        self.layers = nn.ModuleList(TransformerLayer(config) for _ in range(config.layers))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, scenes: Tensor, valid: Tensor) -> Tensor:
        """(B, T, D), bool (B, T) -> (B, Q, C)."""
        x, seen = self._enter(scenes, valid)
        for layer in self.layers:
            x = layer(x, seen)
        return x[:, : self.queries]

    def attention(self, scenes: Tensor, valid: Tensor) -> Tensor:
        """Where CLS looks in the last layer: (B, heads, T) over the scenes, without itself."""
        x, seen = self._enter(scenes, valid)
        *before, last = self.layers
        for layer in before:
            x = layer(x, seen)
        assert isinstance(last, TransformerLayer)
        return last.attention(x, seen)[:, :, 0, self.queries :]

    def _enter(self, scenes: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        x: Tensor = self.project(scenes)
        x = torch.cat([self.cls.to(x).expand(len(x), -1, -1), x], dim=1)
        if self.config.positions == "sinusoidal":
            count = 1 + scenes.shape[1]
            table = position_table(count, self.channels, self.config.position_base).to(x)
            x = x + torch.cat([table[:1].expand(self.queries, -1), table[1:]])
        seen = torch.cat([valid.new_ones(len(valid), self.queries), valid], dim=1)
        return self.dropout(x), seen


class Average(nn.Module):
    """The mean of the valid scenes."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.channels = dim

    def forward(self, scenes: Tensor, valid: Tensor) -> Tensor:
        """(B, T, D), bool (B, T) -> (B, 1, D)."""
        weights = valid.to(scenes)[..., None]
        return ((scenes * weights).sum(dim=1) / weights.sum(dim=1))[:, None]


class Lstm(nn.Module):
    """The state after the last valid scene; padding lies at the end."""

    def __init__(self, config: LstmConfig, dim: int) -> None:
        super().__init__()
        self.channels = config.width
        sizes = [dim, *[config.width] * (config.layers - 1)]
        self.layers = nn.ModuleList(nn.LSTM(size, config.width, batch_first=True) for size in sizes)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, scenes: Tensor, valid: Tensor) -> Tensor:
        """(B, T, D), bool (B, T) -> (B, 1, C)."""
        x = scenes
        for number, layer in enumerate(self.layers):
            x = layer(self.dropout(x) if number else x)[0]
        last = valid.sum(dim=1) - 1
        return x[torch.arange(len(x), device=x.device), last][:, None]


Encoder = TransformerEncoder | Average | Lstm


def make_encoder(config: EncoderConfig, dim: int, queries: int = 1) -> Encoder:
    """The encoder of a stream; its `channels` are those of a vector.

    Args:
        config: its kind and sizes.
        dim: channels D of a scene.
        queries: vectors Q of a clip; more than one of a transformer alone.
    """
    if isinstance(config, AverageConfig):
        return Average(dim)
    if isinstance(config, LstmConfig):
        return Lstm(config, dim)
    return TransformerEncoder(config, dim, queries)
