"""Alignment of two clips by exact dynamic time warping, for pictures and exports.

The warping path is the cheapest monotone path through the matrix of squared Euclidean distances of
frames.  A step advances one frame in the first clip, in the second, or in both, each of weight 1
(Sakoe and Chiba, 1978, symmetric steps without slope limits).  Of equally cheap steps the one in
both clips is taken, then the one in the first.  The metric tau is of nearest neighbours and does
not depend on the path.
"""

import csv
import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.embeddings import EmbeddedClip, EmbeddingFile
from tokenreel.cache.errors import UsageError
from tokenreel.evaluate.methods.nearest import squared_distances
from tokenreel.evaluate.methods.tau import tau_b

PATH_COLUMNS = (
    "step",
    "query_frame",
    "reference_frame",
    "query_index",
    "reference_index",
    "query_seconds",
    "reference_seconds",
    "cost",
    "query_phase",
    "reference_phase",
)
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
class AlignedClips:
    """A pair of clips of n and m frames.

    Attributes:
        query, reference: the clips.
        distances: (n, m) float64, squared Euclidean distance of their frames.
        path: the cheapest warping path through them.
        tau: tau-b of the query's nearest neighbours in the reference, every frame; may be NaN.
    """

    query: EmbeddedClip
    reference: EmbeddedClip
    distances: NDArray[np.float64]
    path: WarpingPath
    tau: float

    @property
    def matches(self) -> NDArray[np.int64]:
        """(n,) the frame of the reference on the path beside each frame of the query.

        Where the path stays at a query frame for several steps, the one in their middle.
        """
        rows, columns = self.path.steps.T
        first = np.searchsorted(rows, np.arange(self.query.num_frames), side="left")
        last = np.searchsorted(rows, np.arange(self.query.num_frames), side="right") - 1
        middle: NDArray[np.int64] = columns[(first + last) // 2]
        return middle

    @property
    def phase_agreement(self) -> float:
        """Share of the path's steps, of those labelled in both, that join frames of one phase."""
        rows, columns = self.path.steps.T
        one, other = self.query.labels[rows], self.reference.labels[columns]
        known = (one >= 0) & (other >= 0)
        return float((one == other)[known].mean()) if known.any() else float("nan")


def align_pair(query: EmbeddedClip, reference: EmbeddedClip) -> AlignedClips:
    """Align two clips of one embedding file; memory is about 20 bytes a pair of frames."""
    distances = squared_distances(query.embeddings, reference.embeddings)
    tau = tau_b(distances.argmin(axis=1))
    return AlignedClips(query, reference, distances, warp(distances), tau)


def find_clip(file: EmbeddingFile, clip_id: str) -> EmbeddedClip:
    """The clip of that name, or the only one whose name has it as a part.

    Raises:
        UsageError: there is none, or more than one; the message lists them.
    """
    by_id = {clip.clip_id: clip for clip in file.clips}
    if clip_id in by_id:
        return by_id[clip_id]
    found = [name for name in by_id if clip_id in name]
    if len(found) == 1 and clip_id:
        return by_id[found[0]]
    what = f"{len(found)} clips match" if found and clip_id else "no clip matches"
    some = ", ".join((found or list(by_id))[:8])
    raise UsageError(f"{clip_id!r}: {what} in {file.path}, which has {len(by_id)}; such as {some}")


def path_table(pair: AlignedClips) -> bytes:
    """The path as CSV, a row a step.

    `frame` counts the frames of the clip from 0, `index` those of its decoded video, and `seconds`
    is the time in that video.  A phase is its name, its number where it has none, or empty.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(PATH_COLUMNS)
    sides = (pair.query, pair.reference)
    for step, (frames, cost) in enumerate(zip(pair.path.steps, pair.path.costs, strict=True)):
        both = list(zip(sides, frames.tolist(), strict=True))
        writer.writerow(
            [
                step,
                *frames.tolist(),
                *(_index(clip, frame) for clip, frame in both),
                *(repr(float(clip.times_seconds[frame])) for clip, frame in both),
                repr(float(cost)),
                *(phase_name(clip, frame) for clip, frame in both),
            ]
        )
    return text.getvalue().encode()


def phase_name(clip: EmbeddedClip, frame: int) -> str:
    """Name of the phase of a frame, "" where it has no label."""
    label = int(clip.labels[frame])
    if label < 0:
        return ""
    return clip.phases[label] if label < len(clip.phases) else str(label)


def _index(clip: EmbeddedClip, frame: int) -> int:
    return int(clip.frame_index[frame]) if len(clip.frame_index) else frame
