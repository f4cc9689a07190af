"""`lvu`: Long Video Understanding, videos with a label of one of its tasks each.

    ROOT/**/lvu_1.0/<task>/{train,val,test}.csv    a header, then lines of words between spaces: the
                                                   label, ..., the id of the video, one more word
    ROOT/**/<id>.mp4                               the videos, anywhere below

The label of a clip is its only tag, a number as in the file.  view_count and like_ratio have a
number to predict instead of a class, which is refused.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tokenreel.cache.csv_tables import read_lines
from tokenreel.cache.errors import UsageError
from tokenreel.cache.manifest import SPLITS, Clip, Manifest, path_below
from tokenreel.pipeline.datasets.survey import (
    Survey,
    choose,
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
NUMBERS = ("view_count", "like_ratio")
LAYOUT = __doc__.partition("\n\n")[2].partition("\n\n")[0]
LICENCE = "LVU annotations: of facebookresearch/lvu; the videos belong to their owners"


@dataclass(frozen=True)
class Entry:
    """A line of a list: id of the video, its label, its place for errors."""

    video: str
    label: int
    where: str


def lvu(root: Path, options: Mapping[str, str]) -> Survey:
    """The videos of a task of LVU that are there.

    Args:
        root: the folder.
        options: `task`, relationship, way_speaking, scene, director, genre, writer or year.

    Raises:
        UsageError: a root without lists, a wrong line, named by file and line, or a task of
            numbers.
    """
    refuse_unknown("lvu", options, ["task"])
    if options.get("task") in NUMBERS:
        raise UsageError(
            f"data.task={options['task']} has a number to predict, which nothing learns yet: "
            f"choose {', '.join(CLASSES)}"
        )
    task = choose(options, "task", tuple(CLASSES))
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
            if entry.video not in videos:
                missing[split] += 1
                continue
            tags = (str(entry.label),)
            clips.append(
                Clip(f"{split}/{entry.video}", videos[entry.video], split=split, tags=tags)
            )
    notes = [f"{n} of {listed[s]} {s} clips have no video" for s, n in missing.items() if n]
    clips.sort(key=lambda clip: clip.clip_id)
    notes += describe_tags(clips)
    manifest = Manifest("lvu", root, tuple(clips), {}, LICENCE, tuple(notes), files.unreadable)
    return Survey(manifest, {split: count for split, count in listed.items() if count})


def _read(path: Path, task: str) -> Iterator[Entry]:
    """The lines of a list after its header."""
    for number, line in enumerate(read_lines(path)[1:], start=2):
        place = f"{task}/{path.name}:{number}"
        words = line.split()
        if not words:
            continue
        label = words[0]
        is_class = label.isascii() and label.isdigit() and int(label) < CLASSES[task]
        if len(words) < 3 or not is_class:
            raise UsageError(
                f"{place}: {line[:80]!r}: want a label of 0 to {CLASSES[task] - 1}, the id of the "
                "video and one more word, between spaces"
            )
        yield Entry(words[-2], int(label), place)
