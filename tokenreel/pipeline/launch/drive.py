"""Drive workers that extract one store, whatever engine they run on; keeps no state of its own.

All workers have the same clips: each takes its share first and then helps with the others', and a
claim decides who has a clip.  When a worker dies, the clips that it had in work are tried alone.
"""

import logging
import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from tokenreel.cache.errors import Damaged, MachineError, TokenReelError
from tokenreel.cache.format.clip import ClipRecord, clip_key
from tokenreel.cache.format.index import committed_keys, find_clip
from tokenreel.cache.format.store_files import read_failures, record_failure
from tokenreel.cache.manifest import Clip, Manifest
from tokenreel.cache.progress import Progress
from tokenreel.cache.write.bucket_claims import claim_clip
from tokenreel.cache.write.claims import EXPIRY_SECONDS, Claim, ClaimHeld, is_live
from tokenreel.cache.write.worker_notes import note_run, settle_run
from tokenreel.extract.flow.commits import fingerprint_of_clip
from tokenreel.extract.flow.gpus import merge_reports
from tokenreel.extract.report import ExtractReport
from tokenreel.extract.signals import GRACE_SECONDS, Stopping
from tokenreel.extract.video.source import SourceFiles, state_fields
from tokenreel.pipeline.launch.attempts import MOST_DEATHS, Attempts, release_claims

log = logging.getLogger(__name__)

WAIT_SECONDS = 1.0
MOST_ROUNDS = 3  # of a clip that nobody claims any more
MOST_BARREN = 3  # deaths of one worker in a row with no clip in work
SHOWN = 5  # names of clips in a line
STOP_SECONDS = 3 * GRACE_SECONDS  # a worker that has not ended by then is given up


@dataclass(frozen=True)
class Task:
    """What a worker is given.

    Attributes:
        share: (i, n): the part of the clips that it takes first.
        only: clips by id, where it is to try these alone; else every clip.
        without: clips by id that it is to leave.
    """

    share: tuple[int, int] = (0, 1)
    only: frozenset[str] = frozenset()
    without: frozenset[str] = frozenset()

    def clips(self, part: Sequence[Clip]) -> list[Clip]:
        """The clips of the task."""
        return [
            clip
            for clip in part
            if (not self.only or clip.clip_id in self.only) and clip.clip_id not in self.without
        ]


@dataclass(frozen=True)
class Ready:
    """A worker has started, or was started again, and can be given a task."""

    worker: int


@dataclass(frozen=True)
class Done:
    """A worker has ended its task, well or with an error of ours."""

    worker: int
    report: ExtractReport
    error: Exception | None = None


@dataclass(frozen=True)
class Away:
    """A worker does not answer; its task is given to another unless it comes back."""

    worker: int
    reason: str


@dataclass(frozen=True)
class Lost:
    """A worker has died; where it ran is known unless it died before it said so."""

    worker: int
    reason: str
    host: str = ""
    pid: int = 0
    started: str = ""


Event = Ready | Done | Away | Lost


class Workers(Protocol):
    """Workers of an engine, numbered from 0; it starts one that died again."""

    count: int

    def give(self, worker: int, task: Task) -> None:
        """Start a task on a worker that is ready."""

    def wait(self, seconds: float) -> list[Event]:
        """What happened; waits for at most so long."""

    def reports(self) -> Mapping[int, ExtractReport]:
        """The latest report of each worker that has a task."""

    def stop(self, number: int) -> None:
        """Let every worker finish the segments that are begun, for a signal."""


