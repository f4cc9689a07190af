"""The model of phase 2: pooling, temporal fusion, and the head that only the loss sees.

Shapes: F distinct frames, N spatial tokens, D channels of all blocks together, B sequences,
T frames of a sequence, E entities, C channels.
"""

import torch
from torch import Tensor, nn

from tokenreel.fuse.config import FuseConfig
from tokenreel.fuse.pooling import FixedWidth, Lstp, make_pooling, pool_frozen
from tokenreel.fuse.temporal import TemporalFusion

__all__ = ["FusionModel", "build_model"]


class FusionModel(nn.Module):
    """MV-Former, or CARL's late fusion where the pooling gives one entity without weights."""

    def __init__(self, config: FuseConfig, *, dim: int, cls_dim: int) -> None:
        super().__init__()
        self.config = config
        kind = config.pooling.kind
        self.pooling = make_pooling(config.pooling, cls_dim if kind == "fixed_width" else dim)
        channels = {"cls": cls_dim, "mean": dim, "max": dim}.get(kind)
        # Late fusion has one entity and no ID for it.
        temporal = config.temporal
        if self.pooling is None:
            temporal = temporal.model_copy(update={"entity_ids": "none"})
        self.temporal = TemporalFusion(
            temporal,
            channels=self.pooling.channels if self.pooling is not None else channels or dim,
            num_entities=config.pooling.num_entities if self.pooling is not None else 1,
            train_frames=config.data.num_frames,
        )
        width = temporal.embedding
        hidden = config.loss.projection_hidden
        self.projection = nn.Sequential(
            nn.Linear(width, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, width)
        )

    def pool(self, tokens: Tensor | None, cls: Tensor | None, hidden: Tensor | None) -> Tensor:
        """Entities of distinct frames.

        Args:
            tokens: (F, N, D), None where only CLS is used.
            cls: (F, D of CLS), None where only tokens are used.
            hidden: bool (F, N), True at tokens that must not be seen, or None.

        Returns:
            (F, E, C).
        """
        if isinstance(self.pooling, FixedWidth):
            assert cls is not None
            entities: Tensor = self.pooling(cls)
            return entities
        if self.config.pooling.kind == "cls":
            assert cls is not None
            return cls[:, None]
        assert tokens is not None
        if isinstance(self.pooling, Lstp):
            return self.pooling(tokens, hidden)[0]
        return pool_frozen(tokens, self.config.pooling.kind)[:, None]

    def fuse(self, entities: Tensor, valid: Tensor | None = None) -> Tensor:
        """(B, T, E, C) -> embeddings (B, T, C)."""
        out: Tensor = self.temporal(entities, valid)
        return out

    def project(self, embeddings: Tensor) -> Tensor:
        """Embeddings (B, T, C) as the loss sees them: (B, T, C), of unit length."""
        flat = self.projection(embeddings.flatten(0, 1)).unflatten(0, embeddings.shape[:2])
        return nn.functional.normalize(flat, dim=-1)


def build_model(config: FuseConfig, *, dim: int, cls_dim: int) -> FusionModel:
    """A model whose weights depend on config.seed alone.

    Args:
        config: what to build.
        dim: channels D of the tokens of all blocks used, end to end.
        cls_dim: channels of the CLS vector.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return FusionModel(config, dim=dim, cls_dim=cls_dim)
