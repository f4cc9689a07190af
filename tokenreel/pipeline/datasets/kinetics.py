"""`kinetics400` and `kinetics600`: Kinetics, videos with one action each and no phases.

    ROOT/**/{train,val,test}.csv      label,youtube_id,time_start,time_end,split   (cvdfoundation)
    ROOT/{train,val}/<id>_000010_000020.mp4                    flat, or
    ROOT/videos/<split>/<label>/<id>_000010_000020.mp4         by class, or
    ROOT/**/kinetics400_{train,val}_list_videos.txt            `path label`, a number (MMAction2;
                                                               of kinetics600 with its name)
    ROOT/videos_train/<label_with_underscores>/<id>_000010_000020.mp4, or
    ROOT/**/{train,val}.csv           video_file,label                             (CARL)

Without any list, split and action are read from the folders.  Of two files of a name, the one
below a folder `replacement` is taken.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tokenreel.cache.csv_tables import Table, read_lines
from tokenreel.cache.errors import UsageError
from tokenreel.cache.manifest import SPLITS, Clip, Manifest, path_below
from tokenreel.pipeline.datasets.survey import (
    Survey,
    find_files,
    refuse_unknown,
    require_same_classes,
    wrong_root,
)

SPLIT_NAMES = {"validate": "val", "validation": "val"} | {split: split for split in SPLITS}
CVDF_COLUMNS = ("label", "youtube_id", "time_start", "time_end", "split")
CARL_COLUMNS = ("video_file", "label")
LAYOUT = __doc__.partition("\n\n")[2].partition("\n\n")[0]
LICENCE = "Kinetics annotations: CC BY 4.0; the videos belong to their owners"


@dataclass(frozen=True)
class Entry:
    """A line of a list: stem of the file, split, action, its place for errors, and YouTube's id."""

    stem: str
    split: str
    action: str
    where: str
    youtube: str = ""


def kinetics400(root: Path, options: Mapping[str, str]) -> Survey:
    """The videos of Kinetics-400 that are there; it takes no options, and how many there should be.

    Raises:
        UsageError: a root without videos or lists, a wrong line, named by file and line, or classes
            of a list that the training list does not have.
    """
    return _kinetics("kinetics400", root, options)


def kinetics600(root: Path, options: Mapping[str, str]) -> Survey:
    """The videos of Kinetics-600 that are there, see kinetics400.

    Raises:
        UsageError: see kinetics400.
    """
    return _kinetics("kinetics600", root, options)


def _kinetics(name: str, root: Path, options: Mapping[str, str]) -> Survey:
    refuse_unknown(name, options, [])
    if not root.is_dir():
        raise wrong_root(root, LAYOUT)
    files = find_files(root)
    videos = kinetics_videos(files.videos)
    entries = _read_lists(root, files.names, name)
    notes = []
    if entries:
        require_same_classes(name, [(entry.split, entry.action) for entry in entries.values()])
    else:
        notes.append("no lists: split and action are those of the folders")
        entries = {video: _from_path(video) for video in videos.values()}
    if not videos and not entries:
        raise wrong_root(root, LAYOUT, "no videos and no lists")
    clips, listed, missing = [], dict.fromkeys(SPLITS, 0), dict.fromkeys(SPLITS, 0)
    for entry in entries.values():
        listed[entry.split] += 1
        video = videos.get(entry.stem)
        if video is None:
            missing[entry.split] += 1
            continue
        clip_id = f"{entry.split}/{entry.stem}"
        clips.append(Clip(clip_id, video, split=entry.split, action=entry.action))
    notes += [f"{n} of {listed[s]} {s} clips have no video" for s, n in missing.items() if n]
    extra = len(videos.keys() - {entry.stem for entry in entries.values()})
    if extra:
        notes.append(f"{extra} videos are in no list and left out")
    clips.sort(key=lambda clip: clip.clip_id)
    phases: dict[str, tuple[str, ...]] = {clip.action: () for clip in clips}
    manifest = Manifest(name, root, tuple(clips), phases, LICENCE, tuple(notes), files.unreadable)
    return Survey(manifest, {split: n for split, n in listed.items() if n})