@dataclass
class _State:
    """What the driver knows of a run.

    Attributes:
        idle: workers that can be given a task.
        tasks: of the others.
        dropped: the last task of a worker that did not answer, until its death is known.
        barren: of each worker, deaths in a row with no clip in work.
        served: workers that were given their share.
        is_through: whether a worker has gone through all clips.
        suspects: clips that are to be tried alone.
        held: the driver's claims on them, so that no other worker takes them meanwhile.
        rounds: how often each clip was given once more.
        reports: of the tasks that have ended.
        latest: reports of the tasks that run.
        error: that ends the run.
    """

    idle: set[int] = field(default_factory=set)
    tasks: dict[int, Task] = field(default_factory=dict)
    dropped: dict[int, Task] = field(default_factory=dict)
    barren: dict[int, int] = field(default_factory=dict)
    served: set[int] = field(default_factory=set)
    is_through: bool = False
    suspects: deque[str] = field(default_factory=deque)
    held: dict[str, Claim] = field(default_factory=dict)
    rounds: Counter[str] = field(default_factory=Counter)
    reports: list[ExtractReport] = field(default_factory=list)
    latest: dict[int, ExtractReport] = field(default_factory=dict)
    error: Exception | None = None


class Driver:
    """Gives tasks to workers until every clip has ended.

    Args:
        workers: of an engine.
        manifest: of the data set.
        part: the clips.
        store: directory of the store, made before.
        run: ids of the clips that the store is to have after all shards; the part's when None.
        replaced: records of the committed clips that are extracted again, by id.
        max_failures: of the configuration.
        expiry_seconds: after which the claims of a run that was killed are dead.
    """

    def __init__(
        self,
        workers: Workers,
        manifest: Manifest,
        part: Sequence[Clip],
        store: Path,
        *,
        run: Sequence[str] | None = None,
        replaced: Mapping[str, ClipRecord] | None = None,
        max_failures: int | None = None,
        expiry_seconds: float = EXPIRY_SECONDS,
    ) -> None:
        self._workers, self._manifest, self._store = workers, manifest, store
        self._part, self._max_failures = part, max_failures
        self._expiry_seconds = expiry_seconds
        self._clips = {clip_key(clip.clip_id): clip for clip in part}
        self._run = [clip.clip_id for clip in part] if run is None else run
        self._replaced = {clip_key(name): record for name, record in (replaced or {}).items()}
        self._to_replace = {*self._replaced}
        self._attempts = Attempts(store)
        self._state, self._next_beat = _State(), 0.0
        self._before = committed_keys(store)

    def run(self, stopping: Stopping, *, progress: bool = True) -> ExtractReport:
        """Extract, and wait for the end.

        Raises:
            TokenReelError: raised by a worker, once all have ended; more clips failed than
                allowed; or a worker that cannot start.
        """
        state = self._state
        left = self._left()
        note_run(self._store, self._run)
        state.suspects.extend(
            self._clips[key].clip_id for key in self._attempts.found if key in left
        )
        deadline, stopped_at = 0.0, 0.0
        with Progress(desc="extract", unit="frame", enabled=progress) as bar:
            while True:
                for event in self._workers.wait(WAIT_SECONDS):
                    self._take(event)
                self._beat()
                state.latest.update(self._workers.reports())
                total = self._total()
                bar.set_postfix_str(total.status(), refresh=False)
                bar.update(total.num_appended - bar.n)
                if total.has_too_many_failures(self._max_failures) and state.error is None:
                    state.error = _too_many(total, self._max_failures)
                if stopping.event.is_set() or state.error is not None:
                    if not stopped_at:
                        stopped_at = time.monotonic()
                        self._workers.stop(stopping.signal)
                    if not state.tasks or time.monotonic() > stopped_at + STOP_SECONDS:
                        break
                    continue
                self._give()
                if state.tasks or state.suspects or not state.is_through:
                    continue
                rest = self._rest()
                if not rest:
                    break
                deadline = deadline or time.monotonic() + 1.5 * self._expiry_seconds
                is_last = time.monotonic() > deadline  # before the look, which may be slow
                if not self._give_free(rest) and is_last:
                    log.warning("%d clip(s) are claimed by other writers", len(rest))
                    break
        return self._end(stopping)

    def _left(self) -> set[str]:
        """Keys of the clips that are neither committed nor in quarantine."""
        done = committed_keys(self._store) - self._still_old()
        return self._clips.keys() - done - self._in_quarantine()

    def _in_quarantine(self) -> set[str]:
        """Keys of the clips in quarantine."""
        return {clip_key(str(record["clip_id"])) for record in read_failures(self._store)}

    def _still_old(self) -> set[str]:
        """Keys of the clips that are to be replaced and have not been."""
        for key, record in list(self._replaced.items()):
            with suppress(Damaged, OSError):  # another writer replaces it just now
                if find_clip(self._store, key)[1] != record:
                    del self._replaced[key]
        return {*self._replaced}

    def _take(self, event: Event) -> None:
        state, worker = self._state, event.worker
        if isinstance(event, Ready):
            state.idle.add(worker)
        elif isinstance(event, Done):
            state.tasks.pop(worker, None)
            state.is_through = True  # its share comes first
            state.latest.pop(worker, None)
            state.barren[worker] = 0
            state.reports.append(event.report)
            state.idle.add(worker)
            if event.error is not None:
                log.error("worker %d: %s", worker, event.error)
                state.error = state.error or event.error
        else:
            self._drop(worker)
            if isinstance(event, Lost):
                self._lose(event)
            else:
                log.warning("worker %d does not answer (%s)", worker, event.reason)

    def _drop(self, worker: int) -> None:
        """Forget the task of a worker that does not answer; what it did is in its last report."""
        state = self._state
        state.idle.discard(worker)
        task = state.tasks.pop(worker, None)
        if worker in state.latest:
            state.reports.append(state.latest.pop(worker))
        if task is not None:
            state.dropped[worker] = task
            if not task.only:
                state.served.discard(worker)  # its share is not done

    def _lose(self, event: Lost) -> None:
        """Note which clips were in work when a worker died."""
        state, worker = self._state, event.worker
        place = event.host, event.pid, event.started
        keys = release_claims(self._store, *place) if event.host else []
        left = self._left() if keys else set()
        keys = [key for key in keys if key in left]
        where = f" on {event.host}" if event.host else ""
        names = ", ".join(self._clips[key].clip_id for key in keys) or "no clip"
        log.warning("worker %d%s died (%s) with %s in work", worker, where, event.reason, names)
        task = state.dropped.pop(worker, Task())
        for key in keys:
            clip, found = self._clips[key], self._attempts.note(key)
            if found.deaths >= MOST_DEATHS and task.only == {clip.clip_id}:
                self._quarantine(clip, event.reason)
            else:
                if clip.clip_id not in state.suspects:
                    state.suspects.append(clip.clip_id)
                self._hold(key)
        state.barren[worker] = 0 if keys else state.barren.get(worker, 0) + 1
        if state.barren[worker] >= MOST_BARREN and state.error is None:
            state.error = MachineError(
                f"worker {worker}{where} died {MOST_BARREN} times before it began a clip "
                f"({event.reason}); committed clips are whole: see the engine's logs, and rerun"
            )

    def _hold(self, key: str) -> None:
        """Claim a clip that is to be tried alone, so that no worker takes it among others."""
        with suppress(ClaimHeld):  # another writer was faster, or the driver has it
            self._state.held[self._clips[key].clip_id] = claim_clip(
                self._store, key, owner="driver", expiry_seconds=self._expiry_seconds
            )

    def _beat(self) -> None:
        """Heartbeat of the claims on clips that are to be tried alone."""
        if time.monotonic() > self._next_beat:
            self._next_beat = time.monotonic() + self._expiry_seconds / 10
            for claim in self._state.held.values():
                claim.beat()

    def _quarantine(self, clip: Clip, reason: str) -> None:
        what = f"it ended its worker {MOST_DEATHS} times, the last time alone ({reason})"
        sources = SourceFiles(self._manifest.root)
        record_failure(
            self._store,
            clip.clip_id,
            stage="worker",
            reason=what,
            details={
                "video": clip.video,
                "source": state_fields(sources.state(clip.video)),
                "clip": fingerprint_of_clip(clip),
            },
        )
        log.warning("%s: worker: %s; in quarantine", clip.clip_id, what)

    def _give(self) -> None:
        """Give every idle worker its share, then clips that are to be tried alone."""
        state = self._state
        for worker in sorted(state.idle):
            if worker not in state.served:
                state.served.add(worker)
                without = frozenset(state.suspects) | self._tried_alone()
                self._start(worker, Task((worker, self._workers.count), without=without))
            elif state.suspects:
                name = state.suspects.popleft()
                if name in state.held:
                    state.held.pop(name).release()
                self._start(worker, Task(only=frozenset([name])))

    def _tried_alone(self) -> frozenset[str]:
        """Clips that a worker is trying alone now."""
        return frozenset(name for task in self._state.tasks.values() for name in task.only)

    def _start(self, worker: int, task: Task) -> None:
        self._state.idle.discard(worker)
        self._state.tasks[worker] = task
        self._workers.give(worker, task)

    def _rest(self) -> list[str]:
        """Clips that no worker has reached: another writer claims them, or was killed."""
        state = self._state
        reached = {
            failure.clip_id
            for report in state.reports
            for failure in (*report.failed, *report.quarantined)
        }
        reached |= {name for report in state.reports for name in report.changed}
        names = [self._clips[key].clip_id for key in sorted(self._left())]
        return [n for n in names if n not in reached and state.rounds[n] < MOST_ROUNDS]

    def _give_free(self, rest: Sequence[str]) -> bool:
        """Give the clips that nobody claims, or whose claims are dead, to a worker, if there is.

        Those that a worker died of are tried alone.
        """
        state, claims = self._state, self._store / "claims"
        free = [
            name
            for name in rest
            if not is_live(claims / f"{clip_key(name)}.json", expiry_seconds=self._expiry_seconds)
        ]
        if free and state.idle:
            state.rounds.update(free)
            alone = [name for name in free if clip_key(name) in self._attempts.found]
            state.suspects.extend(alone)
            if together := frozenset(free) - {*alone}:
                self._start(min(state.idle), Task(only=together))
        return bool(free)

    def _in_work(self, keys: Iterable[str]) -> list[str]:
        """Ids of the clips that other writers work on."""
        claims, seconds = self._store / "claims", self._expiry_seconds
        live = [key for key in keys if is_live(claims / f"{key}.json", expiry_seconds=seconds)]
        return sorted(self._clips[key].clip_id for key in live)

    def _total(self) -> ExtractReport:
        reports = [*self._state.reports, *self._state.latest.values()]
        return merge_reports(reports) if reports else ExtractReport()

    def _end(self, stopping: Stopping) -> ExtractReport:
        """The report of the run; what a worker that died had done is taken from the store."""
        state, total = self._state, self._total()
        total.num_clips = len(self._part)
        for claim in state.held.values():
            claim.release()
        left, now = self._left(), committed_keys(self._store)
        replaced = self._to_replace - self._replaced.keys()
        said = {*total.committed, *total.changed}
        for key, clip in self._clips.items():
            if key in (now - self._before) | replaced and clip.clip_id not in said:
                total.committed.append(clip.clip_id)
                total.replaced += [clip.clip_id] if key in replaced else []
        total.skipped = sorted({*total.skipped} - {*total.committed})
        total.skipped = [name for name in total.skipped if clip_key(name) not in left]
        in_work = [] if stopping.event.is_set() else self._in_work(left)
        total.skipped, total.num_in_work = total.skipped + in_work, len(in_work)
        total.note_quarantine(read_failures(self._store), {c.clip_id for c in self._part})
        settle_run(self._store, self._run)
        self._attempts.forget(now | self._in_quarantine())
        if state.error is not None and not stopping.event.is_set():
            raise state.error
        if left and not stopping.event.is_set():
            names = sorted({self._clips[key].clip_id for key in left} - {*in_work})
            more = f", ... ({len(names)} in all)" if len(names) > SHOWN else ""
            if names:
                log.warning("not extracted: %s%s: rerun to resume", ", ".join(names[:SHOWN]), more)
        total.signal = stopping.signal
        return total


def _too_many(total: ExtractReport, most: int | None) -> TokenReelError | None:
    try:
        total.check_failures(most)
    except TokenReelError as error:
        return error
    return None
