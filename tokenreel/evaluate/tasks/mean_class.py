"""Mean class accuracy of clips that have one class each: each class counts once."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.embeddings import EmbeddingFile
from tokenreel.evaluate.data.results import Score
from tokenreel.evaluate.methods.pairs import class_accuracy
from tokenreel.evaluate.methods.tags import top_k_accuracy
from tokenreel.evaluate.protocol import Settings
from tokenreel.evaluate.tasks.scored import Scored, clips_of, missing_one_tag, scored
from tokenreel.evaluate.tasks.task import Metric, Request, RowPlan, Task

NAME = "mean-class"


def right_of(data: Scored) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.bool_]]:
    """Whether the class of each clip scores highest, its class, and whether it has one."""
    classes = data.targets.argmax(axis=1)
    return top_k_accuracy(data.scores, classes, 1), classes, data.targets.sum(axis=1) > 0


def _rows(settings: Settings, file: EmbeddingFile) -> list[RowPlan]:
    return [RowPlan((NAME, *(f"{NAME}@{name}" for name in file.class_names)))]


def _compute(file: EmbeddingFile, request: Request) -> list[Score]:
    data, row = scored(file, request)
    right, classes, has = right_of(data)
    support = data.targets.sum(axis=0)
    found = class_accuracy(right[has], classes[has], len(data.class_names))
    rows = [replace(row, task=NAME, value=float(np.nanmean(found)))]
    for name, value, count in zip(data.class_names, found.tolist(), support.tolist(), strict=True):
        note = "" if count else f"no clip of the split {row.split} is of this class"
        status = "ok" if count else "undefined"
        rows.append(
            replace(
                row,
                task=f"{NAME}@{name}",
                value=value,
                num_positives=int(count),
                note=note,
                status=status,
            )
        )
    return rows


def _resampled(file: EmbeddingFile, settings: Settings) -> dict[str, Metric]:
    right, classes, has = right_of(clips_of(file, settings.split))
    count = len(file.class_names)

    def mean(drawn: NDArray[np.int64]) -> float:
        found = class_accuracy(right, classes, count, drawn * has)
        return float(np.nanmean(found)) if drawn @ has else float("nan")

    return {NAME: mean}


TASK = Task(
    NAME,
    title="Mean class accuracy",
    is_percent=True,
    scope="file",
    span="0 to 1, higher is better",
    description="0 to 1, higher is better: the share of a class's clips whose class scores "
    "highest, averaged over the classes that have clips, each of which counts once.",
    missing=missing_one_tag,
    rows=_rows,
    compute=_compute,
    resampled=_resampled,
    by_class=True,
)
