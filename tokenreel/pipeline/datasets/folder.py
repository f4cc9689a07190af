"""`folder`: any directory tree of videos, with optional tables of labels, splits and actions.

    ROOT/**/*.mp4 ...                                     the videos
    ROOT/labels.csv   video,start_seconds,stop_seconds,phase      phase: a number from 0, or a name
    ROOT/clips.csv    video,split,action,group                    only the first is required
    ROOT/phases.csv   action,phase                                names in the order of their number

Times are presentation times of the video file; ranges are [start, stop).  Without clips.csv every
video is a clip: of the split "train", "val" or "test" when its first folder is named so, else of
"train".  Names of phases need phases.csv; numbers do not.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from tokenreel.cache.errors import UsageError
from tokenreel.cache.manifest import Clip, LabelSpan, Manifest
from tokenreel.pipeline.datasets.tables import Line, read_table
from tokenreel.pipeline.override import nearest

__all__ = ["VIDEO_SUFFIXES", "folder"]

VIDEO_SUFFIXES = (
    *(".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".ts", ".mts"),
    *(".mpg", ".mpeg", ".wmv", ".flv", ".3gp", ".ogv", ".y4m"),
)
SPLITS = ("train", "val", "test")
LAYOUT = __doc__.partition("\n\n")[2].partition("\n\n")[0]

log = logging.getLogger(__name__)


def folder(root: Path, options: Mapping[str, str]) -> Manifest:
    """The clips of a directory tree of videos.

    Raises:
        UsageError: a root without videos; a table with a wrong line, named by file and line.
    """
    if options:
        raise UsageError(f"data.{next(iter(options))}: the data set `folder` takes no options")
    videos = _find_videos(root)
    phases = _read_phases(root / "phases.csv")
    clips = {video: Clip(clip_id=video, video=video, split=_split_of(video)) for video in videos}
    clips = _read_clips(root / "clips.csv", clips)
    spans = _read_spans(root / "labels.csv", clips, phases)
    labelled = [replace(clip, spans=spans.get(video, ())) for video, clip in clips.items()]
    notes = [] if spans else ["no labels.csv: metrics that need phase labels will be skipped"]
    return Manifest("folder", root, tuple(labelled), phases, "terms: not stated", tuple(notes))


def _find_videos(root: Path) -> list[str]:
    if not root.is_dir():
        raise UsageError(f"{root}: no such folder; expected\n{LAYOUT}")
    found, others = [], 0
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if any(part.startswith(".") for part in name.split("/")) or path.suffix == ".csv":
            continue
        if path.suffix.lower() not in VIDEO_SUFFIXES:
            others += path.is_file()
        elif not path.resolve().is_relative_to(root.resolve()):
            log.warning("%s is a link that leaves the root: left out", name)
        else:
            found.append(name)
    if not found:
        raise UsageError(
            f"{root}: no videos, {others} other file(s); expected\n{LAYOUT}\n"
            f"videos end in {' '.join(VIDEO_SUFFIXES)}"
        )
    return found


def _split_of(video: str) -> str:
    first = video.split("/", maxsplit=1)[0]
    return first if first in SPLITS and "/" in video else "train"


def _read_phases(path: Path) -> dict[str, tuple[str, ...]]:
    phases: dict[str, tuple[str, ...]] = {}
    if path.exists():
        for line in read_table(path, required=("action", "phase")):
            action, phase = line.cells["action"], line.cells["phase"]
            if phase in phases.get(action, ()):
                raise UsageError(f"{line.where}: phase {phase!r} of {action!r} stands there twice")
            phases[action] = (*phases.get(action, ()), phase)
    return phases


def _read_clips(path: Path, clips: dict[str, Clip]) -> dict[str, Clip]:
    if not path.exists():
        return clips
    listed: dict[str, Clip] = {}
    for line in read_table(path, required=("video",), optional=("split", "action", "group")):
        video = _video_of(line, clips)
        if video in listed:
            raise UsageError(f"{line.where}: {video!r} is listed twice")
        split = line.cells.get("split") or clips[video].split
        if split not in SPLITS:
            raise UsageError(f"{line.where}: split is {split!r}, not one of {', '.join(SPLITS)}")
        listed[video] = replace(
            clips[video],
            split=split,
            action=line.cells.get("action", ""),
            group=line.cells.get("group", ""),
        )
    missing = clips.keys() - listed.keys()
    if missing:
        log.warning("%s: %d video(s) are not listed and left out", path.name, len(missing))
    return listed


def _read_spans(
    path: Path, clips: Mapping[str, Clip], phases: Mapping[str, tuple[str, ...]]
) -> dict[str, tuple[LabelSpan, ...]]:
    if not path.exists():
        return {}
    spans: dict[str, list[LabelSpan]] = {}
    for line in read_table(path, required=("video", "start_seconds", "stop_seconds", "phase")):
        video = _video_of(line, clips)
        start, stop = line.seconds("start_seconds"), line.seconds("stop_seconds")
        if not start < stop:
            raise UsageError(f"{line.where}: reversed, it starts at {start} s and stops at {stop}")
        phase = _phase_of(line, phases.get(clips[video].action, ()))
        spans.setdefault(video, []).append(LabelSpan(start, stop, phase, line.where))
    return {video: _in_order(listed) for video, listed in spans.items()}


def _in_order(spans: list[LabelSpan]) -> tuple[LabelSpan, ...]:
    ordered = sorted(spans, key=lambda span: span.start_seconds)
    for before, after in pairwise(ordered):
        if after.start_seconds < before.stop_seconds:
            raise UsageError(
                f"{after.where}: starts at {after.start_seconds} s, before {before.where} "
                f"stops at {before.stop_seconds} s: spans of a video may not overlap"
            )
    return tuple(ordered)


def _phase_of(line: Line, names: tuple[str, ...]) -> int:
    text = line.cells["phase"]
    if text in names:
        return names.index(text)
    if text.isascii() and text.isdigit() and (not names or int(text) < len(names)):
        return int(text)
    known = ", ".join(names) or "numbers from 0, or names listed in phases.csv"
    raise UsageError(f"{line.where}: unknown phase {text!r}{nearest(text, names)} (known: {known})")


def _video_of(line: Line, clips: Mapping[str, Clip]) -> str:
    video = line.cells["video"]
    if video not in clips:
        raise UsageError(f"{line.where}: no video {video!r} below the root{nearest(video, clips)}")
    return video
