"""Keeps decode processes: starts them, hears their heartbeat, kills the silent, tries again."""

import logging
import math
import multiprocessing.connection
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tokenreel.extract.decode_pool.process import STOP_SECONDS, DecodeProcess, Task
from tokenreel.extract.decode_pool.worker import Chunk, ClipEnd, ClipFailure, DecodeJob, Heartbeat
from tokenreel.extract.images.transforms import image_sides, plan_on_device

__all__ = ["DecodePool", "DecodedBatch"]

log = logging.getLogger(__name__)

ATTEMPTS = 2
OTHER_DECODER = {"pyav": "decord", "decord": "pyav"}


@dataclass(frozen=True, slots=True)
class DecodedBatch:
    """Frames of a clip, or its end.

    Attributes:
        position: of the clip in the jobs.
        images: uint8 (t - skipped, V, 3, H, W), or windows of frames, (t - skipped, h, w, 3), see
            frame_size; valid until release() is called; None at an end, or when all are skipped.
        frame_size: height and width of the frames, where images are windows of them.
        skipped: first frames, without pixels.
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
    frame_size: tuple[int, int] | None
    skipped: int
    pts: NDArray[np.int64]
    index: NDArray[np.int64]
    seconds: float
    end: ClipEnd | ClipFailure | None
    attempt: int
    decoder: str
    failures: tuple[str, ...]
    release: Callable[[], None]


NO_FRAMES = np.zeros(0, np.int64)


class DecodePool:
    """Decode clips in processes.

    Each clip gets two attempts, the second with the other decoder.  A failure that the other must
    not overrule (a missing file, a frame marked corrupt, a file that ends early) is final at once:
    decord would conceal such damage.

    Args:
        jobs: the clips, taken one by one as a worker is free.
        slot_shape: (chunk_frames, V, 3, H, W): images that a slot holds; windows of frames
            are as many as fit.
        workers: processes.
        timeout_seconds: silence after which a process is killed.
        is_over: asked now and then; once true, what is being decoded is given up.
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
        self._fresh = (Task(position, job) for position, job in enumerate(jobs))
        self._again: deque[Task] = deque()
        self._slot_bytes = math.prod(slot_shape)
        self._timeout_seconds, self._is_over = timeout_seconds, is_over
        self._num_workers = workers
        self._workers: list[DecodeProcess] = []
        self.killed = 0
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

    def __iter__(self) -> Iterator[DecodedBatch]:
        """Yield batches of the clips as they come; those of one clip in order."""
        while not self._is_over():
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
                idle.append(DecodeProcess(self._slot_bytes))
                self._workers.append(idle[-1])
            idle.pop().give(task)

    def _hear(self, worker: DecodeProcess) -> Iterator[DecodedBatch]:
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
            slot = message.slot
            task.frame = int(message.index[-1])
            yield DecodedBatch(
                position=task.position,
                images=_images_in(worker.ring.slots[slot], task.job, message),
                frame_size=message.frame_size,
                skipped=message.skipped,
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

    def _finish(self, task: Task, end: ClipEnd | ClipFailure) -> Iterator[DecodedBatch]:
        if isinstance(end, ClipFailure):
            task.failures.append(f"{task.job.decoder}: {end.reason}")
            if not end.final and task.attempt < ATTEMPTS:
                log.warning("%s: %s; once more", task.job.path, task.failures[-1])
                other = replace(task.job, decoder=OTHER_DECODER[task.job.decoder], skip_frames=0)
                self._again.append(Task(task.position, other, task.attempt + 1, task.failures))
                return
        yield DecodedBatch(
            position=task.position,
            images=None,
            frame_size=None,
            skipped=0,
            pts=NO_FRAMES,
            index=NO_FRAMES,
            seconds=0.0,
            end=end,
            attempt=task.attempt,
            decoder=task.job.decoder,
            failures=tuple(task.failures),
            release=lambda: None,
        )

    def _lost(self, worker: DecodeProcess, reason: str) -> Iterator[DecodedBatch]:
        """Replace a worker that hangs or has died, and go on with its clip."""
        task = worker.task
        assert task is not None
        self._end(worker, kill=True)
        self.killed += 1
        fresh = DecodeProcess(self._slot_bytes)
        self._workers[self._workers.index(worker)] = fresh
        worker.task = None
        yield from self._finish(task, ClipFailure("decode", reason, task.frame, final=False))


def _images_in(slot: NDArray[np.uint8], job: DecodeJob, chunk: Chunk) -> NDArray[np.uint8] | None:
    """The pixels of a chunk, as they lie in its slot."""
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
