"""What runs and workers say of themselves, for `tokenreel status`: files of workers/ in a store.

They save nobody's work and may be deleted.  run.json says how many clips there are to be; the run
that finds all of them committed or in quarantine removes it.  <writer>.json is of one worker; its
mtime is the heartbeat, by the clock of the disk.  A worker that ends removes its file, one that is
killed does not.
"""

import os
import socket
import time
import uuid
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tokenreel.cache.bucket.objects import in_parallel
from tokenreel.cache.bucket.path import is_bucket, read_object
from tokenreel.cache.canonical import canonical_json, open_seal, parse_object, seal
from tokenreel.cache.errors import Damaged, WrongIdentity
from tokenreel.cache.files import (
    again_if_stale,
    clock_of,
    make_directory,
    temporary_name,
    write_new,
)
from tokenreel.cache.format.clip import clip_key
from tokenreel.cache.format.index import committed_keys
from tokenreel.cache.format.store_files import WORKERS
from tokenreel.cache.write.claims import (
    EXPIRY_SECONDS,
    is_here,
    process_ended,
    start_of,
)

RUN = "run.json"
BEAT_SECONDS = 10.0
MOST_NOTES = 32  # whose versions a worker compares with its own


@dataclass(frozen=True)
class WorkerNote:
    """What a worker says of itself.

    Attributes:
        host: name of the machine.
        pid: of the process.
        device: that it extracts on, with its name.
        num_committed: clips since it began.
        num_failed: clips since it began.
        num_frames: written since it began.
        frames_per_second: since its last note.
        started: of claims.start_of; "" in notes of earlier versions.
        versions: of the packages that make tokens; {} where unknown.
    """

    host: str
    pid: int
    device: str
    num_committed: int = 0
    num_failed: int = 0
    num_frames: int = 0
    frames_per_second: float = 0.0
    started: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)


class WorkerNotes:
    """The note of this process in a store.  Use as a context manager.

    Args:
        store: its directory.
        device: that it extracts on, with its name.
        versions: of the packages that make tokens.
    """

    def __init__(
        self, store: Path, *, device: str, versions: Mapping[str, str] | None = None
    ) -> None:
        self._store, self._versions = store, versions or {}
        self._folder, self._device = store / WORKERS, device
        self._path = self._folder / f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._path = self._path.with_name(self._path.name + ".json")
        self._last, self._frames = time.monotonic(), 0
        self._started = start_of(os.getpid())

    def __enter__(self) -> "WorkerNotes":
        self._write(0, 0, 0, 0.0)
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._path.unlink()
        with suppress(OSError):  # it holds the files of others
            self._folder.rmdir()

    def require_same_versions(self) -> None:
        """Refuse to work beside live workers of other versions; MOST_NOTES of them are looked at.

        Raises:
            WrongIdentity: with what differs.
        """
        for note, age, path in read_worker_notes(self._store, most=MOST_NOTES):
            if path == self._path or not note.versions or is_dead(note, age):
                continue
            names = sorted(note.versions.keys() | self._versions.keys())
            rows = [
                f"  {name}: {self._versions.get(name)}, there {note.versions.get(name)}"
                for name in names
                if self._versions.get(name) != note.versions.get(name)
            ]
            if rows:
                raise WrongIdentity(
                    f"{self._store}: {note.host}:{note.pid} works on it with other versions than "
                    f"this process on {socket.gethostname()}:\n" + "\n".join(rows) + "\nnothing "
                    "was written: install the same versions everywhere, or wait until it has "
                    f"ended; if it was killed, delete {path}"
                )

    def update(self, *, num_committed: int, num_failed: int, num_frames: int) -> None:
        """Write the note again, if the last one is some seconds old."""
        seconds = time.monotonic() - self._last
        if seconds > BEAT_SECONDS:
            rate = (num_frames - self._frames) / seconds
            self._last, self._frames = time.monotonic(), num_frames
            self._write(num_committed, num_failed, num_frames, rate)

    def _write(self, num_committed: int, num_failed: int, num_frames: int, rate: float) -> None:
        note = WorkerNote(
            socket.gethostname(),
            os.getpid(),
            self._device,
            num_committed,
            num_failed,
            num_frames,
            round(rate, 3),
            self._started,
            self._versions,
        )
        _write(self._path, asdict(note))


