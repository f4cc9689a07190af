"""Steps of FTP on batches, and the vectors and scores of single clips.

Shapes: B clips of a batch, b of them local (this rank), V repeats of each, T frames, N places, D
channels of a token, K classes.
"""

from collections.abc import Hashable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from tokenreel.cache.errors import UsageError
from tokenreel.fuse.data.frames import Frames
from tokenreel.fuse.distributed.precision import precision_of
from tokenreel.fuse.distributed.world import World, gather_clips
from tokenreel.fuse.systems.ftp.config import FtpConfig
from tokenreel.fuse.systems.ftp.layers import ClipMap
from tokenreel.fuse.systems.ftp.losses import (
    class_targets,
    info_nce,
    normalized,
    soft_cross_entropy,
)
from tokenreel.fuse.systems.ftp.model import Alignment, FtpModel, dropout_mask, words_seed
from tokenreel.fuse.systems.ftp.requirements import require_same_encoder
from tokenreel.fuse.systems.ftp.texts import open_texts, texts_of, token_rows

if TYPE_CHECKING:
    from tokenreel.cache.format.text_file import TextFile
    from tokenreel.fuse.data.batches import Batch


def maps_of(model: FtpModel, frames: Frames, block: int, gather: Tensor) -> ClipMap:
    """The maps of clips.

    Args:
        model: that they are for.
        frames: the distinct units.
        block: whose tokens they are.
        gather: int64 (n, T), which of them each frame of a map is; (n, 1) of a pooled store.
    """
    tokens = frames.tokens((block,))[gather]
    shape, pool = model.shape, model.config.pool
    if model.config.pooled_grid is None:
        return ClipMap.of(tokens, shape.grid, pool=pool)
    pooled = tokens[:, 0]
    return ClipMap(pooled[:, : shape.frames], pooled[:, shape.frames :], shape.grid)


def maps_of_batch(model: FtpModel, batch: "Batch") -> ClipMap:
    """The maps of a batch, (b V, ...); those of a step of stage 1, of which V is 1, too."""
    return maps_of(model, batch.frames, block_of(batch.frames), batch.gather.flatten(0, 1))


def map_key(model: FtpModel) -> Hashable:
    """What decides the maps that models read of the same frames."""
    return model.shape, model.config.pool, model.config.pooled_grid


def share_maps(models: Sequence[FtpModel], batch: "Batch") -> dict[FtpModel, ClipMap]:
    """The maps of a batch for several models, decoded and pooled once for all that read alike."""
    found: dict[Hashable, ClipMap] = {}
    for model in models:
        key = map_key(model)
        if key not in found:
            found[key] = maps_of_batch(model, batch)
    return {model: found[map_key(model)] for model in models}


def block_of(frames: Frames) -> int:
    """The block that a source reads: the last one."""
    return max(frames.codes)


def text_file(model: FtpModel, config: FtpConfig) -> "TextFile":
    """The texts of a run.

    Raises:
        UsageError: of another encoder than the run's, or changed since it began.
    """
    assert config.texts is not None
    texts = open_texts(Path(config.texts))
    require_same_encoder(config, texts)
    if model.texts_sha256 not in ("", texts.sha256):
        raise UsageError(f"{config.texts} has changed since the run began: rerun to begin anew")
    model.texts_sha256 = texts.sha256
    return texts


def alignment_loss(
    model: FtpModel,
    batch: "Batch",
    config: FtpConfig,
    rng: np.random.Generator,
    world: World,
    clips: ClipMap,
) -> Tensor:
    """The sum of the losses of the prompts, each of the clips that have its text.

    Nothing of one prompt depends on another: its clips, its dropout and its gradient are those of a
    run with that prompt alone.
    """
    texts = text_file(model, config)
    device = batch.gather.device
    precision = precision_of(config.optim.precision, device)
    step = int(rng.integers(2**62))
    count, shape = len(batch.clip_ids), model.shape
    size = (count, shape.frames + shape.places, shape.dim)
    losses = []
    for prompt in config.prompts:
        alignment = model.alignments[prompt]
        assert isinstance(alignment, Alignment)
        share = config.align.dropout if model.training else 0.0
        seed = words_seed(step, prompt)
        keep = dropout_mask(size, batch.own, share, seed, device)
        places, vectors = text_vectors(texts, prompt, batch.clip_ids, config, size[1])
        with torch.autocast(device.type, precision, enabled=precision != torch.float32):
            visual = model.aligned(clips, prompt, keep).float()
            text = alignment.texts(vectors[batch.own].to(device)).float()
        visual = gather_clips(visual, count, batch.own, world)
        text = gather_clips(text, count, batch.own, world)
        scale = alignment.log_scale if world.is_first else alignment.log_scale.detach()
        losses.append(info_nce(visual[places], text[places], scale))
    return torch.stack(losses).sum()


def text_vectors(
    texts: "TextFile", prompt: str, clip_ids: Sequence[str], config: FtpConfig, rows: int
) -> tuple[Tensor, Tensor]:
    """Which clips have a text, int64 (n,), and the vectors of all: (B, E) or (B, R, E), else 0."""
    places, pooled = texts_of(texts, prompt, clip_ids)
    found = pooled
    if config.align.text == "tokens":
        found = token_rows(texts, prompt, clip_ids, rows)
    every = np.zeros((len(clip_ids), *found.shape[1:]), np.float32)
    every[places] = found
    return torch.from_numpy(places), torch.from_numpy(every)


