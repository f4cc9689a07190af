"""`mmx`: MMX-Trailer-20, trailers with up to six genres each.

    ROOT/*.csv         video,genres[,split]            genres between "|": drama|war, or
    ROOT/*.csv         img_root,g1,...,g6[,split]      as the author's out.csv
    ROOT/GENRE/NAME/SCENE/meta.pkl             the author's folders: (genres, year), in any scene
    ROOT/**/NAME.mp4   the trailers, anywhere below; NAME is the last part of `video` or `img_root`

No list was published.  meta.pkl is read without running anything in it; a CSV list takes its
place.  Where there are no splits, four fifths of it are train, a tenth is val and the
rest test, drawn by data.split_seed: 6,047, 754 and 754 of the paper's 7,555.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from tokenreel.cache.canonical import is_whole_number
from tokenreel.cache.csv_tables import Table
from tokenreel.cache.errors import UsageError
from tokenreel.cache.manifest import Clip, Manifest, path_below
from tokenreel.pipeline.datasets.formats.pickles import read_plain_pickle
from tokenreel.pipeline.datasets.survey import (
    Survey,
    describe_missing_tags,
    describe_tags,
    find_files,
    refuse_unknown,
    wrong_root,
)

PUBLISHED = {"train": 6047, "val": 754, "test": 754}
GENRES = tuple(f"g{number}" for number in range(1, 7))
COLUMNS = ("video", "genres", "img_root", "split", *GENRES)
META = "meta.pkl"
EMPTY = ("", "nan", "NaN", "None")  # cells without a genre, as pandas writes them too
LAYOUT = __doc__.partition("\n\n")[2].partition("\n\n")[0]
LICENCE = "MMX-Trailer-20: terms not stated; the trailers belong to their owners"


@dataclass(frozen=True)
class Entry:
    """A line of a list: name of the trailer, its genres, its split, its place for errors."""

    name: str
    genres: tuple[str, ...]
    split: str
    where: str


def mmx(root: Path, options: Mapping[str, str]) -> Survey:
    """The trailers of a list that are there, with their genres as tags.

    Args:
        root: the folder.
        options: `split_seed`, of the draw of splits where the list has none; 0 when left out.

    Raises:
        UsageError: a root without a list, or a wrong line, named by file and line.
    """
    refuse_unknown("mmx", options, ["split_seed"])
    seed = options.get("split_seed", "0")
    if not is_whole_number(seed):
        raise UsageError(f"data.split_seed={seed}: want a whole number from 0")
    if not root.is_dir():
        raise wrong_root(root, LAYOUT)
    files = find_files(root)
    videos, notes = files.by_stem(), []
    lists = [name for name in files.names if name.endswith(".csv") and "/" not in name]
    entries = _read_lists(root, lists, videos) or _read_folders(root, files.names)
    if not entries:
        raise wrong_root(root, LAYOUT, "no list with a line")
    if not any(entry.split for entry in entries):
        entries = _draw_splits(entries, int(seed))
        notes.append(f"the list has no splits: drawn with data.split_seed={seed}")
    if unsplit := [entry.where for entry in entries if entry.split not in PUBLISHED]:
        raise UsageError(f"{unsplit[0]}: the split is not one of {', '.join(PUBLISHED)}")
    clips: list[Clip] = []
    listed, missing = dict.fromkeys(PUBLISHED, 0), dict.fromkeys(PUBLISHED, 0)
    for entry in entries:
        listed[entry.split] += 1
        if entry.name in videos:
            video = videos[entry.name]
            clips.append(Clip(entry.name, video, split=entry.split, tags=entry.genres))
        else:
            missing[entry.split] += 1
    notes += [f"{n} of {listed[s]} {s} trailers have no video" for s, n in missing.items() if n]
    by_tag = Counter((entry.split, genre) for entry in entries for genre in entry.genres)
    notes += describe_missing_tags(by_tag, clips)
    clips.sort(key=lambda clip: clip.clip_id)
    notes += describe_tags(clips)
    manifest = Manifest("mmx", root, tuple(clips), {}, LICENCE, tuple(notes), files.unreadable)
    return Survey(manifest, listed, PUBLISHED)


def _read_lists(root: Path, names: Sequence[str], stems: Collection[str]) -> list[Entry]:
    entries: dict[str, Entry] = {}
    for name in names:
        for entry in _read(path_below(root, name), stems):
            before = entries.setdefault(entry.name, entry)
            if before is not entry:
                raise UsageError(
                    f"{entry.where}: {entry.name!r} is listed twice, first at {before.where}"
                )
    return list(entries.values())


def _read_folders(root: Path, names: Sequence[str]) -> list[Entry]:
    """The trailers of GENRE/NAME/SCENE/meta.pkl; one below several genres has those of all.

    Raises:
        UsageError: a file that holds something else, or more than plain containers and text.
    """
    found: dict[str, Entry] = {}
    seen: set[str] = set()
    for name in names:
        trailer, _, last = name.rpartition("/")
        folder = PurePosixPath(trailer).parent
        if last != META or len(folder.parts) < 2 or folder.as_posix() in seen:
            continue
        seen.add(folder.as_posix())
        genres = _genres_of(read_plain_pickle(path_below(root, name)), name)
        known = found[folder.name].genres if folder.name in found else ()
        genres = tuple(sorted({*known, *genres}))
        found[folder.name] = Entry(folder.name, genres, "", name)
    return list(found.values())


def _genres_of(value: Any, where: str) -> tuple[str, ...]:
    """The genres of (genres, year), or of ((genres, anything), year), as the author wrote both."""
    labels = value[0] if isinstance(value, (list, tuple)) and value else None
    if isinstance(labels, (list, tuple)) and len(labels) == 2 and not isinstance(labels[0], str):
        labels = labels[0]
    if isinstance(labels, str):
        labels = [labels]
    if not isinstance(labels, (list, tuple, set)) or not all(isinstance(x, str) for x in labels):
        raise UsageError(
            f"{where}: not (genres, year) but {str(value)[:80]!r}: write the genres as a list, "
            "video,genres with drama|war, into ROOT/list.csv"
        )
    return tuple(sorted({label.strip() for label in labels} - {*EMPTY}))


def _read(path: Path, stems: Collection[str]) -> list[Entry]:
    table = Table(path, COLUMNS)
    header = set(table.header)
    column = next((name for name in ("video", "img_root") if name in header), None)
    if column is None or not header & {"genres", *GENRES}:
        shown = ",".join(table.header)[:200]
        raise UsageError(
            f"{table.where}: columns {shown if shown.isprintable() else ascii(shown)}; "
            f"expected\n{LAYOUT}"
        )
    entries = []
    for line in table.lines():
        cells = line.cells
        words = [*cells.get("genres", "").split("|"), *(cells.get(name, "") for name in GENRES)]
        genres = {word.strip() for word in words} - {*EMPTY}
        name = PurePosixPath(cells[column].rstrip("/"))
        if not name.name:
            raise UsageError(f"{line.where}: no {column}")
        is_whole = column == "img_root" or name.name in stems  # "Mr. Nobody" has no suffix
        stem = name.name if is_whole else name.stem
        entries.append(Entry(stem, tuple(sorted(genres)), cells.get("split", ""), line.where))
    return entries


def _draw_splits(entries: Sequence[Entry], seed: int) -> list[Entry]:
    """The entries with splits, in the order of their names whatever that of the list."""
    ordered = sorted(entries, key=lambda entry: entry.name)
    total = sum(PUBLISHED.values())
    held = round(len(ordered) * PUBLISHED["val"] / total)
    count = len(ordered)
    words = ["train"] * (count - 2 * held) + ["val"] * held + ["test"] * held
    places = np.random.default_rng(seed).permutation(count)
    splits = dict(zip(places.tolist(), words, strict=True))
    return [
        Entry(entry.name, entry.genres, splits[place], entry.where)
        for place, entry in enumerate(ordered)
    ]
