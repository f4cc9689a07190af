"""One of each thing that a package can add: data set, codec, metric."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from tokenreel.cache.codec.base import Array, Calibration, Grid, Reducer, require_no_parameter
from tokenreel.cache.manifest import Clip, LabelSpan, Manifest
from tokenreel.evaluate.data.clips import ActionData
from tokenreel.evaluate.data.results import Score
from tokenreel.evaluate.protocol import Settings
from tokenreel.evaluate.tasks.task import Request, RowPlan, Task


def example_videos(root: Path, options: Mapping[str, str]) -> Manifest:
    """Every .mp4 of a folder; phase 0 until 0.24 s, then phase 1 until 0.44 s."""
    videos = sorted(path.name for path in root.glob("*.mp4"))
    spans = (LabelSpan(0.0, 0.24, 0), LabelSpan(0.24, 0.44, 1))
    clips = tuple(
        Clip(name, name, split="val" if number % 2 else "train", action="act", spans=spans)
        for number, name in enumerate(videos)
    )
    return Manifest("example-videos", root, clips, phases={"act": ("begin", "end")})


class Average(Reducer):
    """The mean of all tokens of a frame: one token."""

    def __init__(self, parameter: str = "", calibration: Calibration | None = None) -> None:
        require_no_parameter("example-average", parameter)

    def shape(self, num_tokens: int, dim: int, grid: Grid) -> tuple[int, int, Grid]:
        """One token of as many channels."""
        return 1, dim, (1, 1)

    def apply(self, tokens: Array, *, block: int, grid: Grid) -> Array:
        """Average float32 (T, N, d) over N."""
        mean: Array = tokens.mean(axis=1, keepdims=True)
        return mean


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
    columns=("example-speed",),
)
