"""Labels that metrics learn from: which clips, what is missing, and their counts in a row."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tokenreel.evaluate.data.clips import ActionData, Side
from tokenreel.evaluate.data.results import Score
from tokenreel.evaluate.methods.probe import labelled_prefix, stratified_draw
from tokenreel.evaluate.methods.sgd_probe import BATCH_CLIPS
from tokenreel.evaluate.protocol import Settings

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def missing_training(data: ActionData) -> tuple[str, str]:
    """Why there is nothing to learn from or to judge, and the status of the rows; else "", ""."""
    if not data.train.labels:
        return "no labelled clips of the split train", "skipped"
    if not data.val.labels:
        return "no labelled clips of the split val", "skipped"
    return "", ""


def missing_pairs(data: ActionData) -> tuple[str, str]:
    """Why validation clips cannot be compared, and the status of the rows; else "", ""."""
    if not data.val.labels:
        return "no labelled clips of the split val", "skipped"
    if len(data.val.labels) < 2:
        return "1 labelled clip(s) of the split val, it needs 2", "problem"
    return "", ""


def choose_labelled(train: Side, settings: Settings, fraction: float) -> list[int]:
    """The training clips whose labels may be used."""
    num_clips = len(train.labels)
    count = labelled_prefix(num_clips, fraction)
    if settings.classifier == "sgd":
        count = min(num_clips, max(BATCH_CLIPS, count))
    if settings.labelled == "prefix":
        return list(range(count))
    return stratified_draw(train.labels, count, seed=settings.seed)


def learned_row(blank: Score, train: Side, chosen: Sequence[int], settings: Settings) -> Score:
    """A row with the counts of what was learned from."""
    return replace(
        blank,
        labelled=settings.labelled,
        num_train_clips=len(chosen),
        num_train_frames=sum(len(train.labels[i]) for i in chosen),
    )


def sums_by_clip(data: ActionData, values: NDArray[np.generic]) -> tuple[Floats, Ints]:
    """Sums over the frames of each validation clip, (clips, ...), and its frames, (clips,)."""
    lengths = np.array(list(map(len, data.val.labels)))
    starts = np.cumsum(lengths) - lengths
    return np.add.reduceat(values.astype(np.float64), starts, axis=0), lengths
