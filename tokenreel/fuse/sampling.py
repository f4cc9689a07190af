"""Which frames the two views of a clip see (CARL, section 3.2).

Each view is a crop of between T and alpha T frames, of which T are drawn at random, in order; the
crops overlap by at least beta of the shorter.  A clip shorter than its crop is padded: positions
beyond its end repeat the last frame and are not valid.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Views", "sample_views"]


@dataclass(frozen=True, eq=False)
class Views:
    """Frames of the two views of a clip.

    Attributes:
        frames: int64 (2, T), in order, within the clip.
        valid: bool (2, T), False where a position is padding.
    """

    frames: NDArray[np.int64]
    valid: NDArray[np.bool_]


def sample_views(
    clip_frames: int, num_frames: int, *, alpha: float, beta: float, rng: np.random.Generator
) -> Views:
    """Draw two views.

    Args:
        clip_frames: frames of the clip, at least 1.
        num_frames: T.
        alpha: longest crop, as a multiple of T.
        beta: least overlap of the crops, as a share of the shorter.
        rng: where the draws come from.
    """
    lengths = [int(np.ceil(rng.uniform(1, alpha) * num_frames)) for _ in range(2)]
    last = [max(0, clip_frames - length) for length in lengths]
    first = int(rng.integers(last[0] + 1))
    overlap = int(np.ceil(beta * min(lengths)))
    low = min(last[1], max(0, first + overlap - lengths[1]))
    high = max(low, min(last[1], first + lengths[0] - overlap))
    starts = [first, int(rng.integers(low, high + 1))]
    frames = np.stack(
        [
            start + np.sort(rng.permutation(length)[:num_frames])
            for start, length in zip(starts, lengths, strict=True)
        ]
    )
    return Views(np.minimum(frames, clip_frames - 1), frames < clip_frames)
