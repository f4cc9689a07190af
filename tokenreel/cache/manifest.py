"""The description of a data set's clips, made before any video is opened.

A data set is a function that reads annotation files and returns a :class:`Manifest`.  The labels
are copied into the token store at extraction, so phases 2 and 3 never read the annotations.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

UNLABELLED = -1  # the label of a frame that no span covers


@dataclass(frozen=True, slots=True)
class LabelSpan:
    """One phase of a clip, in the time of its video file.

    Attributes:
        start_seconds: first instant of the phase, in presentation time of the video.
        stop_seconds: the instant after it: the range is [start, stop).
        phase: index of the phase, from 0, within the action.
        where: file and line the span was read from, for errors: "labels.csv:12".
    """

    start_seconds: float
    stop_seconds: float
    phase: int
    where: str = ""


@dataclass(frozen=True, slots=True)
class Clip:
    """One clip: a video file or a time range of one.

    Attributes:
        clip_id: unique in the data set; letters, digits and any of "._-/ ".
        video: path of the video below the root, with forward slashes.
        start_seconds: start of the clip in the video, None for the beginning.
        stop_seconds: end of the clip, exclusive, None for the end of the file.
        split: "train", "val" or "test".
        action: name of the action, "" when unknown.
        group: clips of one group show the same video; "" when unknown.
        spans: phase labels by time, in order, not overlapping.
        frame_labels: phase labels by frame, for data sets that label frames; spans is then
            empty.  One label for each frame that extraction keeps.
        tags: labels of the whole clip, of which it may have many, such as genres.
    """

    clip_id: str
    video: str
    start_seconds: float | None = None
    stop_seconds: float | None = None
    split: str = "train"
    action: str = ""
    group: str = ""
    spans: tuple[LabelSpan, ...] = ()
    frame_labels: tuple[int, ...] | None = None
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Manifest:
    """All clips of a data set.

    Attributes:
        dataset: name of the data set.
        root: folder that the clips' video paths are relative to.
        clips: the clips, sorted by clip_id.
        phases: names of the phases of each action, in the order of their indices.
        licence: one sentence on the terms of the videos and labels.
        notes: what is incomplete or unusual in the data set, one sentence each.
    """

    dataset: str
    root: Path
    clips: tuple[Clip, ...]
    phases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    licence: str = ""
    notes: tuple[str, ...] = ()
