"""Data of the metrics: sound clips, labelled frames and splits of an action of an embedding file.

A clip with embeddings that are not finite, or with a label out of range, is left out of every
metric, named and counted; the other clips are evaluated.  Frames without a label (-1) are dropped
before any stride.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.embedding_arrays import require_file
from tokenreel.cache.embeddings import EmbeddedClip, EmbeddingFile, read_embeddings
from tokenreel.cache.errors import EmbeddingFileError

CHANGED = "changed while it was evaluated: run this again"

SPLITS = {  # name -> how others spell it
    "train": ("train", "training", "trn"),
    "val": ("val", "valid", "validation", "eval"),
    "test": ("test", "testing", "tst"),
}


@dataclass(frozen=True, eq=False)
class Side:
    """The labelled frames of one split of one action, by clip, in the order of the file.

    Attributes:
        clip_ids: names of the clips.
        embeddings: (T_i, C) float32.
        labels: (T_i,) int64, all >= 0.
        num_dropped: frames without a label, of these clips.
    """

    clip_ids: list[str]
    embeddings: list[NDArray[np.float32]]
    labels: list[NDArray[np.int64]]
    num_dropped: int

    @property
    def num_frames(self) -> int:
        """Labelled frames."""
        return sum(map(len, self.labels))


@dataclass(frozen=True, eq=False)
class ActionData:
    """The clips of one action.

    Attributes:
        train, val: its splits.
        num_phases: named in the file, or the largest label + 1.
        is_shared: for each validation clip, whether its video is among the training clips too.
    """

    train: Side
    val: Side
    num_phases: int
    is_shared: list[bool]


@dataclass(frozen=True, eq=False)
class ScreenedFile:
    """A file without its bad clips.

    Attributes:
        file: with the sound clips.
        left_out: action -> one sentence for each clip that was left out.
    """

    file: EmbeddingFile
    left_out: dict[str, list[str]]


class FileChanged(EmbeddingFileError):
    """An embedding file was replaced while it was evaluated."""


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hex.

    Raises:
        EmbeddingFileError: no file, such as a pipe.
        OSError: it cannot be read.
    """
    require_file(path)
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


@lru_cache(maxsize=1)
def load_screened(path: Path, sha256: str) -> ScreenedFile:
    """Read a file and leave its bad clips out; the last file is kept.

    Args:
        path: the file.
        sha256: of its bytes, so that a changed file is read again.

    Raises:
        EmbeddingFileError: absent, torn, or not in the layout.
        FileChanged: the file has other bytes than those of the hash by now.
    """
    file = read_embeddings(path, finite=False)
    if file_sha256(path) != sha256:
        raise FileChanged(f"{path} {CHANGED}")
    clips, left_out = screen_clips(file.clips)
    for action, reasons in file.provenance.get("left_out", {}).items():  # when it was made
        left_out[action] = [*map(str, reasons), *left_out.get(action, [])]
    return ScreenedFile(replace(file, clips=tuple(clips)), left_out)


def screen_clips(
    clips: Sequence[EmbeddedClip],
) -> tuple[list[EmbeddedClip], dict[str, list[str]]]:
    """Sound clips, and by action a sentence for each of the others.

    Clips of a split of another name are no part of any metric; where there are no others, that is
    wrong.
    """
    sound: list[EmbeddedClip] = []
    left_out: dict[str, list[str]] = {}
    has_split = any(clip.split in SPLITS or nearest_split(clip.split) for clip in clips)
    named: dict[str, EmbeddedClip] = {}  # the first clip of each action that names its phases
    for clip in clips:
        reason = _what_is_wrong(clip)
        first = named.setdefault(clip.action, clip) if clip.phases else clip
        if not reason and first.phases != clip.phases:
            reason = (
                f"its phases are {', '.join(clip.phases)}, those of {first.clip_id}, of the same "
                f"action, {', '.join(first.phases)}: name and number them alike"
            )
        if not has_split:
            reason = f"its split is {clip.split!r}: write one of {', '.join(SPLITS)}"
        if reason:
            left_out.setdefault(clip.action, []).append(f"{clip.clip_id}: {reason}")
        else:
            sound.append(clip)
    return sound, left_out


def group_reasons(reasons: Sequence[str]) -> list[str]:
    """Sentences of screen_clips with one line for all clips of the same reason.

    >>> group_reasons(["a: its split is 'Val'", "b: label -2", "c: its split is 'Val'"])
    ["a, and 1 more clip(s): its split is 'Val'", 'b: label -2']
    """
    clips: dict[str, list[str]] = {}
    for sentence in reasons:
        clip_id, _, reason = sentence.partition(": ")
        clips.setdefault(reason, []).append(clip_id)
    return [
        f"{names[0]}{f', and {len(names) - 1} more clip(s)' if names[1:] else ''}: {reason}"
        for reason, names in clips.items()
    ]


def nearest_split(split: str) -> str:
    """The split that another spelling means, "" for a split as it should be or any other word.

    >>> nearest_split("Training"), nearest_split("valid"), nearest_split("train")
    ('train', 'val', '')
    """
    if split in SPLITS:
        return ""
    word = split.strip().lower()
    for known, also in SPLITS.items():
        if word in also:
            return known
    close = get_close_matches(word, SPLITS, n=1, cutoff=0.8)  # vall, trian
    return close[0] if close else ""


def _what_is_wrong(clip: EmbeddedClip) -> str:
    bad = int((~np.isfinite(clip.embeddings).all(axis=1)).sum())
    if bad:
        first = int(np.flatnonzero(~np.isfinite(clip.embeddings).all(axis=1))[0])
        return (
            f"{bad} of {clip.num_frames} frames have NaN or infinite embeddings, the first is "
            f"frame {first}: write finite ones, or leave the clip out"
        )
    if split := nearest_split(clip.split):
        return f"its split is {clip.split!r}: write {split!r}"
    low, high = int(clip.labels.min()), int(clip.labels.max())
    if low < -1:
        return f"label {low} is out of range, -1 means unlabelled"
    if clip.phases and high >= len(clip.phases):
        return f"label {high} is out of range, its action has {len(clip.phases)} phases"
    return ""


def load_action(path: Path, sha256: str, action: str) -> ActionData:
    """The labelled clips of one action."""
    clips = [
        clip
        for clip in load_screened(path, sha256).file.clips
        if clip.action == action and (clip.labels >= 0).any()
    ]
    train = [clip for clip in clips if clip.split == "train"]
    val = [clip for clip in clips if clip.split == "val"]
    phases = max((int(clip.labels.max()) + 1 for clip in clips), default=0)
    named = max((len(clip.phases) for clip in clips), default=0)
    return ActionData(_side(train), _side(val), max(phases, named), shared_clips(clips))


def shared_clips(clips: Sequence[EmbeddedClip]) -> list[bool]:
    """For each validation clip, whether its video is among the training clips too."""
    groups = {clip.group for clip in clips if clip.split == "train" and clip.group}
    val = [clip for clip in clips if clip.split == "val"]
    return [clip.group.startswith("shared:") or clip.group in groups for clip in val]


def _side(clips: Sequence[EmbeddedClip]) -> Side:
    kept = [clip.labels >= 0 for clip in clips]
    return Side(
        [clip.clip_id for clip in clips],
        [
            clip.embeddings if keep.all() else clip.embeddings[keep]
            for clip, keep in zip(clips, kept, strict=True)
        ],
        [clip.labels[keep].astype(np.int64) for clip, keep in zip(clips, kept, strict=True)],
        int(sum((~keep).sum() for keep in kept)),
    )
