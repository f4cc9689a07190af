"""Where a model looks: the attention of each of its queries over the tokens of a frame."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tokenreel.cache.errors import ClipFailed, Damaged
from tokenreel.cache.format.clip import ClipRecord
from tokenreel.cache.read.store_reader import Store
from tokenreel.cache.read.store_set import StoreSet
from tokenreel.fuse.config.system import SystemConfig
from tokenreel.fuse.data.source import TokenSource
from tokenreel.fuse.embed.embed import load_run
from tokenreel.fuse.runs.provenance import describe_store, require_same_tokens
from tokenreel.fuse.systems.base import make_source, system_of


@dataclass(frozen=True, eq=False)
class ClipAttention:
    """The attention over one clip.

    Attributes:
        record: the clip.
        weights: float32 (T, E, rows, columns); over the tokens of a frame they sum to 1 for every
            query, or to less where queries are disjoint.
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
        UsageError: a run of a model without attention, or that has no checkpoint yet.
        ClipNotFound: the store has no such clip.
        WrongIdentity: a store of another backbone or weights.
    """
    stores = StoreSet({"tokens": store})
    require_same_tokens(run, describe_store(store))
    records = [store.record(clip) for clip in clips]
    sources: list[TokenSource] = []

    def source_of(config: SystemConfig) -> TokenSource:
        sources.append(make_source(stores, [config], device, placement="disk"))
        return sources[0]

    embedder = load_run(run, source_of)
    model, config, [source] = embedder.model.eval(), embedder.config, sources
    weights_of = system_of(config).attention(run, model, config, source)
    return (_attend_or_report(record, weights_of, source) for record in records)


def _attend_or_report(
    record: ClipRecord,
    weights_of: Callable[[ClipRecord], NDArray[np.float32]],
    source: TokenSource,
) -> ClipAttention | ClipFailed:
    try:
        weights = weights_of(record)
        return ClipAttention(
            record,
            weights.reshape(*weights.shape[:2], *source.grid),
            source.store.times_seconds(record.clip_id),
            source.store.labels(record.clip_id),
        )
    except Damaged as error:
        return ClipFailed(record.clip_id, stage="read", reason=str(error))
