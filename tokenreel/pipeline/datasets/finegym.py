"""`finegym`: FineGym's gym99 and gym288, one clip for each event of a gymnast.

    ROOT/[annotations/]finegym_annotation_info_v1.1.json     times of events and elements
    ROOT/[annotations/]gym99_train_element_v1.1.txt          elements for training and their class
    ROOT/[annotations/]gym99_val_element.txt                 elements for validation
    ROOT/[annotations/]gym99_categories.txt                  names of the classes (may be absent)
    ROOT/**/<youtube id>.mp4                                 source videos, cut by time, or
    ROOT/**/<youtube id>_E_002407_002435.mp4                 events that are cut already

The split of FineGym is of elements: an event may have some in train and some in val.  Such events
are two clips with the same `group`, "shared:" before it, so that an evaluation can leave them out.
Labels are made at 25 frames a second, as in CARL: extract with fps=25.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tokenreel.cache.canonical import read_json
from tokenreel.cache.csv_tables import read_lines
from tokenreel.cache.errors import UsageError
from tokenreel.cache.manifest import UNLABELLED, Clip, LabelSpan, Manifest
from tokenreel.pipeline.datasets.survey import (
    Survey,
    choose,
    find_file,
    find_files,
    frames_to_spans,
    refuse_unknown,
    wrong_root,
)

FPS = 25
LONGEST_SECONDS = 86_400.0  # no source lasts a day
LAYOUT = __doc__.partition("\n\n")[2].partition("\n\n")[0]
LICENCE = "FineGym annotations: CC BY-NC 4.0; the videos belong to their owners"
OPTIONS = {
    "classes": ("99", "288"),
    "version": ("v1.1", "v1.0"),  # of the training elements and of the times
    "labels": ("carl", "full"),  # carl: the last stage of an element; full: all of its stages
    "videos": ("auto", "sources", "events"),  # auto: a source video where there is one
}
PUBLISHED = {  # events with an element of the list; v1.0's are those that CARL counted
    ("99", "v1.1"): {"train": 3791, "val": 1442},
    ("99", "v1.0"): {"train": 3182, "val": 1442},
}
ELEMENT = re.compile(r"((.+)_E_\d+_\d+)_(A_\d+_\d+) +(\d+)")
CATEGORY = re.compile(r"Clabel:\s*(\d+);.*?Glabel:\s*\d+;\s*(.+)")


@dataclass(frozen=True)
class Element:
    """A line of an element list: event, element, class, and its place for errors."""

    event: str
    youtube: str
    name: str
    label: int
    where: str


def finegym(root: Path, options: Mapping[str, str]) -> Survey:
    """The events of FineGym whose videos are there, and how many there should be.

    Args:
        root: folder of the annotations and videos.
        options: `classes`, 99 or 288; `version`, v1.1 or v1.0, of elements and times; `labels`,
            carl or full, the last stage of an element or all; `videos`, auto, sources or events.
            The first is the default.

    Raises:
        UsageError: an unknown option, a missing file, or a wrong line, named by file and line.
    """
    refuse_unknown("finegym", options, list(OPTIONS))
    chosen = {key: choose(options, key, known) for key, known in OPTIONS.items()}
    if not root.is_dir():
        raise wrong_root(root, LAYOUT)
    classes, version = chosen["classes"], chosen["version"]
    action = f"gym{classes}"
    lists = {
        "train": _find(root, f"{action}_train_element_{version}.txt"),
        "val": _find(root, f"{action}_val_element.txt"),
    }
    times_path = _find(root, f"finegym_annotation_info_{version}.json")
    events = {s: by_event(read_list(path, int(classes))) for s, path in lists.items()}
    times = read_times(times_path)
    files = find_files(root)
    videos = files.by_stem()
    shared = events["train"].keys() & events["val"].keys()
    notes = Notes(len(shared))
    clips = []
    for split, listed in events.items():
        for event, elements in sorted(listed.items()):
            youtube = elements[0].youtube
            stems = {"auto": (youtube, event), "sources": (youtube,), "events": (event,)}
            named = (videos[stem] for stem in stems[chosen["videos"]] if stem in videos)
            source = next(named, None)
            info = times.get(youtube, {}).get(event[len(youtube) + 1 :])
            if source is None or info is None:
                notes.count_missing(split, has_video=source is not None)
                continue
            group = f"shared:{event}" if event in shared else event
            clip = Clip(f"{split}/{event}", source, split=split, action=action, group=group)
            clips.append(_timed(clip, event, elements, info, chosen["labels"], notes))
    listed_counts = {split: len(listed) for split, listed in events.items()}
    manifest = Manifest(
        "finegym",
        root,
        tuple(clips),
        {action: read_names(root, int(classes))},
        LICENCE,
        notes.sentences(listed_counts),
        files.unreadable,
    )
    return Survey(manifest, listed_counts, PUBLISHED.get((classes, version), {}))


def _find(root: Path, name: str) -> Path:
    return find_file(root, (f"annotations/{name}", name), LAYOUT)


def _timed(
    clip: Clip, event: str, elements: list[Element], info: Any, rule: str, notes: "Notes"
) -> Clip:
    """The clip with its time in the video and its labels."""
    try:
        start, stop = (float(value) for value in info["timestamps"][0])
        segments = dict(info.get("segments") or {})
    except (KeyError, IndexError, TypeError, ValueError):
        raise UsageError(f"{event}: its times are {info!r}, not [[start, end]]") from None
    if not (math.isfinite(start) and 0 <= start < stop < LONGEST_SECONDS):
        raise UsageError(f"{event}: starts at {start} s and stops at {stop} s")
    is_cut = Path(clip.video).stem == event
    notes.num_cut += is_cut
    labels = np.full(math.ceil(round((stop - start) * FPS, 6)), UNLABELLED, np.int64)
    for element in elements:
        segment = segments.get(element.name)
        if segment is None:
            notes.num_untimed += 1
            continue
        first, last = _range(segment, rule, element)
        # evaluation of CARL: both ends belong to the element, a later element wins
        before = labels[int(first * FPS) : int(last * FPS) + 1]
        notes.num_overwritten += int((before >= 0).sum())
        before[:] = element.label
    spans = frames_to_spans(
        labels, fps=FPS, start_seconds=0.0 if is_cut else start, where=elements[0].where
    )
    return Clip(
        clip.clip_id,
        clip.video,
        None if is_cut else start,
        None if is_cut else stop,
        clip.split,
        clip.action,
        clip.group,
        _within(spans, math.inf if is_cut else stop),
    )


def _within(spans: tuple[LabelSpan, ...], stop: float) -> tuple[LabelSpan, ...]:
    return tuple(
        LabelSpan(s.start_seconds, min(s.stop_seconds, stop), s.phase, s.where) for s in spans
    )


def _range(segment: Any, rule: str, element: Element) -> tuple[float, float]:
    """Start and end of an element in its event: its last stage, or all of them."""
    try:
        stages = segment["timestamps"]
        first, last = (float(v) for v in (stages[-1 if rule == "carl" else 0][0], stages[-1][1]))
    except (KeyError, IndexError, TypeError, ValueError):
        raise UsageError(
            f"{element.where}: the stages of {element.name} are {segment!r}, not [[start, end]]"
        ) from None
    if not (math.isfinite(first) and 0 <= first <= last < math.inf):
        raise UsageError(f"{element.where}: {element.name} lasts from {first} s to {last} s")
    return first, last


class Notes:
    """Counts of what was odd, as sentences."""

    def __init__(self, num_shared: int) -> None:
        self._num_shared = num_shared
        self._missing: dict[tuple[str, bool], int] = {}
        self.num_cut = 0
        self.num_untimed = 0
        self.num_overwritten = 0

    def count_missing(self, split: str, *, has_video: bool) -> None:
        """An event without its video, or without its times."""
        key = (split, has_video)
        self._missing[key] = self._missing.get(key, 0) + 1

    def sentences(self, listed: Mapping[str, int]) -> tuple[str, ...]:
        """One sentence for each thing that happened."""
        notes = [
            f"{count} of {listed[split]} {split} events have no {'times' if has_video else 'video'}"
            for (split, has_video), count in sorted(self._missing.items())
        ]
        if self._num_shared:
            notes.append(
                f"{self._num_shared} events have elements in train and in val; their group "
                "starts with shared:"
            )
        if self.num_untimed:
            notes.append(f"{self.num_untimed} elements have no times and give no labels")
        if self.num_overwritten:
            notes.append(f"{self.num_overwritten} frames lie in two elements; the later one wins")
        if self.num_cut:
            notes.append(
                f"{self.num_cut} events are files cut beforehand: cuts without re-encoding start "
                "at a key frame, which shifts their labels"
            )
        return tuple(notes)


def read_list(path: Path, num_classes: int) -> Iterator[Element]:
    """Yield the lines of an element list.

    Raises:
        UsageError: a line that is not of the format, an unknown class, or an element that is
            listed twice; named by file and line.
    """
    seen: dict[str, Element] = {}
    for number, text in enumerate(read_lines(path), start=1):
        where = f"{path.name}:{number}"
        if not text.strip():
            continue
        match = ELEMENT.fullmatch(text.strip())
        if match is None:
            raise UsageError(f"{where}: {text!r} is not `<id>_E_.._.._A_.._.. <class>`")
        element = Element(match[1], match[2], match[3], int(match[4]), where)
        if element.label >= num_classes:
            raise UsageError(f"{where}: class {element.label} of {num_classes}, counted from 0")
        key = f"{element.event}_{element.name}"
        if key in seen:
            raise UsageError(f"{where}: {key} is listed at {seen[key].where} already")
        seen[key] = element
        yield element


def by_event(elements: Iterator[Element]) -> dict[str, list[Element]]:
    """The elements of each event, in the order of the list."""
    events: dict[str, list[Element]] = {}
    for element in elements:
        events.setdefault(element.event, []).append(element)
    return events


def read_times(path: Path) -> dict[str, dict[str, Any]]:
    """Times of events and elements: {youtube id: {event: {"timestamps": ..., "segments": ...}}}.

    Raises:
        UsageError: a file that is not of this form.
    """
    try:
        times = read_json("\n".join(read_lines(path)))
    except ValueError as error:
        raise UsageError(f"{path.name}: {error}") from None
    if not isinstance(times, dict) or not all(isinstance(v, dict) for v in times.values()):
        raise UsageError(f"{path.name}: expected {{youtube id: {{event: ...}}}}")
    return times


def read_names(root: Path, num_classes: int) -> tuple[str, ...]:
    """Names of the classes; a text that is listed twice gets its number (gym288 has three)."""
    names = [f"class {label}" for label in range(num_classes)]
    for path in (root / "annotations", root):
        file = path / f"gym{num_classes}_categories.txt"
        if file.is_file():
            for text in read_lines(file):
                match = CATEGORY.match(text)
                if match and int(match[1]) < num_classes:
                    names[int(match[1])] = match[2].strip()
            break
    return tuple(
        f"{name} [{label}]" if names.count(name) > 1 else name for label, name in enumerate(names)
    )
