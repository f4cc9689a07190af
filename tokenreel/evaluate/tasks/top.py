"""Accuracy of the first tag of clips that have one each: its own is the first, or among five."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.embeddings import EmbeddingFile
from tokenreel.evaluate.data.results import Score
from tokenreel.evaluate.methods.tags import top_k_accuracy
from tokenreel.evaluate.protocol import Settings
from tokenreel.evaluate.tasks.scored import Scored, clips_of, missing_one_tag, scored
from tokenreel.evaluate.tasks.task import Metric, Request, RowPlan, Task

FIVE = 5


def _rows(settings: Settings, file: EmbeddingFile) -> list[RowPlan]:
    return [RowPlan(("top@1", *([f"top@{FIVE}"] if len(file.class_names) > FIVE else [])))]


def _right(data: Scored, k: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Whether the tag of each clip is among the first k, and whether it has one."""
    has_tag = data.targets.sum(axis=1) > 0
    return top_k_accuracy(data.scores, data.targets.argmax(axis=1), k), has_tag


def _compute(file: EmbeddingFile, request: Request) -> list[Score]:
    data, row = scored(file, request)
    rows = []
    for name in request.rows.names:
        right, has_tag = _right(data, int(name.partition("@")[2]))
        rows.append(replace(row, task=name, value=float(right[has_tag].mean())))
    return rows


def _resampled(file: EmbeddingFile, settings: Settings) -> dict[str, Metric]:
    right, has_tag = _right(clips_of(file, settings.split), 1)

    def accuracy(drawn: NDArray[np.int64]) -> float:
        count = drawn @ has_tag
        return float(drawn @ (right * has_tag) / count) if count else float("nan")

    return {"top@1": accuracy}


TASK = Task(
    "top",
    title="Top",
    is_percent=True,
    scope="file",
    span="0 to 1, higher is better",
    description="0 to 1, higher is better: the share of clips whose only tag has the highest score "
    "or one of the five highest.",
    missing=missing_one_tag,
    rows=_rows,
    compute=_compute,
    resampled=_resampled,
)
