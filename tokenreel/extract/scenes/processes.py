"""Processes that find the scenes of one video after another.

A video that kills its process, or on which it fails in any way, ends alone: the next one has a new
process.
"""

import atexit
import multiprocessing
import multiprocessing.connection
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection

from tokenreel.cache.bucket.objects import signs_of_life, with_environment
from tokenreel.cache.errors import (
    MachineError,
    UsageError,
    limit_behind,
    machine_error,
    process_lost,
)
from tokenreel.extract.scenes.segment import Segmented, SegmentJob, segment
from tokenreel.extract.signals import STOP_SIGNALS, blocked_in_children
from tokenreel.extract.video.types import VideoError

BEAT_SECONDS = 0.5
START_SECONDS = 120.0  # a process imports its libraries before its first message
POLL_SECONDS = 0.2
ADVICE = "rerun to try the video again"

Failure = tuple[str, str]  # stage and reason
Outcome = Segmented | Failure


def segment_all(
    jobs: Sequence[SegmentJob],
    *,
    workers: int,
    timeout_seconds: float,
    is_over: Callable[[], bool] = lambda: False,
) -> Iterator[tuple[SegmentJob, Outcome]]:
    """Find the scenes of videos, as many at once as there are workers; yields them as they end.

    Args:
        jobs: the videos.
        workers: number of processes.
        timeout_seconds: time without a heartbeat after which a process is killed.
        is_over: polled; once true, no video is begun, and those begun are abandoned.

    Raises:
        UsageError: the method cannot run here.
        MachineError: a limit of this machine: too little memory, too many open files.
    """
    waiting, running, idle = list(reversed(jobs)), list[_Process](), list[_Process]()
    try:
        while (waiting or running) and not is_over():
            while waiting and len(running) < workers:
                running.append(_begin(waiting.pop(), idle))
            pipes = [process.pipe for process in running]
            multiprocessing.connection.wait(pipes, timeout=POLL_SECONDS)
            for process in list(running):
                outcome = process.poll(timeout_seconds)
                if outcome is not None:
                    running.remove(process)
                    if isinstance(outcome, Segmented):
                        idle.append(process)
                    else:
                        process.close()
                    yield process.job, _raised(outcome)
    finally:
        for process in [*running, *idle]:
            process.close()


def _begin(job: SegmentJob, idle: list["_Process"]) -> "_Process":
    """A process that works on a video: an idle one that is still there, or a new one."""
    while idle:
        process = idle.pop()
        with suppress(OSError):  # it was killed meanwhile
            process.give(job)
            return process
        process.close()
    process = _Process(job)
    with suppress(OSError):  # it ended at once, which is found where it is polled
        process.give(job)
    return process


def _raised(outcome: Outcome | Exception) -> Outcome:
    """The outcome of a video; raises what is no fault of the video."""
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


class _Process:
    """A process, and the video that it works on.

    Args:
        job: the first video, which is still to be given.
    """

    def __init__(self, job: SegmentJob) -> None:
        self.job = job
        context = multiprocessing.get_context("forkserver")
        self.pipe, child = context.Pipe()
        arguments = dict(os.environ), _serve, child
        self._process = context.Process(target=with_environment, args=arguments, daemon=True)
        with blocked_in_children(*STOP_SIGNALS):
            self._process.start()
            atexit.register(self._process.kill)
        child.close()
        self._last_message, self._has_answered = time.monotonic(), False

    def give(self, job: SegmentJob) -> None:
        """Send it a video to work on; OSError where it is gone."""
        self.job = job
        self._last_message = time.monotonic()
        self.pipe.send(job)

    def poll(self, timeout_seconds: float) -> Outcome | Exception | None:
        """What came of the video; None while it is being read."""
        while self.pipe.poll():
            try:
                message: Outcome | Exception | None = self.pipe.recv()
            except (EOFError, OSError):
                self._process.join()
                return "decode", str(process_lost("the process", self._process.exitcode, ADVICE))
            self._last_message, self._has_answered = time.monotonic(), True
            if message is not None:
                return message
        limit = timeout_seconds if self._has_answered else max(timeout_seconds, START_SECONDS)
        if time.monotonic() - self._last_message > limit:
            return "decode", f"no heartbeat for {limit:g} s; killed"
        return None

    def close(self) -> None:
        """End the process."""
        if self._process.is_alive():
            self._process.kill()
        self._process.join()
        atexit.unregister(self._process.kill)
        self.pipe.close()


def _serve(pipe: Connection) -> None:
    """Find the scenes of videos; of each sends None now and then, and at last what came of it."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # the parent decides when to stop
    last_beat = 0.0

    def beat() -> None:
        nonlocal last_beat
        if time.monotonic() - last_beat > BEAT_SECONDS:
            pipe.send(None)
            last_beat = time.monotonic()

    with suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the parent is gone
        while True:
            pipe.send(_outcome_of(pipe.recv(), beat))


def _outcome_of(job: SegmentJob, beat: Callable[[], None]) -> Outcome | Exception:
    """What comes of a video.

    Raises:
        BrokenPipeError, ConnectionResetError: the parent is gone.
    """
    if job.config.method == "transnetv2":
        import torch

        torch.set_num_threads(1)  # the other cores have videos of their own
    try:
        with signs_of_life(beat):
            return segment(job, beat)
    except UsageError as error:
        return error
    except (VideoError, OSError, MemoryError) as error:
        if isinstance(error, BrokenPipeError | ConnectionResetError):
            raise
        return _failure_of(error)


def _failure_of(error: VideoError | OSError | MemoryError) -> Failure | MachineError:
    """What an error says of a video; a limit of the machine where one is behind it."""
    limit = limit_behind(error) or (machine_error(error) if isinstance(error, OSError) else None)
    if limit is not None:
        return limit
    if isinstance(error, VideoError):
        return error.stage, str(error)
    if isinstance(error, MemoryError):
        return "decode", "not enough memory to decode it"
    return "decode", error.strerror or str(error)
