"""Embed every clip of a store with a model; write the file that phase 3 reads.

As in the official evaluation, a clip longer than `embed_frames` is cut into nearly equal pieces,
and each piece is embedded alone: its own attention, its own positions, no mask, no head.  Models
that read the same store are given each frame together.
"""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tokenreel.cache.embeddings import EmbeddedClip, write_embeddings
from tokenreel.cache.errors import UsageError, WrongRecipe
from tokenreel.cache.progress import Progress
from tokenreel.cache.reader import ClipRecord, Store, open_store
from tokenreel.fuse.checkpoint import load_checkpoint, restore_weights
from tokenreel.fuse.config import FuseConfig
from tokenreel.fuse.folder import describe_store, read_about, read_config
from tokenreel.fuse.frames import Frames
from tokenreel.fuse.labelled import in_order_of_draw
from tokenreel.fuse.losses.heads import classes_in
from tokenreel.fuse.model import FusionModel, build_model
from tokenreel.fuse.needs import as_trained, is_of, uses_tokens
from tokenreel.fuse.pooling import pool_frozen
from tokenreel.fuse.source import TokenSource
from tokenreel.fuse.standard import standardise

__all__ = [
    "Embedder", "clip_context", "embed_run", "embed_together", "load_run", "pieces",
    "require_backbone",
]  # fmt: skip

log = logging.getLogger(__name__)

FRAMES_AT_ONCE = 64  # tokens of so many frames bound the memory


@dataclass(frozen=True, eq=False)
class Embedder:
    """A model and where its embeddings go.

    Attributes:
        model: in evaluation mode afterwards; None pools frozen tokens without weights.
        config: of the run.
        out: the embedding file.
        provenance: what made the embeddings.
    """

    model: FusionModel | None
    config: FuseConfig
    out: Path
    provenance: dict[str, Any]


def pieces(num_frames: int, longest: int) -> list[slice]:
    """Cut a clip as the official evaluation does.

    >>> pieces(7, 3)
    [slice(0, 3, None), slice(3, 6, None), slice(6, 7, None)]
    """
    count = math.ceil(num_frames / longest)
    size = math.ceil(num_frames / count)
    return [slice(a, min(a + size, num_frames)) for a in range(0, num_frames, size)]


def load_run(run: Path, source_of: Callable[[FuseConfig], TokenSource]) -> Embedder:
    """The model of a trained run, for a store that may be another than it was trained on.

    Args:
        run: its folder.
        source_of: makes the source of a config, for the sizes of the model.

    Raises:
        UsageError: a run without a checkpoint.
        Damaged: a folder without a readable run.json or checkpoint.
        WrongRecipe: tokens of another width than those it was trained on.
    """
    about = read_about(run)
    config = as_trained(read_config(run, about), about["layers"])
    source = source_of(config)
    if config.model == "frozen":
        return Embedder(None, config, run / "embeddings.h5", about)
    path = run / "checkpoint.pt"
    state = load_checkpoint(path) if path.exists() else None
    classes = classes_in(state["model"]) if state else source.num_classes
    model = build_model(
        config, dim=source.dim(config), cls_dim=source.cls_dim, num_classes=classes,
        grid=source.grid,
    )  # fmt: skip
    if state is not None:
        restore_weights(path, model, config, state)
        epoch, step = state["position"]
        if epoch < config.optim.epochs:
            log.warning("%s is at epoch %d, step %d of %d epochs: embedding with these weights",
                        run, epoch, step, config.optim.epochs)  # fmt: skip
    elif config.optim.epochs:
        raise UsageError(f"{run} has no checkpoint.pt yet: train it first")
    return Embedder(model.to(source.device), config, run / "embeddings.h5", about)


def require_backbone(run: Path, store: Store) -> dict[str, Any]:
    """What run.json says of a run, if its model can read a store.

    Raises:
        WrongRecipe: a store of another backbone or other weights.
    """
    about = read_about(run)
    for field in ("backbone", "weights"):
        here, there = describe_store(store)[field], about[field]
        if here != there:
            raise WrongRecipe(f"{run} was trained on {field}={there!r}, {store.path} has {here!r}")
    return about


