"""Mean squared error of a number predicted for each clip, beside that of the training mean."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.embeddings import EmbeddingFile
from tokenreel.evaluate.data.results import Score
from tokenreel.evaluate.protocol import Settings
from tokenreel.evaluate.tasks.task import Request, RowPlan, Task

NAMES = ("mse", "mse-mean")


def _missing(file: EmbeddingFile) -> tuple[str, str]:
    clip = file.clips[0]
    if file.unit != "clip" or file.class_names or not clip.targets.size:
        return "no number of each clip to compare with (targets without class_names)", "skipped"
    if clip.embeddings.shape[1] != clip.targets.size:
        return (
            f"{clip.embeddings.shape[1]} channels for {clip.targets.size} number(s) to predict",
            "skipped",
        )
    return "", ""


def _rows(settings: Settings, file: EmbeddingFile) -> list[RowPlan]:
    return [RowPlan(NAMES)]


def _errors(file: EmbeddingFile, split: str) -> dict[str, NDArray[np.float64]]:
    """Squared errors of the clips of a split, of the prediction and of the training mean, (n,)."""
    train = [clip.targets for clip in file.clips if clip.split == "train"]
    mean = np.mean(train, axis=0) if train else np.full(file.clips[0].targets.size, np.nan)
    judged = [clip for clip in file.clips if clip.split == split]
    guesses = {
        "mse": [clip.embeddings[0].astype(np.float64) for clip in judged],
        "mse-mean": [mean for _ in judged],
    }
    targets = np.array([clip.targets for clip in judged], np.float64)
    return {
        name: np.mean((np.array(made) - targets) ** 2, axis=1) for name, made in guesses.items()
    }


def _compute(file: EmbeddingFile, request: Request) -> list[Score]:
    if not any(clip.split == request.blank.split for clip in file.clips):
        raise ValueError(f"no clip of the split {request.blank.split}")
    found = _errors(file, request.blank.split)
    rows = []
    for name in NAMES:
        value = float(found[name].mean())
        note = "" if np.isfinite(value) else "no training clips, whose mean it is of"
        status = "ok" if np.isfinite(value) else "undefined"
        rows.append(replace(request.blank, task=name, value=value, note=note, status=status))
    return rows


TASK = Task(
    "mse",
    title="Squared error",
    is_percent=False,
    scope="file",
    span="0 and more, lower is better",
    description="0 and more, lower is better: the mean squared difference of the number predicted "
    "for a clip and its own. Predicting the mean of the training clips has the row beside it.",
    missing=_missing,
    rows=_rows,
    compute=_compute,
    is_error=True,
    variants={"mean": "Squared error of the training mean"},
)
