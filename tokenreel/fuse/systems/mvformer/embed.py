"""The embeddings of a clip by MV-Former, and where its queries look.

As in the official evaluation, a clip longer than `embed_frames` is cut into nearly equal pieces,
and each piece is embedded alone: its own attention, its own positions, no mask, no head.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokenreel.cache.format.clip import ClipRecord
from tokenreel.fuse.data.source import FRAMES_AT_ONCE, TokenSource
from tokenreel.fuse.systems.mvformer.model import FusionModel, tokens_for


def pieces(num_frames: int, longest: int) -> list[slice]:
    """Cut a clip as the official evaluation does.

    >>> pieces(7, 3)
    [slice(0, 3, None), slice(3, 6, None), slice(6, 7, None)]
    """
    count = math.ceil(num_frames / longest)
    size = math.ceil(num_frames / count)
    return [slice(a, min(a + size, num_frames)) for a in range(0, num_frames, size)]


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
    source: TokenSource, models: Sequence[FusionModel], record: ClipRecord
) -> Iterator[np.ndarray[Any, Any]]:
    """The embeddings (T, C) of a clip by each model; each frame is read and decoded once."""
    contexts = [clip_context(model, source, record) for model in models]
    entities: list[list[Tensor]] = [[] for _ in models]
    for start in range(0, record.num_frames, FRAMES_AT_ONCE):
        stop = min(start + FRAMES_AT_ONCE, record.num_frames)
        frames = source.frames(record.clip_id, np.arange(start, stop))
        for parts, model, context in zip(entities, models, contexts, strict=True):
            own = None if context is None else context[start:stop]
            tokens = tokens_for(frames, model.config)
            parts.append(model.pool(tokens, frames.cls, None, own))
        del frames  # their memory is the next ones'
    for parts, model in zip(entities, models, strict=True):
        together = torch.cat(parts)
        cuts = pieces(record.num_frames, model.config.embed_frames)
        fused = torch.cat([model.fuse(together[cut][None])[0] for cut in cuts])
        yield fused.float().cpu().numpy()


def attention_of(
    record: ClipRecord, model: FusionModel, source: TokenSource
) -> NDArray[np.float32]:
    """The attention of each entity over the tokens of the frames of a clip, (T, E, N)."""
    config = model.config
    parts = []
    with torch.inference_mode():
        context = clip_context(model, source, record)
        for start in range(0, record.num_frames, FRAMES_AT_ONCE):
            stop = min(start + FRAMES_AT_ONCE, record.num_frames)
            frames = source.frames(record.clip_id, np.arange(start, stop))
            tokens = frames.coded(config.pooling.blocks)
            own = None if context is None else context[start:stop]
            parts.append(model.attention(tokens, frames.cls, None, own).float().cpu().numpy())
    return np.concatenate(parts)
