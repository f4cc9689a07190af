"""Phase progression: time to each phase boundary by linear regression (spec: CARL, 4.2).

For a clip of T labelled frames and phase i, the target of frame t is (t - t_i) / T, t_i being the
last frame of the phase.  One regression a boundary; the score is the mean R2.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tokenreel.evaluate.methods.finite import require_finite, require_frames, require_labels
from tokenreel.evaluate.protocol import AbsentRule

Floats = NDArray[np.float64]


class AbsentPhase(ValueError):
    """A clip lacks a phase, which the rule "error" forbids."""


@dataclass(frozen=True, eq=False)
class Regressed:
    """Result of the regressions.

    Attributes:
        score: mean R2 over boundaries; it can be negative.
        predicted: (n, boundaries) for the validation frames.
    """

    score: float
    predicted: Floats


def progression_targets(
    labels: NDArray[np.int64], num_phases: int, rule: AbsentRule = "error"
) -> NDArray[np.float64]:
    """Targets of a clip, (T, num_phases - 1).

    Args:
        labels: (T,) phases, all >= 0.
        num_phases: of the action.
        rule: boundary of a phase that the clip lacks.  "error" raises.  "tcc2021"
            takes the first frame, from frame 1 on, of a later phase, or the last frame where there
            is none; as in TCC's code, it also ends an existing phase at the first such frame.
            "lav" takes frame -1.  "casa" takes frame T, and raises where phase 0 is absent.

    Raises:
        AbsentPhase: with the rules "error" and "casa".
        TypeError: labels that are not whole numbers.
        ValueError: a label out of range.
    """
    require_labels("labels", labels, num_classes=num_phases)
    frames = np.arange(len(labels), dtype=np.float64)
    columns = [
        (frames - _boundary(labels, phase, rule)) / len(labels) for phase in range(num_phases - 1)
    ]
    return np.stack(columns, axis=1)


def count_absent(labels: NDArray[np.int64], num_phases: int) -> int:
    """How many phases with a boundary a clip lacks.

    >>> count_absent(np.array([0, 0, 2]), 4)
    1

    Raises:
        TypeError: labels that are not whole numbers.
    """
    require_labels("labels", labels)
    return num_phases - 1 - len(np.unique(labels[labels < num_phases - 1]))


def _boundary(labels: NDArray[np.int64], phase: int, rule: AbsentRule) -> float:
    """The frame that ends a phase."""
    if rule == "tcc2021":
        later = np.flatnonzero(labels[1:] > phase)
        if not len(later):
            return float(len(labels) - 1)
        return float(later[0] if labels[later[0]] == phase else later[0] + 1)
    found = np.flatnonzero(labels == phase)
    if len(found):
        return float(found[-1])
    if rule == "error" or (rule == "casa" and phase == 0):
        raise AbsentPhase(
            f"phase {phase} is absent from a clip: choose absent_phase=tcc2021, lav or casa"
        )
    return -1.0 if rule == "lav" else float(len(labels))


def fit_progression(
    train: NDArray[np.float32],
    train_targets: Sequence[Floats],
    val: NDArray[np.float32],
    val_targets: Sequence[Floats],
) -> Regressed:
    """A least-squares fit for each boundary, R2 of each on all validation frames.

    One fit with all boundaries is the same in exact arithmetic, and further from the published
    code in float32: 4e-7 instead of 2e-8 on one golden case.

    Args:
        train: embeddings (n, C).
        train_targets: targets of each clip, together (n, boundaries).
        val: embeddings of the validation frames.
        val_targets: their targets.

    Raises:
        ValueError: NaN or infinity in an argument.
    """
    require_frames("train", train)
    require_frames("val", val)
    require_finite("train_targets", train_targets)
    require_finite("val_targets", val_targets)
    if train.dtype.kind != "f":  # least squares has no whole numbers
        train, val = train.astype(np.float32), val.astype(np.float32)
    wanted, given = np.concatenate(val_targets), np.concatenate(train_targets)
    columns = [_predict(train, target.astype(train.dtype), val) for target in given.T]
    predicted = np.stack(columns, axis=1).astype(np.float64)
    return Regressed(float(np.mean(_r2(wanted, predicted))), predicted)


def _predict(
    train: NDArray[np.float32], target: NDArray[np.float32], val: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Ordinary least squares with an intercept, as scikit-learn: in the precision of its input."""
    from scipy.linalg import lstsq

    mean, target_mean = train.mean(axis=0), target.mean()
    rounding = max(train.shape) * float(np.finfo(train.dtype).eps)
    coefficients = lstsq(train - mean, target - target_mean, cond=rounding)[0]
    return np.asarray(val @ coefficients + (target_mean - mean @ coefficients))


def _r2(wanted: Floats, predicted: Floats) -> Floats:
    """R2 of each column; as in scikit-learn, 1 or 0 for a constant target, NaN for one frame."""
    if len(wanted) < 2:
        return np.full(wanted.shape[1], np.nan)
    rest = np.square(wanted - predicted).sum(axis=0)
    total = np.square(wanted - wanted.mean(axis=0)).sum(axis=0)
    safe = np.where(total == 0, 1.0, total)
    return np.asarray(np.where(total == 0, rest == 0, 1 - rest / safe), np.float64)
