"""Embed every clip of a store with a model; write the file that phase 3 reads.

As in the official evaluation, a clip longer than `embed_frames` is cut into nearly equal pieces,
and each piece is embedded alone: its own attention, its own positions, no mask, no head.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tokenreel.cache.embeddings import EmbeddedClip, write_embeddings
from tokenreel.cache.progress import Progress
from tokenreel.cache.reader import ClipRecord
from tokenreel.fuse.batches import TokenSource
from tokenreel.fuse.config import FuseConfig
from tokenreel.fuse.model import FusionModel
from tokenreel.fuse.pooling import pool_frozen

__all__ = ["embed_store", "pieces", "standardise"]


def pieces(num_frames: int, longest: int) -> list[slice]:
    """Cut a clip as the official evaluation does.

    >>> pieces(7, 3)
    [slice(0, 3, None), slice(3, 6, None), slice(6, 7, None)]
    """
    count = math.ceil(num_frames / longest)
    size = math.ceil(num_frames / count)
    return [slice(a, min(a + size, num_frames)) for a in range(0, num_frames, size)]


def embed_store(
    source: TokenSource,
    model: FusionModel | None,
    config: FuseConfig,
    out: Path,
    *,
    provenance: dict[str, Any],
    progress: bool,
) -> Path:
    """Write the embeddings of every clip of every split.

    Args:
        source: the store.
        model: in evaluation mode afterwards; None pools frozen tokens without weights.
        config: of the run.
        out: the embedding file.
        provenance: what made the embeddings.
        progress: show a bar.
    """
    if model is not None:
        model.eval()
    records = list(source.store.records.values())
    bar = Progress(records, desc="embed", unit="clip", enabled=progress)
    clips = [_embed_clip(source, model, config, record) for record in bar]
    if model is None:
        clips = standardise(clips)
    return write_embeddings(out, clips, provenance=provenance)


def standardise(clips: list[EmbeddedClip]) -> list[EmbeddedClip]:
    """Frozen features as a fair control: channels standardised, then unit length, as a model's are.

    Mean and standard deviation are those of the training clips, or of all where there are none; no
    label is used.  Frozen channels differ in scale by orders of magnitude, and distances and a
    linear classifier would see the largest alone.
    """
    chosen = [clip for clip in clips if clip.split == "train"] or clips
    together = np.concatenate([clip.embeddings for clip in chosen]).astype(np.float64)
    mean, sd = together.mean(0), together.std(0)
    sd[sd == 0] = 1.0
    out = []
    for clip in clips:
        standard = (clip.embeddings - mean) / sd
        length = np.linalg.norm(standard, axis=1, keepdims=True)
        unit = standard / np.where(length == 0, 1.0, length)
        out.append(replace(clip, embeddings=unit.astype(np.float32)))
    return out


def _embed_clip(
    source: TokenSource, model: FusionModel | None, config: FuseConfig, record: ClipRecord
) -> EmbeddedClip:
    store = source.store
    with torch.inference_mode():
        parts = list(_embed_pieces(source, model, config, record))
    return EmbeddedClip(
        clip_id=record.clip_id,
        split=record.split,
        action=record.action,
        group=record.group,
        embeddings=torch.cat(parts).float().cpu().numpy(),
        labels=store.labels(record.clip_id),
        times_seconds=store.times_seconds(record.clip_id),
        phases=record.phases,
        frame_index=store.frame_index(record.clip_id),
        video=record.video,
    )


def _embed_pieces(
    source: TokenSource, model: FusionModel | None, config: FuseConfig, record: ClipRecord
) -> Iterator[Tensor]:
    for piece in pieces(record.num_frames, config.embed_frames):
        frames = np.arange(record.num_frames)[piece]
        entities = []
        for start in range(0, len(frames), 64):  # tokens of 64 frames at once bound the memory
            some = frames[start : start + 64]
            cls = source.cls(record.clip_id, some) if source.uses_cls else None
            tokens = None if source.uses_cls else source.tokens(record.clip_id, some)
            if model is not None:
                entities.append(model.pool(tokens, cls, None))
            elif tokens is not None:
                entities.append(pool_frozen(tokens, config.pooling.kind))
            elif cls is not None:
                entities.append(cls)
        together = torch.cat(entities)
        yield together if model is None else model.fuse(together[None])[0]
