"""Why a trained run scores clips as it does: maps over pictures and attention over units."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from tokenreel.cache.errors import ClipFailed, Damaged
from tokenreel.cache.format.clip import ClipRecord
from tokenreel.cache.read.store_set import StoreSet
from tokenreel.fuse.config.system import SystemConfig
from tokenreel.fuse.data.source import TokenSource
from tokenreel.fuse.embed.embed import load_run
from tokenreel.fuse.runs.provenance import describe_stores, require_same_tokens
from tokenreel.fuse.systems.base import Explained, make_source, system_of


@dataclass(frozen=True, eq=False)
class ClipExplanation:
    """The explanation of one clip.

    Attributes:
        record: the clip.
        explained: of its scores.
        seconds: float64 (U, 2), start and stop of each unit.
    """

    record: ClipRecord
    explained: Explained
    seconds: NDArray[np.float64]


def explain(
    run: Path,
    stores: StoreSet,
    clips: Sequence[str],
    *,
    device: torch.device,
    threshold: float = 0.3,
) -> Iterator[ClipExplanation | ClipFailed]:
    """The explanation of a trained run for each clip, in order; for a damaged clip, the reason.

    Args:
        run: its folder.
        stores: that it was trained on, or others of the same backbones.
        clips: ids of clips of the stores.
        device: where to compute.
        threshold: a score above it is decided.

    Raises:
        UsageError: a system that explains nothing, or a run that has no checkpoint yet.
        ClipNotFound: the stores have no such clip.
        WrongIdentity: stores of other backbones or weights.
    """
    require_same_tokens(run, describe_stores(stores))
    records = [stores.first.record(clip) for clip in clips]
    sources: list[TokenSource] = []

    def source_of(config: SystemConfig) -> TokenSource:
        sources.append(make_source(stores, [config], device, placement="disk"))
        return sources[0]

    embedder = load_run(run, source_of)
    model, config, [source] = embedder.model.eval(), embedder.config, sources
    names = embedder.class_names
    system = system_of(config)
    for record in records:
        try:
            found = system.explain(model, config, source, record, threshold)
        except Damaged as error:
            yield ClipFailed(record.clip_id, stage="read", reason=str(error))
            continue
        if names is not None:  # a store may have other tags than the run was trained on
            found = replace(found, class_names=names)
        yield ClipExplanation(record, found, stores.first.units(record.clip_id)[found.units])
