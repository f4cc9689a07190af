"""Status of a store that is being written, from its files alone."""

from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tokenreel.cache.bucket.objects import in_parallel
from tokenreel.cache.bucket.path import is_bucket, object_state, read_object, store_path
from tokenreel.cache.errors import ClipFailed, Damaged
from tokenreel.cache.files import again_if_stale
from tokenreel.cache.format.clip import folder_of
from tokenreel.cache.format.store_files import read_failures
from tokenreel.cache.read.store_reader import open_store
from tokenreel.cache.write.claims import (
    EXPIRY_SECONDS,
    ClaimHolder,
    is_live,
    is_live_object,
    parse_claim,
    read_claim,
)
from tokenreel.cache.write.worker_notes import (
    BEAT_SECONDS,
    WorkerNote,
    expected_clips,
    is_dead,
    read_worker_notes,
)

SHOWN = 10  # clips in quarantine that are named


@dataclass(frozen=True)
class WorkerState:
    """A worker, alive or dead.

    Attributes:
        note: what it said last.
        clips: keys of the clips that it has in work.
        age_seconds: since its last heartbeat, by the clock of the disk.
        state: "alive", "silent" (no heartbeat for a while) or "dead".
    """

    note: WorkerNote
    clips: tuple[str, ...]
    age_seconds: float
    state: str


@dataclass(frozen=True)
class StoreStatus:
    """Status of a store.

    Attributes:
        path: its directory.
        num_expected: clips that there are to be; None when nobody says so.
        num_committed, num_frames, num_bytes: of the committed clips; bytes of their tokens.
        failed: clips in quarantine.
        num_claimed: clips that live writers have in work.
        workers: that have left a note.
    """

    path: Path
    num_expected: int | None
    num_committed: int
    num_frames: int
    num_bytes: int
    failed: tuple[ClipFailed, ...]
    num_claimed: int
    workers: tuple[WorkerState, ...]

    @property
    def num_left(self) -> int:
        """Clips that are neither committed nor in quarantine; 0 when nobody says how many."""
        return max(0, (self.num_expected or 0) - self.num_committed - len(self.failed))

    @property
    def is_complete(self) -> bool:
        """Whether every clip is committed and nobody works on the store."""
        is_done = self.num_expected is None or self.num_expected <= self.num_committed
        return is_done and self.num_committed > 0 and not self.failed and not self.num_claimed

    @property
    def exit_status(self) -> int:
        """0 when complete, else 3."""
        return 0 if self.is_complete else 3

    @property
    def _are_dead(self) -> bool:
        """Whether no worker is left; one that is alive has no clip in work between two of them."""
        return all(worker.state == "dead" for worker in self.workers)

    @property
    def frames_per_second(self) -> float:
        """Of all workers that are alive."""
        return sum(w.note.frames_per_second for w in self.workers if w.state == "alive")

    @property
    def eta_seconds(self) -> float | None:
        """Until the last clip, at this rate and the mean length of a clip; None when unknown."""
        if not self.num_left or not self.num_committed or not self.frames_per_second:
            return None
        return self.num_left * self.num_frames / self.num_committed / self.frames_per_second

    def lines(self) -> list[str]:
        """The status, without its workers."""
        of = "" if self.num_expected is None else f" of {self.num_expected}"
        lines = [
            f"clips   {self.num_committed}{of} done, {len(self.failed)} in quarantine, "
            f"{self.num_claimed} in work, {self.num_left} left",
            f"frames  {self.num_frames}, {self.num_bytes / 1e9:.3f} GB of tokens",
        ]
        if self.frames_per_second:
            eta = self.eta_seconds
            until = "" if eta is None else f", {_duration(eta)} to go"
            lines.append(f"rate    {self.frames_per_second:.1f} frames/s{until}")
        if self.is_complete:
            lines.append("complete")
        elif self.num_expected is None and not self.num_claimed and not self.failed:
            lines.append("no clip yet, and no run says how many there are to be")
        elif not self.num_claimed and self.num_left and self._are_dead:
            lines.append("nobody works on it: rerun the command that made it, to resume")
        for failure in self.failed[:SHOWN]:
            lines.append(f"in quarantine: {failure}")
        if self.failed:
            lines.append(
                f"`extract retry {self.path}` tries {len(self.failed)} clip(s) again, and no other"
            )
        return lines


def store_status(path: str | Path, *, expiry_seconds: float = EXPIRY_SECONDS) -> StoreStatus:
    """The status of a store.

    Args:
        path: the store.
        expiry_seconds: a worker or claim of another host is dead after that long without a
            heartbeat.

    Raises:
        StoreNotFound: no store there.
    """
    path = store_path(path)
    store = open_store(path)
    held = _claims(path, expiry_seconds)
    return StoreStatus(
        path,
        expected_clips(path),
        len(store.records),
        sum(record.num_frames for record in store.records.values()),
        store.num_bytes,
        tuple(
            ClipFailed(str(r["clip_id"]), stage=str(r["stage"]), reason=str(r["reason"]))
            for r in read_failures(path)
        ),
        sum(len(keys) for keys in held.values()),
        _workers(path, held, expiry_seconds),
    )


def _claims(path: Path, expiry_seconds: float) -> dict[tuple[str, int, str], list[str]]:
    """Keys of the clips that live writers have in work, by host, process and its start."""
    held: dict[tuple[str, int, str], list[str]] = {}
    claims = again_if_stale(lambda: sorted((path / "claims").glob("*.json")))
    look = partial(_holder, path, expiry_seconds=expiry_seconds)
    holders = in_parallel(look, claims) if is_bucket(path) else [look(claim) for claim in claims]
    for claim, holder in zip(claims, holders, strict=True):
        if holder is not None:
            held.setdefault((holder.host, holder.pid, holder.started), []).append(claim.stem)
    return held


def _holder(path: Path, claim: Path, *, expiry_seconds: float) -> ClaimHolder | None:
    """Who holds a claim; None for a dead one, and for one on a bucket whose clip is committed."""
    with suppress(OSError, Damaged):
        if not is_bucket(path):
            return read_claim(claim) if is_live(claim, expiry_seconds=expiry_seconds) else None
        data, state = read_object(claim)
        if is_live_object(claim, data, state, expiry_seconds=expiry_seconds):
            with suppress(FileNotFoundError):  # ended claims are deleted some time later, together
                group = path / folder_of(claim.stem) / "zarr.json"
                if object_state(group).modified >= state.modified:
                    return None
            return parse_claim(data, where=claim)
    return None


def _workers(
    path: Path, held: dict[tuple[str, int, str], list[str]], expiry_seconds: float
) -> tuple[WorkerState, ...]:
    states: list[WorkerState] = []
    for note, age, _ in read_worker_notes(path):
        if is_dead(note, age, expiry_seconds=expiry_seconds):
            state = "dead"
        else:
            state = "alive" if age < 3 * BEAT_SECONDS else "silent"
        clips = held.get((note.host, note.pid, note.started), [])
        states.append(WorkerState(note, tuple(clips), age, state))
    return tuple(sorted(states, key=lambda worker: (worker.note.host, worker.note.pid)))


def _duration(seconds: float) -> str:
    """A time for people.

    >>> _duration(90), _duration(7300), _duration(200000)
    ('2 min', '2.0 h', '2.3 d')
    """
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172800 else f"{seconds / 86400:.1f} d"
