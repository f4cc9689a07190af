"""A system: what is read, drawn, trained and embedded, with its configuration."""

from typing import Literal

import numpy as np
import torch
from pydantic import Field

from tokenreel.cache.format.clip import ClipRecord
from tokenreel.cache.read.store_set import StoreSet
from tokenreel.fuse.config import DataConfig, OptimConfig, SystemConfig
from tokenreel.fuse.data.epoch_plan import Draw
from tokenreel.fuse.data.source import Wanted
from tokenreel.fuse.systems.base import Embedded, Shapes, System

ANY_ACTION = frozenset([None])


class LinearConfig(SystemConfig):
    """A linear layer over the mean of a frame's tokens."""

    system: Literal["example-linear"] = "example-linear"
    data: DataConfig = DataConfig(num_frames=6, batch_clips=2)
    optim: OptimConfig = OptimConfig(lr=1e-2, epochs=1)
    channels: int = Field(default=4, ge=1, description="channels of an embedding")


class Linear(System):
    """Embeddings of neighbouring frames are near, those of a clip's ends are far."""

    config = LinearConfig

    def requirements(self, config: LinearConfig, stores: StoreSet) -> None:
        """Any store will do."""

    def wanted(self, config: LinearConfig, stores: StoreSet) -> dict[str, Wanted]:
        """All blocks of the first store."""
        [(name, store)] = stores.items()
        return {
            name: Wanted(
                blocks=store.identity.blocks, cls=False, every_view=False, actions=ANY_ACTION
            )
        }

    def draw(self, record: ClipRecord, config: LinearConfig, rng: np.random.Generator) -> Draw:
        """Frames at even distances."""
        units = np.linspace(0, record.num_frames - 1, config.data.num_frames).astype(np.int64)
        return Draw(units[None], np.ones((1, len(units)), bool))

    def build(self, config: LinearConfig, shapes: Shapes) -> torch.nn.Module:
        """One layer."""
        torch.manual_seed(config.seed)
        return torch.nn.Linear(shapes.first.dim * len(shapes.first.blocks), config.channels)

    def loss(self, model, batch, config, *, rng, world, shared=None):
        """Small steps, distant ends."""
        embeddings = model(batch.frames.tokens().mean(dim=1))[batch.gather]  # (B, V, T, C)
        steps = embeddings.diff(dim=2).square().mean()
        ends = (embeddings[:, :, -1] - embeddings[:, :, 0]).square().mean()
        return steps + (1 - ends).square()

    def embed(self, model, config, source, record) -> Embedded:
        """A row a frame."""
        frames = source.frames(record.clip_id, np.arange(record.num_frames))
        return Embedded(model(frames.tokens().mean(dim=1)).numpy())
