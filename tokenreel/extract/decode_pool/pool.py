"""Pool of decode processes: starts them, receives their heartbeats, kills silent ones, retries."""

import atexit
import contextlib
import logging
import math
import multiprocessing
import multiprocessing.connection
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.bucket.objects import with_environment
from tokenreel.cache.errors import MachineError, TokenReelError
from tokenreel.extract.decode_pool.shared_ring import SHARED_MEMORY, SharedRing
from tokenreel.extract.decode_pool.worker import (
    NO_FACTS,
    Chunk,
    ClipFacts,
    ClipFailure,
    DecodeJob,
    Heartbeat,
    MachineFailure,
    serve,
)
from tokenreel.extract.images.transforms import image_sides, plan_on_device
from tokenreel.extract.signals import STOP_SIGNALS, blocked_in_children

log = logging.getLogger(__name__)

SLOTS = 3  # of a process: one being filled, one being read, one spare
START_SECONDS = 120.0  # a process imports torch before its first message
STOP_SECONDS = 5.0
ATTEMPTS = 2
OTHER_DECODER = {"pyav": "decord", "decord": "pyav"}


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt at decoding a clip.

    Attributes:
        position: of the clip in the jobs.
        number: 1 or 2; the second starts the clip again from its first frame.
        decoder: "pyav" or "decord".
    """

    position: int
    number: int
    decoder: str


@dataclass(frozen=True, slots=True)
class DecodedChunk:
    """Frames of a clip.

    Attributes:
        attempt: that decoded them.
        images: uint8 (t - skipped, V, 3, H, W), or windows of frames, (t - skipped, h, w, 3), see
            frame_size; valid until release() is called; None when all frames are skipped.
        frame_size: height and width of the frames, where images are windows of them.
        skipped: leading frames without pixels.
        pts: ticks since the start of the file, int64 (t,).
        index: of each frame in the video, int64 (t,).
        seconds: spent on decoding and resizing.
        release: frees the memory of images.
    """

    attempt: Attempt
    images: NDArray[np.uint8] | None
    frame_size: tuple[int, int] | None
    skipped: int
    pts: NDArray[np.int64]
    index: NDArray[np.int64]
    seconds: float
    release: Callable[[], None]


@dataclass(frozen=True, slots=True)
class ClipEnded:
    """The last message about a clip.

    Attributes:
        attempt: the last one.
        failure: why the clip was given up; None when it was decoded to its end.
        reasons: of all attempts that failed, in order.
        facts: of the clip, where it was decoded to its end.
    """

    attempt: Attempt
    failure: ClipFailure | None
    reasons: tuple[str, ...]
    facts: ClipFacts = NO_FACTS


@dataclass
class _Task:
    """A clip being decoded."""

    attempt: Attempt
    job: DecodeJob
    reasons: list[str] = field(default_factory=list)
    frame: int | None = None  # the last one received, its index in the video


class DecodeProcess:
    """A decode process with its ring of shared memory.

    Args:
        slot_bytes: size of each slot.

    Raises:
        TokenReelError: not enough shared memory.
    """

    def __init__(self, slot_bytes: int) -> None:
        context = multiprocessing.get_context("forkserver")  # imports torch once, not in each
        context.set_forkserver_preload(["tokenreel.extract.decode_pool.worker"])
        _require_room(SLOTS * slot_bytes)
        self.ring = SharedRing((SLOTS, slot_bytes))
        self.pipe, child = context.Pipe()
        arguments = dict(os.environ), serve, child, self.ring
        self.process = context.Process(target=with_environment, args=arguments, daemon=True)
        try:
            with blocked_in_children(*STOP_SIGNALS):
                self.process.start()
                atexit.register(self.process.kill)  # it ignores multiprocessing's SIGTERM
        except BaseException:  # Ctrl-C: nothing else refers to the process yet
            self.close(kill=True)
            raise
        child.close()
        self.task: _Task | None = None
        self.lent = 0  # slots that the parent has not released
        self.last_message = time.monotonic()
        self.has_answered = False

    def give(self, task: _Task) -> None:
        """Start a task."""
        self.task, self.last_message = task, time.monotonic()
        self.pipe.send(task.job)

    def release(self, slot: int) -> None:
        """Return a slot to the process, if it still runs."""
        self.lent -= 1
        self.last_message = time.monotonic()
        with contextlib.suppress(OSError):
            self.pipe.send(slot)

    def is_silent(self, timeout_seconds: float) -> bool:
        """Whether a heartbeat is overdue; a process that waits for a slot sends none."""
        if self.task is None or self.lent >= SLOTS:
            return False
        limit = timeout_seconds if self.has_answered else max(timeout_seconds, START_SECONDS)
        return time.monotonic() - self.last_message > limit

    def peak_bytes(self) -> int:
        """Peak memory of the process without its slots; 0 after its end."""
        try:
            text = Path(f"/proc/{self.process.pid}/status").read_text()
        except OSError:
            return 0
        fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
        peak = int(fields.get("VmHWM", "0 kB").split()[0])
        return max(0, peak - int(fields.get("RssShmem", "0 kB").split()[0])) * 1024

    def close(self, *, kill: bool) -> None:
        """End the process and free its memory."""
        self.pipe.close()
        if self.process.pid is not None:
            if not kill:
                self.process.join(STOP_SECONDS)
            if self.process.is_alive():
                self.process.kill()
            self.process.join()
            atexit.unregister(self.process.kill)
        self.ring.close()


def _require_room(num_bytes: int) -> None:
    """Raise where shared memory is short: writing beyond its end would kill the process."""
    if not SHARED_MEMORY.is_dir():
        return
    status = os.statvfs(SHARED_MEMORY)
    if status.f_bavail * status.f_frsize < num_bytes:
        raise TokenReelError(
            f"{SHARED_MEMORY} has {status.f_bavail * status.f_frsize / 1e6:.0f} MB left, a decode "
            f"process needs {num_bytes / 1e6:.0f} MB: set fewer workers= or a smaller "
            "batch_frames=, or provide more shared memory (docker run --shm-size)"
        )


class DecodePool:
    """Decodes clips in processes.

    Each clip gets two attempts, the second with the other decoder.  A failure that the other
    decoder would only conceal (a missing file, a frame marked corrupt, a file that ends early) is
    final at once.

    Args:
        jobs: the clips, taken one by one as a worker becomes free.
        slot_shape: (chunk_frames, V, 3, H, W): images of a slot; of windows, as many as fit.
        workers: number of processes.
        timeout_seconds: time without a heartbeat after which a process is killed.
        is_over: polled; once true, the clips being decoded are abandoned.

    Raises:
        MachineError: while it is iterated: a limit of the machine is behind a failure.
    """

    def __init__(
        self,
        jobs: Iterable[DecodeJob],
        *,
        slot_shape: tuple[int, ...],
        workers: int,
        timeout_seconds: float,
        is_over: Callable[[], bool] = lambda: False,
    ) -> None:
        self._fresh = (
            _Task(Attempt(position, 1, job.decoder), job) for position, job in enumerate(jobs)
        )
        self._again: deque[_Task] = deque()
        self._slot_bytes = math.prod(slot_shape)
        self._timeout_seconds, self._is_over = timeout_seconds, is_over
        self._num_workers = workers
        self._workers: list[DecodeProcess] = []
        self.peak_bytes = 0  # of the processes that have ended, summed

    def __enter__(self) -> "DecodePool":
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            self._end(worker, kill=worker.task is not None)
        self._workers = []

    def _end(self, worker: DecodeProcess, *, kill: bool) -> None:
        self.peak_bytes += worker.peak_bytes()
        worker.close(kill=kill)

    def __iter__(self) -> Iterator[DecodedChunk | ClipEnded]:
        """Yield chunks and ends of the clips as they come; those of one clip in order."""
        while not self._is_over():
            self._start_tasks()
            if all(worker.task is None for worker in self._workers):
                return
            busy = {worker.pipe: worker for worker in self._workers if worker.task}
            for pipe in multiprocessing.connection.wait(list(busy), timeout=0.2):
                yield from self._receive(busy[pipe])  # type: ignore[index]
            for worker in list(self._workers):
                if worker.is_silent(self._timeout_seconds) and not worker.pipe.poll():
                    reason = f"no heartbeat for {self._timeout_seconds:g} s; killed"
                    yield from self._replace(worker, reason)

    def _start_tasks(self) -> None:
        """Give each idle worker a task; processes start when there is work for them."""
        idle = [worker for worker in self._workers if worker.task is None]
        for _ in range(self._num_workers - len(self._workers) + len(idle)):
            task = self._again.popleft() if self._again else next(self._fresh, None)
            if task is None:
                return
            if not idle:
                idle.append(DecodeProcess(self._slot_bytes))
                self._workers.append(idle[-1])
            idle.pop().give(task)

    def _receive(self, worker: DecodeProcess) -> Iterator[DecodedChunk | ClipEnded]:
        task = worker.task
        assert task is not None
        try:
            message: Heartbeat | Chunk | ClipFailure | MachineFailure | ClipFacts = (
                worker.pipe.recv()
            )
        except (EOFError, OSError):
            worker.process.join(STOP_SECONDS)
            exit_code = worker.process.exitcode
            yield from self._replace(worker, f"the decode process died (exit {exit_code})")
            return
        worker.last_message, worker.has_answered = time.monotonic(), True
        if isinstance(message, Chunk):
            worker.lent += 1
            slot = message.slot
            task.frame = int(message.index[-1])
            yield DecodedChunk(
                attempt=task.attempt,
                images=_images_in(worker.ring.slots[slot], task.job, message),
                frame_size=message.frame_size,
                skipped=message.skipped,
                pts=message.pts,
                index=message.index,
                seconds=message.seconds,
                release=lambda: worker.release(slot),
            )
        elif isinstance(message, MachineFailure):
            raise MachineError(message.reason)
        elif not isinstance(message, Heartbeat):
            worker.task = None
            yield from self._finish(task, message)

    def _finish(self, task: _Task, end: ClipFailure | ClipFacts) -> Iterator[ClipEnded]:
        """End a clip, or queue its second attempt."""
        attempt = task.attempt
        failure = end if isinstance(end, ClipFailure) else None
        if failure is not None:
            task.reasons.append(f"{attempt.decoder}: {failure.reason}")
            if not failure.final and attempt.number < ATTEMPTS:
                other = OTHER_DECODER[attempt.decoder]
                log.warning("%s: %s; retrying with %s", task.job.path, task.reasons[-1], other)
                job = replace(task.job, decoder=other, skip_frames=0)
                again = Attempt(attempt.position, attempt.number + 1, other)
                self._again.append(_Task(again, job, task.reasons))
                return
        facts = end if isinstance(end, ClipFacts) else NO_FACTS
        yield ClipEnded(attempt, failure, tuple(task.reasons), facts)

    def _replace(self, worker: DecodeProcess, reason: str) -> Iterator[ClipEnded]:
        """Start another process in place of one that hangs or has died; its attempt failed."""
        task = worker.task
        assert task is not None
        self._end(worker, kill=True)
        self._workers[self._workers.index(worker)] = DecodeProcess(self._slot_bytes)
        worker.task = None
        yield from self._finish(task, ClipFailure("decode", reason, task.frame, final=False))


def _images_in(slot: NDArray[np.uint8], job: DecodeJob, chunk: Chunk) -> NDArray[np.uint8] | None:
    """The pixels of a chunk, a view of its slot."""
    count = len(chunk.pts) - chunk.skipped
    if count == 0:
        return None
    if chunk.frame_size is None:
        shape: tuple[int, ...] = (len(job.views), 3, *image_sides(job.transform))
    else:
        plan = plan_on_device(chunk.frame_size, job.transform)
        assert plan is not None  # the worker found one
        shape = plan.window_shape
    return slot[: count * math.prod(shape)].reshape(count, *shape)
