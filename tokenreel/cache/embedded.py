"""Embedded clips, and the arrays of an embedding file that they become and are made of again."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from tokenreel.cache.format.identity import canonical_json
from tokenreel.cache.manifest import UNLABELLED

__all__ = ["PER_FRAME", "TEXTS", "EmbeddedClip", "clips_of", "flatten_clips"]

TEXTS = ("clip_id", "split", "action", "group", "video", "phases")
PER_FRAME = {"labels": np.int16, "times_seconds": np.float64, "frame_index": np.int64}


@dataclass(frozen=True, eq=False)
class EmbeddedClip:
    """The embeddings of one clip and what evaluation needs to know about it.

    Attributes:
        clip_id: name of the clip, unique in the file.
        split: "train", "val" or "test".
        action: name of the action, "" when unknown.
        group: clips of one group show the same video; "" when unknown.
        embeddings: (T, C) float32, T >= 1, finite.
        labels: (T,) int16, phase of each frame, -1 where unlabelled.
        times_seconds: (T,) float64, presentation time in the video.
        phases: names of the phases of the action, in the order of their indices.
        frame_index: (T,) int64, index of each frame in the decoded video.
        video: path of the video, relative to the data set's root.
    """

    clip_id: str
    split: str
    action: str
    group: str
    embeddings: np.ndarray
    labels: np.ndarray
    times_seconds: np.ndarray
    phases: tuple[str, ...] = ()
    frame_index: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    video: str = ""

    @property
    def num_frames(self) -> int:
        """T."""
        return len(self.embeddings)


def flatten_clips(clips: Sequence[EmbeddedClip]) -> dict[str, Any]:
    """The arrays of an embedding file: frames of all clips end to end, texts as lists.

    Raises:
        ValueError: clips whose shapes, names or values do not fit together.
    """
    if not clips:
        raise ValueError("an embedding file holds at least one clip, got none")
    for clip in clips:
        _check(clip, channels=clips[0].embeddings.shape[-1])
    if len({clip.clip_id for clip in clips}) != len(clips):
        raise ValueError("two clips have the same clip_id")
    index = [
        clip.frame_index if len(clip.frame_index) else np.arange(clip.num_frames) for clip in clips
    ]
    arrays: dict[str, Any] = {
        "embeddings": np.concatenate([clip.embeddings for clip in clips]).astype(np.float32),
        "lengths": np.array([clip.num_frames for clip in clips], np.int64),
        "labels": np.concatenate([clip.labels for clip in clips]).astype(np.int16),
        "times_seconds": np.concatenate([clip.times_seconds for clip in clips]).astype(np.float64),
        "frame_index": np.concatenate(index).astype(np.int64),
    }
    for name in TEXTS[:-1]:
        arrays[name] = [getattr(clip, name) for clip in clips]
    arrays["phases"] = [canonical_json(list(clip.phases)).decode() for clip in clips]
    return arrays


def _check(clip: EmbeddedClip, *, channels: int, finite: bool = True) -> None:
    shape = clip.embeddings.shape
    if len(shape) != 2 or shape[0] < 1 or shape[1] != channels:
        raise ValueError(f"{clip.clip_id}: embeddings are {shape}, wanted (T >= 1, {channels})")
    if finite and not np.isfinite(clip.embeddings).all():
        raise ValueError(f"{clip.clip_id}: embeddings hold NaN or infinity")
    for name in PER_FRAME:
        length = len(getattr(clip, name))
        if length != shape[0] and not (name == "frame_index" and length == 0):
            raise ValueError(f"{clip.clip_id}: {length} {name} for {shape[0]} frames")


def clips_of(arrays: Mapping[str, Any], *, finite: bool) -> list[EmbeddedClip]:
    """The clips that the arrays of an embedding file hold; defaults for what is optional.

    Args:
        arrays: embeddings, lengths, clip_id, split and any of the optional ones.
        finite: refuse NaN and infinity.

    Raises:
        ValueError: arrays that do not fit together.
    """
    lengths = np.asarray(arrays["lengths"], np.int64)
    embeddings = np.asarray(arrays["embeddings"], np.float32)
    total = int(lengths.sum())
    if lengths.ndim != 1 or (lengths < 1).any() or embeddings.ndim != 2 or len(embeddings) != total:
        raise ValueError(f"embeddings {embeddings.shape} do not fit lengths of sum {total}")
    starts = np.concatenate([[0], np.cumsum(lengths)])
    counting = np.concatenate([np.arange(length) for length in lengths])
    defaults: dict[str, Any] = {
        "labels": np.full(total, UNLABELLED),
        "times_seconds": counting,
        "frame_index": counting,
    }
    frames = {n: np.asarray(arrays.get(n, defaults[n])).astype(t) for n, t in PER_FRAME.items()}
    blank = [""] * len(lengths)
    texts = {name: [str(text) for text in arrays.get(name, blank)] for name in TEXTS}
    for name, values in (frames | texts).items():
        if len(values) != (total if name in frames else len(lengths)):
            raise ValueError(f"{len(values)} {name} for {len(lengths)} clips of {total} frames")
    clips = []
    for i, (start, stop) in enumerate(pairwise(starts)):
        words: dict[str, Any] = {name: texts[name][i] for name in TEXTS[:-1]}
        phases = tuple(json.loads(texts["phases"][i] or "[]"))
        rows: dict[str, Any] = {name: values[start:stop] for name, values in frames.items()}
        clip = EmbeddedClip(embeddings=embeddings[start:stop], phases=phases, **words, **rows)
        _check(clip, channels=embeddings.shape[1], finite=finite)
        clips.append(clip)
    if len(set(texts["clip_id"])) != len(clips):
        raise ValueError("two clips have the same clip_id")
    return clips
