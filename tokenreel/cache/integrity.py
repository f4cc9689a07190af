"""Verifying a store: every file against what version 1 writes, every token against its checksum."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tokenreel.cache.clipfiles import check_clip, load_clip
from tokenreel.cache.codec import codec_from_recipe
from tokenreel.cache.errors import StoreError
from tokenreel.cache.files import file_inside
from tokenreel.cache.index import committed_keys, logged_records
from tokenreel.cache.reader import open_store
from tokenreel.cache.records import folder_of
from tokenreel.cache.store import load_arrays, load_recipe

__all__ = ["Problem", "VerifyReport", "verify_store"]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        clip_id: the clip, or its key when its record cannot be read, "" for the store itself.
        what: one sentence.
        where: path of the directory.
    """

    clip_id: str
    what: str
    where: str


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What verify_store found.

    Attributes:
        num_clips: clips looked at.
        problems: everything that is wrong; empty for a clean store.
    """

    num_clips: int
    problems: tuple[Problem, ...]

    @property
    def repair(self) -> tuple[str, ...]:
        """Clips to extract again."""
        return tuple(sorted({problem.clip_id for problem in self.problems} - {""}))

    @property
    def exit_status(self) -> int:
        """0 clean, 5 damaged."""
        return 5 if self.problems else 0

    def table(self) -> str:
        """The problems, one a line, and the count."""
        lines = [f"{problem.clip_id or '(store)'}: {problem.what}" for problem in self.problems]
        return "\n".join([*lines, f"{self.num_clips} clips, {len(self.problems)} problem(s)"])


def verify_store(path: str | Path, deep: bool = False) -> VerifyReport:
    """Look for what is missing, extra, damaged or inconsistent.

    Args:
        path: the store.
        deep: also read every token: checksums, NaN, frames of zeros.

    Raises:
        StoreNotFound: there is none.  Damage is reported, not raised.
    """
    path, problems = Path(path), []
    try:
        recipe, attributes = load_recipe(path)
        codec = codec_from_recipe(recipe.codec, load_arrays(path / "calibration"))
        canary = load_arrays(path / "canary")
        from tokenreel.cache.codec import calibration_hash

        if (calibration_hash(canary) if canary else None) != attributes["canary_sha256"]:
            problems.append(Problem("", "the canary was altered", str(path / "canary")))
        keys, (logged, wrong) = committed_keys(path), logged_records(path)
    except (StoreError, ValueError, KeyError) as error:
        if getattr(error, "exit_status", 5) == 2 and not (path / "recipe.json").is_file():
            raise
        return VerifyReport(0, (Problem("", str(error), str(path)),))
    problems += [Problem("", what, str(path / "manifest")) for what in wrong]
    for key in sorted(logged.keys() - keys):
        where = str(path / folder_of(key))
        problems.append(Problem(logged[key].clip_id, "logged as committed, but missing", where))
    for key in sorted(keys):
        folder = file_inside(path, folder_of(key))
        name = logged[key].clip_id if key in logged else key
        found = check_clip(folder, key, recipe, codec, deep=deep)
        if not found:
            record = load_clip(folder, key)[0]
            if logged.get(key, record) != record:
                found = ["its record is not the one in the log"]
            elif deep:
                found = _look_at_tokens(path, record.clip_id)
        problems += [Problem(name, what, str(folder)) for what in found]
    return VerifyReport(len(keys), tuple(problems))


def _look_at_tokens(path: Path, clip_id: str) -> list[str]:
    """NaN, and frames of which every code is zero: intact on disk, but wrong when written."""
    store, found = open_store(path, check_every=0), []
    record = store.record(clip_id)
    labels = store.labels(clip_id)
    if record.phases and labels.max(initial=-1) >= len(record.phases):
        found.append(f"label {labels.max()} of {len(record.phases)} phases")
    for view in range(record.num_views):
        for start in range(0, record.num_frames, 64):
            rows = slice(start, min(start + 64, record.num_frames))
            tokens = store.read(clip_id, rows, view=view)
            for block, codes in tokens.codes.items():
                if codes.dtype.kind == "f" and np.isnan(codes).any():
                    found.append(f"view {view}, block {block}: NaN from frame {start} on")
                empty = np.flatnonzero(~codes.any(axis=(1, 2)))
                if len(empty):
                    found.append(f"view {view}, block {block}: frame {start + empty[0]} is zero")
    return found
