"""`folder`: any directory tree of videos, with optional tables of labels, splits and actions.

    ROOT/**/*.mp4 ...                                     the videos: whatever FFmpeg opens as one
    ROOT/**/clip/0001.jpg, 0002.jpg ...                   or folders of numbered pictures
    ROOT/labels.csv   video,start_seconds,stop_seconds,phase      phase: a number from 0, or a name
    ROOT/tags.csv     video,tag                           labels of whole videos, a line each
    ROOT/clips.csv    video,split,action,group,start_seconds,stop_seconds    the first is required
    ROOT/phases.csv   action,phase                                names in the order of their number

A line that begins with # is a comment, unless that is the name of a video.  Times are presentation
times of the video file; ranges are [start, stop).  Without clips.csv every
video is a clip: of the split "train", "val" or "test" when its first folder is named so, else of
"train".  Names of phases need phases.csv; numbers do not.
"""

import logging
import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from fractions import Fraction
from itertools import pairwise
from pathlib import Path, PurePosixPath
from unicodedata import normalize

from tokenreel.cache.canonical import is_whole_number
from tokenreel.cache.csv_tables import Comments, Line, read_table, require_splits
from tokenreel.cache.errors import UsageError
from tokenreel.cache.manifest import (
    SPLITS,
    Clip,
    LabelSpan,
    Manifest,
    exists_at,
    path_below,
    text_of_name,
)
from tokenreel.cache.plugins import nearest
from tokenreel.extract.video.pictures import DEFAULT_FPS, LEAST_PICTURES, numbered_pictures
from tokenreel.extract.video.sniff import find_videos, is_named_video
from tokenreel.pipeline.datasets.survey import Survey, choose, describe_tags, refuse_unknown
from tokenreel.pipeline.datasets.tree import FolderTree, walk_tree

TABLES = ("labels.csv", "clips.csv", "phases.csv", "tags.csv")
TABLE_SUFFIXES = (".csv", ".tsv", ".xlsx", ".xls", ".ods")
NEARLY_SPLITS = {"valid": ["val"], "validation": ["val"], "dev": ["val"], "testing": ["test"]}
CLIP_COLUMNS = ("split", "action", "group", "start_seconds", "stop_seconds")
LAYOUT = __doc__.partition("\n\n")[2].partition("\n\n")[0]

log = logging.getLogger(__name__)

MOST_PHASES = 2**15  # labels of frames are int16
LEAST_FPS, MOST_FPS = 0.001, 1000.0  # of folders of pictures


def folder(root: Path, options: Mapping[str, str]) -> Survey:
    """The clips of a directory tree of videos and of folders of numbered pictures.

    Args:
        root: the directory.
        options: `picture_fps`, pictures a second in folders of pictures; `follow_links`, "yes" to
            take links that leave the root and links to folders; `tags`, the names that tags.csv
            may have, such as drama,war; any when left out.

    Raises:
        UsageError: a root without videos; a table with a wrong line, named by file and line; an
            option that is wrong.
    """
    refuse_unknown("folder", options, ["picture_fps", "follow_links", "tags"])
    follow_links = choose(options, "follow_links", ("no", "yes")) == "yes"
    picture_fps = _picture_fps(options)
    found = _find_clips(root, follow_links=follow_links)
    notes = found.notes
    clips = [Clip(clip_id=video, video=video, split=_split_of(video)) for video in found.videos]
    clips += [
        Clip(clip_id=name, video=name, split=_split_of(name), picture_fps=picture_fps)
        for name in found.pictures
    ]
    if not exists_at(root / "clips.csv"):
        notes += _describe_folders([clip.video for clip in clips])
    tables = _Tables(root, {clip.video: clip for clip in clips}, notes)
    clips = tables.clips()
    phases = tables.phases({clip.action for clip in clips})
    spans = tables.spans(clips, phases)
    tags = tables.tags(clips, options.get("tags"))
    labelled = [
        replace(clip, spans=spans.get(clip.clip_id, ()), tags=tags.get(clip.video, ()))
        for clip in clips
    ]
    labelled.sort(key=lambda clip: clip.clip_id)
    if found.pictures and picture_fps is None:
        notes.append(
            f"{len(found.pictures)} folder(s) of pictures are taken at {DEFAULT_FPS:g} pictures a "
            "second: picture_fps= gives another rate"
        )
    notes += describe_tags(labelled)
    if not spans and not tags:
        notes.append("no labels.csv: metrics that need phase labels will be skipped")
    licence = "not stated"
    unreadable = tuple(found.unreadable)
    return Survey(
        Manifest("folder", root, tuple(labelled), phases, licence, tuple(notes), unreadable)
    )