def class_loss(
    model: FtpModel,
    batch: "Batch",
    config: FtpConfig,
    rng: np.random.Generator,
    world: World,
    clips: ClipMap,
) -> Tensor:
    """Cross-entropy of the actions, smoothed; with mixup, of mixed maps and their mixed targets.

    Maps are mixed before the processors, so that nothing need be linear.
    """
    device = batch.gather.device
    precision = precision_of(config.optim.precision, device)
    repeats = batch.gather.shape[1]
    classes = torch.tensor([model.class_names.index(action) for action in batch.actions])
    classes = classes.repeat_interleave(repeats).to(device)
    targets = class_targets(classes, len(model.class_names), config.label_smoothing)
    if config.mixup and model.training:
        share = float(rng.beta(config.mixup, config.mixup))
        order = torch.from_numpy(rng.permutation(len(classes))).to(device)
        clips = mix_maps(clips, share, order, batch, repeats, world, pool=config.pool)
        targets = share * targets + (1 - share) * targets[order]
    with torch.autocast(device.type, precision, enabled=precision != torch.float32):
        scores = model(clips).float()
    scores = scores.unflatten(0, (-1, repeats))
    every = gather_clips(scores, len(batch.clip_ids), batch.own, world)
    return soft_cross_entropy(every.flatten(0, 1), targets)


def mix_maps(
    clips: ClipMap,
    share: float,
    order: Tensor,
    batch: "Batch",
    repeats: int,
    world: World,
    *,
    pool: str,
) -> ClipMap:
    """Each local map times `share`, plus that of its partner in the whole batch times the rest.

    Args:
        clips: (b V, ...).
        share: of each map.
        order: int64 (B V,), the partner of each map of the whole batch.
        batch: the batch.
        repeats: V.
        world: the processes, which have the maps of partners.
        pool: how the mixed maps are pooled.
    """
    own = torch.arange(batch.own.start * repeats, batch.own.stop * repeats, device=order.device)

    def mixed(x: Tensor) -> Tensor:
        whole = gather_clips(
            x.unflatten(0, (-1, repeats)), len(batch.clip_ids), batch.own, world
        ).flatten(0, 1)
        return share * whole[own] + (1 - share) * whole[order[own]]

    if clips.whole is not None:
        return ClipMap.of(mixed(clips.whole), clips.grid, pool=pool)
    return replace(clips, spatial=mixed(clips.spatial), temporal=mixed(clips.temporal))


def pair_vectors(
    model: FtpModel, config: FtpConfig, clips: ClipMap, clip_id: str
) -> tuple[np.ndarray, np.ndarray]:
    """The vectors of a clip and of its texts, prompt after prompt, and which text each is.

    Args:
        model: of stage 1.
        config: of the run.
        clips: the map of one clip.
        clip_id: its id.

    Returns:
        float32 (P C,), unit vectors of the clip; float64 (P C + P,), those of its texts, zeros
        where it has none, then the row of each text in the file, -1 where it has none.
    """
    texts = text_file(model, config)
    rows = model.shape.frames + model.shape.places
    visual, text, numbers = [], [], []
    for prompt in config.prompts:
        alignment = model.alignments[prompt]
        assert isinstance(alignment, Alignment)
        visual.append(unit_vector(model.aligned(clips, prompt)))
        _, vectors = text_vectors(texts, prompt, [clip_id], config, rows)
        number = int(texts.rows_of(prompt, [clip_id])[0])
        projected = unit_vector(alignment.texts(vectors.to(clips.spatial.device)))
        text.append(projected if number >= 0 else np.zeros_like(visual[-1]))
        numbers.append(number)
    return np.concatenate(visual), np.concatenate([*text, numbers]).astype(np.float64)


def unit_vector(x: Tensor) -> np.ndarray:
    """(1, C), or (1, R, C) with unit rows, as one unit vector in numpy."""
    found: np.ndarray = normalized(x)[0].cpu().numpy()
    return found


def class_scores(model: FtpModel, config: FtpConfig, clips: ClipMap) -> np.ndarray:
    """Cosines of a clip with the texts of actions, the mean over its prompts: float32 (K,).

    The file has an action for each clip id, under a prompt of the run or under one for all.
    """
    assert config.class_texts is not None
    names = open_texts(Path(config.class_texts))
    actions = names.clip_ids
    require_same_encoder(config, names)
    rows = model.shape.frames + model.shape.places
    scores = np.zeros(len(actions), np.float32)
    for prompt in config.prompts:
        alignment = model.alignments[prompt]
        assert isinstance(alignment, Alignment)
        own = prompt if prompt in names.prompts else names.prompts[0]
        _, vectors = text_vectors(names, own, actions, config, rows)
        projected = normalized(alignment.texts(vectors.to(clips.spatial.device)))
        scores += unit_vector(model.aligned(clips, prompt)) @ projected.cpu().numpy().T
    return scores / len(config.prompts)


def stage_parameters(model: FtpModel, stage: str) -> list[torch.nn.Parameter]:
    """The parameters that a stage trains; all others are frozen."""
    model.requires_grad_(False)
    found = []
    for part in model.trained_parts(stage):
        part.requires_grad_(True)
        found += list(part.parameters())
    return found


def clip_gradients(model: FtpModel, config: FtpConfig) -> Tensor:
    """Clip the gradients of stage 1 prompt by prompt, of stage 2 together; returns their norm."""
    most = config.optim.clip_grad_norm
    if config.stage != "align":
        return torch.nn.utils.clip_grad_norm_(model.parameters(), most)
    norms = []
    for prompt in config.prompts:
        parts = (model.processors[prompt], model.alignments[prompt])
        own = [parameter for part in parts for parameter in part.parameters()]
        norms.append(torch.nn.utils.clip_grad_norm_(own, most))
    return torch.stack(norms).norm()
