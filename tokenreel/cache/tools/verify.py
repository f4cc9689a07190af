"""Verify a store: its files against the format, its tokens against their checksums."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tokenreel.cache.bucket.path import is_bucket, store_path
from tokenreel.cache.codec import Codec, calibration_hash, codec_from_identity
from tokenreel.cache.codec.base import Array
from tokenreel.cache.errors import (
    Damaged,
    MachineError,
    StoreError,
    UsageError,
    WrongIdentity,
)
from tokenreel.cache.files import again_if_stale
from tokenreel.cache.format.clip import (
    ClipRecord,
    check_clip,
    folder_of,
    labels_hash,
    load_clip,
)
from tokenreel.cache.format.index import committed_folders, logged_records
from tokenreel.cache.format.layout import segments
from tokenreel.cache.format.relabelled import LABELS, load_relabelled
from tokenreel.cache.format.source_notes import NOTES, load_notes
from tokenreel.cache.format.store_files import (
    FOLDERS,
    WORKERS,
    array_files,
    load_arrays,
    load_identity,
    read_failures,
)
from tokenreel.cache.read.store_reader import Store, open_store
from tokenreel.cache.tools.sources import SourceCheck, check_sources
from tokenreel.cache.write.claims import damaged_claim

FILES = ("recipe.json", "zarr.json", LABELS, NOTES)  # of a store, beside its folders
UNFINISHED = tuple(f".tmp-{name}-" for name in (LABELS, NOTES))  # what a kill leaves of them


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem of a store.

    Attributes:
        clip_id: the clip, or its key when its record cannot be read, "" for the store itself.
        what: the problem, in one sentence.
        where: path of the directory.
    """

    clip_id: str
    what: str
    where: str


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """Result of verify_store.

    Attributes:
        num_clips: clips checked.
        problems: empty for a clean store.
        sources: whether the videos of the clips are what they were; None when not asked.
    """

    num_clips: int
    problems: tuple[Problem, ...]
    sources: SourceCheck | None = None

    @property
    def repair(self) -> tuple[str, ...]:
        """Clips to extract again."""
        return tuple(sorted({problem.clip_id for problem in self.problems} - {""}))

    @property
    def exit_status(self) -> int:
        """0 clean, 5 damaged, 3 sound but of videos that changed or are missing."""
        if self.problems:
            return 5
        return 0 if self.sources is None else self.sources.exit_status

    def table(self) -> str:
        """The problems, one a line, and the count."""
        lines = [f"{problem.clip_id or '(store)'}: {problem.what}" for problem in self.problems]
        lines.append(f"{self.num_clips} clips, {len(self.problems)} problem(s)")
        if self.sources is not None:
            lines += [*self.sources.lines(), f"videos: {self.sources.summary()}"]
            if self.sources.changed:
                lines.append(
                    "the tokens are of the videos as they were: `extract run DATASET --root ROOT "
                    "--out STORE --changed replace` extracts those clips again"
                )
        return "\n".join(lines)


def verify_store(path: str | Path, deep: bool = False, *, root: Path | None = None) -> VerifyReport:
    """Find what is missing, extra, damaged or inconsistent; damage is reported, not raised.

    Args:
        path: the store.
        deep: also read and check every token: checksums, NaN, fill values, frames of zeros,
            labels beyond the phases, times that do not increase.
        root: folder of the videos, which are compared with the records of the clips; None: not.

    Raises:
        UsageError: `root` is no folder.
        StoreNotFound: there is none.
        WrongIdentity: a format version that this package does not know.
        MachineError: this process cannot read it now; its files may be whole.
    """
    path, problems = store_path(path), []
    if root is not None and not root.is_dir():
        raise UsageError(f"{root}: no such folder; --root is the folder of the videos")
    try:
        identity, attributes = load_identity(path)
        codec = codec_from_identity(identity.codec, load_arrays(path / "calibration"))
        canary = load_arrays(path / "canary")
        if (calibration_hash(canary) if canary else None) != attributes["canary_sha256"]:
            problems.append(Problem("", "the canary was altered", str(path / "canary")))
        logged, wrong = logged_records(path)  # before the clips: a writer commits, then logs
        folders = committed_folders(path)
        read_failures(path)
        problems += _notes_problems(path)
    except (WrongIdentity, MachineError):
        raise
    except (StoreError, ValueError, KeyError) as error:
        if getattr(error, "exit_status", 5) == 2 and not (path / "recipe.json").is_file():
            raise
        return VerifyReport(0, (Problem("", str(error), str(path)),))
    problems += [
        Problem("", f"{extra}: does not belong here", str(path))
        for extra in again_if_stale(lambda: [*extras(path)])
    ]
    problems += [Problem("", what, str(path / "manifest")) for what in wrong]
    damaged = (
        damaged_claim(claim)
        for claim in again_if_stale(lambda: sorted((path / "claims").glob("*.json")))
    )
    problems += [
        Problem("", f"{what}: a claim of nobody, which --repair removes", str(path / "claims"))
        for what in damaged
        if what
    ]
    for key in sorted(logged.keys() - folders.keys()):
        where = str(path / folder_of(key))
        problems.append(Problem(logged[key].clip_id, "logged as committed, but missing", where))
    sound = []
    for key, folder in sorted(folders.items()):
        found = check_clip(folder, key, identity, codec, deep=deep)
        if not found:
            record = load_clip(folder, key)[0]
            if logged.get(key, record) != record:
                found = ["its record is not the one in the log"]
            else:
                sound.append(record)
        name = logged[key].clip_id if key in logged else key
        problems += [Problem(name, what, str(folder)) for what in found]
    try:
        load_relabelled(path, {record.clip_id: record for record in sound})
    except Damaged as error:
        problems.append(Problem("", str(error), str(path / LABELS)))
    problems += _look_at_clips(path, sound) if deep else []
    sources = None if root is None else check_sources(path, sound, root)
    return VerifyReport(len(folders), tuple(problems), sources)


