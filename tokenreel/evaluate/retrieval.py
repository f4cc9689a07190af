"""Fine-grained retrieval: precision of the K nearest frames of other clips (the papers' AP@K).

Queries and gallery are the validation clips of one action; a clip is not in its own gallery.  Mean
over the frames of a clip, then over clips.  Ties go to the frame that comes first.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tokenreel.evaluate.tau import squared_distances

__all__ = ["Retrieved", "retrieve_frames"]

_BLOCK_VALUES = 4_000_000  # distances held at once


@dataclass(frozen=True)
class Retrieved:
    """Attributes: precision by K (NaN where no clip counts); num_queries, frames; num_nan_clips."""

    precision: dict[int, float]
    num_queries: int
    num_nan_clips: int


def retrieve_frames(
    clips: Sequence[NDArray[np.floating]],
    labels: Sequence[NDArray[np.int64]],
    ks: Sequence[int],
) -> Retrieved:
    """Precision at each K.

    Args:
        clips: embeddings (T_i, C), strided already.
        labels: phases (T_i,).
        ks: numbers of neighbours; fewer are used where the gallery has fewer.
    """
    by_clip: dict[int, list[float]] = {k: [] for k in ks}
    for own, (queries, wanted) in enumerate(zip(clips, labels, strict=True)):
        others = [i for i in range(len(clips)) if i != own and len(clips[i])]
        if not others or not len(queries):
            for values in by_clip.values():
                values.append(float("nan"))
            continue
        gallery = np.concatenate([clips[i] for i in others])
        gallery_labels = np.concatenate([labels[i] for i in others])
        hits = _nearest_labels(queries, gallery, gallery_labels, max(ks)) == wanted[:, None]
        for k, values in by_clip.items():
            values.append(float(hits[:, :k].mean(axis=1).mean()))
    num_nan = int(np.isnan(by_clip[ks[0]]).sum())
    precision = {
        k: float(np.nanmean(values)) if num_nan < len(values) else float("nan")
        for k, values in by_clip.items()
    }
    return Retrieved(precision, sum(map(len, clips)), num_nan)


def _nearest_labels(
    queries: NDArray[np.floating],
    gallery: NDArray[np.floating],
    gallery_labels: NDArray[np.int64],
    count: int,
) -> NDArray[np.int64]:
    """Labels of the nearest gallery frames, (n, count), in blocks that bound the memory."""
    rows = max(1, _BLOCK_VALUES // len(gallery))
    parts = []
    for start in range(0, len(queries), rows):
        distances = squared_distances(queries[start : start + rows], gallery)
        order = np.argsort(distances, axis=1, kind="stable")[:, :count]
        parts.append(gallery_labels[order])
    return np.concatenate(parts)
