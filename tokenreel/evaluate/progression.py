"""Phase progression: how far each phase boundary is, by linear regression (spec: CARL, 4.2).

For a clip of T labelled frames and phase i, the target of frame t is (t - t_i) / T, t_i being the
last frame of the phase.  One regression a boundary; the score is the mean R2.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LinearRegression

__all__ = ["AbsentPhase", "Rule", "progression_score", "progression_targets"]

Rule = Literal["error", "tcc2021", "lav", "casa"]


class AbsentPhase(ValueError):
    """A clip lacks a phase and the rule is to say so."""


def progression_targets(
    labels: NDArray[np.int64], num_phases: int, rule: Rule = "error"
) -> NDArray[np.float64]:
    """Targets of a clip, (T, num_phases - 1).

    Args:
        labels: (T,) phases, all >= 0.
        num_phases: of the action.
        rule: for a phase that the clip lacks: "error" raises; "tcc2021" takes the first frame,
            from frame 1 on, of a later phase, or the last frame where there is none; "lav" takes
            frame -1; "casa" takes frame T, and raises where phase 0 is lacking.

    Raises:
        AbsentPhase: with the rules "error" and "casa".
    """
    frames = np.arange(len(labels), dtype=np.float64)
    columns: list[NDArray[np.float64]] = []
    for phase in range(num_phases - 1):
        found = np.flatnonzero(labels == phase)
        if len(found):
            boundary = float(found[-1])
        elif rule == "error" or (rule == "casa" and phase == 0):
            raise AbsentPhase(
                f"phase {phase} is absent from a clip: choose absent_phase=tcc2021, lav or casa"
            )
        else:
            boundary = _absent_boundary(labels, phase, rule)
        columns.append((frames - boundary) / len(labels))
    return np.stack(columns, axis=1)


def _absent_boundary(labels: NDArray[np.int64], phase: int, rule: Rule) -> float:
    if rule != "tcc2021":
        return -1.0 if rule == "lav" else float(len(labels))
    later = np.flatnonzero(labels[1:] > phase)
    return float(later[0] + 1) if len(later) else float(len(labels) - 1)


def progression_score(
    train: NDArray[np.float32],
    train_targets: Sequence[NDArray[np.float64]],
    val: NDArray[np.float32],
    val_targets: Sequence[NDArray[np.float64]],
) -> float:
    """Mean over boundaries of R2 on all validation frames; it can be negative.

    Args:
        train: embeddings (n, C).
        train_targets: targets of each clip, together (n, boundaries).
        val: embeddings of the validation frames.
        val_targets: their targets.
    """
    wanted, given = np.concatenate(val_targets), np.concatenate(train_targets)
    scores = []
    for boundary in range(given.shape[1]):
        model = LinearRegression().fit(train, given[:, boundary])
        scores.append(model.score(val, wanted[:, boundary]))
    return float(np.mean(scores))