def _picture_fps(options: Mapping[str, str]) -> float | None:
    text = options.get("picture_fps")
    if text is None:
        return None
    try:
        rate = float(Fraction(text))
    except (ValueError, ZeroDivisionError, OverflowError):
        rate = 0.0
    if not LEAST_FPS <= rate <= MOST_FPS:
        raise UsageError(
            f"picture_fps={text}: not a rate of {LEAST_FPS:g} to {MOST_FPS:g} pictures a second, "
            "such as 25 or 30000/1001"
        )
    return rate


@dataclass
class _Found:
    """What is below a root: names of videos and of folders of pictures, and what to say of it."""

    videos: list[str] = field(default_factory=list)
    pictures: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)


def _find_clips(root: Path, *, follow_links: bool) -> _Found:
    if not root.is_dir():
        raise UsageError(f"{root}: no such folder; expected\n{LAYOUT}")
    tree = walk_tree(root, follow_links=follow_links)
    leaving = set() if follow_links else _leaving(tree)
    pictures = {
        name: set(numbered_pictures(files))
        for name, files in tree.folders.items()
        if name and len(numbered_pictures(files)) >= LEAST_PICTURES
    }
    others = [name for name in tree.files if not name.endswith(".csv") and name not in leaving]
    others = [name for name in others if not _is_in(name, pictures)]
    found = find_videos(root, others)
    for name in {name.rpartition("/")[0] for name in found.videos} & pictures.keys():
        found.others.update(Path(own).suffix.lower() for own in pictures.pop(name))
    named = [name for name in tree.folders if is_named_video(name) and name not in pictures]
    found.videos += [  # each fails by name
        name for name in named if not any(video.startswith(f"{name}/") for video in found.videos)
    ]
    result = _Found(found.videos, sorted(pictures))
    result.notes += _describe_links(tree, sorted(leaving), found.videos)
    result.unreadable += [f"{name}: {reason}" for name, reason in tree.unreadable]
    result.unreadable += [f"{name}: {reason}" for name, reason in found.unreadable]
    result.unreadable += [
        f"{name}: has the name of another file once its bytes are written as text: rename it"
        for name in _drop_twice(result.videos)
    ]
    if len(numbered_pictures(tree.folders.get("", []))) >= LEAST_PICTURES:
        result.notes.append(
            "numbered pictures beside the folders are left out; to take them as one clip, name "
            "the folder above as --root"
        )
    if tree.num_array_folders:
        result.notes.append(f"{tree.num_array_folders} folder(s) of arrays (Zarr) are not entered")
    result.notes += _unread_tables(tree.files)
    if found.others:
        result.notes.append(found.describe_others())
    if not result.videos and not result.pictures:
        reasons = "".join(f"\n{line}" for line in [*result.unreadable, *result.notes])
        raise UsageError(
            f"{root}: no videos, {found.others.total()} other file(s); expected\n{LAYOUT}{reasons}"
        )
    return result


def _unread_tables(names: Sequence[str]) -> list[str]:
    """A sentence for tables that are not read because of their name or place."""
    unread = [
        name
        for name in names
        if PurePosixPath(name).suffix.lower() in TABLE_SUFFIXES and name not in TABLES
    ]
    if not unread:
        return []
    own = unread[0].rpartition("/")[2].lower()
    meant = nearest(own.rpartition(".")[0] + ".csv", TABLES)
    return [
        f"{unread[0]} is no table of this data set{_more(unread)}: those are {', '.join(TABLES)} "
        f"in the root{meant}"
    ]


def _is_in(name: str, pictures: Mapping[str, set[str]]) -> bool:
    """Whether a file is a picture of a folder of pictures."""
    inside, _, own = name.rpartition("/")
    return own in pictures.get(inside, ())


def _drop_twice(names: list[str]) -> list[str]:
    """Keep one of each name; returns those that were there more than once."""
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    names[:] = dict.fromkeys(names)
    return twice


def _leaving(tree: FolderTree) -> set[str]:
    """Links to files that are not below the root."""
    if not tree.links:
        return set()
    real = Path(os.path.realpath(tree.root))
    return {
        name
        for name in tree.links
        if not Path(os.path.realpath(path_below(tree.root, name))).is_relative_to(real)
    }


