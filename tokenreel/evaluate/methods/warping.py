"""The cheapest warping path through the distances of two clips, by a table or in linear memory.

The path is monotone through the matrix of squared Euclidean distances of frames.  A step advances
one frame in the first clip, in the second, or in both, each of weight 1 (Sakoe and Chiba, 1978,
symmetric steps without slope limits).  Of equally cheap steps the one in both clips is taken, then
the one in the first.

Sums are found by anti-diagonals, whose cells do not depend on one another.  For long clips only
every S-th pair of anti-diagonals is kept; the path is traced back from one to the one before, whose
cells in between are computed again: a path that is in row i now was in the rows i - S ... i, so
that is a small part of the table.  Distances are computed in tiles of a fixed grid, so that they
are the same bit for bit whichever way they are used.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tokenreel.evaluate.methods.finite import require_finite, require_frames
from tokenreel.evaluate.methods.nearest import distances_of_finite

BOTH, FIRST = 0, 1  # moves into a cell; 2 is a step in the second clip
TILE = 128  # frames: of the grid of distances, and anti-diagonals of a band

Floats = NDArray[np.float64]
Frames = NDArray[np.floating]


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
        TypeError: no real numbers.

    >>> warp(np.array([[0.0, 1.0, 2.0], [2.0, 0.0, 0.5]])).steps.tolist()
    [[0, 0], [1, 1], [1, 2]]
    """
    if isinstance(costs, np.ndarray) and (costs.ndim != 2 or 0 in costs.shape):
        raise ValueError(f"costs are (n, m) with n, m >= 1, got shape {costs.shape}")
    require_finite("costs", costs)
    values = np.ascontiguousarray(costs, np.float64)
    total, moves = _accumulate(values)
    steps = _trace(moves)
    return WarpingPath(steps, values[steps[:, 0], steps[:, 1]], total)


def _accumulate(costs: NDArray[np.float64]) -> tuple[float, NDArray[np.uint8]]:
    """Cost of the cheapest path to the last cell, and the last move into each cell, (n, m).

    By anti-diagonals, whose cells do not depend on one another.
    """
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


@dataclass(frozen=True, eq=False)
class WarpedFrames:
    """The path through two sequences of frames, and what needs every distance once.

    Attributes:
        path: the cheapest.
        nearest: (n,) int64, for each frame of the first its nearest in the second, the first of
            equally near ones.
    """

    path: WarpingPath
    nearest: NDArray[np.int64]


def warp_frames(first: Frames, second: Frames) -> WarpedFrames:
    """The path that :func:`warp` finds through :func:`tiled_distances`, without the table.

    Memory is about 4 KB a frame, at 90,000 x 90,000 frames half a gigabyte.

    Args:
        first: embeddings (n, C), n >= 1, finite.
        second: embeddings (m, C), m >= 1, finite.

    Raises:
        ValueError: another shape, or frames that are not finite.
        TypeError: no real numbers.
    """
    for name, frames in (("first", first), ("second", second)):
        if isinstance(frames, np.ndarray) and (frames.ndim != 2 or 0 in frames.shape):
            raise ValueError(f"{name} is (frames, channels) >= 1, got shape {frames.shape}")
        require_finite(name, frames)
    return _LongWarp(first, second).run()


def tiled_distances(first: Frames, second: Frames) -> Floats:
    """Squared Euclidean distances, (n, m), tile by tile of the grid.

    Raises:
        ValueError: NaN or infinity.
    """
    require_frames("first", first)
    require_frames("second", second)
    out = np.empty((len(first), len(second)))
    for row in range(0, len(first), TILE):
        for column in range(0, len(second), TILE):
            rows, columns = slice(row, row + TILE), slice(column, column + TILE)
            out[rows, columns] = distances_of_finite(first[rows], second[columns])
    return out