def kinetics_videos(names: Sequence[str]) -> dict[str, str]:
    """Stem -> video; of two, the one below a folder `replacement`."""
    found: dict[str, str] = {}
    for name in names:
        path = PurePosixPath(name)
        if path.stem not in found or "replacement" in path.parts:
            found[path.stem] = name
    return found


def _from_path(video: str) -> Entry:
    *folders, name = PurePosixPath(video).parts
    words = [folder.removeprefix("videos_") for folder in folders]
    split = next((SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES), "train")
    is_class = bool(words) and words[-1] not in (*SPLIT_NAMES, "videos", "replacement")
    return Entry(PurePosixPath(name).stem, split, _action(words[-1]) if is_class else "", video)


def _action(label: str) -> str:
    return label.strip().strip('"').replace("_", " ")


def _read_lists(root: Path, names: Sequence[str], dataset: str) -> dict[str, Entry]:
    entries: dict[str, Entry] = {}
    kinds = ("*.csv", f"{dataset}_*_list_videos.txt")
    for name in names:
        path = path_below(root, name)
        if not any(path.match(kind) for kind in kinds):
            continue
        reader = _read_text if path.suffix == ".txt" else read_kinetics_csv
        for entry in reader(path):
            before = entries.setdefault(entry.stem, entry)
            if (before.split, before.action) != (entry.split, entry.action):
                raise UsageError(
                    f"{entry.where}: {entry.stem} is {entry.split} {entry.action!r}, "
                    f"at {before.where} it is {before.split} {before.action!r}"
                )
    return entries


def read_kinetics_csv(path: Path) -> Iterator[Entry]:
    """The lines of a list, of cvdfoundation or of CARL.

    Raises:
        UsageError: other columns, or a wrong line.
    """
    table = Table(path, (*CVDF_COLUMNS, *CARL_COLUMNS))
    is_cvdf = {"youtube_id", "time_start", "time_end"} <= set(table.header)
    if not is_cvdf and table.header != CARL_COLUMNS:
        columns = ",".join(table.header)[:200]
        shown = columns if columns.isprintable() else ascii(columns)
        raise UsageError(f"{table.where}: columns {shown}; expected\n{LAYOUT}")
    for line in table.lines():
        where, row = line.where, line.cells
        if not is_cvdf:
            stem = PurePosixPath(row["video_file"]).stem
            yield Entry(stem, _split(path.stem, where), _action(row["label"]), where)
            continue
        start, stop = row["time_start"], row["time_end"]
        if not (_is_whole(start) and _is_whole(stop) and int(start) < int(stop)):
            raise UsageError(f"{where}: from {start!r} s to {stop!r} s")
        stem = f"{row['youtube_id']}_{int(start):06d}_{int(stop):06d}"
        split = _split(row.get("split") or path.stem, where)
        yield Entry(stem, split, _action(row.get("label", "")), where, row["youtube_id"])


def _is_whole(text: str) -> bool:
    """Whether a text is a whole number from 0, of at most nine digits."""
    return text.isascii() and text.isdigit() and len(text) < 10


def _read_text(path: Path) -> Iterator[Entry]:
    split = _split(path.name.split("_")[1], path.name)
    for number, text in enumerate(read_lines(path), start=1):
        video, _, label = text.strip().rpartition(" ")
        if text.strip() and not (video and label.isdigit()):
            raise UsageError(f"{path.name}:{number}: {text!r} is not `path label`")
        if text.strip():
            folders = PurePosixPath(video).parts[:-1]
            action = _action(folders[-1]) if folders else f"class {label}"
            yield Entry(PurePosixPath(video).stem, split, action, f"{path.name}:{number}")


def _split(text: str, where: str) -> str:
    split = SPLIT_NAMES.get(text.strip())
    if split is None:
        raise UsageError(f"{where}: the split is {text!r}, not one of {', '.join(SPLITS)}")
    return split
