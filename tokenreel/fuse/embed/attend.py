"""Where LSTP looks: the attention of each entity over the tokens of a frame.

Source: MV-Former, section 3.3 and Figures 3 and 4.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tokenreel.cache.errors import ClipFailed, Damaged, UsageError
from tokenreel.cache.format.clip import ClipRecord
from tokenreel.cache.read.store_reader import Store
from tokenreel.fuse.config.run import FuseConfig
from tokenreel.fuse.data.source import TokenSource
from tokenreel.fuse.embed.embed import clip_context, load_run
from tokenreel.fuse.runs.provenance import describe_store, require_same_tokens
from tokenreel.fuse.systems.mvformer import FusionModel

FRAMES_AT_ONCE = 64  # decoded tokens of 64 frames bound the memory


@dataclass(frozen=True, eq=False)
class ClipAttention:
    """The attention over one clip.

    Attributes:
        record: the clip.
        weights: float32 (T, E, rows, columns); over the tokens of a frame they sum to 1 for every
            entity, or to less where entities are disjoint.  Dynamic entities come last.
        times_seconds: float64 (T,).
        labels: int16 (T,), -1 where a frame has none.
    """

    record: ClipRecord
    weights: NDArray[np.float32]
    times_seconds: NDArray[np.float64]
    labels: NDArray[Any]


def attend(
    run: Path, store: Store, clips: Sequence[str], *, device: torch.device
) -> Iterator[ClipAttention | ClipFailed]:
    """The attention of a trained run over each clip, in order; for a damaged clip, the reason.

    Args:
        run: its folder.
        store: that it was trained on, or another of the same backbone.
        clips: ids of clips of the store.
        device: where to compute.

    Raises:
        UsageError: the run pools without attention, or has no checkpoint yet.
        ClipNotFound: the store has no such clip.
        WrongIdentity: a store of another backbone or weights.
    """
    require_same_tokens(run, describe_store(store))
    records = [store.record(clip) for clip in clips]
    sources: list[TokenSource] = []

    def source_of(config: FuseConfig) -> TokenSource:
        sources.append(TokenSource(store, [config], device, placement="disk"))
        return sources[0]

    embedder = load_run(run, source_of)
    model, config = embedder.model, embedder.config
    if not config.pooling.attends:
        raise UsageError(
            f"{run} pools with pooling.kind={config.pooling.kind}, without attention: "
            "name a run with pooling.kind=lstp"
        )
    model.eval()
    return (_attend_or_report(record, model, sources[0]) for record in records)


def _attend_or_report(
    record: ClipRecord, model: FusionModel, source: TokenSource
) -> ClipAttention | ClipFailed:
    try:
        return _attend(record, model, source)
    except Damaged as error:
        return ClipFailed(record.clip_id, stage="read", reason=str(error))


def _attend(record: ClipRecord, model: FusionModel, source: TokenSource) -> ClipAttention:
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
    flat = np.concatenate(parts)
    return ClipAttention(
        record,
        flat.reshape(*flat.shape[:2], *source.grid),
        source.store.times_seconds(record.clip_id),
        source.store.labels(record.clip_id),
    )
