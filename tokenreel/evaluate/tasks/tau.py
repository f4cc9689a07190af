"""Kendall's tau: how well the order of nearest frames agrees between pairs of clips."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.embeddings import EmbeddedClip
from tokenreel.evaluate.data.clips import ActionData
from tokenreel.evaluate.data.results import Score
from tokenreel.evaluate.methods.tau import Alignment, align_clips
from tokenreel.evaluate.protocol import Settings
from tokenreel.evaluate.tasks.labelled import missing_pairs
from tokenreel.evaluate.tasks.task import Limits, Metric, Request, RowPlan, Task


def _align(clips: Sequence[NDArray[np.float32]], settings: Settings, limits: Limits) -> Alignment:
    """Tau of every pair of clips at the stride of the protocol."""
    strided = [frames[:: settings.tau_stride] for frames in clips]
    return align_clips(strided, memory_bytes=limits.memory_bytes)


def _rows(settings: Settings, clips: Sequence[EmbeddedClip]) -> list[RowPlan]:
    return [RowPlan(("tau",))]


def _of_clips(clips: Sequence[NDArray[np.float32]], request: Request) -> list[Score]:
    found = _align(clips, request.settings, request.limits)
    is_nan = bool(np.isnan(found.tau))
    row = replace(
        request.blank,
        task="tau",
        value=found.tau,
        stride=request.settings.tau_stride,
        distance="sqeuclidean",
        num_pairs=found.num_pairs,
        num_nan=found.num_nan_pairs,
        note="every pair of clips gives NaN" if is_nan else "",
        status="undefined" if is_nan else "ok",
    )
    return [row]


def _compute(data: ActionData, request: Request) -> list[Score]:
    return _of_clips(data.val.embeddings, request)


def _resampled(data: ActionData, settings: Settings) -> dict[str, Metric]:
    pairs = _align(data.val.embeddings, settings, Limits()).pairs
    is_known = ~np.isnan(pairs)
    values = np.where(is_known, pairs, 0.0)

    def tau(drawn: NDArray[np.int64]) -> float:
        count = drawn @ is_known @ drawn
        return float(drawn @ values @ drawn / count) if count else float("nan")

    return {"tau": tau}


TASK = Task(
    "tau",
    title="Kendall's tau",
    short_title="Tau",
    is_percent=False,
    scope="action",
    span="\u22121 to 1, higher is better",
    description="\u22121 to 1, higher is better: how far the nearest frames of one clip to those "
    "of another keep their order. It rewards order alone, whatever the frames show: "
    "the clock, which knows nothing else, has almost 1, so that a value is worth "
    "something only beside the other metrics.",
    missing=missing_pairs,
    rows=_rows,
    compute=_compute,
    resampled=_resampled,
    unlabelled=_of_clips,
    columns=("tau",),
)
