"""From the vectors of the streams to one vector of the clip, and the head that scores its tags.

Shapes: B clips, C channels, K tags.
"""

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, normalize

from tokenreel.fuse.systems.stan.config import (
    ConcatConfig,
    FusionConfig,
    GateConfig,
    HeadConfig,
    SumConfig,
)


class WeightedSum(nn.Module):
    """norm(q(s) + weight q(t)); of one stream norm(q(x))."""

    def __init__(self, config: SumConfig, channels: int) -> None:
        super().__init__()
        self.config, self.channels = config, channels
        self.q = nn.Sequential(
            nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, channels)
        )

    def forward(self, *vectors: Tensor) -> Tensor:
        """(B, C) of each stream, spatial first -> (B, C)."""
        total: Tensor = self.q(vectors[0])
        for vector in vectors[1:]:
            total = total + self.config.weight * self.q(vector)
        if self.config.norm == "l2":
            return normalize(total, dim=-1)
        return layer_norm(total, total.shape[-1:])


class SpatialTwice(nn.Module):
    """Twice the spatial vector of unit length: what the released code computes."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, spatial: Tensor, temporal: Tensor) -> Tensor:
        """(B, C) of each stream -> (B, C)."""
        return normalize(spatial, dim=-1) + normalize(spatial, dim=-1)


class Concat(nn.Module):
    """The vectors end to end."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.channels = sum(channels)

    def forward(self, *vectors: Tensor) -> Tensor:
        """(B, C) of each stream -> (B, sum of C)."""
        return torch.cat(vectors, dim=-1)


class CollaborativeGating(nn.Module):
    """Sums of pairs, projected and gated by themselves, summed, projected to unit length."""

    def __init__(self, config: GateConfig, channels: int) -> None:
        super().__init__()
        self.channels = config.width
        self.project = nn.Linear(channels, config.width)
        self.gate = nn.Linear(config.width, config.width)
        self.out = nn.Linear(config.width, config.width)

    def forward(self, *vectors: Tensor) -> Tensor:
        """(B, C) of each stream -> (B, width)."""
        pairs = [self.project(one + other) for one, other in combinations(vectors, 2)]
        gated = torch.stack([pair * self.gate(pair).sigmoid() for pair in pairs])
        return normalize(self.out(gated.sum(dim=0)), dim=-1)


Fusion = WeightedSum | SpatialTwice | Concat | CollaborativeGating


def make_fusion(config: FusionConfig, channels: Sequence[int]) -> Fusion:
    """The fusion of a kind; its `channels` are those of the fused vector.

    Args:
        config: its kind.
        channels: of the vector of each stream.

    Raises:
        ValueError: streams of several widths where they are added.
    """
    if isinstance(config, ConcatConfig):
        return Concat(channels)
    if len(set(channels)) > 1:
        raise ValueError(
            f"fusion.kind={config.kind} adds vectors of {' and '.join(map(str, channels))} "
            "channels: set fusion.kind=concat, or encoder.kind=transformer"
        )
    if isinstance(config, SumConfig):
        return WeightedSum(config, channels[0])
    if isinstance(config, GateConfig):
        return CollaborativeGating(config, channels[0])
    return SpatialTwice(channels[0])


class Head(nn.Module):
    """Three layers, gated or with a GELU between them."""

    def __init__(self, config: HeadConfig, channels: int, num_classes: int) -> None:
        super().__init__()
        wider = 2 if config.gate == "glu" else 1
        self.bend: nn.Module = nn.GLU() if config.gate == "glu" else nn.GELU()
        sizes = [channels, *config.widths]
        self.layers = nn.ModuleList(
            nn.Linear(size, wider * after)
            for size, after in zip(sizes, config.widths, strict=False)
        )
        self.leave = nn.Linear(config.widths[-1], num_classes)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C) -> scores (B, K), before any sigmoid."""
        for layer in self.layers:
            x = self.bend(layer(self.dropout(x)))
        scores: Tensor = self.leave(self.dropout(x))
        return scores
