"""Keeps decode processes: starts them, hears their heartbeat, kills the silent, tries again."""

import contextlib
import logging
import multiprocessing
import multiprocessing.connection
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from multiprocessing.shared_memory import SharedMemory

import numpy as np
from numpy.typing import NDArray

from tokenreel.extract.worker import Chunk, ClipEnd, ClipFailure, DecodeJob, Heartbeat, serve

__all__ = ["DecodePool", "DecodedBatch"]

log = logging.getLogger(__name__)

SLOTS = 3  # of a worker: one filled, one read, one spare
ATTEMPTS = 2
OTHER_DECODER = {"pyav": "decord", "decord": "pyav"}
START_SECONDS = 120.0  # a process imports torch before it first answers
STOP_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class DecodedBatch:
    """Frames of a clip, or its end.

    Attributes:
        position: of the clip in the jobs.
        images: uint8 (t, V, 3, S, S), valid until release() is called; None at an end.
        pts: ticks since the start of the file, int64 (t,).
        index: of each frame in the video, int64 (t,).
        seconds: spent on decoding and resizing.
        end: what the clip ended with; None while there is more.
        attempt: 1 or 2: a higher one than before starts the clip again from its first frame.
        decoder: that of the attempt.
        failures: reasons of the attempts that failed, in order.
        release: gives the memory of images back.
    """

    position: int
    images: NDArray[np.uint8] | None
    pts: NDArray[np.int64]
    index: NDArray[np.int64]
    seconds: float
    end: ClipEnd | ClipFailure | None
    attempt: int
    decoder: str
    failures: tuple[str, ...]
    release: Callable[[], None]


NO_FRAMES = np.zeros(0, np.int64)


@dataclass
class _Task:
    position: int
    job: DecodeJob
    attempt: int = 1
    failures: list[str] = field(default_factory=list)


class _Worker:
    """A process with its ring of shared memory."""

    def __init__(self, slot_shape: tuple[int, ...]) -> None:
        context = multiprocessing.get_context("spawn")
        self.shape = (SLOTS, *slot_shape)
        self.memory = SharedMemory(create=True, size=int(np.prod(self.shape)))
        self.ring: NDArray[np.uint8] = np.ndarray(self.shape, np.uint8, self.memory.buf)
        self.pipe, child = context.Pipe()
        self.process = context.Process(
            target=serve, args=(child, self.memory.name, self.shape), daemon=True
        )
        self.process.start()
        child.close()
        self.task: _Task | None = None
        self.lent = 0  # slots that the parent has not given back
        self.heard = time.monotonic()
        self.has_answered = False

    def give(self, task: _Task) -> None:
        """Start on a task."""
        self.task, self.heard = task, time.monotonic()
        self.pipe.send(task.job)

    def release(self, slot: int) -> None:
        """Give a slot back; a worker that is gone needs none."""
        self.lent -= 1
        self.heard = time.monotonic()
        with contextlib.suppress(OSError):
            self.pipe.send(slot)

    def is_silent(self, timeout_seconds: float) -> bool:
        """Whether it has owed a sign of life for too long; one that waits for a slot owes none."""
        if self.task is None or self.lent >= SLOTS:
            return False
        limit = timeout_seconds if self.has_answered else max(timeout_seconds, START_SECONDS)
        return time.monotonic() - self.heard > limit

    def close(self, *, kill: bool) -> None:
        """End the process and free its memory."""
        self.pipe.close()
        if not kill:
            self.process.join(STOP_SECONDS)
        if self.process.is_alive():
            self.process.kill()
        self.process.join()
        del self.ring
        with contextlib.suppress(BufferError):  # a batch of it is still being read
            self.memory.close()
        self.memory.unlink()


