"""A tiny system as a package might add it: two stages, two stores, scores of whole clips."""

from typing import Literal

import numpy as np
import torch
from torch import nn

from tokenreel.cache.errors import UsageError
from tokenreel.fuse.config import DataConfig, OptimConfig, SystemConfig
from tokenreel.fuse.data.epoch_plan import Draw
from tokenreel.fuse.data.source import Wanted
from tokenreel.fuse.systems.base import Embedded, Stage, System

OPTIM = OptimConfig(lr=1e-2, epochs=2, checkpoint_epochs=1)
STORES = ("frames", "clips")
CLASSES = ("act", "dance")


class TwoStageConfig(SystemConfig):
    """Features that agree in both stores, then a classifier of actions on top of them."""

    weight_fields = ("hidden",)

    system: Literal["two-stage"] = "two-stage"
    data: DataConfig = DataConfig(num_frames=4, batch_clips=2)
    optim: OptimConfig = OPTIM
    align: OptimConfig = OPTIM
    stage: Literal["align", "classify"] = "classify"
    hidden: int = 4

    @property
    def units_per_clip(self) -> int:
        return self.data.num_frames


class TwoStage(System):
    config = TwoStageConfig

    def requirements(self, config, stores):
        if set(stores) != set(STORES):
            raise UsageError(f"system=two-stage reads the stores {' and '.join(STORES)}")

    def wanted(self, config, stores):
        return {
            name: Wanted((store.identity.blocks[-1],), False, False, frozenset([None]))
            for name, store in stores.items()
        }

    def batches(self, records, config, rng):
        order = rng.permutation(len(records))
        return [[int(n), int(n)] for n in order[:3]]  # each clip twice

    def draw(self, record, config, rng):
        units = np.linspace(0, record.num_frames - 1, config.data.num_frames).astype(np.int64)
        return Draw(units[None], np.ones((1, len(units)), bool))

    def build(self, config, shapes):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            model = nn.Module()
            model.frames, model.clips = (
                nn.Linear(shapes.streams[name].dim, config.hidden) for name in STORES
            )
            model.drop = nn.Dropout(0.5)
            model.head = nn.Linear(config.hidden, len(CLASSES))
            return model

    def loss(self, model, batch, config, *, rng, world, shared=None):
        frames, clips = self._features(model, batch.frames, batch.others["clips"])
        if config.stage == "align":
            return (frames - clips).square().mean() + rng.random() * frames.square().mean()
        targets = torch.tensor([CLASSES.index(action) for action in batch.actions])
        pooled = frames[batch.gather].mean(dim=(1, 2))
        return nn.functional.cross_entropy(model.head(model.drop(pooled)), targets)

    def embed(self, model, config, source, record):
        units = np.arange(record.num_frames)
        frames, _ = self._features(
            model,
            source.frames(record.clip_id, units),
            source.others["clips"].frames(record.clip_id, units),
        )
        scores = model.head(frames.mean(dim=0, keepdim=True)).numpy()
        return Embedded(scores, of_clip=True)

    def parameters(self, model, config):
        is_last = config.stage == "classify"
        for part in (model.frames, model.clips):
            part.requires_grad_(not is_last)
        if not is_last:
            return [*model.frames.parameters(), *model.clips.parameters()]
        return [
            {"params": [model.head.weight], "lr": config.optim.lr / 10},
            {"params": [model.head.bias], "weight_decay": 0.0},
        ]

    def stages(self, config):
        first = config.with_(stage="align", optim=config.align)
        return [Stage("align", first), Stage("classify", config)]

    def weights_from(self, state):
        return {name: value for name, value in state.items() if not name.startswith("head.")}

    def _features(self, model, frames, clips):
        """Of each unit, (F, hidden), by both stores."""
        return (
            model.frames(frames.tokens().mean(dim=1)),
            model.clips(clips.tokens().mean(dim=1)),
        )
