"""Embed a clip with several models that read the same store: they are given each frame together.

As in the official evaluation, a clip longer than `embed_frames` is cut into nearly equal pieces,
and each piece is embedded alone: its own attention, its own positions, no mask, no head.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tokenreel.cache.embeddings import EmbeddedClip
from tokenreel.cache.read.store_reader import ClipRecord
from tokenreel.fuse.config.run import FuseConfig
from tokenreel.fuse.data.frames import Frames
from tokenreel.fuse.data.requirements import uses_tokens
from tokenreel.fuse.data.source import TokenSource
from tokenreel.fuse.layers.pooling import pool_frozen
from tokenreel.fuse.systems.mvformer import FusionModel

__all__ = ["Embedder", "clip_context", "describe_clip", "embed_clip", "pieces"]

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


def describe_clip(source: TokenSource, record: ClipRecord) -> EmbeddedClip:
    """What the embedding file says of a clip beside its embeddings."""
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


def embed_clip(
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
        del frames  # their memory is the next ones'
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