class _LongWarp:
    """The sums of anti-diagonals, forward with checkpoints, then back along the path."""

    def __init__(self, first: Frames, second: Frames) -> None:
        self.first, self.second = first, second
        self.n, self.m = len(first), len(second)
        self.num_diagonals = self.n + self.m - 1
        self.every = max(2 * TILE, 4 * math.isqrt(self.num_diagonals))
        self.kept: dict[int, tuple[Floats, Floats]] = {}  # diagonal -> the one before, and it
        self.least = np.full(self.n, np.inf)  # distance to the nearest frame so far
        self.nearest = np.zeros(self.n, np.int64)

    def run(self) -> WarpedFrames:
        """The path and the nearest frames."""
        total = self._forward()
        steps = [(self.n - 1, self.m - 1)]
        while steps[-1] != (0, 0):
            steps += self._back(*steps[-1])
        path = np.array(steps[::-1], np.int64)
        return WarpedFrames(WarpingPath(path, self._costs_of(path), total), self.nearest)

    def _bounds(self, diagonal: int) -> tuple[int, int]:
        """Rows of an anti-diagonal, [low, high)."""
        return max(0, diagonal - self.m + 1), min(self.n, diagonal + 1)

    def _forward(self) -> float:
        """Sums of all anti-diagonals in turn; slot i + 1 is row i, infinite where no cell is."""
        before, last, sums = (np.full(self.n + 1, np.inf) for _ in range(3))
        num_tiles = -(-self.n // TILE)
        pairs = np.zeros((num_tiles, TILE, 2 * TILE))  # a row of tiles: two beside each other
        band = np.empty((TILE, num_tiles * TILE))
        for start in range(0, self.num_diagonals, TILE):
            self._fill_band(band, pairs, start)
            for diagonal in range(start, min(start + TILE, self.num_diagonals)):
                low, high = self._bounds(diagonal)
                out = sums[low + 1 : high + 1]
                if diagonal:
                    np.minimum(last[low:high], last[low + 1 : high + 1], out=out)
                    np.minimum(out, before[low:high], out=out)
                    out += band[diagonal - start, low:high]
                else:
                    out[:] = band[0, :1]
                before, last, sums = last, sums, before
                if diagonal % self.every == 0:
                    self.kept[diagonal] = (before.copy(), last.copy())
        return float(last[self.n])

    def _fill_band(self, band: Floats, pairs: Floats, start: int) -> None:
        """The costs of TILE anti-diagonals: band[t, i] is cell (i, start + t - i)."""
        num_columns = -(-self.m // TILE)
        for k in range(len(pairs)):
            column = start // TILE - k  # tile that these diagonals enter in this row of tiles
            if not 0 <= column <= num_columns:
                continue
            pair = pairs[k]
            pair[:, :TILE] = pair[:, TILE:]
            if column < num_columns:
                tile = self._tile(k, column)
                pair[: tile.shape[0], TILE : TILE + tile.shape[1]] = tile
                self._search(tile, k * TILE, column * TILE)
            row = pair.strides[0] // pair.itemsize - 1
            skewed = np.lib.stride_tricks.as_strided(
                pair.reshape(-1)[TILE:],
                (TILE, TILE),
                (row * pair.itemsize, pair.itemsize),
                writeable=False,
            )
            band[:, k * TILE : (k + 1) * TILE] = skewed.T

    def _tile(self, row: int, column: int) -> Floats:
        rows = slice(row * TILE, (row + 1) * TILE)
        columns = slice(column * TILE, (column + 1) * TILE)
        return distances_of_finite(self.first[rows], self.second[columns])

    def _search(self, tile: Floats, row: int, column: int) -> None:
        rows = slice(row, row + len(tile))
        at = tile.argmin(axis=1)
        value = tile[np.arange(len(tile)), at]
        nearer = value < self.least[rows]
        self.least[rows][nearer] = value[nearer]
        self.nearest[rows][nearer] = column + at[nearer]

    def _back(self, row: int, column: int) -> list[tuple[int, int]]:
        """Steps of the path from a cell back to the last kept anti-diagonal before it."""
        end = row + column
        start = (end - 1) // self.every * self.every
        low = max(0, row - (end - start))
        left = max(0, start - row)
        costs = self._window(low, row + 1, left, min(self.m, end - low + 1))
        moves = self._moves(costs, start, end, low, row + 1, left)
        steps = []
        while row + column > start:
            move = moves[row + column - start - 1, row - low]
            row -= move in (BOTH, FIRST)
            column -= move != FIRST
            steps.append((int(row), int(column)))
        return steps

    def _moves(
        self, costs: Floats, start: int, end: int, low: int, high: int, left: int
    ) -> NDArray[np.uint8]:
        """Moves into the cells of the rows [low, high) on the anti-diagonals (start, end].

        Sums are right where the path can be: from row high - 1 on the last anti-diagonal, one more
        row on each before it.
        """
        before, last = (sums[low : high + 1] for sums in self.kept[start])
        moves = np.zeros((end - start, high - low), np.uint8)
        for diagonal in range(start + 1, end + 1):
            first, stop = self._bounds(diagonal)
            first, stop = max(first, low), min(stop, high)
            rows = np.arange(first, stop)
            here = slice(first - low, stop - low)
            both, one, two = before[here], last[here], last[first - low + 1 : stop - low + 1]
            best = np.minimum(both, np.minimum(one, two))
            sums = np.full(high - low + 1, np.inf)
            sums[first - low + 1 : stop - low + 1] = (
                costs[rows - low, diagonal - rows - left] + best
            )
            moves[diagonal - start - 1, here] = np.where(
                both <= best, BOTH, np.where(one <= two, FIRST, 2)
            )
            before, last = last, sums
        return moves

    def _window(self, low: int, high: int, left: int, right: int) -> Floats:
        """The costs of rows [low, high) and columns [left, right), from tiles of the grid."""
        out = np.empty((high - low, right - left))
        for row in range(low // TILE, -(-high // TILE)):
            for column in range(left // TILE, -(-right // TILE)):
                tile = self._tile(row, column)
                r, c = row * TILE, column * TILE
                top, bottom = max(low, r), min(high, r + len(tile))
                west, east = max(left, c), min(right, c + tile.shape[1])
                out[top - low : bottom - low, west - left : east - left] = tile[
                    top - r : bottom - r, west - c : east - c
                ]
        return out

    def _costs_of(self, path: NDArray[np.int64]) -> Floats:
        """The cost of each cell of the path; its tiles follow one another."""
        costs = np.empty(len(path))
        tiles = path // TILE
        starts = np.flatnonzero(np.r_[True, (np.diff(tiles, axis=0) != 0).any(axis=1)])
        for start, stop in zip(starts, [*starts[1:], len(path)], strict=True):
            tile = self._tile(*tiles[start].tolist())
            rows, columns = (path[start:stop] - tiles[start] * TILE).T
            costs[start:stop] = tile[rows, columns]
        return costs
