"""The files of CARL: train.pkl, val.pkl and videos/, as its Penn Action and Pouring come."""

from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from tokenreel.cache.errors import UsageError
from tokenreel.cache.manifest import Clip
from tokenreel.pipeline.datasets.formats.pickles import read_plain_pickle
from tokenreel.pipeline.datasets.survey import frames_to_spans

FPS = 25
SPLITS = ("train", "val")


def is_carl(root: Path) -> bool:
    """Whether a pickle of CARL is at the root."""
    return any((root / f"{split}.pkl").is_file() for split in SPLITS)


def read_carl(
    root: Path, *, action_of: Callable[[str, str], str], num_phases: Mapping[str, int]
) -> tuple[list[Clip], dict[str, int], list[str]]:
    """The clips of a root in CARL's layout.

    Args:
        root: folder of train.pkl, val.pkl and videos/.
        action_of: (name of a clip, where) -> its action.
        num_phases: phases of each action.

    Returns:
        The clips whose video is there, the number of clips listed by split, and notes.

    Raises:
        UsageError: a pickle that holds anything but data, or an entry that is not as CARL's.
    """
    clips: list[Clip] = []
    listed: dict[str, int] = {}
    notes: list[str] = []
    for split in SPLITS:
        path = root / f"{split}.pkl"
        if not path.is_file():
            notes.append(f"no {path.name}: the {split} split is left out")
            continue
        content = read_plain_pickle(path)
        entries = content[0] if isinstance(content, tuple) and content else content
        if not isinstance(entries, list):
            raise UsageError(f"{path.name}: holds {type(content).__name__}, not a list of clips")
        found = []
        for number, entry in enumerate(entries):
            clip = _clip(root, entry, split, f"{path.name}[{number}]", action_of, num_phases)
            if clip is not None:
                found.append(clip)
        listed[split] = len(entries)
        if len(found) < len(entries):
            gone = len(entries) - len(found)
            notes.append(f"{gone} of {len(entries)} {split} clips have no video")
        clips += found
    return clips, listed, notes


def check_phases(labels: Any, action: str, num_phases: int, where: str) -> list[int]:
    """Labels of frames as whole numbers below the number of phases, -1 for none.

    Raises:
        UsageError: a number that is no phase, or labels that are not a row of numbers.
    """
    try:
        array = np.asarray(labels)
    except ValueError:
        raise UsageError(
            f"{where}: frame labels are lists of several lengths, not (T,) numbers"
        ) from None
    is_row = array.ndim == 1 or (array.ndim > 1 and array.size == max(array.shape))
    if array.dtype.kind not in "iufb" or not is_row:
        raise UsageError(f"{where}: frame labels are {array.dtype} {array.shape}, not (T,) numbers")
    flat = array.reshape(-1)
    wrong = (flat != np.floor(flat)) | (flat < -1) | (flat >= num_phases)
    if wrong.any():
        at = int(np.flatnonzero(wrong)[0])
        raise UsageError(
            f"{where}: frame {at} has phase {flat[at]}; {action} has {num_phases}, from 0"
        )
    return [int(label) for label in flat]


def _clip(
    root: Path,
    entry: Any,
    split: str,
    where: str,
    action_of: Callable[[str, str], str],
    num_phases: Mapping[str, int],
) -> Clip | None:
    missing = {"name", "video_file", "frame_label"} - set(entry if isinstance(entry, dict) else ())
    if missing:
        raise UsageError(f"{where}: no {', '.join(sorted(missing))}")
    for key in ("name", "video_file"):
        if not isinstance(entry[key], str):
            raise UsageError(f"{where}: {key} is a {type(entry[key]).__name__}, not text")
    name = str(entry["name"])
    video = _video(root, str(entry["video_file"]), where)
    if video is None:
        return None
    action = action_of(name, where)
    labels = check_phases(entry["frame_label"], action, num_phases[action], where)
    spans = frames_to_spans(labels, fps=FPS, where=where)
    return Clip(f"{split}/{name}", video, split=split, action=action, spans=spans)


def _video(root: Path, text: str, where: str) -> str | None:
    """The path of a video below the root; CARL's are below it or below a folder of its name."""
    parts = PurePosixPath(text.replace("\\", "/")).parts
    if ".." in parts or text.startswith("/"):
        raise UsageError(f"{where}: the video {text!r} leaves the root")
    try:
        for tail in (parts, parts[1:], ("videos", *parts[-1:])):
            if tail and (root / PurePosixPath(*tail)).is_file():
                return str(PurePosixPath(*tail))
    except OSError as error:
        raise UsageError(f"{where}: the video {text[:80]!r}: {error.strerror}") from None
    return None
