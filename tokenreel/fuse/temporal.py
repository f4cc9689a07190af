"""Multi-entity temporal fusion: entities of all frames -> one embedding a frame.

Shapes: B sequences, T frames, E entities, C channels.  Tokens are laid out entity by entity, all
frames of entity 0 first; attention does not care, and the published positions are by frame.
Source: MV-Former, section 3.4; CARL, section 3.3 (one entity).
"""

import copy
from functools import cache

import torch
from torch import Tensor, nn

from tokenreel.fuse.config import TemporalConfig

__all__ = ["TemporalFusion", "position_table"]


@cache
def position_table(num_frames: int, channels: int, train_frames: int) -> Tensor:
    """Sinusoidal positions, (T, C) float32.

    Other lengths than the trained one are interpolated: positions 0 to train_frames - 1 in T equal
    steps.  The cosine's exponent is odd_index / C, as in the official code.
    """
    if num_frames == train_frames:
        positions = torch.arange(num_frames, dtype=torch.float64)
    else:
        positions = torch.linspace(0, train_frames - 1, num_frames, dtype=torch.float64)
    exponent = torch.arange(channels, dtype=torch.float64) / channels
    angles = positions[:, None] / 10000**exponent
    table = torch.where(torch.arange(channels) % 2 == 0, angles.sin(), angles.cos())
    return table.float()


class Block(nn.Module):
    """A pre-norm transformer block with a ReLU feed-forward, dropout on the residual branches."""

    def __init__(self, config: TemporalConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.norm1 = nn.LayerNorm(config.hidden)
        self.qkv = nn.Linear(config.hidden, 3 * config.hidden)
        self.out = nn.Linear(config.hidden, config.hidden)
        self.norm2 = nn.LayerNorm(config.hidden)
        self.fc1 = nn.Linear(config.hidden, config.feed_forward)
        self.fc2 = nn.Linear(config.feed_forward, config.hidden)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, may_attend: Tensor | None) -> Tensor:
        """(B, S, C) -> (B, S, C); may_attend: bool (B, 1, 1, S), False at padded keys."""
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.qkv(self.norm1(x)).chunk(3, dim=-1)
        )
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, may_attend)
        x = x + self.dropout(self.out(mixed.transpose(1, 2).flatten(2)))
        branch = self.fc2(self.fc1(self.norm2(x)).relu())
        return x + self.dropout(branch)


class TemporalFusion(nn.Module):
    """FC layers, entity IDs, positions, transformer blocks, one output a frame."""

    def __init__(
        self, config: TemporalConfig, *, channels: int, num_entities: int, train_frames: int
    ) -> None:
        super().__init__()
        self.config = config
        self.num_entities = num_entities
        self.train_frames = train_frames
        ids = num_entities if num_entities > 1 or config.entity_ids == "none" else 1
        width = channels + (ids if config.entity_ids == "pool" else 0)
        layers: list[nn.Module] = []
        for _ in range(2):
            layers += [nn.Linear(width, config.fc_width), nn.BatchNorm1d(config.fc_width)]
            layers += [nn.ReLU()]
            width = config.fc_width
        self.fc = nn.Sequential(*layers)
        ids_inside = ids if config.entity_ids == "encoder" else 0
        self.enter = nn.Linear(width, config.hidden - ids_inside)
        self.dropout = nn.Dropout(config.dropout)
        block = Block(config)
        for matrix in block.parameters():
            if matrix.dim() > 1:
                nn.init.xavier_uniform_(matrix)
        # The published blocks start as copies of one.
        self.blocks = nn.ModuleList(copy.deepcopy(block) for _ in range(config.layers))
        is_linear = config.output == "lin"
        self.join = nn.Linear(num_entities * config.hidden, config.hidden) if is_linear else None
        self.leave = nn.Linear(config.hidden, config.embedding)

    def forward(self, entities: Tensor, valid: Tensor | None = None) -> Tensor:
        """Fuse.

        Args:
            entities: (B, T, E, C).
            valid: bool (B, T), False at padded frames; None when there is none.  Padded frames are
                not attended to, but get an output and count in the batch norms, as published.

        Returns:
            Embeddings (B, T, C of an embedding).
        """
        clips, frames = entities.shape[:2]
        x = self._enter(entities)  # (B, E, T, hidden)
        may_attend = None
        if valid is not None and not bool(valid.all()):
            may_attend = valid.repeat(1, self.num_entities)[:, None, None]
        x = x.flatten(1, 2)
        for block in self.blocks:
            x = block(x, may_attend)
        x = self._choose(x.unflatten(1, (self.num_entities, frames)))
        out: Tensor = self.leave(x)
        assert out.shape[:2] == (clips, frames)
        return nn.functional.normalize(out, dim=-1) if self.config.l2_normalise else out

    def _enter(self, entities: Tensor) -> Tensor:
        ids = torch.eye(self.num_entities, dtype=entities.dtype, device=entities.device)
        ids = ids.expand(*entities.shape[:2], -1, -1)
        if self.config.entity_ids == "pool":
            entities = torch.cat([entities, ids], dim=-1)
        x: Tensor = self.enter(self.fc(entities.flatten(0, 2)).unflatten(0, entities.shape[:3]))
        table = position_table(x.shape[1], x.shape[-1], self.train_frames)
        x = self.dropout(x + table.to(x)[:, None])
        if self.config.entity_ids == "encoder":
            x = torch.cat([x, ids.to(x)], dim=-1)
        return x.transpose(1, 2)

    def _choose(self, x: Tensor) -> Tensor:
        """(B, E, T, C) -> (B, T, C)."""
        if self.config.output == "one":
            return x[:, 0]
        if self.config.output == "avg":
            return x.mean(dim=1)
        if self.config.output == "max":
            return x.amax(dim=1)
        assert self.join is not None
        joined: Tensor = self.join(x.permute(0, 2, 1, 3).flatten(2))
        return joined
