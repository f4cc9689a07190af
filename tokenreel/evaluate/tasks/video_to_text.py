"""Retrieval of texts by their clips: R@1, 5 and 10 among the different texts."""

from functools import partial

from tokenreel.cache.embeddings import EmbeddingFile
from tokenreel.evaluate.data.results import Score
from tokenreel.evaluate.methods.pairs import chance_of_texts, ranks_of_texts
from tokenreel.evaluate.protocol import Settings
from tokenreel.evaluate.tasks.paired import (
    compute_retrieval,
    missing_pairs,
    resampled_retrieval,
    retrieval_rows,
)
from tokenreel.evaluate.tasks.task import Metric, Request, Task

COLUMN = "v2t"


def _compute(file: EmbeddingFile, request: Request) -> list[Score]:
    return compute_retrieval(COLUMN, file, request, ranks_of_texts, chance_of_texts)


def _resampled(file: EmbeddingFile, settings: Settings) -> dict[str, Metric]:
    return resampled_retrieval(COLUMN, file, settings, ranks_of_texts)


TASK = Task(
    COLUMN,
    title="Video to text R",
    short_title="v2t R",
    is_percent=True,
    scope="file",
    span="0 to 1, higher is better",
    description="0 to 1, higher is better: the share of clips whose text is among the K nearest of "
    "the different texts; of equally near texts the wrong ones come first.",
    missing=missing_pairs,
    rows=partial(retrieval_rows, COLUMN),
    compute=_compute,
    resampled=_resampled,
)
