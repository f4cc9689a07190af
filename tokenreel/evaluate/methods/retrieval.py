"""Fine-grained retrieval: precision of the K nearest frames of other clips (the papers' AP@K).

Queries and gallery are the validation clips of one action; a clip is not in its own gallery.  Mean
over the frames of a clip, then over clips.  Ties go to the frame that comes first.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.embeddings import EmbeddedClip, EmbeddingFile
from tokenreel.cache.errors import UsageError
from tokenreel.evaluate.methods.finite import require_frames, require_labels
from tokenreel.evaluate.methods.nearest import (
    MEMORY_BYTES,
    nearest_in_other_clips,
    squared_distances,
)


@dataclass(frozen=True, eq=False)
class Retrieved:
    """Precision of the retrieved frames.

    Attributes:
        precision: K -> mean over clips, NaN where no clip counts.
        by_clip: K -> (clips,) mean over the frames of each, NaN without frames or gallery.
        num_nan_clips: clips that give NaN.
    """

    precision: dict[int, float]
    by_clip: dict[int, NDArray[np.float64]]
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

    Raises:
        ValueError: NaN or infinity in a clip, labels of another number than frames, no K, K < 1.
        TypeError: labels that are not whole numbers.
    """
    require_frames("clips", clips)
    require_labels("labels", labels, clips)
    if not ks or any(not isinstance(k, int | np.integer) or k < 1 for k in ks):
        raise ValueError(f"ks are numbers of neighbours from 1, got {tuple(ks)}")
    lengths = np.array([len(clip) for clip in clips])
    by_clip = {k: np.full(len(clips), np.nan) for k in ks}
    if np.count_nonzero(lengths) > 1:
        found = nearest_in_other_clips(clips, max(ks), memory_bytes=memory_bytes, threads=threads)
        phases = np.concatenate(labels)
        is_there = found >= 0
        hits = (phases[found] == phases[:, None]) & is_there
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
    return Retrieved(precision, by_clip, num_nan)


@dataclass(frozen=True, eq=False)
class Neighbour:
    """A retrieved frame.

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

    @property
    def verdict(self) -> str:
        """Whether its phase is right, in a word: "right", "wrong" or "unlabelled"."""
        return {True: "right", False: "wrong", None: "unlabelled"}[self.is_right]


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
        UsageError: no such frame in the clip.
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
        order = np.argsort(distances, kind="stable")[:k]
        found += [(float(distances[i]), other, int(kept[i])) for i in order]
    found.sort(key=lambda item: item[0])  # stable: ties stay in the gallery's order
    return [
        Neighbour(other, at, distance, None if label < 0 else int(other.labels[at]) == label)
        for distance, other, at in found[:k]
    ]
