"""Fine-grained retrieval: precision of the K nearest frames of other validation clips, AP@K."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.embeddings import EmbeddedClip
from tokenreel.evaluate.data.clips import ActionData
from tokenreel.evaluate.data.results import Score
from tokenreel.evaluate.methods.retrieval import Retrieved, retrieve_frames
from tokenreel.evaluate.protocol import Settings
from tokenreel.evaluate.tasks.labelled import missing_pairs
from tokenreel.evaluate.tasks.task import Limits, Metric, Request, RowPlan, Task


def _retrieve(data: ActionData, settings: Settings, limits: Limits) -> Retrieved:
    """AP@K at the stride of the protocol."""
    stride = settings.retrieval_stride
    return retrieve_frames(
        [frames[::stride] for frames in data.val.embeddings],
        [phases[::stride] for phases in data.val.labels],
        settings.ks,
        memory_bytes=limits.memory_bytes,
        threads=limits.threads,
    )


def _rows(settings: Settings, clips: Sequence[EmbeddedClip]) -> list[RowPlan]:
    return [RowPlan(tuple(f"ap@{k}" for k in settings.ks))]


def _compute(data: ActionData, request: Request) -> list[Score]:
    found = _retrieve(data, request.settings, request.limits)
    row = replace(
        request.blank,
        stride=request.settings.retrieval_stride,
        distance="sqeuclidean",
        num_nan=found.num_nan_clips,
    )
    return [replace(row, task=f"ap@{k}", value=value) for k, value in found.precision.items()]


def _resampled(data: ActionData, settings: Settings) -> dict[str, Metric]:
    found = _retrieve(data, settings, Limits())
    return {f"ap@{k}": _mean_of(values) for k, values in found.by_clip.items()}


def _mean_of(values: NDArray[np.float64]) -> Metric:
    is_known = ~np.isnan(values)
    filled = np.where(is_known, values, 0.0)

    def mean(drawn: NDArray[np.int64]) -> float:
        count = drawn @ is_known
        return float(drawn @ filled / count) if count else float("nan")

    return mean


TASK = Task(
    "retrieval",
    title="AP",
    is_percent=True,
    scope="action",
    span="0 to 1, higher is better",
    description="0 to 1, higher is better: the share of the K nearest frames of other clips that "
    "show the query's phase. It rewards near frames of the same phase; frames at the "
    "same share of their clips often have it.",
    missing=missing_pairs,
    rows=_rows,
    compute=_compute,
    resampled=_resampled,
    column="ap",
    columns=("ap@5", "ap@10", "ap@15"),
)
