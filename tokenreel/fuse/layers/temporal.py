"""Multi-entity temporal fusion: entities of all frames -> one embedding a frame.

Shapes: B sequences, T frames, E entities, C channels.  Tokens are laid out frame by frame, so that
valid ones lie together; attention does not care (the published order is by entity).
Source: MV-Former, section 3.4; CARL, section 3.3 (one entity).
"""

import copy
from functools import lru_cache

import torch
from torch import Tensor, nn

from tokenreel.fuse.config.model import TemporalConfig
from tokenreel.fuse.kernels import Padding, padded_attention


@lru_cache(maxsize=16)  # embedding meets clips of many lengths: 5,000 frames are 5 MB
def position_table(
    num_frames: int, channels: int, train_frames: int, device: torch.device | None = None
) -> Tensor:
    """Sinusoidal positions, (T, C) float32.

    Other lengths than the trained one are interpolated: positions 0 to train_frames - 1 in T equal
    steps.  The cosine's exponent is odd_index / C, as in the official code.
    """
    with torch.inference_mode(False):  # what embedding makes may serve training
        if num_frames == train_frames:
            positions = torch.arange(num_frames, dtype=torch.float64)
        else:
            positions = torch.linspace(0, train_frames - 1, num_frames, dtype=torch.float64)
        return sinusoid(positions, channels).to(device)


def sinusoid(positions: Tensor, channels: int) -> Tensor:
    """Sinusoids of positions (T,), float64 -> (T, C), float32."""
    exponent = torch.arange(channels, dtype=torch.float64) / channels
    angles = positions[:, None] / 10000**exponent
    return torch.where(torch.arange(channels) % 2 == 0, angles.sin(), angles.cos()).float()


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

    def forward(self, x: Tensor, padding: Padding | None) -> Tensor:
        """(B, S, C) -> (B, S, C); no token attends to padding."""
        query, key, value = (
            part.unflatten(-1, (self.heads, -1))
            for part in self.qkv(self.norm1(x)).chunk(3, dim=-1)
        )
        mixed = padded_attention(query, key, value, padding)
        x = x + self.dropout(self.out(mixed.flatten(2)))
        return x + self.dropout(self.fc2(self.fc1(self.norm2(x)).relu()))


class TemporalFusion(nn.Module):
    """FC layers, entity IDs, positions, transformer blocks, one output a frame."""

    def __init__(
        self, config: TemporalConfig, *, channels: int, num_entities: int, train_frames: int
    ) -> None:
        super().__init__()
        self.config = config
        self.num_entities = num_entities
        self.train_frames = train_frames
        width = channels + (num_entities if config.entity_ids == "pool" else 0)
        layers: list[nn.Module] = []
        for _ in range(2):
            layers += [nn.Dropout(config.dropout), nn.Linear(width, config.fc_width)]
            layers += [nn.BatchNorm1d(config.fc_width), nn.ReLU()]
            width = config.fc_width
        self.fc = nn.Sequential(*layers)
        inside = num_entities if config.entity_ids == "encoder" else 0
        self.enter = nn.Linear(width, config.hidden - inside)
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

        Raises:
            ValueError: entities or valid frames of another shape, a sequence that is padding alone.
            TypeError: valid frames that are not bool.
        """
        padding, positions = self._prepare(entities, valid)
        return self.fuse_at(entities, positions, padding)

    def fuse_at(self, entities: Tensor, positions: Tensor, padding: Padding | None) -> Tensor:
        """As forward, for entities (B, T, E, C) at given rows of sinusoids, (T, C)."""
        x = self._enter(entities, positions).flatten(1, 2)  # (B, T E, hidden)
        for block in self.blocks:
            x = block(x, padding)
        x = self._choose(x.unflatten(1, (-1, self.num_entities)))
        out: Tensor = self.leave(x)
        return nn.functional.normalize(out, dim=-1) if self.config.l2_normalise else out

    # Caches, and lengths that the host looks at: no part of a compiled graph.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _prepare(self, entities: Tensor, valid: Tensor | None) -> tuple[Padding | None, Tensor]:
        frames, device = entities.shape[1], entities.device
        if entities.shape[2] != self.num_entities:
            raise ValueError(
                f"entities {tuple(entities.shape)}: want (B, T, {self.num_entities}, C), with the "
                "entities of the model"
            )
        if valid is not None and valid.shape != entities.shape[:2]:
            raise ValueError(f"valid {tuple(valid.shape)}: want {tuple(entities.shape[:2])}")
        padding = None if valid is None else Padding.of(valid, self.num_entities, device)
        return padding, position_table(frames, self.enter.out_features, self.train_frames, device)

    def _enter(self, entities: Tensor, positions: Tensor) -> Tensor:
        ids = torch.eye(self.num_entities, dtype=entities.dtype, device=entities.device)
        ids = ids.expand(*entities.shape[:2], -1, -1)
        if self.config.entity_ids == "pool":
            entities = torch.cat([entities, ids], dim=-1)
        x: Tensor = self.enter(self.fc(entities.flatten(0, 2)).unflatten(0, entities.shape[:3]))
        if self.config.layers:  # positions are for the attention: without it they are a clock
            x = x + positions.to(x)[:, None]
        x = self.dropout(x)
        if self.config.entity_ids == "encoder":
            x = torch.cat([x, ids.to(x)], dim=-1)
        return x

    def _choose(self, x: Tensor) -> Tensor:
        """(B, T, E, C) -> (B, T, C)."""
        if self.config.output == "one":
            return x[:, :, 0]
        if self.config.output == "avg":
            return x.mean(dim=2)
        if self.config.output == "max":
            return x.amax(dim=2)
        assert self.join is not None
        joined: Tensor = self.join(x.flatten(2))
        return joined
