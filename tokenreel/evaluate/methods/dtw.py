"""Dynamic time warping, exact: the cheapest monotone path through a matrix of costs.

Steps go one frame on in the first clip, in the second, or in both, each of weight 1 (Sakoe and
Chiba, 1978, symmetric steps without slope limits).  Computed by anti-diagonals, whose cells do not
depend on one another.  Of equally cheap steps the one in both clips is taken, then the one in the
first.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["WarpingPath", "warp"]

BOTH, FIRST = 0, 1  # moves into a cell; 2 is a step in the second clip


@dataclass(frozen=True, eq=False)
class WarpingPath:
    """The cheapest path.

    Attributes:
        steps: (L, 2) int64, rows and columns from (0, 0) to (n - 1, m - 1); L < n + m.
        costs: (L,) float64, cost of each cell of the path.
        total: their sum, in the order of the path.
    """

    steps: NDArray[np.int64]
    costs: NDArray[np.float64]
    total: float

    @property
    def mean(self) -> float:
        """Cost of a step, which long clips can be compared by."""
        return self.total / len(self.steps)


def warp(costs: NDArray[np.floating]) -> WarpingPath:
    """The cheapest path from the first to the last cell.

    Args:
        costs: (n, m), n and m >= 1, finite; cost of frame i of the first clip beside frame j of the
            second.

    Raises:
        ValueError: another shape, or costs that are not finite.

    >>> warp(np.array([[0.0, 1.0, 2.0], [2.0, 0.0, 0.5]])).steps.tolist()
    [[0, 0], [1, 1], [1, 2]]
    """
    if costs.ndim != 2 or 0 in costs.shape:
        raise ValueError(f"costs are (n, m) with n, m >= 1, got shape {costs.shape}")
    if not np.isfinite(costs).all():
        raise ValueError(f"{int((~np.isfinite(costs)).sum())} costs are not finite")
    values = np.ascontiguousarray(costs, np.float64)
    total, moves = _accumulate(values)
    steps = _trace(moves)
    return WarpingPath(steps, values[steps[:, 0], steps[:, 1]], total)


def _accumulate(costs: NDArray[np.float64]) -> tuple[float, NDArray[np.uint8]]:
    """Cost of the cheapest path to the last cell, and the last move into each cell, (n, m)."""
    n, m = costs.shape
    moves = np.empty((n, m), np.uint8)
    # Sums of the two anti-diagonals before; slot i + 1 is row i, infinite where there is no cell.
    before = np.full(n + 1, np.inf)
    last = np.full(n + 1, np.inf)
    for diagonal in range(n + m - 1):
        low, high = max(0, diagonal - m + 1), min(n, diagonal + 1)
        rows = np.arange(low, high)
        both, first, second = before[low:high], last[low:high], last[low + 1 : high + 1]
        best = np.minimum(both, np.minimum(first, second)) if diagonal else np.zeros(1)
        sums = np.full(n + 1, np.inf)
        sums[low + 1 : high + 1] = costs[rows, diagonal - rows] + best
        moves[rows, diagonal - rows] = np.where(both <= best, 0, np.where(first <= second, 1, 2))
        before, last = last, sums
    return float(last[n]), moves


def _trace(moves: NDArray[np.uint8]) -> NDArray[np.int64]:
    row, column = moves.shape[0] - 1, moves.shape[1] - 1
    steps = [(row, column)]
    while row or column:
        move = moves[row, column]
        if move in (BOTH, FIRST):
            row -= 1
        if move != FIRST:
            column -= 1
        steps.append((row, column))
    return np.array(steps[::-1], np.int64)
