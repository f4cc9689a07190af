"""The metrics as functions of which validation clips are judged: :mod:`compare` draws those.

The classifier, the regression and the frames that are searched stay as they are.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tokenreel.evaluate.jobs.data import ActionData
from tokenreel.evaluate.jobs.tasks import (
    Limits,
    align_action,
    choose_labelled,
    classify_action,
    missing_data,
    regress_action,
    retrieve_action,
)
from tokenreel.evaluate.methods.progression import progression_targets
from tokenreel.evaluate.protocol import Settings

__all__ = ["Ints", "Metric", "Metrics", "resampled_metrics"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

Metric = Callable[[Ints], float]
"""How often each clip was drawn, (clips,) -> the value."""

Metrics = dict[str, Metric | str]
"""Task -> its metric, or why it has none."""


def resampled_metrics(data: ActionData, settings: Settings) -> Metrics:
    """The metrics of an action that the settings name.

    Args:
        data: of the action.
        settings: tasks and how they are measured.
    """
    found: Metrics = {}
    for kind, make in METRICS.items():
        if kind not in settings.tasks:
            continue
        why, _ = missing_data(kind, data)
        try:
            if not why:
                found |= make(data, settings)
        except ValueError as error:
            why = str(error)
        if why:
            rows = [f"ap@{k}" for k in settings.ks] if kind == "retrieval" else [kind]
            found |= dict.fromkeys(rows, why)
    return found


def _accuracy(data: ActionData, settings: Settings) -> dict[str, Metric]:
    chosen = choose_labelled(data.train, settings, max(settings.fractions))
    found = classify_action(data, settings, chosen)
    right = found.predicted == np.concatenate(data.val.labels)
    correct, frames = _by_clip(data, right), _lengths(data)
    return {"classification": lambda drawn: float(drawn @ correct / (drawn @ frames))}


def _progress(data: ActionData, settings: Settings) -> dict[str, Metric]:
    chosen = choose_labelled(data.train, settings, max(settings.fractions))
    predicted = regress_action(data, settings, chosen).predicted
    rule = settings.absent_phase
    wanted = np.concatenate(
        [progression_targets(one, data.num_phases, rule) for one in data.val.labels]
    )
    rest = _by_clip(data, np.square(wanted - predicted))
    total, squares, frames = _by_clip(data, wanted), _by_clip(data, wanted**2), _lengths(data)

    def r2(drawn: Ints) -> float:
        spread = drawn @ squares - (drawn @ total) ** 2 / (drawn @ frames)
        with np.errstate(divide="ignore", invalid="ignore"):
            value = 1 - (drawn @ rest) / spread
        return float(np.mean(np.where(spread > 1e-12, value, np.nan)))

    return {"progression": r2}


def _tau(data: ActionData, settings: Settings) -> dict[str, Metric]:
    pairs = align_action(data.val.embeddings, settings, Limits()).pairs
    is_known = ~np.isnan(pairs)
    values = np.where(is_known, pairs, 0.0)

    def tau(drawn: Ints) -> float:
        count = drawn @ is_known @ drawn
        return float(drawn @ values @ drawn / count) if count else float("nan")

    return {"tau": tau}


def _retrieval(data: ActionData, settings: Settings) -> dict[str, Metric]:
    found = retrieve_action(data, settings, Limits())
    return {f"ap@{k}": _mean_of(values) for k, values in found.by_clip.items()}


def _mean_of(values: Floats) -> Metric:
    is_known = ~np.isnan(values)
    filled = np.where(is_known, values, 0.0)

    def mean(drawn: Ints) -> float:
        count = drawn @ is_known
        return float(drawn @ filled / count) if count else float("nan")

    return mean


def _lengths(data: ActionData) -> Ints:
    return np.array([len(one) for one in data.val.labels])


def _by_clip(data: ActionData, values: NDArray[np.generic]) -> Floats:
    """Sums over the frames of each clip, (clips, ...)."""
    starts = np.cumsum(_lengths(data)) - _lengths(data)
    return np.add.reduceat(values.astype(np.float64), starts, axis=0)


METRICS: dict[str, Callable[[ActionData, Settings], dict[str, Metric]]] = {
    "classification": _accuracy,
    "progression": _progress,
    "tau": _tau,
    "retrieval": _retrieval,
}
