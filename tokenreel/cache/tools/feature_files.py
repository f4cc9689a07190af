"""Files of features that a user already has: found, and each looked at before anything is written.

A clip is one file `<name>.npy` where there is one block, files `<name>.<block>.npy`, or one
`<name>.h5` with arrays `tokens/<block>` and, if known, `labels`, `times_seconds` and attributes
clip_id, video, split, action, group, phases (JSON): what export writes.  Each array is (T, N, D),
or (T, D) where N is 1.  A table `clips.csv` beside them may say file, clip_id, video, split,
action and group; file is the name without `.npy` and block, or with `.h5`.
"""

import csv
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tokenreel.cache.codec.base import Array
from tokenreel.cache.errors import UsageError
from tokenreel.cache.manifest import UNLABELLED, Clip

__all__ = ["FeatureFile", "find_features", "opened"]

WORDS = ("clip_id", "video", "split", "action", "group")


@dataclass(frozen=True)
class FeatureFile:
    """One clip to import.

    Attributes:
        clip: what is known of it.
        paths: block -> file that holds its tokens.
        num_frames: T.
        labels: (T,) phases, -1 unlabelled.
        phases: names of the phases of its action.
        times_seconds: (T,), None where the file does not tell.
    """

    clip: Clip
    paths: Mapping[int, Path]
    num_frames: int
    labels: Array
    phases: tuple[str, ...] = ()
    times_seconds: Array | None = None


def find_features(
    folder: Path, *, blocks: tuple[int, ...], num_tokens: int, dim: int
) -> list[FeatureFile]:
    """The clips of a folder, each checked against what was stated.

    Args:
        folder: of the files.
        blocks: that each clip must have.
        num_tokens: N of a frame.
        dim: D.

    Raises:
        UsageError: no files; a shape that is not the stated one; blocks missing, or of different
            lengths; labels or times of another length; two files of one clip.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder of features")
    groups: dict[str, dict[int, Path]] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.suffix in (".h5", ".hdf5"):
            groups.setdefault(name, {}).update(dict.fromkeys(blocks, path))
        elif path.suffix == ".npy":
            stem, _, block = name[:-4].rpartition(".")
            if len(blocks) == 1 and not (stem and block == str(blocks[0])):
                stem, block = name[:-4], str(blocks[0])
            if not block.isdecimal():
                raise UsageError(f"{path}: {len(blocks)} blocks are stated, so <name>.<block>.npy")
            groups.setdefault(stem, {})[int(block)] = path
    if not groups:
        raise UsageError(f"{folder}: no .npy, .h5 or .hdf5 file")
    table = _read_table(folder / "clips.csv")
    for name, paths in groups.items():
        if set(paths) != set(blocks):
            raise UsageError(f"{name}: has blocks {sorted(paths)}, stated are {list(blocks)}")
    files = [_look(name, paths, (num_tokens, dim), table) for name, paths in groups.items()]
    ids = [file.clip.clip_id for file in files]
    if len(set(ids)) < len(ids):
        twice = next(name for name in ids if ids.count(name) > 1)
        raise UsageError(f"{folder}: two files are of the clip {twice!r}")
    unknown = table.keys() - groups.keys()
    if unknown:
        raise UsageError(f"{folder / 'clips.csv'}: no file {sorted(unknown)[0]!r} of its table")
    return files


def _read_table(path: Path) -> dict[str, dict[str, str]]:
    if not path.is_file():
        return {}
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    known = {"file", *WORDS}
    if rows and ("file" not in rows[0] or not set(rows[0]) <= known):
        raise UsageError(f"{path}: columns {list(rows[0])}, wanted file and any of {WORDS}")
    return {row["file"]: {k: v for k, v in row.items() if k != "file" and v} for row in rows}


def _look(
    name: str,
    paths: Mapping[int, Path],
    wanted: tuple[int, int],
    table: Mapping[str, Mapping[str, str]],
) -> FeatureFile:
    lengths = {}
    for block, path in paths.items():
        with opened(path, block) as array:
            shape = tuple(array.shape)
            if shape[1:] != wanted and (wanted[0] != 1 or shape[1:] != wanted[1:]):
                raise UsageError(
                    f"{path}: block {block} is {shape}, stated are (frames, {wanted[0]} tokens, "
                    f"{wanted[1]} channels)"
                )
            lengths[block] = shape[0]
    num_frames = max(lengths.values())
    if set(lengths.values()) != {num_frames} or num_frames == 0:
        raise UsageError(f"{name}: frames of its blocks are {lengths}; wanted the same, at least 1")
    words, extra = _words_of(next(iter(paths.values())), num_frames)
    stem = name.removesuffix(".h5").removesuffix(".hdf5")
    words = {"clip_id": stem, "video": stem, "split": "train", **words, **table.get(name, {})}
    if words["split"] not in ("train", "val", "test"):
        raise UsageError(f"{name}: split {words['split']!r}: train, val or test")
    return FeatureFile(Clip(**words), paths, num_frames, **extra)  # type: ignore[arg-type]


def _words_of(path: Path, num_frames: int) -> tuple[dict[str, str], dict[str, Any]]:
    """What an HDF5 file tells of its clip: words, and labels, times and phases."""
    blank: dict[str, Any] = {"labels": np.full(num_frames, UNLABELLED, np.int16)}
    if path.suffix == ".npy":
        return {}, blank
    with h5py.File(path) as file:
        words = {name: str(file.attrs[name]) for name in WORDS if name in file.attrs}
        try:
            extra = blank | {"phases": tuple(json.loads(str(file.attrs.get("phases", "[]"))))}
        except ValueError as error:
            raise UsageError(f"{path}: the attribute phases is not JSON: {error}") from error
        for name in ("labels", "times_seconds"):
            if name in file:
                extra[name] = file[name][:]
                if extra[name].shape != (num_frames,):
                    raise UsageError(
                        f"{path}: {name} is {extra[name].shape} for {num_frames} frames"
                    )
    return words, extra


@contextmanager
def opened(path: Path, block: int) -> Iterator[Any]:
    """The array of a block, not read into memory.

    Raises:
        UsageError: torn, of Python objects, or without the block.
    """
    try:
        if path.suffix == ".npy":
            yield np.load(path, mmap_mode="r", allow_pickle=False)
            return
        with h5py.File(path) as file:
            if f"tokens/{block}" not in file:
                raise UsageError(f"{path}: no array tokens/{block}; it holds {sorted(file)}")
            yield file[f"tokens/{block}"]
    except (OSError, ValueError, EOFError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{path}: {error}") from error
