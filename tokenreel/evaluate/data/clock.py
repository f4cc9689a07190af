"""The clock: a control that knows of a frame only its position in the clip, of a tag its share.

Phases of an action follow each other at about the same share of every clip, so that a position
alone names many of them, and orders all.  What a model has learned to see is its distance to these
numbers.  Frame t of T is on the unit circle at the angle t / T (of a radian: nearly a line, which
progression regresses best), so that near frames of two clips are those at the same share; no video,
store or label is used.

Where rows are scores of the tags of clips, the control gives every clip the same: (1 + s) / 2 for a
tag that a share s of the training clips has.  At a threshold below a half it decides every tag, and
its first one is the most common.  Where rows are vectors beside those of texts, it gives every clip
the same vector, which finds nothing.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.canonical import canonical_json, read_json
from tokenreel.cache.embeddings import EmbeddedClip, EmbeddingFile, write_embeddings

CLOCK = "clock"  # model, recipe and run of the control


def clock_embeddings(num_frames: int) -> NDArray[np.float32]:
    """The position of each frame of a clip, (T, 2), of unit length.

    >>> clock_embeddings(4).astype(float).round(2).tolist()
    [[1.0, 0.0], [0.97, 0.25], [0.88, 0.48], [0.73, 0.68]]
    """
    angle = np.arange(num_frames) / num_frames
    return np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)


@dataclass(eq=False)
class _Clock:
    """The clock of files that are evaluated on the same clips.

    Attributes:
        name: of its run.
        key: what such files have in common besides clips.
        clips: action -> its clips.
        digests: action -> digest of what its clips are evaluated by.
    """

    name: str
    key: str
    clips: dict[str, list[EmbeddedClip]] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)

    def takes(self, key: str, digests: Mapping[str, str]) -> bool:
        """Whether a file is evaluated on clips of this clock, or on further actions."""
        shared = self.digests.keys() & digests.keys()
        is_known = bool(read_json(key)["dataset"])  # two unnamed data sets share nothing
        return (
            key == self.key
            and bool(shared or is_known)
            and all(self.digests[action] == digests[action] for action in shared)
        )


class Clocks:
    """One clock for all files that are evaluated on the same clips of an action."""

    def __init__(self) -> None:
        self._clocks: list[_Clock] = []

    def add(self, file: EmbeddingFile) -> int:
        """Take the clips of a file, without their embeddings; the number of its clock."""
        provenance = file.provenance
        common: dict[str, Any] = {
            "dataset": str(provenance.get("dataset", "")),
            "evaluate": provenance.get("evaluate", {}),
            "unit": file.unit,
            "class_names": list(file.class_names),
        }
        if "pairs" in provenance:
            common["pairs"] = provenance["pairs"]
        key = canonical_json(common).decode()
        by_action: dict[str, list[EmbeddedClip]] = {}
        for clip in file.clips:
            by_action.setdefault(clip.action, []).append(clip)
        digests = {action: _digest(clips) for action, clips in by_action.items()}
        numbers = (i for i, clock in enumerate(self._clocks) if clock.takes(key, digests))
        number = next(numbers, len(self._clocks))
        if number == len(self._clocks):
            name = f"{CLOCK} of {file.run_name}" if number else CLOCK
            self._clocks.append(_Clock(name, key))
        clock = self._clocks[number]
        scores = common_scores(file) if file.is_of_tags else None
        if "pairs" in provenance:
            channels = file.clips[0].embeddings.shape[1]
            scores = np.full((1, channels), channels**-0.5, np.float32)
        for action in by_action.keys() - clock.clips.keys():
            clock.clips[action] = [
                _timed(clip) if scores is None else replace(clip, embeddings=scores)
                for clip in by_action[action]
            ]
        clock.digests |= digests
        return number

    def write(self, folder: Path) -> list[Path]:
        """Write the embedding file of each clock: clock.h5, clock-2.h5 and so on."""
        paths = []
        for number, clock in enumerate(self._clocks, 1):
            provenance: dict[str, Any] = read_json(clock.key)
            unit, class_names = provenance.pop("unit"), provenance.pop("class_names")
            path = folder / f"{CLOCK}{f'-{number}' if number > 1 else ''}.h5"
            clips = [clip for action in sorted(clock.clips) for clip in clock.clips[action]]
            names = {"run": clock.name, "recipe": clock.name, "model": CLOCK}
            write_embeddings(
                path, clips, provenance=provenance | names, unit=unit, class_names=class_names
            )
            paths.append(path)
        return paths


def common_scores(file: EmbeddingFile) -> NDArray[np.float32]:
    """A score of each tag by how many of the training clips have it, (1, K), above a half."""
    targets = [clip.targets for clip in file.clips if clip.split == "train"]
    share = np.mean(targets, axis=0) if targets else np.zeros(len(file.class_names))
    return ((1 + share) / 2).astype(np.float32)[None]


def _timed(clip: EmbeddedClip) -> EmbeddedClip:
    return replace(clip, embeddings=clock_embeddings(clip.num_frames))


def _digest(clips: Sequence[EmbeddedClip]) -> str:
    digest = hashlib.sha256()
    for clip in clips:
        names = [clip.clip_id, clip.split, clip.group, clip.num_frames, list(clip.phases)]
        digest.update(canonical_json(names) + clip.labels.tobytes() + clip.targets.tobytes())
    return digest.hexdigest()
