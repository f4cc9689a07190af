"""A metric: mean length of the steps that an embedding takes from frame to frame."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tokenreel.evaluate.data.clips import ActionData
from tokenreel.evaluate.data.results import Score
from tokenreel.evaluate.protocol import Settings
from tokenreel.evaluate.tasks.task import Request, RowPlan, Task


def _rows(settings: Settings, clips: Sequence[object]) -> list[RowPlan]:
    return [RowPlan(("example-speed",))]


def _compute(data: ActionData, request: Request) -> list[Score]:
    steps = [np.linalg.norm(np.diff(clip, axis=0), axis=1) for clip in data.val.embeddings]
    value = float(np.concatenate(steps).mean())
    return [replace(request.blank, task="example-speed", value=value)]


SPEED = Task(
    "example-speed",
    title="Speed",
    is_percent=False,
    scope="action",
    missing=lambda data: ("", ""),
    rows=_rows,
    compute=_compute,
)
