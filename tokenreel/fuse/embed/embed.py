"""Embed every clip of a store with a model; write the file that phase 3 reads.

Models that read the same store are given each frame together.  As in the official evaluation, a
clip longer than `embed_frames` is cut into nearly equal pieces, and each piece is embedded alone:
its own attention, its own positions, no mask, no head.
"""

import logging
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from tokenreel.cache.embeddings import EmbeddedClip, write_embeddings
from tokenreel.cache.errors import Damaged, UsageError
from tokenreel.cache.files import make_directory
from tokenreel.cache.format.clip import ClipRecord
from tokenreel.cache.progress import Progress
from tokenreel.cache.read.store_reader import open_store
from tokenreel.fuse.config.run import FuseConfig
from tokenreel.fuse.data.label_share import in_order_of_draw
from tokenreel.fuse.data.requirements import as_trained, is_of
from tokenreel.fuse.data.source import TokenSource
from tokenreel.fuse.losses.heads import classes_in
from tokenreel.fuse.runs.checkpoint import load_checkpoint, restore_weights
from tokenreel.fuse.runs.provenance import (
    describe_store,
    read_config,
    read_provenance,
    require_same_tokens,
)
from tokenreel.fuse.systems.mvformer import FusionModel, build_model

log = logging.getLogger(__name__)

FRAMES_AT_ONCE = 64  # decoded tokens of 64 frames bound the memory


@dataclass(frozen=True, eq=False)
class Embedder:
    """A model and where its embeddings go.

    Attributes:
        model: in evaluation mode afterwards.
        config: of the run.
        out: the embedding file.
        provenance: what made the embeddings.
    """

    model: FusionModel
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


def describe_clip(source: TokenSource, record: ClipRecord) -> EmbeddedClip:
    """What the embedding file says of a clip besides its embeddings."""
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
    if not model.config.pooling.asks_sequence:
        return None
    cls = torch.from_numpy(source.store.read_cls(record.clip_id)).to(source.device)
    cuts = pieces(record.num_frames, model.config.embed_frames)
    return torch.cat([model.sequence_context(cls[cut]) for cut in cuts])


def embed_clip(
    source: TokenSource, embedders: Sequence[Embedder], record: ClipRecord
) -> Iterator[np.ndarray[Any, Any]]:
    """The embeddings (T, C) of a clip by each model; each frame is read and decoded once."""
    contexts = [clip_context(embedder.model, source, record) for embedder in embedders]
    entities: list[list[Tensor]] = [[] for _ in embedders]
    for start in range(0, record.num_frames, FRAMES_AT_ONCE):
        stop = min(start + FRAMES_AT_ONCE, record.num_frames)
        frames = source.frames(record.clip_id, np.arange(start, stop))
        for parts, embedder, context in zip(entities, embedders, contexts, strict=True):
            own = None if context is None else context[start:stop]
            tokens = frames.tokens_for(embedder.config)
            parts.append(embedder.model.pool(tokens, frames.cls, None, own))
        del frames  # their memory is the next ones'
    for parts, embedder in zip(entities, embedders, strict=True):
        together = torch.cat(parts)
        cuts = pieces(record.num_frames, embedder.config.embed_frames)
        fused = torch.cat([embedder.model.fuse(together[cut][None])[0] for cut in cuts])
        yield fused.float().cpu().numpy()


def load_run(run: Path, source_of: Callable[[FuseConfig], TokenSource]) -> Embedder:
    """The model of a trained run, for a store that may be another than it was trained on.

    Args:
        run: its folder.
        source_of: makes the source of a config, for the sizes of the model.

    Raises:
        UsageError: a run without a checkpoint.
        Damaged: a folder without a readable run.json or checkpoint.
        WrongIdentity: tokens of another width than those it was trained on.
    """
    about = read_provenance(run)
    config = as_trained(read_config(run, about), about["blocks"])
    source = source_of(config)
    path = run / "checkpoint.pt"
    state = load_checkpoint(path) if path.exists() else None
    classes = classes_in(state["model"]) if state else source.num_classes
    model = build_model(
        config,
        dim=source.dim(config),
        cls_dim=source.cls_dim,
        num_classes=classes,
        grid=source.grid,
    )
    if state is not None:
        restore_weights(path, model, config, state)
        epoch, step = state["position"]
        if epoch < config.optim.epochs:
            where = f"at epoch {epoch}, step {step} of {config.optim.epochs} epochs"
            log.warning("%s is %s: embedding with these weights", run, where)
            about = about | {"unfinished": where}
    elif config.optim.epochs:
        raise UsageError(f"{run} has no checkpoint.pt yet: train it first")
    return Embedder(model.to(source.device), config, run / "embeddings.h5", about)


