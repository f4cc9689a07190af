"""Retrieval of clips by texts and of texts by clips, and gains of accuracy class by class.

Shapes: n clips, m different texts, C channels, K classes.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
AT_ONCE = 1024  # queries whose similarities are in memory


def ranks_of_clips(
    clips: NDArray[Any], texts: NDArray[Any], numbers: NDArray[np.integer]
) -> NDArray[np.int64]:
    """Text to video: the rank of the nearest clip that has a query's text, from 1: (n,).

    Each clip's text is a query; every clip with an equal text is right.  Of equal similarities
    wrong clips come first, so that vectors that are all the same find nothing.

    Args:
        clips: (n, C) unit vectors.
        texts: (n, C) unit vectors, the text of each.
        numbers: (n,), equal for equal texts.
    """
    found = np.empty(len(clips), np.int64)
    for start in range(0, len(clips), AT_ONCE):
        own = slice(start, start + AT_ONCE)
        similarity = np.asarray(texts[own], np.float64) @ np.asarray(clips, np.float64).T
        is_right = numbers[own, None] == numbers[None]
        found[own] = _best_rank(similarity, is_right)
    return found


def ranks_of_texts(
    clips: NDArray[Any], texts: NDArray[Any], numbers: NDArray[np.integer]
) -> NDArray[np.int64]:
    """Video to text: the rank of a clip's text among the different texts, from 1: (n,).

    Args:
        clips: (n, C) unit vectors.
        texts: (n, C) unit vectors, the text of each.
        numbers: (n,), equal for equal texts.
    """
    different, first, places = np.unique(numbers, return_index=True, return_inverse=True)
    found = np.empty(len(clips), np.int64)
    candidates = np.asarray(texts[first], np.float64)
    for start in range(0, len(clips), AT_ONCE):
        own = slice(start, start + AT_ONCE)
        similarity = np.asarray(clips[own], np.float64) @ candidates.T
        found[own] = _best_rank(similarity, places[own, None] == np.arange(len(different)))
    return found


def _best_rank(similarity: Floats, is_right: NDArray[np.bool_]) -> NDArray[np.int64]:
    best = np.where(is_right, similarity, -np.inf).max(axis=1, keepdims=True)
    ranks: NDArray[np.int64] = 1 + (~is_right & (similarity >= best)).sum(axis=1)
    return ranks


def chance_of_clips(numbers: NDArray[np.integer]) -> float:
    """R@1 of text to video by chance: the share of clips that have a query's text, its mean."""
    _, places, counts = np.unique(numbers, return_inverse=True, return_counts=True)
    return float(counts[places].mean() / len(numbers))


def chance_of_texts(numbers: NDArray[np.integer]) -> float:
    """R@1 of video to text by chance: one over the number of different texts."""
    return 1 / len(np.unique(numbers))


def class_accuracy(
    right: NDArray[Any], classes: NDArray[np.integer], num_classes: int, weights: Any = None
) -> Floats:
    """The share of the clips of each class that are right, (K,); NaN without a clip.

    Args:
        right: (n,), 0 or 1.
        classes: (n,), of each clip.
        num_classes: K.
        weights: (n,), how often each clip counts; once when None.

    >>> class_accuracy(np.array([1, 0, 1]), np.array([0, 0, 2]), 3)
    array([0.5, nan, 1. ])
    """
    given = np.ones(len(right)) if weights is None else np.asarray(weights, np.float64)
    count = np.bincount(classes, given, num_classes)
    total = np.bincount(classes, given * right, num_classes)
    with np.errstate(invalid="ignore"):
        found: Floats = total / count
    return found


def gains(one: Floats, two: Floats) -> list[tuple[int, float]]:
    """Classes by what the second run's accuracy has more than the first's, the largest first.

    Classes that either has no clip of are left out; equal ones keep their order.

    >>> gains(np.array([0.5, 1.0, np.nan, 0.2]), np.array([0.6, 0.5, 1.0, 0.9]))
    [(3, 0.7), (0, 0.1), (1, -0.5)]
    """
    more = two - one
    known = [place for place in range(len(more)) if not np.isnan(more[place])]
    return [
        (place, float(round(more[place], 12)))
        for place in sorted(known, key=lambda place: -more[place])
    ]
