"""Precision, recall and F1 of the tags of clips at a threshold: by support, and F1 of each tag."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.embeddings import EmbeddingFile
from tokenreel.evaluate.data.results import Score
from tokenreel.evaluate.methods.tags import by_support, count_decided
from tokenreel.evaluate.protocol import Settings
from tokenreel.evaluate.tasks.scored import clips_of, missing_scores, scored
from tokenreel.evaluate.tasks.task import Metric, Request, RowPlan, Task

NAMES = {"f1": "f1", "f1-precision": "precision", "f1-recall": "recall"}


def _rows(settings: Settings, file: EmbeddingFile) -> list[RowPlan]:
    return [RowPlan((*NAMES, *(f"f1@{name}" for name in file.class_names)))]


def _compute(file: EmbeddingFile, request: Request) -> list[Score]:
    data, row = scored(file, request)
    row = replace(row, threshold=request.settings.threshold)
    found = count_decided(data.targets, data.scores, request.settings.threshold)
    rows = [
        replace(row, task=name, value=by_support(getattr(found, attribute), found.support))
        for name, attribute in NAMES.items()
    ]
    for name, value, support in zip(data.class_names, found.f1, found.support, strict=True):
        has_clips = support > 0
        rows.append(
            replace(
                row,
                task=f"f1@{name}",
                value=float(value) if has_clips else float("nan"),
                num_positives=int(support),
                note="" if has_clips else f"no clip of the split {row.split} has this tag",
                status="ok" if has_clips else "undefined",
            )
        )
    return rows


def _resampled(file: EmbeddingFile, settings: Settings) -> dict[str, Metric]:
    data = clips_of(file, settings.split)

    def metric(attribute: str) -> Metric:
        def value(drawn: NDArray[np.int64]) -> float:
            found = count_decided(data.targets, data.scores, settings.threshold, drawn)
            return by_support(getattr(found, attribute), found.support)

        return value

    return {name: metric(attribute) for name, attribute in NAMES.items()}


TASK = Task(
    "f1",
    title="F1",
    is_percent=False,
    scope="file",
    span="0 to 1, higher is better",
    description="0 to 1, higher is better: precision, recall and their harmonic mean of each tag "
    "where its score is above the threshold, averaged by the number of clips that have it. "
    "Deciding every tag of every clip has a recall of 1, and the F1 of the control.",
    missing=missing_scores,
    rows=_rows,
    compute=_compute,
    resampled=_resampled,
    variants={"precision": "Precision", "recall": "Recall"},
    by_class=True,
)