def _notes_problems(path: Path) -> list[Problem]:
    try:
        load_notes(path)
    except Damaged as error:
        return [Problem("", str(error), str(path / NOTES))]
    return []


def _look_at_clips(path: Path, records: Sequence[ClipRecord]) -> list[Problem]:
    """Wrong values in clips whose files are intact: they were wrong when they were written."""
    try:
        store = open_store(path, checks="never")
    except (
        Damaged
    ):  # an unreadable record or labels.json: already reported, and to be repaired first
        return []
    return [
        Problem(record.clip_id, what, str(path / folder_of(record.key)))
        for record in records
        for what in _look_at_clip(store, record.clip_id)
    ]


def extras(path: Path) -> Iterator[Path]:
    """Files and links in a store that no writer makes."""
    known: dict[str, Callable[[Path], bool]] = {
        "manifest": lambda entry: entry.suffix == ".jsonl",
        "claims": lambda entry: entry.suffix == ".json",
        "failed": lambda entry: entry.suffix == ".json",
    }
    for entry in sorted(path.iterdir()):
        unfinished = (".tmp-",) if is_bucket(path) else UNFINISHED
        if entry.name.startswith(unfinished) and not entry.is_symlink():
            continue
        if entry.is_symlink() or entry.name not in (*FOLDERS, WORKERS, *FILES):
            yield entry
    for folder, belongs in known.items():
        for entry in sorted((path / folder).glob("*")):
            if not (entry.name.startswith(".tmp-") or belongs(entry)) or entry.is_symlink():
                yield entry
    for folder in ("calibration", "canary"):
        wanted = array_files(path / folder)
        for entry in sorted((path / folder).rglob("*")):
            if entry.is_symlink() or (entry.is_file() and entry not in wanted):
                yield entry
    for entry in sorted((path / "clips").glob("*")):
        if not entry.is_dir() and not entry.name.startswith(".tmp-"):
            yield entry


def _look_at_clip(store: Store, clip_id: str) -> Iterator[str]:
    record, labels = store.record(clip_id), store.labels(clip_id)
    if record.phases and labels.max(initial=-1) >= len(record.phases):
        yield f"label {labels.max()} of {len(record.phases)} phases"
    if labels.min(initial=-1) < -1:
        yield f"label {labels.min()}; -1 is the only negative one"
    if record.labels_sha256 not in ("", labels_hash(record.phases, labels)):
        yield "its labels are not those that its record has the hash of"
    pts, unit = store.pts(clip_id), store.identity.unit
    steps = np.diff(pts)
    repeats = unit != "frame" or store.identity.frames.get("policy") in ("uniform", "listed")
    backwards = np.flatnonzero(steps < 0 if repeats else steps <= 0)
    empty = np.flatnonzero(store.stop_pts(clip_id) <= pts)
    if len(backwards):
        yield f"time does not increase at {unit} {backwards[0] + 1}"
    elif len(empty):
        yield f"{unit} {empty[0]} does not end after its start"
    for view in range(record.num_views):
        for part in segments(record.num_frames):
            yield from _look_at_tokens(store, clip_id, view, part)


def _look_at_tokens(store: Store, clip_id: str, view: int, part: range) -> Iterator[str]:
    tokens = store.read(clip_id, slice(part.start, part.stop), view=view)
    for block, codes in tokens.codes.items():
        where = f"view {view}, block {block}, frame "
        for what, wrong in wrong_frames(codes, tokens.scales.get(block), store.codec).items():
            if wrong.any():
                yield f"{where}{part.start + int(np.argmax(wrong))}: {what}"
        if store.identity.cls != "none":
            rows = store.read_cls(clip_id, slice(part.start, part.stop), block=block, view=view)
            if not np.isfinite(rows).all():
                frame = part.start + int(np.argwhere(~np.isfinite(rows))[0, 0])
                yield f"{where}{frame}: NaN in its CLS"


def wrong_frames(codes: Array, scales: Array | None, codec: Codec) -> dict[str, Array]:
    """Which frames, (t,) bool, hold NaN, a fill value, or nothing but zeros; codes (t, n, d)."""
    values = codec.terminal.unpack(codes).reshape(len(codes), -1)
    flat = codes.reshape(len(codes), -1)
    present = np.isfinite(flat) if codes.dtype.kind == "f" else flat != codec.fill_value
    scaled = np.ones((len(codes), 1)) if scales is None else scales.reshape(len(codes), -1)
    return {
        "NaN or a fill value": np.invert(present.all(axis=1)),
        "a scale that is not finite": np.invert(np.isfinite(scaled).all(axis=1)),
        "nothing but zeros": np.invert(values.any(axis=1)),
    }
