"""`hmdb51`: HMDB51, 51 actions, three splits into train, test and unused videos.

    ROOT/**/<class>_test_split1.txt    `April_09_brush_hair_u_nm_np1_ba_goo_0.avi 1`: 1 is for
                                       training, 2 for testing, 0 unused in this split; and of
                                       split2 and split3
    ROOT/**/<class>/<video>.avi        the videos, anywhere below, with any suffix

Clip ids do not name the split.  With data.unused=val the unused videos are clips of the split val,
so that one store of all videos becomes one of any split by `tokenreel store relabel` with
data.split.
"""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from tokenreel.cache.csv_tables import read_lines
from tokenreel.cache.errors import UsageError
from tokenreel.cache.manifest import Clip, Manifest, path_below
from tokenreel.pipeline.datasets.survey import (
    SHOWN,
    Survey,
    choose,
    find_files,
    missing_by_class,
    refuse_unknown,
    require_same_classes,
    videos_of_classes,
    wrong_root,
)

SPLITS = ("1", "2", "3")
MARKS = {"0": "unused", "1": "train", "2": "test"}
LAYOUT = __doc__.partition("\n\n")[2].partition("\n\n")[0]
LICENCE = "HMDB51: CC BY 4.0; the videos belong to their owners"
PUBLISHED = {"train": 3570, "test": 1530}


def hmdb51(root: Path, options: Mapping[str, str]) -> Survey:
    """The videos of a split of HMDB51 that are there.

    Args:
        root: the folder.
        options: `split`, 1, 2 or 3; `unused`, out or val: what becomes of the videos that the split
            does not use.

    Raises:
        UsageError: a root without lists, a wrong line, named by file and line, or classes that
            differ between the splits.
    """
    refuse_unknown("hmdb51", options, ["split", "unused"])
    number = choose(options, "split", SPLITS)
    unused = choose(options, "unused", ("out", "val"))
    if not root.is_dir():
        raise wrong_root(root, LAYOUT)
    files = find_files(root)
    lists = {split: _lists(files.names, split) for split in SPLITS}
    if not lists[number]:
        raise wrong_root(root, LAYOUT, f"no <class>_test_split{number}.txt")
    _require_classes_of_every_split(lists, number)
    videos = videos_of_classes(files.videos)
    clips, missing, every = [], [], []
    listed = dict.fromkeys(("train", "val", "test") if unused == "val" else ("train", "test"), 0)
    for action, name in lists[number].items():
        for stem, mark in _read(path_below(root, name)).items():
            split = {"unused": unused}.get(MARKS[mark], MARKS[mark])
            if split == "out":
                continue
            every.append((split, action))
            listed[split] += 1
            video = videos.get((action, stem)) or videos.get(("", stem))
            if video is None:
                missing.append((split, action))
                continue
            clips.append(Clip(f"{action}/{stem}", video, split=split, action=action))
    require_same_classes("hmdb51", every)
    clips.sort(key=lambda clip: clip.clip_id)
    manifest = Manifest(
        "hmdb51",
        root,
        tuple(clips),
        dict.fromkeys(lists[number], ()),
        LICENCE,
        tuple(missing_by_class(missing, listed)),
        files.unreadable,
    )
    return Survey(manifest, listed, PUBLISHED)


def _lists(names: tuple[str, ...], split: str) -> dict[str, str]:
    """Class -> its list of a split."""
    end = f"_test_split{split}.txt"
    found = {PurePosixPath(n).name.removesuffix(end): n for n in names if n.endswith(end)}
    return dict(sorted(found.items()))


def _require_classes_of_every_split(lists: Mapping[str, Mapping[str, str]], number: str) -> None:
    """Refuse classes that the lists of another split do not have, or that this split lacks."""
    for other, named in lists.items():
        differing = sorted(named.keys() ^ lists[number].keys())
        if named and differing:
            shown = ", ".join(differing[:SHOWN])
            raise UsageError(
                f"hmdb51: {len(differing)} classes have a list of split {number} or of split "
                f"{other} alone: {shown}: give them the same names, or add the missing lists"
            )


def _read(path: Path) -> dict[str, str]:
    """Stem -> mark of each line of a list."""
    marks: dict[str, str] = {}
    for number, line in enumerate(read_lines(path), start=1):
        where = f"{path.name}:{number}"
        name, _, mark = line.strip().rpartition(" ")
        if not line.strip():
            continue
        if mark not in MARKS or not name.strip():
            raise UsageError(f"{where}: {line[:80]!r} is not `video.avi` and 0, 1 or 2")
        stem = PurePosixPath(name.strip()).stem
        if stem in marks:
            raise UsageError(f"{where}: {stem} is listed twice")
        marks[stem] = mark
    return marks
