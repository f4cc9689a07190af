"""Scores of the tags of clips, which the metrics of whole clips compare with their targets."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.embeddings import EmbeddingFile
from tokenreel.evaluate.data.results import Score
from tokenreel.evaluate.tasks.task import Request


@dataclass(frozen=True, eq=False)
class Scored:
    """The clips of a split.

    Attributes:
        scores: (n, K) float32.
        targets: (n, K), 0 or 1.
        class_names: of the K tags.
    """

    scores: NDArray[np.float32]
    targets: NDArray[np.int64]
    class_names: tuple[str, ...]

    @property
    def num_absent(self) -> int:
        """Tags that no clip has."""
        return int((self.targets.sum(axis=0) == 0).sum())

    @property
    def num_untagged(self) -> int:
        """Clips without a tag."""
        return int((self.targets.sum(axis=1) == 0).sum())

    def note(self, split: str) -> str:
        """What is missing of the tags, in words; "" where nothing is."""
        parts = []
        if self.num_absent:
            absent = np.flatnonzero(self.targets.sum(axis=0) == 0)
            named = ", ".join(self.class_names[place] for place in absent[:6])
            more = ", ..." if len(absent) > 6 else ""
            parts.append(
                f"{len(absent)} of {len(self.class_names)} tags have no clip of the split {split}: "
                f"{named}{more}"
            )
        if self.num_untagged:
            parts.append(f"{self.num_untagged} of {len(self.targets)} clips have no tag")
        return "; ".join(parts)


def clips_of(file: EmbeddingFile, split: str) -> Scored:
    """The clips of a split with their scores."""
    clips = [clip for clip in file.clips if clip.split == split]
    count = len(file.class_names)
    return Scored(
        np.concatenate([np.empty((0, count), np.float32), *(clip.embeddings for clip in clips)]),
        np.stack([clip.targets for clip in clips]).astype(np.int64)
        if clips
        else np.empty((0, count), np.int64),
        file.class_names,
    )


def missing_scores(file: EmbeddingFile) -> tuple[str, str]:
    """Why a file has no scores of tags, and the status of the rows; else "", ""."""
    if not file.class_names:
        return "no tags of clips in the embedding file (targets and class_names)", "skipped"
    if not file.is_of_tags:
        return (
            f"its rows are of a {file.unit} and have {file.clips[0].embeddings.shape[1]} channels, "
            f"not one of each clip with {len(file.class_names)} scores of tags",
            "skipped",
        )
    return "", ""


def missing_one_tag(file: EmbeddingFile) -> tuple[str, str]:
    """As missing_scores, also where clips have several tags."""
    found = missing_scores(file)
    several = sum(int(clip.targets.sum()) > 1 for clip in file.clips)
    if not found[0] and several:
        return f"{several} of {len(file.clips)} clips have several tags", "skipped"
    return found


def counted(blank: Score, data: Scored) -> Score:
    """A row with what is missing of the tags; there must be a clip of the split with a tag.

    Raises:
        ValueError: there is none.
    """
    if data.num_untagged == len(data.targets):
        raise ValueError(f"no clip of the split {blank.split} has a tag")
    return replace(
        blank,
        num_dropped=data.num_untagged,
        num_nan=data.num_absent,
        num_classes=len(data.class_names),
        num_positives=int(data.targets.sum()),
        note=data.note(blank.split),
    )


def scored(file: EmbeddingFile, request: Request) -> tuple[Scored, Score]:
    """The clips of a request with their scores, and the row that its rows are copies of.

    Raises:
        ValueError: no clip of the split has a tag.
    """
    data = clips_of(file, request.blank.split)
    return data, counted(request.blank, data)