def read_worker_notes(
    store: Path, *, most: int | None = None
) -> list[tuple[WorkerNote, float, Path]]:
    """The notes of a store, each with the seconds since its heartbeat and its file.

    The seconds are by the clock of the disk.

    Args:
        store: its directory.
        most: notes that are read, spread over all; None for all.
    """
    every = again_if_stale(lambda: sorted((store / WORKERS).glob("*.json")))
    paths = [path for path in every if path.name != RUN]
    paths = paths[:: -(-len(paths) // most)] if most and paths else paths
    read = in_parallel(_read_note, paths) if is_bucket(store) else map(_read_note, paths)
    found = [note for note in read if note is not None]
    now = clock_of(store / WORKERS) if found else 0.0
    return [(note, max(0.0, now - beat), path) for note, beat, path in found]


def _read_note(path: Path) -> tuple[WorkerNote, float, Path] | None:
    """A note, when it was written, and its file; None where it ends just now, or was altered."""
    with suppress(OSError, Damaged, TypeError):
        if not is_bucket(path):
            return WorkerNote(**_read(path)), path.stat().st_mtime, path
        data, state = read_object(path)
        return WorkerNote(**_parse(data, path)), state.modified, path
    return None


def is_dead(
    note: WorkerNote, age_seconds: float, *, expiry_seconds: float = EXPIRY_SECONDS
) -> bool:
    """Whether a worker has ended: its process, on this host, or else its heartbeat."""
    if is_here(note.host, note.started) and process_ended(note.pid, note.started):
        return True
    return age_seconds > expiry_seconds


def note_run(store: Path, clip_ids: Iterable[str]) -> None:
    """Note how many clips a store is to have, unless all of the run's have ended.

    Those of other runs that are committed, or in quarantine, stay in it.  A run of fewer clips
    takes nothing from what is noted while a larger one is at work.
    """
    keys, ended = {clip_key(name) for name in clip_ids}, _ended_keys(store)
    if keys - ended:
        count, noted = len(keys | ended), expected_clips(store) or 0
        if noted > count and any(
            _is_at_work(note, age) for note, age, _ in read_worker_notes(store)
        ):
            count = noted
        _write(store / WORKERS / RUN, {"num_clips": count})


def settle_run(store: Path, clip_ids: Iterable[str]) -> None:
    """Remove the notes of a run and of dead workers, once all its clips have ended.

    What a larger run has noted that others are still at work on stays.
    """
    ended = _ended_keys(store)
    if {clip_key(name) for name in clip_ids} - ended:
        return
    notes = read_worker_notes(store)
    gone = [path for note, age, path in notes if is_dead(note, age)]
    is_larger = (expected_clips(store) or 0) > len(ended)
    if not (is_larger and any(_is_at_work(note, age) for note, age, _ in notes)):
        gone.append(store / WORKERS / RUN)
    for path in gone:
        with suppress(OSError):
            path.unlink()
    with suppress(OSError):  # it holds the files of workers
        (store / WORKERS).rmdir()


def _is_at_work(note: WorkerNote, age_seconds: float) -> bool:
    """Whether a note is of another process, which is not dead."""
    is_own = note.pid == os.getpid() and is_here(note.host, note.started)
    return not is_own and not is_dead(note, age_seconds)


def _ended_keys(store: Path) -> set[str]:
    """Keys of the clips that are committed or in quarantine."""
    failed = again_if_stale(lambda: [*(store / "failed").glob("*.json")])
    return committed_keys(store) | {path.stem for path in failed}


def expected_clips(store: Path) -> int | None:
    """How many clips a store is to have, as the last run said; None where none did, or it has."""
    with suppress(OSError, Damaged, KeyError, TypeError, ValueError):
        return int(_read(store / WORKERS / RUN)["num_clips"])
    return None


def _write(path: Path, values: Mapping[str, Any]) -> None:
    """Write a note whole; where that is impossible there is none, and the work goes on."""
    if not isinstance(path, Path):  # on a bucket
        with suppress(OSError):
            path.write_bytes(canonical_json(seal(dict(values))))
        return
    beside = temporary_name(path)
    try:
        make_directory(path.parent)
        write_new(beside, canonical_json(seal(dict(values))))
        beside.replace(path)
    except OSError:
        with suppress(OSError):
            beside.unlink()


def _read(path: Path) -> dict[str, Any]:
    return _parse(path.read_bytes(), path)


def _parse(data: bytes, path: Path) -> dict[str, Any]:
    values: dict[str, Any] = open_seal(parse_object(data, where=path), where=path)
    return values
