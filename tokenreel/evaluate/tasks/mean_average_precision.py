"""Mean average precision of the tags of clips: by support, over tags, of all pairs, over clips."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.embeddings import EmbeddingFile
from tokenreel.evaluate.data.results import Score
from tokenreel.evaluate.methods.tags import (
    AbsentTag,
    Average,
    Ranking,
    by_support,
    mean_average_precision,
    mean_of_known,
)
from tokenreel.evaluate.protocol import Settings
from tokenreel.evaluate.tasks.scored import clips_of, missing_scores, scored
from tokenreel.evaluate.tasks.task import Metric, Request, RowPlan, Task

AVERAGES: dict[str, Average] = {
    "map": "weighted",
    "map-macro": "macro",
    "map-micro": "micro",
    "map-samples": "samples",
}


def _rows(settings: Settings, file: EmbeddingFile) -> list[RowPlan]:
    return [RowPlan(tuple(AVERAGES))]


def _compute(file: EmbeddingFile, request: Request) -> list[Score]:
    data, row = scored(file, request)
    rows = []
    for name, average in AVERAGES.items():
        value = mean_average_precision(
            data.targets, data.scores, average, absent=request.settings.absent_tag
        )
        status = "undefined" if np.isnan(value) else "ok"
        rows.append(replace(row, task=name, value=value, status=status))
    return rows


def _resampled(file: EmbeddingFile, settings: Settings) -> dict[str, Metric]:
    data = clips_of(file, settings.split)
    ranking = Ranking(data.targets, data.scores)
    by_clip = Ranking(data.targets.T, data.scores.T).average_precision()

    def of_tags(drawn: NDArray[np.int64], mean: Callable[..., float]) -> float:
        return mean(ranking.average_precision(drawn), drawn @ data.targets)

    def of_pairs(drawn: NDArray[np.int64]) -> float:
        return float(pairs.average_precision(np.repeat(drawn, data.targets.shape[1]))[0])

    def of_clips(drawn: NDArray[np.int64]) -> float:
        return mean_of_known(np.repeat(by_clip, drawn), settings.absent_tag)

    pairs = Ranking(data.targets.reshape(-1, 1), data.scores.reshape(-1, 1))
    return {
        "map": partial(of_tags, mean=by_support),
        "map-macro": partial(of_tags, mean=partial(_macro, absent=settings.absent_tag)),
        "map-micro": of_pairs,
        "map-samples": of_clips,
    }


def _macro(values: NDArray[np.float64], support: NDArray[np.int64], *, absent: AbsentTag) -> float:
    return mean_of_known(values, absent)


TASK = Task(
    "map",
    title="mAP",
    is_percent=False,
    scope="file",
    span="0 to 1, higher is better",
    description="0 to 1, higher is better: the average precision of each tag when clips are in the "
    "order of its scores, averaged by the number of clips that have it. It rewards orders alone, "
    "not thresholds; scores that say nothing give the share of clips that have a tag.",
    missing=missing_scores,
    rows=_rows,
    compute=_compute,
    resampled=_resampled,
    variants={
        "macro": "mAP, over tags",
        "micro": "mAP, of all pairs",
        "samples": "mAP, over clips",
    },
)
