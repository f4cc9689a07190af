"""Zero-shot classification: the action whose name is nearest to a clip."""

from dataclasses import replace

import numpy as np

from tokenreel.cache.embeddings import EmbeddingFile
from tokenreel.evaluate.data.results import Score
from tokenreel.evaluate.methods.tags import top_k_accuracy
from tokenreel.evaluate.protocol import Settings
from tokenreel.evaluate.tasks.paired import class_scores_of, missing_pairs, pairs_of
from tokenreel.evaluate.tasks.task import Request, RowPlan, Task


def _missing(file: EmbeddingFile) -> tuple[str, str]:
    found = missing_pairs(file)
    pairs = pairs_of(file)
    if not found[0] and pairs is not None and not pairs.classes:
        return "no scores of the names of actions in the embedding file", "skipped"
    return found


def _rows(settings: Settings, file: EmbeddingFile) -> list[RowPlan]:
    return [RowPlan(("zero-shot@1", "zero-shot@5"))]


def _compute(file: EmbeddingFile, request: Request) -> list[Score]:
    split = request.blank.split
    scores, classes, names = class_scores_of(file, split)
    if not len(scores):
        raise ValueError(f"no clip of the split {split} has an action that is named")
    total = sum(clip.split == split for clip in file.clips)
    rows = []
    for name in request.rows.names:
        right = top_k_accuracy(scores, classes, int(name.partition("@")[2]))
        row = replace(
            request.blank,
            task=name,
            value=float(right.mean()),
            num_classes=len(names),
            num_dropped=total - len(scores),
            note=f"chance {1 / len(names):.4f} at 1; {len(np.unique(classes))} classes have clips",
        )
        rows.append(row)
    return rows


TASK = Task(
    "zero-shot",
    title="Zero-shot",
    is_percent=True,
    scope="file",
    span="0 to 1, higher is better",
    description="0 to 1, higher is better: the share of clips whose action's name is the nearest "
    "text, or among the five nearest; no clip of the actions was learned as such.",
    missing=_missing,
    rows=_rows,
    compute=_compute,
)
