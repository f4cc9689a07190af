"""`kinetics710`: the union of Kinetics-400, 600 and 700, without what any of them tests on.

    ANNOTATIONS/**/*400*/{train,val,test}.csv    label,youtube_id,time_start,time_end,split: as
    ANNOTATIONS/**/*600*/...                     cvdfoundation publishes them; the number may be in
    ANNOTATIONS/**/*700*/...                     the name of the file instead of the folder's
    ROOT/**/<id>_000010_000020.mp4               the videos of all three, anywhere below

ANNOTATIONS is data.annotations, else ROOT/annotations.  Classes are one where their names agree in
lower case without anything but letters and digits; the newest list names it.  A training clip whose
video any of the three lists for validation or test is left out, and so is a clip for validation
whose video is in a test list.  A clip that several list is one clip.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tokenreel.cache.errors import UsageError
from tokenreel.cache.manifest import Clip, Manifest
from tokenreel.pipeline.datasets.kinetics import Entry, kinetics_videos, read_kinetics_csv
from tokenreel.pipeline.datasets.survey import (
    Survey,
    find_files,
    missing_by_class,
    refuse_unknown,
    require_same_classes,
    wrong_root,
)

VERSIONS = ("700", "600", "400")  # the newest first
LAYOUT = __doc__.partition("\n\n")[2].partition("\n\n")[0]
LICENCE = "Kinetics annotations: CC BY 4.0; the videos belong to their owners"
CLASSES = 710
VERSION = re.compile(r"(?<!\d)(400|600|700)(?!\d)")


@dataclass
class _Union:
    """What the lists of three versions give together.

    Attributes:
        entries: stem -> its line, of the newest list that has it.
        names: letters and digits of a class -> its name.
        merged: names of which several are one class.
        num_left_out: clips that are tested on.
        num_renamed: clips of which two lists give different classes.
    """

    entries: dict[str, Entry] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    merged: dict[str, set[str]] = field(default_factory=dict)
    num_left_out: Counter[str] = field(default_factory=Counter)
    num_renamed: int = 0


def kinetics710(root: Path, options: Mapping[str, str]) -> Survey:
    """The videos of Kinetics-400, 600 and 700 that are there, for training before them.

    Args:
        root: folder of the videos.
        options: `annotations`, folder of the lists of all three; ROOT/annotations when left out.

    Raises:
        UsageError: no lists of one of them, a wrong line, or classes that differ between splits.
    """
    refuse_unknown("kinetics710", options, ["annotations"])
    folder = Path(options.get("annotations", root / "annotations"))
    if not root.is_dir() or not folder.is_dir():
        raise wrong_root(folder if root.is_dir() else root, LAYOUT)
    union = _unite(_read_lists(folder))
    files = find_files(root)
    videos = kinetics_videos(files.videos)
    require_same_classes("kinetics710", [(e.split, e.action) for e in union.entries.values()])
    clips, missing, listed = [], [], Counter(entry.split for entry in union.entries.values())
    for stem, entry in union.entries.items():
        if stem not in videos:
            missing.append((entry.split, entry.action))
            continue
        clip_id = f"{entry.split}/{stem}"
        clips.append(
            Clip(clip_id, videos[stem], split=entry.split, action=entry.action, group=entry.youtube)
        )
    clips.sort(key=lambda clip: clip.clip_id)
    phases: dict[str, tuple[str, ...]] = dict.fromkeys(union.names.values(), ())
    notes = [*_notes(union), *missing_by_class(missing, listed)]
    manifest = Manifest(
        "kinetics710", root, tuple(clips), phases, LICENCE, tuple(notes), files.unreadable
    )
    return Survey(manifest, dict(listed))


def _read_lists(folder: Path) -> dict[str, list[Entry]]:
    """Version -> the lines of its lists."""
    lists: dict[str, list[Entry]] = {version: [] for version in VERSIONS}
    for path in sorted(folder.rglob("*.csv")):
        found = VERSION.findall(str(path.relative_to(folder)))
        if len(set(found)) > 1:
            raise UsageError(f"{path}: is it of Kinetics-{' or of Kinetics-'.join(found)}?")
        if found:
            lists[found[0]] += read_kinetics_csv(path)
    without = [version for version in VERSIONS if not lists[version]]
    if without:
        missing = ", ".join(f"Kinetics-{version}" for version in sorted(without))
        raise wrong_root(folder, LAYOUT, f"no list of {missing}")
    return lists


def _unite(lists: Mapping[str, list[Entry]]) -> _Union:
    union = _Union()
    tested: dict[str, set[str]] = {"val": set(), "test": set()}
    for entries in lists.values():
        for entry in entries:
            if not entry.youtube:
                raise UsageError(
                    f"{entry.where}: no youtube_id: kinetics710 needs the list of cvdf"
                )
            if entry.split in tested:
                tested[entry.split].add(entry.youtube)
    out_of = {"train": tested["val"] | tested["test"], "val": tested["test"]}
    for version in VERSIONS:
        for entry in lists[version]:
            if entry.split == "test":
                continue
            if not entry.action:
                raise UsageError(f"{entry.where}: no label")
            key = re.sub(r"[^a-z0-9]", "", entry.action.lower())
            name = union.names.setdefault(key, entry.action)
            union.merged.setdefault(name, set()).add(entry.action)
            if entry.youtube in out_of[entry.split]:
                union.num_left_out[entry.split] += 1
                continue
            named = Entry(entry.stem, entry.split, name, entry.where, entry.youtube)
            before = union.entries.setdefault(entry.stem, named)
            union.num_renamed += before.action != name
    return union


def _notes(union: _Union) -> list[str]:
    """What was merged and left out, a sentence each."""
    count = len(union.names)
    merged = {name: names for name, names in sorted(union.merged.items()) if len(names) > 1}
    notes = [
        f"{count} classes of three lists: names are one class where they agree in lower case "
        "without anything but letters and digits"
        + ("" if count == CLASSES else f" (UniFormerV2 counts {CLASSES})")
    ]
    if merged:
        shown = "; ".join(" = ".join(map(repr, sorted(names))) for names in merged.values())
        notes.append(f"{len(merged)} classes are written in several ways: {shown}")
    for split, others in (("train", "validation or test"), ("val", "test")):
        if union.num_left_out[split]:
            notes.append(
                f"{union.num_left_out[split]} {split} clips are left out, for their videos are in "
                f"a {others} list of one of the three"
            )
    if union.num_renamed:
        notes.append(
            f"{union.num_renamed} clips have another class in an older list: the newest is taken"
        )
    return notes
