"""From a batch to the scalar that a run lowers."""

import torch
from torch import Tensor

from tokenreel.fuse.batches import Batch
from tokenreel.fuse.config import FuseConfig
from tokenreel.fuse.distributed import ALONE, World, gather_clips
from tokenreel.fuse.losses.scl import sequence_contrastive_loss
from tokenreel.fuse.model import FusionModel
from tokenreel.fuse.needs import uses_tokens

__all__ = ["batch_loss", "precision_of"]


def precision_of(word: str, device: torch.device) -> torch.dtype:
    """What "auto" is on a device: bfloat16 on a GPU, float32 elsewhere; or what was asked for."""
    if word == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return {
        "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16,
    }[word]  # fmt: skip


def batch_loss(
    model: FusionModel, batch: Batch, config: FuseConfig, *, world: World = ALONE
) -> Tensor:
    """The loss of a batch, float32; in every process that of the whole batch.

    Args:
        model: pools and fuses the own clips.
        batch: the step.
        config: of the run.
        world: the processes that share the batch.
    """
    device = batch.gather.device
    precision = precision_of(config.optim.precision, device)
    with torch.autocast(device.type, precision, enabled=precision != torch.float32):
        tokens = batch.frames.tokens(config.pooling.blocks) if uses_tokens(config) else None
        entities = model.pool(tokens, batch.frames.cls, None)
        views = entities[batch.gather.flatten(0, 1)]  # (b V, T, E, C)
        embeddings = model.project(model.fuse(views, batch.valid[batch.own].flatten(0, 1)))
    embeddings = embeddings.float().unflatten(0, batch.gather.shape[:2])
    return sequence_contrastive_loss(
        gather_clips(embeddings, len(batch.clip_ids), batch.own, world),
        batch.steps,
        batch.valid,
        temperature=config.loss.temperature,
        label_variance=config.loss.label_variance,
        label_mode=config.loss.label_mode,
    )
