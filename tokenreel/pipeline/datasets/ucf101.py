"""`ucf101`: UCF101, 101 actions, three splits into train and test.

    ROOT/**/classInd.txt               `1 ApplyEyeMakeup`: number and class (may be absent)
    ROOT/**/trainlist01.txt            `ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1`, 02 and 03
    ROOT/**/testlist01.txt             the same without the number
    ROOT/**/<class>/v_<class>_g08_c01.avi      the videos, anywhere below, with any suffix

Clip ids do not name the split: a store of one split becomes one of another by `tokenreel store
relabel` with data.split.  Clips of a group (g08) are of one source video.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from tokenreel.cache.canonical import is_whole_number
from tokenreel.cache.csv_tables import read_lines
from tokenreel.cache.errors import UsageError
from tokenreel.cache.manifest import Clip, Manifest, path_below
from tokenreel.pipeline.datasets.survey import (
    FoundFiles,
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
LAYOUT = __doc__.partition("\n\n")[2].partition("\n\n")[0]
LICENCE = "UCF101: no licence is stated; the videos are of YouTube and belong to their owners"
PUBLISHED = {
    "1": {"train": 9537, "test": 3783},
    "2": {"train": 9586, "test": 3734},
    "3": {"train": 9624, "test": 3696},
}
GROUP = re.compile(r"(.+_g\d+)_c\d+")


def ucf101(root: Path, options: Mapping[str, str]) -> Survey:
    """The videos of a split of UCF101 that are there.

    Args:
        root: the folder.
        options: `split`, 1, 2 or 3.

    Raises:
        UsageError: a root without lists, a wrong line, named by file and line, or classes that
            differ between the lists.
    """
    refuse_unknown("ucf101", options, ["split"])
    number = choose(options, "split", SPLITS)
    if not root.is_dir():
        raise wrong_root(root, LAYOUT)
    files = find_files(root)
    names = {split: _find(files, f"{split}list0{number}.txt") for split in ("train", "test")}
    if not all(names.values()):
        raise wrong_root(root, LAYOUT, f"no trainlist0{number}.txt and testlist0{number}.txt")
    classes = _read_classes(root, files)
    videos = videos_of_classes(files.videos)
    entries: dict[tuple[str, str], tuple[str, str]] = {}  # class and stem -> split, place
    for split, name in names.items():
        for action, stem, where in _read(path_below(root, name), classes):
            if (action, stem) in entries:
                before = entries[action, stem]
                raise UsageError(f"{where}: {action}/{stem} is listed at {before[1]} too")
            entries[action, stem] = split, where
    require_same_classes("ucf101", [(split, key[0]) for key, (split, _) in entries.items()])
    clips, listed, missing = [], dict.fromkeys(names, 0), []
    for (action, stem), (split, _) in entries.items():
        listed[split] += 1
        video = videos.get((action, stem)) or videos.get(("", stem))
        if video is None:
            missing.append((split, action))
            continue
        match = GROUP.fullmatch(stem)
        group = match[1] if match else ""
        clips.append(Clip(f"{action}/{stem}", video, split=split, action=action, group=group))
    clips.sort(key=lambda clip: clip.clip_id)
    manifest = Manifest(
        "ucf101",
        root,
        tuple(clips),
        {action: () for action, _ in entries},
        LICENCE,
        tuple(missing_by_class(missing, listed)),
        files.unreadable,
    )
    return Survey(manifest, listed, PUBLISHED[number])


def _find(files: FoundFiles, name: str) -> str:
    return next((found for found in files.names if f"/{found}".endswith(f"/{name}")), "")


def _read_classes(root: Path, files: FoundFiles) -> dict[str, int]:
    """Class -> its number; {} where there is no list of them."""
    name = _find(files, "classInd.txt")
    classes: dict[str, int] = {}
    for number, line in enumerate(read_lines(path_below(root, name)) if name else (), start=1):
        label, _, action = line.strip().partition(" ")
        if line.strip() and not (is_whole_number(label) and action):
            raise UsageError(f"classInd.txt:{number}: {line[:80]!r} is not `number class`")
        if line.strip():
            classes[action.strip()] = int(label)
    return classes


def _read(path: Path, classes: Mapping[str, int]) -> Iterator[tuple[str, str, str]]:
    """Class, stem and place of each line of a list."""
    for number, line in enumerate(read_lines(path), start=1):
        where = f"{path.name}:{number}"
        if not line.strip():
            continue
        file, _, label = line.strip().partition(" ")
        parts = PurePosixPath(file).parts
        if len(parts) != 2 or (label and not is_whole_number(label.strip())):
            raise UsageError(f"{where}: {line[:80]!r} is not `class/video.avi number`")
        action, stem = parts[0], PurePosixPath(file).stem
        if classes and action not in classes:
            raise UsageError(f"{where}: {action!r} is no class of classInd.txt")
        if classes and label and classes[action] != int(label):
            raise UsageError(
                f"{where}: {action} is number {int(label)} here and {classes[action]} in "
                "classInd.txt"
            )
        yield action, stem, where
