"""Kendall's tau of nearest neighbours: does one clip's order of frames show in another's?

For every ordered pair of clips, each frame of the first finds its nearest frame in the second; the
score is scipy's tau-b of those indices against their order, averaged over pairs, NaN left out and
counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Alignment", "align_clips", "squared_distances", "tau_b"]


@dataclass(frozen=True, eq=False)
class Alignment:
    """Attributes: tau, mean over pairs (NaN when none counts); num_pairs; num_nan_pairs."""

    tau: float
    num_pairs: int
    num_nan_pairs: int


def tau_b(neighbours: NDArray[np.int64]) -> float:
    """Tau-b of a sequence against 0, 1, 2...; NaN when it is constant or shorter than 2.

    >>> round(tau_b(np.array([0, 2, 1])), 12)
    0.333333333333
    """
    count = len(neighbours)
    signs = np.sign(neighbours[None, :] - neighbours[:, None])
    concordant = int(np.triu(signs, 1).sum())
    pairs = count * (count - 1) // 2
    _, repeats = np.unique(neighbours, return_counts=True)
    tied = int((repeats * (repeats - 1) // 2).sum())
    if pairs == tied:
        return float("nan")
    value = concordant / np.sqrt(pairs) / np.sqrt(pairs - tied)
    return float(min(1.0, max(-1.0, value)))


def squared_distances(
    queries: NDArray[np.floating], gallery: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Squared Euclidean distances, (n, m), in float64, exact for equal rows."""
    first, second = queries.astype(np.float64), gallery.astype(np.float64)
    out = -2.0 * first @ second.T
    out += (first**2).sum(1)[:, None]
    out += (second**2).sum(1)[None, :]
    return np.maximum(out, 0.0)


def align_clips(clips: Sequence[NDArray[np.floating]]) -> Alignment:
    """Mean tau over all ordered pairs of clips, embeddings (T_i, C), strided already."""
    values = [
        tau_b(squared_distances(one, other).argmin(axis=1))
        for i, one in enumerate(clips)
        for j, other in enumerate(clips)
        if i != j
    ]
    known = [value for value in values if not np.isnan(value)]
    mean = float(np.mean(known)) if known else float("nan")
    return Alignment(mean, len(values), len(values) - len(known))
