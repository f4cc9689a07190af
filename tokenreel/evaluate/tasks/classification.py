"""Phase classification: share of right validation frames of a classifier on frozen embeddings.

`classification-unshared` is the same without the validation clips whose video is among the training
clips too.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tokenreel.cache.embeddings import EmbeddedClip
from tokenreel.evaluate.data.clips import ActionData, shared_clips
from tokenreel.evaluate.data.results import Score
from tokenreel.evaluate.methods.probe import Classified, classify_phases
from tokenreel.evaluate.methods.sgd_probe import train_layer
from tokenreel.evaluate.protocol import Settings
from tokenreel.evaluate.tasks.labelled import (
    choose_labelled,
    learned_row,
    missing_training,
    sums_by_clip,
)
from tokenreel.evaluate.tasks.task import Metric, Request, RowPlan, Task

UNSHARED = "classification-unshared"


def classify_action(data: ActionData, settings: Settings, chosen: Sequence[int]) -> Classified:
    """Train the classifier of a protocol on the chosen clips, predict all validation frames."""
    clips = [data.train.embeddings[i] for i in chosen]
    labels = [data.train.labels[i] for i in chosen]
    val, wanted = np.concatenate(data.val.embeddings), np.concatenate(data.val.labels)
    if settings.classifier != "sgd":
        return classify_phases(
            np.concatenate(clips),
            np.concatenate(labels),
            val,
            wanted,
            classifier=settings.classifier,
        )
    layer = train_layer(
        clips,
        labels,
        num_classes=data.num_phases,
        learning_rate=settings.learning_rate,
        epochs=settings.epochs,
        seed=settings.seed,
    )
    predicted = layer.predict(val)
    seen = len(np.unique(np.concatenate(labels)))
    return Classified(float((predicted == wanted).mean()), predicted, seen)


def _rows(settings: Settings, clips: Sequence[EmbeddedClip]) -> list[RowPlan]:
    names = ("classification", *([UNSHARED] if any(shared_clips(clips)) else []))
    return [RowPlan(names, fraction) for fraction in settings.fractions]


def _compute(data: ActionData, request: Request) -> list[Score]:
    settings, blank = request.settings, request.blank
    chosen = choose_labelled(data.train, settings, blank.fraction)
    found = classify_action(data, settings, chosen)
    row = replace(
        learned_row(blank, data.train, chosen, settings),
        task="classification",
        value=found.accuracy,
        num_classes=found.num_classes,
        classifier=settings.classifier,
    )
    if UNSHARED not in request.rows.names:
        return [row]
    lengths = list(map(len, data.val.labels))
    own = ~np.repeat(data.is_shared, lengths)
    right = found.predicted == np.concatenate(data.val.labels)
    num_shared = sum(data.is_shared)
    rest = replace(
        row,
        task=UNSHARED,
        num_clips=row.num_clips - num_shared,
        num_frames=int(own.sum()),
        value=float(right[own].mean()) if own.any() else float("nan"),
        note=f"without {num_shared} clips whose video is among the training clips too",
        status="ok" if own.any() else "undefined",
    )
    return [row, rest]


def _resampled(data: ActionData, settings: Settings) -> dict[str, Metric]:
    chosen = choose_labelled(data.train, settings, max(settings.fractions))
    found = classify_action(data, settings, chosen)
    right = found.predicted == np.concatenate(data.val.labels)
    correct, frames = sums_by_clip(data, right)
    return {"classification": lambda drawn: float(drawn @ correct / (drawn @ frames))}


TASK = Task(
    "classification",
    title="Classification accuracy",
    short_title="Class.",
    is_percent=True,
    scope="action",
    span="0 to 1, higher is better",
    description="0 to 1, higher is better: the share of validation frames whose phase a "
    "classifier on the frozen embeddings names. It rewards embeddings in which phases "
    "lie apart; where phases come at the same share of every clip, the position in "
    "the clip is enough.",
    missing=missing_training,
    rows=_rows,
    compute=_compute,
    resampled=_resampled,
    columns=("classification",),
    variants={"unshared": "Classification, unshared events"},
    by_share=True,
)