class DecodePool:
    """Decode clips in processes.

    Each clip gets two attempts, the second with the other decoder.  A failure that the other must
    not overrule (a missing file, a frame marked corrupt, a file that ends early) is final at once:
    decord would conceal such damage.

    Args:
        jobs: the clips, taken one by one as a worker is free.
        slot_shape: (chunk_frames, V, 3, S, S) of all jobs.
        workers: processes.
        timeout_seconds: silence after which a process is killed.
    """

    def __init__(
        self,
        jobs: Iterable[DecodeJob],
        *,
        slot_shape: tuple[int, ...],
        workers: int,
        timeout_seconds: float,
    ) -> None:
        self._fresh = (_Task(position, job) for position, job in enumerate(jobs))
        self._again: deque[_Task] = deque()
        self._slot_shape = slot_shape
        self._timeout_seconds = timeout_seconds
        self._num_workers = workers
        self._workers: list[_Worker] = []
        self.killed = 0

    def __enter__(self) -> "DecodePool":
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.close(kill=worker.task is not None)
        self._workers = []

    def __iter__(self) -> Iterator[DecodedBatch]:
        """Yield batches of the clips as they come; those of one clip in order."""
        while True:
            self._give_out()
            if all(worker.task is None for worker in self._workers):
                return
            busy = {worker.pipe: worker for worker in self._workers if worker.task}
            ready = multiprocessing.connection.wait(list(busy), timeout=0.2)
            for pipe in ready:
                yield from self._hear(busy[pipe])  # type: ignore[index]
            for worker in list(self._workers):
                if worker.is_silent(self._timeout_seconds) and not worker.pipe.poll():
                    reason = f"no sign of life for {self._timeout_seconds:g} s: killed"
                    yield from self._lost(worker, reason)

    def _give_out(self) -> None:
        """Give each idle worker a task; processes start when there is work for them."""
        idle = [worker for worker in self._workers if worker.task is None]
        for _ in range(self._num_workers - len(self._workers) + len(idle)):
            task = self._again.popleft() if self._again else next(self._fresh, None)
            if task is None:
                return
            if not idle:
                idle.append(_Worker(self._slot_shape))
                self._workers.append(idle[-1])
            idle.pop().give(task)

    def _hear(self, worker: _Worker) -> Iterator[DecodedBatch]:
        task = worker.task
        assert task is not None
        try:
            message = worker.pipe.recv()
        except (EOFError, OSError):
            worker.process.join(STOP_SECONDS)
            yield from self._lost(worker, f"the decoder died (exit {worker.process.exitcode})")
            return
        worker.heard, worker.has_answered = time.monotonic(), True
        if isinstance(message, Heartbeat):
            return
        if isinstance(message, Chunk):
            worker.lent += 1
            images = worker.ring[message.slot][: len(message.pts)]
            slot = message.slot
            yield DecodedBatch(
                position=task.position,
                images=images if message.has_pixels else None,
                pts=message.pts,
                index=message.index,
                seconds=message.seconds,
                end=None,
                attempt=task.attempt,
                decoder=task.job.decoder,
                failures=tuple(task.failures),
                release=lambda: worker.release(slot),
            )
            return
        worker.task = None
        yield from self._finish(task, message)

    def _finish(self, task: _Task, end: ClipEnd | ClipFailure) -> Iterator[DecodedBatch]:
        if isinstance(end, ClipFailure):
            task.failures.append(f"{task.job.decoder}: {end.reason}")
            if not end.final and task.attempt < ATTEMPTS:
                log.warning("%s: %s; once more", task.job.path, task.failures[-1])
                other = replace(task.job, decoder=OTHER_DECODER[task.job.decoder], skip_frames=0)
                self._again.append(_Task(task.position, other, task.attempt + 1, task.failures))
                return
        yield DecodedBatch(
            position=task.position,
            images=None,
            pts=NO_FRAMES,
            index=NO_FRAMES,
            seconds=0.0,
            end=end,
            attempt=task.attempt,
            decoder=task.job.decoder,
            failures=tuple(task.failures),
            release=lambda: None,
        )

    def _lost(self, worker: _Worker, reason: str) -> Iterator[DecodedBatch]:
        """Replace a worker that hangs or has died, and go on with its clip."""
        task = worker.task
        assert task is not None
        worker.close(kill=True)
        self.killed += 1
        fresh = _Worker(self._slot_shape)
        self._workers[self._workers.index(worker)] = fresh
        worker.task = None
        yield from self._finish(task, ClipFailure("decode", reason, None, final=False))