def embed_run(
    run: Path, store: Path, out: Path, *, device: torch.device, progress: bool = True
) -> Path:
    """Embed a store with a run that was trained on it, or on another of the same backbone.

    Args:
        run: folder of the run.
        store: what to embed.
        out: the embedding file.
        device: where to compute.
        progress: show a bar.

    Raises:
        WrongRecipe: a store of another backbone, weights or blocks.
    """
    opened = open_store(store)
    about = require_backbone(run, opened)
    found: list[TokenSource] = []

    def source_of(config: FuseConfig) -> TokenSource:
        found.append(TokenSource(opened, [config], device, placement="disk"))
        return found[0]

    embedder = load_run(run, source_of)
    provenance = {
        "run": run.name, **about, **describe_store(opened),
        "trained_on": about["store_fingerprint"],
    }  # fmt: skip
    embed_together(found[0], [replace(embedder, out=out, provenance=provenance)], progress=progress)
    return out


def embed_together(
    source: TokenSource,
    embedders: Sequence[Embedder],
    *,
    progress: bool,
    beat: Callable[[], None] = lambda: None,
) -> None:
    """Write the embeddings of every clip of every split, of several models in one pass.

    A model of one action embeds the clips of that action alone.

    Args:
        source: the store.
        embedders: the models.
        progress: show a bar.
        beat: called after each clip.
    """
    for embedder in embedders:
        if embedder.model is not None:
            embedder.model.eval()
    found: list[list[EmbeddedClip]] = [[] for _ in embedders]
    every = source.store.records.values()
    records = [clip for clip in every if any(is_of(one.config, clip) for one in embedders)]
    for record in Progress(records, desc="embed", unit="clip", enabled=progress):
        about = _facts(source, record)
        own = [number for number, one in enumerate(embedders) if is_of(one.config, record)]
        with torch.inference_mode():
            made = _embed_clip(source, [embedders[number] for number in own], record)
            for number, embedding in zip(own, made, strict=True):
                found[number].append(replace(about, embeddings=embedding))
        beat()
    for embedder, clips in zip(embedders, found, strict=True):
        standard = clips if embedder.model is not None else standardise(clips)
        ordered = in_order_of_draw(standard, embedder.config)
        write_embeddings(embedder.out, ordered, provenance=embedder.provenance)


def _facts(source: TokenSource, record: ClipRecord) -> EmbeddedClip:
    store = source.store
    return EmbeddedClip(
        clip_id=record.clip_id,
        split=record.split,
        action=record.action,
        group=record.group,
        embeddings=np.empty((record.num_frames, 0), np.float32),
        labels=store.labels(record.clip_id),
        times_seconds=store.times_seconds(record.clip_id),
        phases=record.phases,
        frame_index=store.frame_index(record.clip_id),
        video=record.video,
    )


def clip_context(model: FusionModel, source: TokenSource, record: ClipRecord) -> Tensor | None:
    """What dynamic queries of the frames of a clip are made from, (T, 1, D of CLS).

    None where there are none, or where each frame asks with its own CLS vector.  The sequence that
    a frame belongs to is its piece of the clip.
    """
    pooling = model.config.pooling
    if not pooling.num_dynamic or pooling.dynamic == "separate":
        return None
    cls = torch.from_numpy(source.store.read_cls(record.clip_id)).to(source.device)
    cuts = pieces(record.num_frames, model.config.embed_frames)
    return torch.cat([model.sequence_context(cls[cut]) for cut in cuts])


def _embed_clip(
    source: TokenSource, embedders: Sequence[Embedder], record: ClipRecord
) -> Iterator[np.ndarray[Any, Any]]:
    """The embeddings (T, C) of a clip by each model; each frame is read and decoded once."""
    contexts = [
        None if one.model is None else clip_context(one.model, source, record) for one in embedders
    ]
    entities: list[list[Tensor]] = [[] for _ in embedders]
    for start in range(0, record.num_frames, FRAMES_AT_ONCE):
        stop = min(start + FRAMES_AT_ONCE, record.num_frames)
        frames = source.frames(record.clip_id, np.arange(start, stop))
        for parts, embedder, context in zip(entities, embedders, contexts, strict=True):
            own = None if context is None else context[start:stop]
            parts.append(_pool(embedder, frames, own))
    for parts, embedder in zip(entities, embedders, strict=True):
        together = torch.cat(parts)
        if embedder.model is not None:
            cuts = pieces(record.num_frames, embedder.config.embed_frames)
            together = torch.cat([embedder.model.fuse(together[cut][None])[0] for cut in cuts])
        yield together.float().cpu().numpy()


def _pool(embedder: Embedder, frames: Frames, context: Tensor | None) -> Tensor:
    config = embedder.config
    if embedder.model is not None:
        return embedder.model.pool(frames.tokens_for(config), frames.cls, None, context)
    if uses_tokens(config):
        return pool_frozen(frames.tokens(config.pooling.blocks), config.pooling.kind)
    assert frames.cls is not None
    return frames.cls
