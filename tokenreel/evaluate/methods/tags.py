"""Metrics of scores of tags: average precision; precision, recall and F1; accuracy of the first.

Shapes: n clips, K tags.  Functions take how often each clip counts, so that a bootstrap draws clips
by their weights.  A tag without a clip has no average precision, nor has a clip without a tag: what
an average makes of them is a rule:

    left_out    they are left out, and counted beside the value
    zero        they count 0, as in scikit-learn 1.9
    nan         the average is NaN, as in scikit-learn 1.0

Weighted by support, tags without a clip have no weight, whatever the rule.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Numbers = NDArray[Any]
Weights = NDArray[Any] | None
AbsentTag = Literal["left_out", "zero", "nan"]
Average = Literal["weighted", "macro", "micro", "samples"]


class Ranking:
    """The order of each column of scores, found once for all draws of clips.

    Scores that are equal are one threshold, as in scikit-learn.

    Args:
        targets: (n, K), 1 where a clip has a tag.
        scores: (n, K), larger for what is more likely.
    """

    def __init__(self, targets: Numbers, scores: Numbers) -> None:
        order = np.argsort(-scores, axis=0, kind="stable")
        self._order = order
        self._targets = np.take_along_axis(targets, order, axis=0).astype(np.float64)
        ranked = np.take_along_axis(scores, order, axis=0)
        ends_group = np.ones(ranked.shape, bool)
        ends_group[:-1] = ranked[:-1] != ranked[1:]
        places = np.where(ends_group, np.arange(len(ranked))[:, None], len(ranked))
        self._ends = np.minimum.accumulate(places[::-1], axis=0)[::-1]

    def average_precision(self, weights: Weights = None) -> Floats:
        """Of each column, (K,); NaN of one without a positive.

        The sum over thresholds of precision times the recall gained there.

        Args:
            weights: (n,), how often each row counts; once when None.
        """
        given = np.ones(len(self._order)) if weights is None else np.asarray(weights, np.float64)
        counted = given[self._order]
        positive = counted * self._targets
        with np.errstate(divide="ignore", invalid="ignore"):
            precision = np.cumsum(positive, axis=0) / np.cumsum(counted, axis=0)
            found: Floats = np.nansum(
                positive * np.take_along_axis(precision, self._ends, axis=0), axis=0
            ) / positive.sum(axis=0)
        return found


def mean_average_precision(
    targets: Numbers,
    scores: Numbers,
    average: Average,
    *,
    absent: AbsentTag = "left_out",
) -> float:
    """Average precision of tags, averaged.

    Args:
        targets: (n, K), 0 or 1.
        scores: (n, K).
        average: over tags by support, over tags, of all pairs of clip and tag, or over clips.
        absent: what a tag without a clip, or a clip without a tag, counts.

    >>> targets, scores = np.array([[1, 0], [0, 1], [1, 1]]), np.array([[3, 1], [2, 2], [1, 3]])
    >>> round(mean_average_precision(targets, scores, "macro"), 4)
    0.9167
    """
    if average == "micro":
        targets, scores = targets.reshape(-1, 1), scores.reshape(-1, 1)
    elif average == "samples":
        targets, scores = targets.T, scores.T
    values = Ranking(targets, scores).average_precision()
    if average == "weighted":
        return by_support(values, targets.sum(axis=0))
    return mean_of_known(values, absent)


def by_support(values: Floats, support: Numbers) -> float:
    """The mean of values by the support of their tags, NaN without any."""
    total = support.sum()
    return float(np.where(support > 0, values, 0.0) @ support / total) if total else float("nan")


def mean_of_known(values: Floats, absent: AbsentTag) -> float:
    """The mean of values of which some are not defined."""
    if absent == "zero":
        values = np.nan_to_num(values)
    elif absent == "left_out":
        values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else float("nan")


@dataclass(frozen=True, eq=False)
class Counts:
    """What is decided at a threshold, of each tag, or of each clip.

    Attributes:
        right: decided and so.
        decided: said to be.
        support: that are.
    """

    right: Floats
    decided: Floats
    support: Floats

    @property
    def precision(self) -> Floats:
        """Share of what is decided that is so; 0 where nothing is."""
        return _share(self.right, self.decided)

    @property
    def recall(self) -> Floats:
        """Share of what is so that is decided; 0 where nothing is."""
        return _share(self.right, self.support)

    @property
    def f1(self) -> Floats:
        """Harmonic mean of the two; 0 where both are."""
        return _share(2 * self.right, self.decided + self.support)

    def total(self) -> "Counts":
        """Of all together."""
        return Counts(*(np.array([x.sum()]) for x in (self.right, self.decided, self.support)))


def _share(part: Floats, whole: Floats) -> Floats:
    found: Floats = np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
    return found


def count_decided(
    targets: Numbers,
    scores: Numbers,
    threshold: float,
    weights: Weights = None,
) -> Counts:
    """What is decided of each tag where its score is above a threshold.

    Args:
        targets: (n, K), 0 or 1.
        scores: (n, K).
        threshold: a score above it is a decision.
        weights: (n,), how often each clip counts; once when None.
    """
    given = np.ones(len(targets)) if weights is None else np.asarray(weights, np.float64)
    is_so, is_decided = targets > 0, scores > threshold
    return Counts(given @ (is_so & is_decided), given @ is_decided, given @ is_so)


def top_k_accuracy(scores: Numbers, labels: NDArray[np.integer], k: int) -> Floats:
    """Whether the right class is among the first k, (n,).

    Of equal scores that of the last class comes first, as in scikit-learn.

    Args:
        scores: (n, K).
        labels: (n,), the right class.
        k: how many count.
    """
    first = np.argsort(scores, axis=1, kind="stable")[:, ::-1][:, :k]
    found: Floats = (first == labels[:, None]).any(axis=1).astype(np.float64)
    return found
