"""What the data sets share: a survey of a root, labels of frames as spans, errors with layouts.

A survey is a manifest with two numbers beside it for every split: how many clips the annotation
files list, and how many were published.  `tokenreel data check` prints the three.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path, PurePosixPath

import numpy as np

from tokenreel.cache.errors import UsageError
from tokenreel.cache.manifest import Clip, LabelSpan, Manifest
from tokenreel.cache.plugins import nearest
from tokenreel.extract.video.sniff import find_videos
from tokenreel.pipeline.datasets.tree import walk_tree

LIST_SUFFIXES = (".csv", ".json", ".txt", ".pkl", ".tfrecord")  # annotations: never videos
SHOWN = 12  # entries of a wrong root that an error lists


@dataclass(frozen=True)
class FoundFiles:
    """Files below a root, as paths with forward slashes, in order.

    Attributes:
        names: of all of them.
        videos: those that are videos.
        unreadable: files and folders that could not be read, each with the reason.
    """

    names: tuple[str, ...]
    videos: tuple[str, ...]
    unreadable: tuple[str, ...]

    def by_stem(self) -> dict[str, str]:
        """The videos by name without suffix; of two, the first in order."""
        found: dict[str, str] = {}
        for name in self.videos:
            found.setdefault(PurePosixPath(name).stem, name)
        return found


@dataclass(frozen=True)
class Survey:
    """A data set as it was found.

    Attributes:
        manifest: the clips whose videos are there.
        listed: clips named by the annotation files, by split.
        published: clips of the complete data set, by split; empty where nobody published it.
    """

    manifest: Manifest
    listed: Mapping[str, int] = field(default_factory=dict)
    published: Mapping[str, int] = field(default_factory=dict)


def frames_to_spans(
    labels: Sequence[int] | np.ndarray[tuple[int], np.dtype[np.int64]],
    *,
    fps: float,
    start_seconds: float = 0.0,
    where: str = "",
) -> tuple[LabelSpan, ...]:
    """Labels of frames at a constant rate, as spans of time.

    A span starts half a frame before its first frame and stops half a frame after its last, so
    that a clock that is off by less keeps every label.

    Args:
        labels: (T,) phase of each frame, negative for none.
        fps: frames a second.
        start_seconds: time of frame 0 in the video.
        where: file and line, for errors.

    >>> [(s.start_seconds, s.stop_seconds, s.phase) for s in frames_to_spans([-1, 4, 4], fps=10)]
    [(0.05, 0.25, 4)]
    """
    phases = np.asarray(labels, np.int64)
    if not phases.size:
        return ()
    edges = [0, *(np.flatnonzero(np.diff(phases)) + 1).tolist(), len(phases)]
    spans = []
    for first, stop in pairwise(edges):
        if phases[first] >= 0:
            start = start_seconds + max(0.0, (first - 0.5) / fps)
            end = start_seconds + (stop - 0.5) / fps
            spans.append(LabelSpan(start, end, int(phases[first]), where))
    return tuple(spans)


def resample(count: int, wanted: int) -> list[int]:
    """Which of `count` things stand for `wanted` ones: floor(j * count / wanted).

    >>> resample(6, 4)
    [0, 1, 3, 4]
    """
    return [math.floor(j * count / wanted) for j in range(wanted)]


def describe_tags(clips: Sequence[Clip]) -> list[str]:
    """What is missing of the tags of clips, a sentence each; none where no clip has any.

    >>> describe_tags([Clip("a", "a", tags=("x", "y")), Clip("b", "b", split="val", tags=("x",))])
    ['1 of 2 tags have clips of one split only: y (train)']
    """
    splits: dict[str, set[str]] = {}
    for clip in clips:
        for tag in clip.tags:
            splits.setdefault(tag, set()).add(clip.split)
    if not splits:
        return []
    notes = []
    if untagged := sum(not clip.tags for clip in clips):
        notes.append(f"{untagged} of {len(clips)} clips have no tag")
    lone = [f"{tag} ({', '.join(own)})" for tag, own in sorted(splits.items()) if len(own) == 1]
    if lone and len({clip.split for clip in clips}) > 1 and not are_numbers(splits):
        listed = ", ".join(lone[:SHOWN]) + (", ..." if len(lone) > SHOWN else "")
        notes.append(f"{len(lone)} of {len(splits)} tags have clips of one split only: {listed}")
    return notes


def are_numbers(tags: Iterable[str]) -> bool:
    """Whether tags are numbers to predict: each is a number, and one of them is not whole.

    >>> are_numbers(["4.5", "12"]), are_numbers(["0", "1"]), are_numbers(["4.5", "war"])
    (True, False, False)
    """
    try:
        values = [float(tag) for tag in tags]
    except ValueError:
        return False
    return all(map(math.isfinite, values)) and any(value % 1 for value in values)


def describe_missing_tags(
    listed: Mapping[tuple[str, str], int], clips: Sequence[Clip]
) -> list[str]:
    """For each split the tags of which videos are missing, a sentence each.

    Args:
        listed: (split, tag) -> clips that the annotation files name.
        clips: those that are there.

    >>> describe_missing_tags({("train", "war"): 3}, [Clip("a", "a", tags=("war",))])
    ['train: videos there by tag, where some are missing: war 1 of 3']
    """
    there = Counter((clip.split, tag) for clip in clips for tag in clip.tags)
    found: dict[str, list[str]] = {}
    for (split, tag), count in sorted(listed.items()):
        if there[split, tag] < count:
            found.setdefault(split, []).append(f"{tag} {there[split, tag]} of {count}")
    return [
        f"{split}: videos there by tag, where some are missing: {', '.join(words[:SHOWN])}"
        + (", ..." if len(words) > SHOWN else "")
        for split, words in found.items()
    ]


def find_files(root: Path) -> FoundFiles:
    """Files below the root, and which of them are videos.

    A link to a folder elsewhere is entered, as videos often lie on another disk than their
    annotations; one to a folder below the root is not: that has its own name.
    """
    tree = walk_tree(root, follow_links=True)
    lists = [name for name in tree.files if PurePosixPath(name).suffix.lower() in LIST_SUFFIXES]
    found = find_videos(root, [name for name in tree.files if name not in set(lists)])
    unreadable = [f"{name}: {reason}" for name, reason in [*tree.unreadable, *found.unreadable]]
    return FoundFiles(tuple(tree.files), tuple(found.videos), tuple(unreadable))


def videos_of_classes(names: Sequence[str]) -> dict[tuple[str, str], str]:
    """(folder, stem) -> video; and ("", stem) where only one video has that stem."""
    found: dict[tuple[str, str], str] = {}
    count: Counter[str] = Counter()
    for name in names:
        path = PurePosixPath(name)
        found.setdefault((path.parent.name, path.stem), name)
        count[path.stem] += 1
    alone = {("", PurePosixPath(n).stem): n for n in names if count[PurePosixPath(n).stem] == 1}
    return found | alone


def missing_by_class(
    missing: Sequence[tuple[str, str]], listed: Mapping[str, int]
) -> Iterator[str]:
    """What is missing of a data set of classes, a sentence for each split.

    Args:
        missing: split and class of each clip without a video.
        listed: split -> clips of its list.

    >>> list(missing_by_class([("test", "b"), ("test", "a"), ("test", "b")], {"test": 9}))
    ['3 of 9 test clips have no video, of 2 classes: b (2), a (1)']
    """
    for split, count in listed.items():
        classes = Counter(name for of, name in missing if of == split)
        if classes:
            shown = ", ".join(f"{n or 'unknown'} ({c})" for n, c in classes.most_common(SHOWN))
            more = ", ..." if len(classes) > SHOWN else ""
            yield (
                f"{classes.total()} of {count} {split} clips have no video, of {len(classes)} "
                f"classes: {shown}{more}"
            )


def find_file(root: Path, names: Iterable[str], layout: str) -> Path:
    """The first of several paths below the root that exists.

    Raises:
        UsageError: none does; shows the expected layout and what was found.
    """
    tried = list(names)
    for name in tried:
        if (root / name).is_file():
            return root / name
    raise wrong_root(root, layout, f"no {' or '.join(tried)}")


def wrong_root(root: Path, layout: str, reason: str = "") -> UsageError:
    """An error with the expected layout beside what is there."""
    if not root.is_dir():
        reason, found = "no such folder", "nothing"
    else:
        entries = sorted(p.name + "/" * p.is_dir() for p in root.iterdir() if p.name[0] != ".")
        more = f" and {len(entries) - SHOWN} more" if len(entries) > SHOWN else ""
        found = ", ".join(entries[:SHOWN]) + more if entries else "an empty folder"
    return UsageError(f"{root}: {reason}\nexpected\n{layout}\nfound\n    {found}")


def choose(options: Mapping[str, str], key: str, known: Sequence[str]) -> str:
    """The value of an option with a few known values, the first by default."""
    value = options.get(key, known[0])
    if value not in known:
        raise UsageError(
            f"data.{key} is {value!r}{nearest(value, known)} (known: {', '.join(known)})"
        )
    return value


def require_same_classes(dataset: str, listed: Iterable[tuple[str, str]]) -> None:
    """Refuse lists with classes that the training list does not have: they could not be learned.

    Args:
        dataset: for the error.
        listed: split and class of each line; classes that are "" are unknown, and pass.

    Raises:
        UsageError: the classes, with the nearest names of the training list.
    """
    of_split: dict[str, set[str]] = {}
    for split, name in listed:
        if name:
            of_split.setdefault(split, set()).add(name)
    train = of_split.get("train", set())
    for split, names in sorted(of_split.items()):
        lone = sorted(names - train) if train else []
        if lone:
            only = train - names or train
            shown = "; ".join(f"{name!r}{nearest(name, only)}" for name in lone[:SHOWN])
            raise UsageError(
                f"{dataset}: {len(lone)} classes of its {split} list are not in its train list: "
                f"{shown}: give them the same names"
            )


def refuse_unknown(dataset: str, options: Mapping[str, str], known: Sequence[str]) -> None:
    """Raise UsageError at the first option that the data set does not take."""
    for key in options:
        if key not in known:
            raise UsageError(
                f"data.{key}: no option of {dataset}{nearest(key, known)} "
                f"(it takes {', '.join('data.' + name for name in known)})"
            )
