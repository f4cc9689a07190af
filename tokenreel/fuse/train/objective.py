"""From a batch to the scalar that a run lowers."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from tokenreel.fuse.config.run import FuseConfig
from tokenreel.fuse.data.augment import ViewTokens, augment_views
from tokenreel.fuse.data.batches import Batch
from tokenreel.fuse.distributed.global_layers import place_dropouts
from tokenreel.fuse.distributed.world import ALONE, World, gather_clips
from tokenreel.fuse.layers.pooling import AttendedTokens
from tokenreel.fuse.losses import LOSSES, LossInput
from tokenreel.fuse.systems.mvformer import FusionModel

__all__ = ["batch_loss", "precision_of"]


def precision_of(word: str, device: torch.device) -> torch.dtype:
    """What "auto" is on a device: bfloat16 on a GPU, float32 elsewhere; or what was asked for."""
    if word == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return {
        "float32": torch.float32,
        "bfloat16": torch.bfloat16,
        "float16": torch.float16,
    }[word]


def batch_loss(
    model: FusionModel,
    batch: Batch,
    config: FuseConfig,
    *,
    rng: np.random.Generator,
    world: World = ALONE,
    attended: AttendedTokens | None = None,
) -> Tensor:
    """The loss of a batch, float32; in every process that of the whole batch.

    Args:
        model: pools and fuses the own clips.
        batch: the step.
        config: of the run.
        rng: where augmentation and loss draw from, the same in every process.
        world: the processes that share the batch.
        attended: its frames, where the model's queries have attended over them already.
    """
    device = batch.gather.device
    if world.size > 1:
        place_dropouts(model, len(batch.clip_ids), batch.own)
    seed = int(rng.integers(2**63))  # drawn in every process, by every config
    precision = precision_of(config.optim.precision, device)
    with torch.autocast(device.type, precision, enabled=precision != torch.float32):
        seen = ViewTokens(batch.frames.tokens_for(config), batch.frames.cls, batch.gather)
        if model.training and config.augment.changes_tokens:
            clips = batch.clip_ids[batch.own]
            seen = augment_views(
                seen,
                config.augment,
                grid=batch.grid,
                clip_ids=clips,
                seed=seed,
                knows_places=config.pooling.kind == "grid",
            )
        tokens = seen.tokens if attended is None else attended
        views = model.pool_views(tokens, seen.cls, seen.gather, seen.hidden)
        embeddings = model.project(model.fuse(views, batch.valid[batch.own].flatten(0, 1)))
    embeddings = embeddings.float().unflatten(0, batch.gather.shape[:2])
    inputs = LossInput(
        embeddings=gather_clips(embeddings, len(batch.clip_ids), batch.own, world),
        steps=batch.steps,
        valid=batch.valid.to(device, non_blocking=True),
        padding=(~batch.valid).flatten().nonzero().flatten().to(device, non_blocking=True),
        labels=batch.labels,
        actions=batch.actions,
        num_frames=batch.num_frames,
        head=_head_of(model, world),
        rng=rng,
    )
    return LOSSES[config.loss.name](inputs, config.loss)


def _head_of(model: FusionModel, world: World) -> Callable[[Tensor], Tensor]:
    """The head for a loss that applies it to the whole batch, in each of the processes.

    Their gradients are added up, so each counts for its share only.
    """
    if world.size == 1:
        return model.projection
    shares = {
        name: parameter / world.size + (parameter * (1 - 1 / world.size)).detach()
        for name, parameter in model.projection.named_parameters()
    }
    return lambda x: torch.func.functional_call(model.projection, shares, (x,))