def _describe_links(tree: FolderTree, leaving: Sequence[str], videos: Sequence[str]) -> list[str]:
    """What is said of links: those left out, and those by which a video has two names."""
    notes = []
    if leaving:
        notes.append(
            f"{leaving[0]} is a link that leaves the root: left out{_more(leaving)}; "
            "--follow-links takes such links"
        )
    closed = [name for name, reason in tree.left_links if not reason]
    if closed:
        notes.append(
            f"{closed[0]} is a link to a folder: not entered{_more(closed)}; "
            "--follow-links enters such links"
        )
    again = [name for name, reason in tree.left_links if reason]
    if again:
        notes.append(
            f"{again[0]} is a link to a folder that is listed by another name: "
            f"not entered again{_more(again)}"
        )
    twice = _reached_twice(tree, videos)
    if twice:
        notes.append(
            f"{twice[0]} is a link to a video that has another name here: a clip of its own"
            f"{_more(twice)}"
        )
    return notes


def _reached_twice(tree: FolderTree, videos: Sequence[str]) -> list[str]:
    """Links to videos that are listed by an earlier link or by their own name."""
    links = [name for name in videos if name in tree.links]
    if not links:
        return []
    top = os.path.realpath(tree.root)
    seen = {f"{top}/{name}" for name in videos if name not in tree.links} if links else set()
    again = []
    for name in links:
        real = text_of_name(os.path.realpath(path_below(tree.root, name)))
        if real in seen:
            again.append(name)
        seen.add(real)
    return again


def _more(names: Sequence[str]) -> str:
    return f", as {len(names) - 1} more" if len(names) > 1 else ""


def _describe_folders(names: Sequence[str]) -> list[str]:
    """A sentence for each folder of the root whose name is nearly that of a split."""
    counts = Counter(name.partition("/")[0] for name in names if "/" in name)
    notes = []
    for name, count in sorted(counts.items()):
        short = name.lower()
        meant = NEARLY_SPLITS.get(short) or get_close_matches(short, SPLITS, n=1, cutoff=0.8)
        if meant and name not in SPLITS and meant[0] != "train":
            notes.append(
                f"the folder {name!r} is no split, so its {count} clip(s) are of train: rename it "
                f"{meant[0]}, or give their splits in clips.csv"
            )
    return notes


def _split_of(video: str) -> str:
    first = video.split("/", maxsplit=1)[0]
    return first if first in SPLITS and "/" in video else "train"


