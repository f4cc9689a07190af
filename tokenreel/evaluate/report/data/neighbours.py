"""The nearest frames of other clips, one by one: what AP@K counts, to be looked at."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.embeddings import EmbeddedClip, EmbeddingFile
from tokenreel.cache.errors import UsageError
from tokenreel.evaluate.methods.tau import squared_distances

__all__ = ["Neighbour", "gallery_of", "nearest_frames"]


@dataclass(frozen=True, eq=False)
class Neighbour:
    """A frame found.

    Attributes:
        clip: it is of.
        frame: its position in the clip, from 0.
        distance: squared Euclidean, from the query.
        is_right: whether its phase is the query's; None where the query has no label.
    """

    clip: EmbeddedClip
    frame: int
    distance: float
    is_right: bool | None


def gallery_of(file: EmbeddingFile, clip: EmbeddedClip) -> list[EmbeddedClip]:
    """The other clips of a clip's action and split; of its group where it has no action.

    Raises:
        UsageError: there is none.
    """
    word = "action" if clip.action else "group"
    value = getattr(clip, word)
    others = [
        other
        for other in file.clips
        if other is not clip and other.split == clip.split and getattr(other, word) == value
    ]
    if not others:
        raise UsageError(
            f"{clip.clip_id}: no other clip of the {word} {value!r} and the split {clip.split!r} "
            f"in {file.path}: there is nothing to retrieve from"
        )
    return others


def nearest_frames(
    clip: EmbeddedClip, frame: int, gallery: Sequence[EmbeddedClip], *, k: int
) -> list[Neighbour]:
    """The k nearest frames, nearest first; of equally near ones the first in the gallery's order.

    Frames without a label are left out, as AP@K leaves them out, unless the query has none either.

    Args:
        clip: the query's.
        frame: its position in the clip, from 0.
        gallery: clips to search; the query's own is left out.
        k: how many, >= 1; fewer are found where the gallery has fewer.

    Raises:
        UsageError: a frame that the clip has not.
        ValueError: k < 1.
    """
    if not 0 <= frame < clip.num_frames:
        raise UsageError(f"frame {frame}: {clip.clip_id} has frames 0 to {clip.num_frames - 1}")
    if k < 1:
        raise ValueError(f"k is at least 1, got {k}")
    label = int(clip.labels[frame])
    found: list[tuple[float, EmbeddedClip, int]] = []
    for other in gallery:
        if other is clip:
            continue
        kept = np.flatnonzero(other.labels >= 0) if label >= 0 else np.arange(other.num_frames)
        distances = squared_distances(clip.embeddings[frame : frame + 1], other.embeddings[kept])[0]
        order = _smallest(distances, k)
        found += [(float(distances[i]), other, int(kept[i])) for i in order]
    found.sort(key=lambda item: item[0])  # stable: ties stay in the gallery's order
    return [
        Neighbour(other, at, distance, None if label < 0 else int(other.labels[at]) == label)
        for distance, other, at in found[:k]
    ]


def _smallest(distances: NDArray[np.float64], k: int) -> NDArray[np.int64]:
    return np.argsort(distances, kind="stable")[:k]
