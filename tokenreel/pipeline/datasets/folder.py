"""`folder`: any directory tree of videos, with optional tables of labels, splits and actions.

    ROOT/**/*.mp4 ...                                     the videos
    ROOT/labels.csv   video,start_seconds,stop_seconds,phase      phase: a number from 0, or a name
    ROOT/clips.csv    video,split,action,group,start_seconds,stop_seconds    the first is required
    ROOT/phases.csv   action,phase                                names in the order of their number

Times are presentation times of the video file; ranges are [start, stop).  Without clips.csv every
video is a clip: of the split "train", "val" or "test" when its first folder is named so, else of
"train".  Names of phases need phases.csv; numbers do not.
"""

import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from tokenreel.cache.csv_tables import Line, read_table
from tokenreel.cache.errors import UsageError
from tokenreel.cache.manifest import Clip, LabelSpan, Manifest
from tokenreel.cache.plugins import nearest
from tokenreel.pipeline.datasets.survey import VIDEO_SUFFIXES, Survey

SPLITS = ("train", "val", "test")
CLIP_COLUMNS = ("split", "action", "group", "start_seconds", "stop_seconds")
LAYOUT = __doc__.partition("\n\n")[2].partition("\n\n")[0]

log = logging.getLogger(__name__)

MOST_PHASES = 2**15  # labels of frames are int16


def folder(root: Path, options: Mapping[str, str]) -> Survey:
    """The clips of a directory tree of videos.

    Raises:
        UsageError: a root without videos; a table with a wrong line, named by file and line.
    """
    if options:
        raise UsageError(f"data.{next(iter(options))}: the data set `folder` takes no options")
    videos = _find_videos(root)
    phases = _read_phases(root / "phases.csv")
    clips = [Clip(clip_id=video, video=video, split=_split_of(video)) for video in videos]
    clips = _read_clips(root / "clips.csv", clips)
    spans = _read_spans(root / "labels.csv", clips, phases)
    labelled = [replace(clip, spans=spans.get(clip.clip_id, ())) for clip in clips]
    labelled.sort(key=lambda clip: clip.clip_id)
    notes = [] if spans else ["no labels.csv: metrics that need phase labels will be skipped"]
    licence = "terms: not stated"
    return Survey(Manifest("folder", root, tuple(labelled), phases, licence, tuple(notes)))


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
            if path.is_symlink() and path.is_dir():
                log.warning("%s is a link to a folder: not entered", name)
        elif not Path(os.path.realpath(path)).is_relative_to(root.resolve()):  # of a loop, too
            log.warning("%s is a link that leaves the root: left out", name)
        else:
            found.append(_utf8_name(name))
    if not found:
        raise UsageError(
            f"{root}: no videos, {others} other file(s); expected\n{LAYOUT}\n"
            f"videos end in {' '.join(VIDEO_SUFFIXES)}"
        )
    return found


def _utf8_name(name: str) -> str:
    """The name; one that is not UTF-8, which no store can hold, as a name that cannot be opened."""
    safe = name.encode("utf-8", "backslashreplace").decode()
    if safe != name:
        log.warning("%s: the name is not UTF-8: rename it", safe)
    return safe


def _split_of(video: str) -> str:
    first = video.split("/", maxsplit=1)[0]
    return first if first in SPLITS and "/" in video else "train"


def _read_phases(path: Path) -> dict[str, tuple[str, ...]]:
    phases: dict[str, tuple[str, ...]] = {}
    if path.exists():
        for line in read_table(path, required=("action", "phase"), comments=True):
            action, phase = line.cells["action"], line.cells["phase"]
            if phase in phases.get(action, ()):
                raise UsageError(f"{line.where}: phase {phase!r} of {action!r} is listed twice")
            phases[action] = (*phases.get(action, ()), phase)
    return phases


def _read_clips(path: Path, clips: list[Clip]) -> list[Clip]:
    if not path.exists():
        return clips
    videos = {clip.video: clip for clip in clips}
    listed: dict[str, Clip] = {}
    where: dict[str, str] = {}
    for line in read_table(path, required=("video",), optional=CLIP_COLUMNS, comments=True):
        clip = _clip_of(line, videos)
        if clip.clip_id in listed:
            raise UsageError(
                f"{line.where}: {clip.clip_id!r} is listed twice, first at {where[clip.clip_id]}"
            )
        where[clip.clip_id] = line.where
        listed[clip.clip_id] = clip
    missing = videos.keys() - {clip.video for clip in listed.values()}
    if missing:
        log.warning("%s: %d video(s) are not listed and left out", path.name, len(missing))
    return list(listed.values())


def _clip_of(line: Line, videos: Mapping[str, Clip]) -> Clip:
    whole = videos[_video_of(line, videos)]
    split = line.cells.get("split") or whole.split
    if split not in SPLITS:
        raise UsageError(f"{line.where}: split is {split!r}, not one of {', '.join(SPLITS)}")
    start = line.optional_seconds("start_seconds")
    stop = line.optional_seconds("stop_seconds")
    if stop is not None and not (start or 0.0) < stop:
        raise UsageError(f"{line.where}: reversed, it starts at {start} s and stops at {stop} s")
    is_whole = start is None and stop is None
    end = "end" if stop is None else f"{stop:.3f}"
    return replace(
        whole,
        clip_id=whole.video if is_whole else f"{whole.video}/{start or 0.0:.3f}-{end}",
        start_seconds=start,
        stop_seconds=stop,
        split=split,
        action=line.cells.get("action", ""),
        group=line.cells.get("group", ""),
    )


def _read_spans(
    path: Path, clips: list[Clip], phases: Mapping[str, tuple[str, ...]]
) -> dict[str, tuple[LabelSpan, ...]]:
    if not path.exists():
        return {}
    clips_of: dict[str, list[Clip]] = {}
    for clip in clips:
        clips_of.setdefault(clip.video, []).append(clip)
    spans: dict[str, list[LabelSpan]] = {}
    columns = ("video", "start_seconds", "stop_seconds", "phase")
    for line in read_table(path, required=columns, comments=True):
        start, stop = line.seconds("start_seconds"), line.seconds("stop_seconds")
        if not start < stop:
            raise UsageError(
                f"{line.where}: reversed, it starts at {start} s and stops at {stop} s"
            )
        for clip in clips_of[_video_of(line, clips_of)]:
            phase = _phase_of(line, phases.get(clip.action, ()))
            end = stop if clip.stop_seconds is None else min(stop, clip.stop_seconds)
            if max(start, clip.start_seconds or 0.0) < end:
                spans.setdefault(clip.clip_id, []).append(LabelSpan(start, end, phase, line.where))
    return {clip_id: _in_order(listed) for clip_id, listed in spans.items()}


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
    if text.isascii() and text.isdigit() and int(text) < (len(names) or MOST_PHASES):
        return int(text)
    known = ", ".join(names) or "numbers from 0, or names listed in phases.csv"
    raise UsageError(f"{line.where}: unknown phase {text!r}{nearest(text, names)} (known: {known})")


def _video_of(line: Line, clips: Mapping[str, object]) -> str:
    video = line.cells["video"]
    if video not in clips:
        raise UsageError(f"{line.where}: no video {video!r} below the root{nearest(video, clips)}")
    return video