class _Tables:
    """The tables of a root; what is left out of them is noted.

    Args:
        root: the folder of the tables.
        videos: the clip of each whole video below it, by name.
        notes: sentences are added.
    """

    def __init__(self, root: Path, videos: Mapping[str, Clip], notes: list[str]) -> None:
        self._root, self._videos, self._notes = root, videos, notes

    def _lines(
        self,
        name: str,
        required: Sequence[str],
        *,
        optional: Sequence[str] = (),
        names: Collection[str] | None = None,
    ) -> Iterator[Line]:
        """The lines of a table, none without it; names are those that may begin with #."""
        path = self._root / name
        if exists_at(path):  # a link that leads nowhere is refused, not passed over
            chosen = self._videos if names is None else names
            comments = Comments({normalize("NFC", text) for text in chosen})
            yield from read_table(path, required=required, optional=optional, comments=comments)
            self._notes += comments.notes()

    def phases(self, actions: Collection[str]) -> dict[str, tuple[str, ...]]:
        """The names of the phases of each action, by phases.csv."""
        phases: dict[str, tuple[str, ...]] = {}
        for line in self._lines("phases.csv", ("action", "phase"), names=actions):
            action, phase = line.cells["action"], line.cells["phase"]
            if phase in phases.get(action, ()):
                raise UsageError(f"{line.where}: phase {phase!r} of {action!r} is listed twice")
            phases[action] = (*phases.get(action, ()), phase)
        if unused := sorted(phases.keys() - set(actions)):
            self._notes.append(
                f"phases.csv has phases of {unused[0]!r}, an action of no clip"
                f"{_more(unused)}{nearest(unused[0], actions)}"
            )
        return phases

    def clips(self) -> list[Clip]:
        """The clips that clips.csv lists; without it, or without a line in it, every video."""
        if not exists_at(self._root / "clips.csv"):
            return list(self._videos.values())
        listed: dict[str, Clip] = {}
        where: dict[str, str] = {}
        lines = list(self._lines("clips.csv", ("video",), optional=CLIP_COLUMNS))
        require_splits(lines)
        for line in lines:
            clip = _clip_of(line, self._videos)
            if clip.clip_id in listed:
                raise UsageError(
                    f"{line.where}: {clip.clip_id!r} is listed twice, first at "
                    f"{where[clip.clip_id]}"
                )
            where[clip.clip_id] = line.where
            listed[clip.clip_id] = clip
        missing = self._videos.keys() - {clip.video for clip in listed.values()}
        if missing:
            log.warning("clips.csv: %d video(s) are not listed and left out", len(missing))
        return list(listed.values())

    def spans(
        self, clips: Sequence[Clip], phases: Mapping[str, tuple[str, ...]]
    ) -> dict[str, tuple[LabelSpan, ...]]:
        """The spans of each clip, by labels.csv."""
        clips_of: dict[str, list[Clip]] = {name: [] for name in self._videos}
        for clip in clips:
            clips_of[clip.video].append(clip)
        spans: dict[str, list[LabelSpan]] = {}
        others: set[str] = set()
        columns = ("video", "start_seconds", "stop_seconds", "phase")
        for line in self._lines("labels.csv", columns):
            start, stop = line.seconds("start_seconds"), line.seconds("stop_seconds")
            if not start < stop:
                raise UsageError(
                    f"{line.where}: reversed, it starts at {start} s and stops at {stop} s"
                )
            video = _video_of(line, clips_of)
            others |= set() if clips_of[video] else {video}
            for clip in clips_of[video]:
                phase = _phase_of(line, phases.get(clip.action, ()))
                end = stop if clip.stop_seconds is None else min(stop, clip.stop_seconds)
                if max(start, clip.start_seconds or 0.0) < end:
                    span = LabelSpan(start, end, phase, line.where)
                    spans.setdefault(clip.clip_id, []).append(span)
        self._note_unlisted("labels.csv", others)
        return {clip_id: _in_order(listed) for clip_id, listed in spans.items()}

    def tags(self, clips: Sequence[Clip], names: str | None) -> dict[str, tuple[str, ...]]:
        """The tags of each video, sorted, by tags.csv; where names are given, no others."""
        known = [name.strip() for name in names.split(",")] if names is not None else None
        where: dict[tuple[str, str], str] = {}
        for line in self._lines("tags.csv", ("video", "tag")):
            key = _video_of(line, self._videos), line.cells["tag"]
            if not key[1]:
                raise UsageError(f"{line.where}: no tag of {key[0]!r}: write one, or drop the line")
            if known is not None and key[1] not in known:
                raise UsageError(
                    f"{line.where}: unknown tag {key[1]!r}{nearest(key[1], known)} "
                    f"(data.tags={names})"
                )
            if key in where:
                raise UsageError(
                    f"{line.where}: {key[1]!r} of {key[0]!r} is listed twice, first at {where[key]}"
                )
            where[key] = line.where
        tags: dict[str, tuple[str, ...]] = {}
        for video, tag in sorted(where):
            tags[video] = (*tags.get(video, ()), tag)
        self._note_unlisted("tags.csv", tags.keys() - {clip.video for clip in clips})
        return tags

    def _note_unlisted(self, table: str, videos: Collection[str]) -> None:
        """Note the videos of a table that clips.csv leaves out."""
        if videos:
            self._notes.append(
                f"{table} has lines of {min(videos)}, which clips.csv does not list: left "
                f"out{_more(sorted(videos))}"
            )


def _clip_of(line: Line, videos: Mapping[str, Clip]) -> Clip:
    whole = videos[_video_of(line, videos)]
    split = line.cells.get("split") or whole.split
    start = line.optional_seconds("start_seconds")
    stop = line.optional_seconds("stop_seconds")
    if stop is not None and not (start or 0.0) < stop:
        raise UsageError(
            f"{line.where}: reversed, it starts at {start or 0.0} s and stops at {stop} s"
        )
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
    if not any(map(is_whole_number, names)) and is_whole_number(text):  # else a number is a name
        number = int(text)
        if number < (len(names) or MOST_PHASES):
            return number
    known = ", ".join(names) or "numbers from 0, or names listed in phases.csv"
    raise UsageError(f"{line.where}: unknown phase {text!r}{nearest(text, names)} (known: {known})")


def _video_of(line: Line, clips: Mapping[str, object]) -> str:
    """The video that a line names, in whichever Unicode form it writes the letters."""
    video = line.cells["video"]
    if video in clips:
        return video
    alike = [name for name in clips if normalize("NFC", name) == normalize("NFC", video)]
    if len(alike) != 1:
        known = nearest(video, clips)
        raise UsageError(f"{line.where}: no video {video!r} below the root{known}")
    return alike[0]
