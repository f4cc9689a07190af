"""Retrieval of clips by their texts: R@1, 5 and 10."""

from functools import partial

from tokenreel.cache.embeddings import EmbeddingFile
from tokenreel.evaluate.data.results import Score
from tokenreel.evaluate.methods.pairs import chance_of_clips, ranks_of_clips
from tokenreel.evaluate.protocol import Settings
from tokenreel.evaluate.tasks.paired import (
    compute_retrieval,
    missing_pairs,
    resampled_retrieval,
    retrieval_rows,
)
from tokenreel.evaluate.tasks.task import Metric, Request, Task

COLUMN = "t2v"


def _compute(file: EmbeddingFile, request: Request) -> list[Score]:
    return compute_retrieval(COLUMN, file, request, ranks_of_clips, chance_of_clips)


def _resampled(file: EmbeddingFile, settings: Settings) -> dict[str, Metric]:
    return resampled_retrieval(COLUMN, file, settings, ranks_of_clips)


TASK = Task(
    COLUMN,
    title="Text to video R",
    short_title="t2v R",
    is_percent=True,
    scope="file",
    span="0 to 1, higher is better",
    description="0 to 1, higher is better: the share of texts of which a clip with an equal text "
    "is among the K nearest; of equally near clips the wrong ones come first.",
    missing=missing_pairs,
    rows=partial(retrieval_rows, COLUMN),
    compute=_compute,
    resampled=_resampled,
)
