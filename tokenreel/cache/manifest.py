r"""The description of a data set's clips, made before any video is opened.

A data set is a function that reads annotation files and returns a :class:`Manifest`.  The labels
are copied into the token store at extraction, so phases 2 and 3 never read the annotations.

On disk the name of a file is bytes.  Its text in a manifest is those bytes as UTF-8, whatever the
locale of the process; a byte that is not UTF-8 is written \xHH.  `path_below` is the way back.
"""

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

SPLITS = ("train", "val", "test")
UNLABELLED = -1  # the label of a frame that no span covers
ESCAPED = re.compile(rb"\\x([89a-f][0-9a-f])")


def text_of_name(name: str) -> str:
    r"""The text of a file name or path as Python gives it, the same in every locale.

    >>> text_of_name(os.fsdecode("caf\u00e9.mp4".encode())) == "caf\u00e9.mp4"
    True
    >>> print(text_of_name(os.fsdecode(b"caf\xe9.mp4")))
    caf\xe9.mp4
    """
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def exists_at(path: Path) -> bool:
    """Whether there is a file, a folder or a link of any kind at a path."""
    return os.path.lexists(path) if isinstance(path, Path) else path.exists()


def path_below(root: Path, name: str) -> Path:
    r"""The path of a text of `text_of_name` below a folder.

    >>> os.fsencode(path_below(Path("videos"), "caf\u00e9.mp4")) == "videos/caf\u00e9.mp4".encode()
    True
    """
    written = name.encode("utf-8", "surrogateescape")
    path = root / os.fsdecode(written)
    if ESCAPED.search(written) and not exists_at(path):
        held = ESCAPED.sub(lambda match: bytes([int(match[1], 16)]), written)
        return root / os.fsdecode(held)
    return path


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
        video: path of the video, or of a folder of numbered pictures, below the root, with forward
            slashes; see path_below.
        start_seconds: start of the clip in the video, None for the beginning.
        stop_seconds: end of the clip, exclusive, None for the end of the file.
        split: "train", "val" or "test".
        action: name of the action, "" when unknown.
        group: clips of one group show the same video; "" when unknown.
        spans: phase labels by time, in order, not overlapping.
        frame_labels: phase labels by frame, for data sets that label frames; spans is then
            empty.  One label for each frame that extraction keeps.
        tags: labels of the whole clip, of which it may have many, such as genres.
        picture_fps: pictures a second where the video is a folder of pictures; None for 25.
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
    picture_fps: float | None = None


def first_clips(clips: Sequence[Clip], limit: int | None) -> list[Clip]:
    """The first clips of each split, at most `limit` of each, in their order; None: all."""
    count: Counter[str] = Counter()
    kept = []
    for clip in clips:
        count[clip.split] += 1
        if limit is None or count[clip.split] <= limit:
            kept.append(clip)
    return kept


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
        unreadable: files and folders below the root that could not be read, each with the reason.
    """

    dataset: str
    root: Path
    clips: tuple[Clip, ...]
    phases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    licence: str = ""
    notes: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = ()
