"""TCC's few-shot classification: accuracy with N labelled clips, mean over draws of them."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tokenreel.cache.embeddings import EmbeddedClip
from tokenreel.evaluate.data.clips import ActionData
from tokenreel.evaluate.data.results import Score
from tokenreel.evaluate.methods.probe import draw_episodes
from tokenreel.evaluate.protocol import Settings
from tokenreel.evaluate.tasks.classification import classify_action
from tokenreel.evaluate.tasks.labelled import missing_training
from tokenreel.evaluate.tasks.task import Request, RowPlan, Task


def _rows(settings: Settings, clips: Sequence[EmbeddedClip]) -> list[RowPlan]:
    return [RowPlan((f"few-shot@{shots}",), shots=shots) for shots in settings.shots]


def _compute(data: ActionData, request: Request) -> list[Score]:
    shots, settings = request.rows.shots, request.settings
    if shots > len(data.train.labels):
        raise ValueError(f"{len(data.train.labels)} training clips, {shots} shots are wanted")
    draws = draw_episodes(len(data.train.labels), shots, settings.episodes)
    values, classes = [], 0
    for episode in draws:
        if len(np.unique(np.concatenate([data.train.labels[i] for i in episode]))) < 2:
            values.append(float("nan"))
            continue
        found = classify_action(data, settings, episode)
        values.append(found.accuracy)
        classes = max(classes, found.num_classes)
    num_nan = int(np.isnan(values).sum())
    row = replace(
        request.blank,
        task=request.rows.names[0],
        num_nan=num_nan,
        num_pairs=len(values),
        num_classes=classes,
        num_train_clips=shots,
        classifier=settings.classifier,
        value=float(np.nanmean(values)) if num_nan < len(values) else float("nan"),
        note="" if num_nan < len(values) else "every draw has one phase only",
        status="ok" if num_nan < len(values) else "undefined",
    )
    return [row]


TASK = Task(
    "few-shot",
    title="Few-shot",
    short_title="few-shot",
    is_percent=True,
    scope="action",
    span="0 to 1, higher is better",
    description="0 to 1, higher is better: the classification accuracy with the labels of N "
    "training clips, mean over draws. It rewards what classification does, from fewer "
    "labels.",
    missing=missing_training,
    rows=_rows,
    compute=_compute,
    is_slow=True,
)