def embed_run(
    run: Path, store: Path, out: Path, *, device: torch.device, progress: bool = True
) -> list[str]:
    """Embed a store with a run that was trained on it, or on another of the same backbone.

    A damaged clip is left out; the file says so too, as `left_out`, and evaluation repeats it.

    Args:
        run: folder of the run.
        store: what to embed.
        out: the embedding file.
        device: where to compute.
        progress: show a bar.

    Returns:
        A sentence for each clip that was left out.

    Raises:
        UsageError: a path where no embedding file can be.
        WrongIdentity: a store of another backbone, weights or blocks.
        Damaged: a store without a sound clip.
    """
    opened = open_store(store)
    there = describe_store(opened)
    trained_on = require_same_tokens(run, there)["store_fingerprint"]
    _require_writable(out)
    found: list[TokenSource] = []

    def source_of(config: FuseConfig) -> TokenSource:
        found.append(TokenSource(opened, [config], device, placement="disk"))
        return found[0]

    embedder = load_run(run, source_of)
    provenance = {
        "run": run.name,
        **embedder.provenance,
        **there,
        "trained_on": trained_on,
    }
    left_out: dict[str, list[str]] = {}
    embedder = replace(embedder, out=out, provenance=provenance)
    embed_together(found[0], [embedder], progress=progress, left_out=left_out)
    return [reason for reasons in left_out.values() for reason in reasons]


def _require_writable(out: Path) -> None:
    """Refuse a path that is no embedding file's, before any work: what is there is not replaced."""
    make_directory(out.parent)
    if out.exists() and not (out.is_file() and h5py.is_hdf5(out)):
        raise UsageError(f"{out} is there and is no embedding file: use another --out")
    if not os.access(out.parent, os.W_OK):
        raise UsageError(f"{out.parent} cannot be written in: use another --out")


def embed_together(
    source: TokenSource,
    embedders: Sequence[Embedder],
    *,
    progress: bool,
    beat: Callable[[], None] = lambda: None,
    left_out: dict[str, list[str]] | None = None,
) -> None:
    """Write the embeddings of every clip of every split, of several models in one pass.

    A model of one action embeds the clips of that action alone.

    Args:
        source: the store.
        embedders: the models.
        progress: show a bar.
        beat: called after each clip.
        left_out: takes a sentence for each damaged clip by its action, and so do the files; None
            ends at the first one.

    Raises:
        Damaged: a damaged clip that must not be left out, or not one that is sound.
    """
    for embedder in embedders:
        embedder.model.eval()
    found: list[list[EmbeddedClip]] = [[] for _ in embedders]
    every = source.store.records.values()
    records = [
        clip for clip in every if any(is_of(embedder.config, clip) for embedder in embedders)
    ]
    for record in Progress(records, desc="embed", unit="clip", enabled=progress):
        own = [i for i, embedder in enumerate(embedders) if is_of(embedder.config, record)]
        try:
            about = describe_clip(source, record)
            with torch.inference_mode():
                made = list(embed_clip(source, [embedders[number] for number in own], record))
        except Damaged as error:
            if left_out is None:
                raise
            log.error("%s is left out: %s", record.clip_id, error)
            left_out.setdefault(record.action, []).append(f"{record.clip_id}: {error}")
            continue
        for number, embedding in zip(own, made, strict=True):
            found[number].append(replace(about, embeddings=embedding))
        beat()
    for embedder, clips in zip(embedders, found, strict=True):
        if not clips:
            raise Damaged(f"{source.store.path}: every clip is damaged; run verify, then repair")
        ordered = in_order_of_draw(clips, embedder.config)
        missing = {"left_out": left_out} if left_out else {}
        write_embeddings(embedder.out, ordered, provenance={**embedder.provenance, **missing})
