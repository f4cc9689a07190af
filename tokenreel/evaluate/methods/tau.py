"""Kendall's tau of nearest neighbours: how well the order of frames agrees between clips.

For every ordered pair of clips, each frame of the first finds its nearest frame in the second; the
score is scipy's tau-b of those indices against their order, averaged over pairs, NaN left out and
counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tokenreel.evaluate.methods.finite import require_finite, require_frames
from tokenreel.evaluate.methods.nearest import MEMORY_BYTES, nearest_in_each_clip

_SHORT = 256  # frames; longer sequences are merged instead of comparing all pairs
_PAIRS = 4_000_000  # compared at once


@dataclass(frozen=True, eq=False)
class Alignment:
    """Tau of every pair of clips.

    Attributes:
        tau: mean over ordered pairs, NaN when none counts.
        num_pairs: ordered pairs of clips.
        num_nan_pairs: those whose tau is NaN.
        pairs: (n, n) tau of clip i's frames in clip j, NaN on the diagonal.
    """

    tau: float
    num_pairs: int
    num_nan_pairs: int
    pairs: NDArray[np.float64]


def tau_b(neighbours: NDArray[np.int64]) -> float:
    """Tau-b of a sequence against 0, 1, 2...; NaN when it is constant or shorter than 2.

    >>> round(tau_b(np.array([0, 2, 1])), 12)
    0.333333333333

    Raises:
        ValueError: NaN or infinity.
    """
    require_finite("neighbours", np.asarray(neighbours))
    return float(tau_b_rows(np.asarray(neighbours)[None])[0])


def tau_b_rows(sequences: NDArray[np.int64]) -> NDArray[np.float64]:
    """Tau-b of each row of (m, n), as :func:`tau_b`.

    Raises:
        ValueError: another shape, NaN or infinity.
    """
    require_finite("sequences", sequences)
    if sequences.ndim != 2:
        raise ValueError(f"sequences are of shape {sequences.shape}, wanted (rows, numbers)")
    count = sequences.shape[1]
    pairs = count * (count - 1) // 2
    rising, untied = _compare(sequences) if count <= _SHORT else _merge(sequences)
    with np.errstate(invalid="ignore"):  # 0 / 0 is the NaN of a constant row
        value = (2 * rising - untied) / np.sqrt(np.float64(pairs)) / np.sqrt(untied)
    return np.asarray(np.clip(value, -1.0, 1.0))


def _compare(sequences: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Pairs that rise and pairs that are not tied, by looking at every pair."""
    num_rows, count = sequences.shape
    later = np.triu(np.ones((count, count), bool), 1)
    rising, untied = np.empty(num_rows), np.empty(num_rows)
    size = max(1, _PAIRS // max(1, count * count))
    for start in range(0, num_rows, size):
        rows = sequences[start : start + size]
        is_less = rows[:, :, None] < rows[:, None, :]
        untied[start : start + size] = np.count_nonzero(is_less, axis=(1, 2))
        is_less &= later
        rising[start : start + size] = np.count_nonzero(is_less, axis=(1, 2))
    return rising, untied


def _merge(sequences: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The same in n log n: at each width, sorted left halves against their right halves.

    Values are replaced by ranks, and every half lies in a range of its own, so that one search
    serves all halves of all rows.
    """
    num_rows, count = sequences.shape
    _, ranks = np.unique(sequences, return_inverse=True)
    ranks = ranks.reshape(num_rows, count).astype(np.int64)
    span = int(ranks.max()) + 1
    position = np.arange(count)
    row = np.arange(num_rows)[:, None]
    rising, untied = np.zeros(num_rows), np.zeros(num_rows)
    width = 1
    while width < count:
        block = position // (2 * width)
        key = (row * (block[-1] + 1) + block) * span + ranks
        is_left = position // width % 2 == 0
        left, right = np.sort(key[:, is_left], axis=None), key[:, ~is_left]
        low = (row * (block[-1] + 1) + block[~is_left]) * span
        before = np.searchsorted(left, low)
        less = np.searchsorted(left, right, side="left") - before
        greater = np.searchsorted(left, low + span) - np.searchsorted(left, right, side="right")
        rising += less.sum(axis=1)
        untied += (less + greater).sum(axis=1)
        width *= 2
    return rising, untied


def align_clips(
    clips: Sequence[NDArray[np.floating]], *, memory_bytes: int = MEMORY_BYTES
) -> Alignment:
    """Mean tau over all ordered pairs of clips.

    Args:
        clips: embeddings (T_i, C), strided already; a clip without frames gives NaN.
        memory_bytes: what the blocks may hold.

    Raises:
        ValueError: NaN or infinity in a clip.
    """
    require_frames("clips", clips)
    count = len(clips)
    pairs = np.full((count, count), np.nan)
    full = [i for i, clip in enumerate(clips) if len(clip)]
    nearest = nearest_in_each_clip([clips[i] for i in full], memory_bytes=memory_bytes)
    for i, near in zip(full, nearest, strict=True):
        pairs[i, full] = tau_b_rows(near.T)
    np.fill_diagonal(pairs, np.nan)
    known = pairs[~np.isnan(pairs)]
    mean = float(known.mean()) if len(known) else float("nan")
    return Alignment(mean, count * (count - 1), count * (count - 1) - len(known), pairs)
