"""Alignment of two clips by exact dynamic time warping, for pictures and exports.

methods/warping.py has the path.  The metric tau is of nearest neighbours and does not depend on it.
"""

import csv
import io
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.embeddings import EmbeddedClip, EmbeddingFile
from tokenreel.cache.errors import UsageError
from tokenreel.evaluate.methods.nearest import squared_distances
from tokenreel.evaluate.methods.tau import tau_b
from tokenreel.evaluate.methods.warping import WarpingPath, warp, warp_frames

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
TABLE_CELLS = 16_000_000  # pairs of frames that have a table of distances


@dataclass(frozen=True, eq=False)
class AlignedClips:
    """A pair of clips of n and m frames.

    Attributes:
        query, reference: the clips.
        path: the cheapest warping path through the squared Euclidean distances of their frames.
        nearest: (n,) int64, the nearest frame of the reference for each of the query.
        tau: tau-b of `nearest`, every frame; may be NaN.
    """

    query: EmbeddedClip
    reference: EmbeddedClip
    path: WarpingPath
    nearest: NDArray[np.int64]
    tau: float

    @property
    def distances(self) -> NDArray[np.float64]:
        """Squared Euclidean distances, (n, m); of evenly spread frames where clips are long."""
        query, reference = self.query.embeddings, self.reference.embeddings
        if len(query) * len(reference) > TABLE_CELLS:
            query, reference = _spread(query), _spread(reference)
        return squared_distances(query, reference)

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
    """Align two clips of one embedding file, of any length: exact, in memory linear in theirs."""
    if query.num_frames * reference.num_frames > TABLE_CELLS:
        warped = warp_frames(query.embeddings, reference.embeddings)
        path, nearest = warped.path, warped.nearest
    else:
        distances = squared_distances(query.embeddings, reference.embeddings)
        path, nearest = warp(distances), distances.argmin(axis=1)
    return AlignedClips(query, reference, path, nearest, tau_b(nearest))


def _spread(frames: NDArray[np.float32]) -> NDArray[np.float32]:
    """At most as many frames as a square table has rows, evenly spread."""
    count = min(len(frames), math.isqrt(TABLE_CELLS))
    return frames[np.linspace(0, len(frames) - 1, count).round().astype(np.int64)]


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
