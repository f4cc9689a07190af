"""`lvu`: Long Video Understanding, videos with a label of one of its tasks each.

    ROOT/**/lvu_1.0/<task>/{train,val,test}.csv    a header, then lines of words between spaces: the
                                                   label, ..., the id of the video, one more word
    ROOT/**/<id>.mp4                               the videos, anywhere below

The label of a clip is its only tag, a number as in the file.  Two tasks have a number to predict
(loss=mse): of view_count the natural logarithm of the file's; of like_ratio, whose lines begin with
likes and dislikes, ten times the share of likes.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenreel.cache.canonical import is_whole_number
from tokenreel.cache.csv_tables import read_lines
from tokenreel.cache.errors import UsageError
from tokenreel.cache.manifest import SPLITS, Clip, Manifest, path_below
from tokenreel.pipeline.datasets.survey import (
    Survey,
    choose,
    describe_missing_tags,
    describe_tags,
    find_files,
    refuse_unknown,
    wrong_root,
)

CLASSES = {  # of each task
    "relationship": 4,
    "way_speaking": 5,
    "scene": 6,
    "director": 10,
    "genre": 4,
    "writer": 10,
    "year": 9,
}
NUMBERS = {"view_count": 1, "like_ratio": 2}  # words of a label that are numbers
LAYOUT = __doc__.partition("\n\n")[2].partition("\n\n")[0]
LICENCE = "LVU annotations: of facebookresearch/lvu; the videos belong to their owners"


@dataclass(frozen=True)
class Entry:
    """A line of a list: id of the video, its label, its place for errors."""

    video: str
    label: str
    where: str


def lvu(root: Path, options: Mapping[str, str]) -> Survey:
    """The videos of a task of LVU that are there.

    Args:
        root: the folder.
        options: `task`, relationship, way_speaking, scene, director, genre, writer, year,
            view_count or like_ratio.

    Raises:
        UsageError: a root without lists, or a wrong line, named by file and line.
    """
    refuse_unknown("lvu", options, ["task"])
    task = choose(options, "task", (*CLASSES, *NUMBERS))
    if not root.is_dir():
        raise wrong_root(root, LAYOUT)
    files = find_files(root)
    videos = files.by_stem()
    lists = {
        split: [name for name in files.names if f"/{name}".endswith(f"/{task}/{split}.csv")]
        for split in SPLITS
    }
    if not any(lists.values()):
        raise wrong_root(root, LAYOUT, f"no {task}/train.csv, val.csv or test.csv")
    clips: list[Clip] = []
    listed, missing = dict.fromkeys(SPLITS, 0), dict.fromkeys(SPLITS, 0)
    where: dict[str, str] = {}
    by_tag: Counter[tuple[str, str]] = Counter()
    for split, names in lists.items():
        if len(names) > 1:
            raise UsageError(f"{root}: two lists of {task}, {names[0]} and {names[1]}: keep one")
        for entry in _read(path_below(root, names[0]), task) if names else ():
            if entry.video in where:
                raise UsageError(
                    f"{entry.where}: {entry.video} is listed twice, first at {where[entry.video]}"
                )
            where[entry.video] = entry.where
            listed[split] += 1
            by_tag[split, entry.label] += 1
            if entry.video not in videos:
                missing[split] += 1
                continue
            name = f"{split}/{entry.video}"
            clips.append(Clip(name, videos[entry.video], split=split, tags=(entry.label,)))
    notes = [f"{n} of {listed[s]} {s} clips have no video" for s, n in missing.items() if n]
    clips.sort(key=lambda clip: clip.clip_id)
    if task in CLASSES:
        notes += [*describe_missing_tags(by_tag, clips), *describe_tags(clips)]
    manifest = Manifest("lvu", root, tuple(clips), {}, LICENCE, tuple(notes), files.unreadable)
    return Survey(manifest, {split: count for split, count in listed.items() if count})


def _read(path: Path, task: str) -> Iterator[Entry]:
    """The lines of a list after its header."""
    for number, line in enumerate(read_lines(path)[1:], start=2):
        place = f"{task}/{path.name}:{number}"
        words = line.split()
        if not words:
            continue
        label = _number_of(words, task) if task in NUMBERS else _class_of(words, task)
        if label is None:
            raise UsageError(
                f"{place}: {line[:80]!r}: want {_wanted(task)}, the id of the video and one more "
                "word, between spaces"
            )
        yield Entry(words[-2], label, place)


def _class_of(words: Sequence[str], task: str) -> str | None:
    """The class of a line; None where it is wrong."""
    label = words[0]
    is_class = is_whole_number(label) and int(label) < CLASSES[task]
    return str(int(label)) if is_class and len(words) >= 3 else None


def _number_of(words: Sequence[str], task: str) -> str | None:
    """The number of a line to predict, as text that gives it back; None where it is wrong.

    >>> _number_of(["3", "1", "abc", "tt01"], "like_ratio")
    '7.5'
    """
    count = NUMBERS[task]
    try:
        values = [float(word) for word in words[:count]]
    except ValueError:
        return None
    if len(words) < count + 2 or not all(math.isfinite(v) and v >= 0 for v in values):
        return None
    if sum(values) <= 0:
        return None
    return repr(math.log(values[0]) if count == 1 else 10 * values[0] / sum(values))


def _wanted(task: str) -> str:
    """What a label of a task is."""
    if task in CLASSES:
        return f"a label of 0 to {CLASSES[task] - 1}"
    return "a number above 0" if NUMBERS[task] == 1 else "likes and dislikes"
