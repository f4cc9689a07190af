"""The two windows in time of a clip in a step (CARL, section 3.2, and what its released code does).

A window is a range of the clip, of which T frames are drawn at random, in order; a position beyond
the end of the clip repeats the last frame and is not valid.  The kinds differ in the range:

    paper             T to alpha T frames; the ranges overlap by beta of the shorter at least
    even              the same ranges, T frames at even distances (CARL, Table 10)
    official          1 to alpha times the clip: Penn Action, Pouring and K400 as released, a
                      range is the clip or more, and a fifth of the positions is beyond the end
    official_finegym  1 to alpha times T or the clip, whichever is shorter: FineGym as released
    official_fixed    1 to alpha times T: Pouring with SAMPLE_FIX
    uniform           the whole clip, T of its frames: TCC, TCN, LAV and GTA

In the released kinds the second range begins within (1 - beta) T frames of the first frame *drawn*
in the other window, so that ranges may overlap by less than beta.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

SamplingKind = Literal["paper", "even", "official", "official_finegym", "official_fixed", "uniform"]


@dataclass(frozen=True, eq=False)
class Windows:
    """Frames of the two windows of a clip.

    Attributes:
        frames: int64 (2, T), within the clip; in order, or anchors in order with their positives.
        valid: bool (2, T), False where a position is padding.
    """

    frames: NDArray[np.int64]
    valid: NDArray[np.bool_]


def sample_windows(
    clip_frames: int,
    num_frames: int,
    *,
    alpha: float,
    beta: float,
    rng: np.random.Generator,
    kind: SamplingKind = "paper",
    pair_window: int = 0,
) -> Windows:
    """Draw two windows.

    Args:
        clip_frames: frames of the clip, at least 1.
        num_frames: T.
        alpha: longest range, as a multiple.
        beta: least overlap of the ranges, as a share.
        rng: where the draws come from.
        kind: which ranges.
        pair_window: 0, or W: of T / 2 frames each is followed by another, 1 to W frames before it.
    """
    count = num_frames // 2 if pair_window else num_frames
    windows: list[NDArray[np.int64]] = []
    of_paper = kind in ("paper", "even")
    ranges = _paper_ranges(clip_frames, count, alpha, beta, rng) if of_paper else []
    for number in range(2):
        if kind == "paper":
            start, length = ranges[number]
            steps = start + np.sort(rng.permutation(length)[:count])
        elif kind == "even":
            start, length = ranges[number]
            steps = start + np.linspace(0, length - 1, count).round().astype(np.int64)
        elif kind == "uniform":
            few = clip_frames < count
            steps = np.arange(count) if few else np.sort(rng.permutation(clip_frames)[:count])
        else:
            other = int(windows[0][0]) if windows else None
            steps = _official(clip_frames, count, alpha, beta, rng, kind, other)
        if pair_window:
            positives = steps + rng.integers(-pair_window, 0, size=len(steps))
            steps = np.stack([steps, positives], axis=-1).reshape(-1)
        windows.append(steps)
    frames = np.stack(windows)
    valid = (frames >= 0) & (frames < clip_frames)
    valid[~valid.any(axis=1), 0] = True  # of a few frames, all may be left out: one stays
    return Windows(np.clip(frames, 0, clip_frames - 1).astype(np.int64), valid)


def _paper_ranges(
    clip_frames: int, count: int, alpha: float, beta: float, rng: np.random.Generator
) -> list[tuple[int, int]]:
    """First frame and length of the ranges of both windows."""
    lengths = [math.ceil(rng.uniform(1, alpha) * count) for _ in range(2)]
    last = [max(0, clip_frames - length) for length in lengths]
    first = int(rng.integers(last[0] + 1))
    overlap = math.ceil(beta * min(lengths))
    low = max(0, first + overlap - lengths[1])  # at most last[1], as first is at most last[0]
    high = max(low, min(last[1], first + lengths[0] - overlap))
    return [(first, lengths[0]), (int(rng.integers(low, high + 1)), lengths[1])]


def _official(
    clip_frames: int,
    count: int,
    alpha: float,
    beta: float,
    rng: np.random.Generator,
    kind: SamplingKind,
    other: int | None,
) -> NDArray[np.int64]:
    """One window; `other` is the first frame of the window that was drawn before."""
    drawn = min(clip_frames, count)
    base = {"official": clip_frames, "official_finegym": drawn, "official_fixed": count}[kind]
    ratio = rng.uniform(1.0, alpha) if alpha > 1 else 1.0
    length = math.ceil(ratio * base)
    last = clip_frames - length
    if other is None or beta == 0:
        start = int(rng.integers(0, max(last, 1)))
    else:
        shift = int((1 - beta) * drawn)
        low, high = max(0, min(last, other - shift)), max(1, min(last + 1, other + shift + 1))
        start = int(rng.integers(low, high))
    steps = start + np.sort(rng.permutation(length)[:drawn])
    return np.pad(steps, (0, count - drawn), constant_values=clip_frames)
