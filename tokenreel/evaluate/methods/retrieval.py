"""Fine-grained retrieval: precision of the K nearest frames of other clips (the papers' AP@K).

Queries and gallery are the validation clips of one action; a clip is not in its own gallery.  Mean
over the frames of a clip, then over clips.  Ties go to the frame that comes first.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tokenreel.evaluate.methods.nearest import MEMORY_BYTES, nearest_in_other_clips

__all__ = ["Retrieved", "retrieve_frames"]


@dataclass(frozen=True, eq=False)
class Retrieved:
    """What the search found.

    Attributes:
        precision: K -> mean over clips, NaN where no clip counts.
        by_clip: K -> (clips,) mean over the frames of each, NaN without frames or gallery.
        num_queries: frames.
        num_nan_clips: clips that give NaN.
    """

    precision: dict[int, float]
    by_clip: dict[int, NDArray[np.float64]]
    num_queries: int
    num_nan_clips: int


def retrieve_frames(
    clips: Sequence[NDArray[np.floating]],
    labels: Sequence[NDArray[np.int64]],
    ks: Sequence[int],
    *,
    memory_bytes: int = MEMORY_BYTES,
    threads: int = 1,
) -> Retrieved:
    """Precision at each K.

    Args:
        clips: embeddings (T_i, C), strided already.
        labels: phases (T_i,).
        ks: numbers of neighbours; fewer are used where the gallery has fewer.
        memory_bytes: what the blocks of the search may hold.
        threads: blocks searched at once; the answer does not depend on it.
    """
    lengths = np.array([len(clip) for clip in clips])
    by_clip = {k: np.full(len(clips), np.nan) for k in ks}
    if np.count_nonzero(lengths) > 1:
        found = nearest_in_other_clips(clips, max(ks), memory_bytes=memory_bytes, threads=threads)
        phases = np.concatenate(labels)
        is_there = found.index >= 0
        hits = (phases[found.index] == phases[:, None]) & is_there
        full = np.flatnonzero(lengths)
        starts = (np.cumsum(lengths) - lengths)[full]
        for k, values in by_clip.items():
            each = hits[:, :k].sum(axis=1) / is_there[:, :k].sum(axis=1)
            values[full] = np.add.reduceat(each, starts) / lengths[full]
    num_nan = int(np.isnan(by_clip[ks[0]]).sum())
    precision = {
        k: float(np.nanmean(values)) if num_nan < len(values) else float("nan")
        for k, values in by_clip.items()
    }
    return Retrieved(precision, by_clip, int(lengths.sum()), num_nan)
