"""`penn_action`: Penn Action, 13 actions with phases.

    ROOT/frames/0001/000001.jpg ...                         as published: frames, and
    ROOT/labels/0001.mat                                    action and split of each video, and
    ROOT/penn_action_labels/{train,val}/<action>/0001.npy   phase of each frame (may be absent)
or
    ROOT/videos/0001_baseball_pitch.mp4                     as CARL prepares it
    ROOT/train.pkl, ROOT/val.pkl

Frames are put, as they are, into one video for each folder: ROOT/packed/0001.mkv, or elsewhere
with data.packed=DIR.  With phase labels the split is that of their folder; without them it is the
flag in the .mat files and there are no labels.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tokenreel.cache.errors import StoreError, UsageError, limit_behind
from tokenreel.cache.files import entries_of
from tokenreel.cache.manifest import Clip, Manifest
from tokenreel.cache.plugins import nearest
from tokenreel.pipeline.datasets.carl import FPS, check_phases, is_carl, read_carl
from tokenreel.pipeline.datasets.formats.jpegs import packed
from tokenreel.pipeline.datasets.survey import (
    Survey,
    choose,
    frames_to_spans,
    refuse_unknown,
    resample,
    wrong_root,
)

NUM_PHASES = {
    "baseball_pitch": 4,
    "baseball_swing": 3,
    "bench_press": 2,
    "bowl": 3,
    "clean_and_jerk": 6,
    "golf_swing": 3,
    "jumping_jacks": 4,
    "pullup": 2,
    "pushup": 2,
    "situp": 2,
    "squat": 4,
    "tennis_forehand": 3,
    "tennis_serve": 4,
}
OTHER_NAMES = {"bowling": "bowl", "pullups": "pullup", "pushups": "pushup", "situps": "situp"}
OTHER_NAMES |= {"squats": "squat"}
PUBLISHED = {"train": 1140, "val": 966}
LAYOUT = __doc__.partition("\n\n")[2].partition("\n\n")[0]
LICENCE = "Penn Action: for research; the videos belong to their owners"


@dataclass(frozen=True)
class Entry:
    """One video of the published layout: number, split, action, file of labels or None."""

    number: str
    split: str
    action: str
    labels: Path | None


def penn_action(root: Path, options: Mapping[str, str]) -> Survey:
    """The videos of Penn Action that are there, and how many there should be.

    Args:
        root: folder in one of the two layouts.
        options: `packed`, folder of the videos made from frames; `pack`, "yes" or "no": with
            "no" nothing is written and a clip's video is its folder of frames.

    Raises:
        UsageError: a root in neither layout, an unknown option or action, or a wrong file.
    """
    refuse_unknown("penn_action", options, ["packed", "pack"])
    pack = choose(options, "pack", ("yes", "no")) == "yes"
    unreadable: list[str] = []
    if is_carl(root):
        clips, listed, notes = read_carl(root, action_of=_action_of, num_phases=NUM_PHASES)
        video_root = root
    elif (root / "frames").is_dir():
        video_root = Path(options.get("packed", root / "packed")) if pack else root
        clips, listed, notes, unreadable = _read_published(root, video_root if pack else None)
    else:
        raise wrong_root(root, LAYOUT, "neither frames/ nor train.pkl or val.pkl")
    phases = {
        action: tuple(f"{action} {phase}" for phase in range(count))
        for action, count in NUM_PHASES.items()
    }
    clips.sort(key=lambda clip: clip.clip_id)
    manifest = Manifest(
        "penn_action", video_root, tuple(clips), phases, LICENCE, tuple(notes), tuple(unreadable)
    )
    return Survey(manifest, listed, PUBLISHED)


def _action_of(name: str, where: str) -> str:
    return _known_action(name.partition("_")[2], where)


def _known_action(text: str, where: str) -> str:
    action = OTHER_NAMES.get(text, text)
    if action not in NUM_PHASES:
        raise UsageError(f"{where}: no phases for the action {text!r}{nearest(text, NUM_PHASES)}")
    return action


def _read_published(
    root: Path, folder: Path | None
) -> tuple[list[Clip], dict[str, int], list[str], list[str]]:
    notes: list[str] = []
    unreadable: list[str] = []
    if (root / "penn_action_labels").is_dir():
        entries = list(_labelled(root))
    else:
        notes.append("no penn_action_labels/: clips have no phases, the split is the .mat flag")
        entries = list(_unlabelled(root))
    listed: dict[str, int] = {}
    clips = []
    num_missing = num_resampled = num_torn = 0
    for entry in entries:
        listed[entry.split] = listed.get(entry.split, 0) + 1
        try:
            frames = entries_of(root / "frames" / entry.number, "*.jpg")
        except StoreError as error:
            unreadable.append(str(error))
            continue
        if not frames:
            num_missing += 1
            continue
        if not _are_in_a_row(frames):
            num_torn += 1
            continue
        clip, was_resampled = _clip(entry, frames, folder, root, notes)
        num_resampled += was_resampled
        clips.append(clip)
    if num_missing:
        notes.append(f"{num_missing} of {len(entries)} videos have no frames")
    if num_torn:
        notes.append(
            f"{num_torn} of {len(entries)} videos lack a frame before their last: left out"
        )
    if num_resampled:
        notes.append(f"{num_resampled} clips had more labels than frames or fewer: resampled")
    return clips, listed, notes, unreadable


def _labelled(root: Path) -> Iterator[Entry]:
    splits = entries_of(root / "penn_action_labels")
    actions = [action for split in splits for action in entries_of(split)]
    for path in (path for action in actions for path in entries_of(action, "*.npy")):
        where = path.relative_to(root).as_posix()
        split = path.parts[-3]
        if split not in ("train", "val"):
            raise UsageError(f"{where}: the split is {split!r}, not train or val")
        yield Entry(path.stem, split, _known_action(path.parts[-2], where), path)


def _unlabelled(root: Path) -> Iterator[Entry]:
    """Videos of the 13 actions by their .mat files; the other two actions are left out."""
    from scipy.io import loadmat

    for path in entries_of(root / "labels", "*.mat"):
        try:
            content = loadmat(path, variable_names=["action", "train"])
            action, flag = str(content["action"].item()), int(content["train"].item())
        except (ValueError, KeyError, TypeError, OSError, NotImplementedError) as error:
            if limit := limit_behind(error):
                raise limit from error
            raise UsageError(f"labels/{path.name}: cannot be read ({error})") from None
        if OTHER_NAMES.get(action, action) in NUM_PHASES:
            split = "train" if flag == 1 else "val"
            yield Entry(path.stem, split, _known_action(action, path.name), None)


def _are_in_a_row(frames: Sequence[Path]) -> bool:
    """Whether the frames' names count without a gap: behind one, labels would be of neighbours."""
    numbers = [int(path.stem) if path.stem.isdecimal() else -1 for path in frames]
    return numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def _clip(
    entry: Entry, frames: Sequence[Path], folder: Path | None, root: Path, notes: list[str]
) -> tuple[Clip, bool]:
    """The clip, packed on request, and whether labels and frames differed in number."""
    name = f"{entry.number}_{entry.action}"
    clip = Clip(f"{entry.split}/{name}", "", split=entry.split, action=entry.action)
    kept, was_resampled = list(frames), False
    if entry.labels is not None:
        where = entry.labels.relative_to(root).as_posix()
        labels = _read_labels(entry.labels, entry.action, where)
        was_resampled = len(labels) != len(frames)
        if len(labels) > len(frames):
            labels = [labels[j] for j in resample(len(labels), len(frames))]
        elif len(labels) < len(frames):
            kept = [frames[j] for j in resample(len(frames), len(labels))]
        clip = replace(clip, spans=frames_to_spans(labels, fps=FPS, where=where))
    if folder is None:
        return replace(clip, video=f"frames/{entry.number}"), was_resampled
    video = f"{entry.number}-{len(kept)}.mkv"
    pictures = (path.read_bytes() for path in kept)
    notes += packed(folder / video, pictures, fps=FPS, where=f"frames/{entry.number}")
    return replace(clip, video=video), was_resampled


def _read_labels(path: Path, action: str, where: str) -> list[int]:
    try:
        labels = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        if limit := limit_behind(error):
            raise limit from error
        raise UsageError(f"{where}: not an array of numbers ({error})") from None
    if not labels.size:
        raise UsageError(f"{where}: no labels")
    return check_phases(labels, action, NUM_PHASES[action], where)
