"""The best patches so far: of all, and of each clip."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Places = NDArray[np.int64]
Values = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Candidates:
    """Patches with their cosines in float64, (m,) each.

    Attributes:
        scores: cosines.
        clips, frames, patches: where they are.
    """

    scores: Values
    clips: Places
    frames: Places
    patches: Places

    @classmethod
    def none(cls) -> "Candidates":
        """No patch."""
        empty = np.empty(0, np.int64)
        return cls(np.empty(0), empty, empty, empty)

    def with_(self, other: "Candidates") -> "Candidates":
        """These and others."""
        return Candidates(
            np.concatenate([self.scores, other.scores]),
            np.concatenate([self.clips, other.clips]),
            np.concatenate([self.frames, other.frames]),
            np.concatenate([self.patches, other.patches]),
        )

    def at(self, rows: Places) -> "Candidates":
        """Some of them, in the order of `rows`."""
        return Candidates(
            self.scores[rows], self.clips[rows], self.frames[rows], self.patches[rows]
        )

    def ordered(self) -> "Candidates":
        """By falling score; equal ones by clip, frame and patch."""
        return self.at(np.lexsort((self.patches, self.frames, self.clips, -self.scores)))


class Ranking:
    """The best patches of those added so far.

    Args:
        count: how many are kept of all.
        num_clips: of the search.
    """

    def __init__(self, count: int, num_clips: int) -> None:
        self.count = count
        self.best = Candidates.none()
        self._of_clip = np.full(num_clips, -np.inf)
        self._frame = np.zeros(num_clips, np.int64)
        self._patch = np.zeros(num_clips, np.int64)

    @property
    def threshold(self) -> float:
        """A patch below it is not among the best; minus infinity until there are enough."""
        scores = self.best.scores
        return float(scores[-1]) if len(scores) == self.count else -np.inf

    def add(self, found: Candidates) -> None:
        """Take patches into account."""
        merged = self.best.with_(found).ordered()
        self.best = merged.at(np.arange(min(self.count, len(merged.scores))))
        ordered = found.ordered()
        clips, first = np.unique(ordered.clips, return_index=True)
        top = ordered.at(first)
        held = Candidates(self._of_clip[clips], clips, self._frame[clips], self._patch[clips])
        both = held.with_(top).ordered()
        _, first = np.unique(both.clips, return_index=True)
        best = both.at(first)
        self._of_clip[best.clips] = best.scores
        self._frame[best.clips], self._patch[best.clips] = best.frames, best.patches

    def of_clips(self) -> Candidates:
        """The best patch of each clip that has one, the best clip first."""
        clips = np.flatnonzero(np.isfinite(self._of_clip))
        found = Candidates(self._of_clip[clips], clips, self._frame[clips], self._patch[clips])
        return found.ordered()
