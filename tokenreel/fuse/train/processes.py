"""Runs spread over processes, on a CPU: each run trains alone, on one thread.

The steps of a small model are too short to keep two threads busy; two runs beside each other are
not.  Each run ends with the bytes of the same run trained alone on one thread, whatever the number
of processes and the order in which they take the runs.
"""

import ctypes
import logging
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import connection, get_context, parent_process, resource_tracker
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

from tokenreel.cache.errors import TokenReelError, process_lost
from tokenreel.cache.progress import Progress
from tokenreel.fuse.systems.base import system_of

if TYPE_CHECKING:  # torch
    from tokenreel.fuse.train.train import Job, RunResult

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0  # between two looks at the epochs of all runs
MEMORY_SHARE = 0.5  # of what is available, for the codes of all processes
ADVICE = "what is saved stays: rerun the same command to resume"
STOPS = (signal.SIGINT, signal.SIGTERM)
MOST_BYTES = 1 << 25  # of a block that glibc takes from its heap
KEPT_BYTES = 1 << 30  # free at the end of a heap, before it is returned
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
E = TypeVar("E", bound=BaseException)


def train_in_processes(
    jobs: "Sequence[Job]", *, processes: int, progress: bool = True
) -> "list[RunResult]":
    """Train or resume runs on the CPU, and write the embeddings of every split.

    Ctrl-C and SIGTERM save every run after the step that they come in; the processes end when this
    one ends.

    Args:
        jobs: the runs, each in its own folder; they begin in this order.
        processes: how many run at once.
        progress: show a bar of the epochs of all runs.

    Returns:
        One result for each job, in order; a run that failed has its error.

    Raises:
        SystemExit: 130 after Ctrl-C, 143 after SIGTERM.
        MachineError: a process was killed.
        Exception: what ended a process, such as a full disk.
    """
    waiting = list(enumerate(jobs))[::-1]
    results: dict[int, RunResult] = {}
    counter = _EpochCounter(jobs)
    workers: list[_Worker] = []
    bar = Progress(
        desc=f"{len(jobs)} runs",
        unit="epoch",
        total=counter.total,
        initial=counter.count(results),
        enabled=progress,
    )
    with bar, _signals() as stopped:
        try:
            for _ in range(min(processes, len(jobs))):
                workers.append(_Worker(processes))
                workers[-1].start(*waiting.pop())
            while busy := [worker for worker in workers if worker.number is not None]:
                for worker in busy if stopped else ():
                    worker.stop()
                ready = connection.wait([worker.pipe for worker in busy], POLL_SECONDS)
                for worker in [worker for worker in busy if worker.pipe in ready]:
                    number, found = worker.take(is_stopping=bool(stopped))
                    if found is not None:
                        results[number] = found
                    if waiting and not stopped:
                        worker.start(*waiting.pop())
                bar.update(counter.count(results) - bar.n)
        finally:
            for worker in workers:
                worker.end()
    if stopped:
        if stopped[0] == signal.SIGTERM:  # of Ctrl-C the command says so itself
            log.warning("received SIGTERM: every run is saved; rerun to resume")
        raise SystemExit(128 + stopped[0])
    return [results[number] for number in range(len(jobs))]


class _EpochCounter:
    """Counts the epochs that runs have behind them, by the lines of their metrics."""

    def __init__(self, jobs: "Sequence[Job]") -> None:
        self._files = [job.out / "metrics.jsonl" for job in jobs]
        self._epochs = [
            sum(stage.config.optim.epochs for stage in system_of(job.config).stages(job.config))
            for job in jobs
        ]
        self.total = sum(self._epochs)

    def count(self, ended: "dict[int, RunResult]") -> int:
        """Epochs of all runs; all of those that ended."""
        return sum(
            epochs if number in ended else min(epochs, _lines_of(path))
            for number, (path, epochs) in enumerate(zip(self._files, self._epochs, strict=True))
        )


def _lines_of(path: Path) -> int:
    try:
        return path.read_bytes().count(b"\n")
    except OSError:  # not begun
        return 0


class _Worker:
    """A process that trains one run after another.

    Attributes:
        pipe: sends runs, receives results.
        number: of the run that it trains, None where it waits.
    """

    def __init__(self, processes: int) -> None:
        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, processes), daemon=True)
        resource_tracker.ensure_running()  # starting it later would unblock the signal
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # which it inherits
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        theirs.close()
        self.number: int | None = None
        self._is_told = False

    def stop(self) -> None:
        """Save the run after the step that it is in; once."""
        if not self._is_told and self.process.pid is not None:
            self._is_told = True
            os.kill(self.process.pid, signal.SIGTERM)

    def start(self, number: int, job: "Job") -> None:
        """Train a run."""
        self.number = number
        self.pipe.send(job)

    def take(self, *, is_stopping: bool) -> "tuple[int, RunResult | None]":
        """The number and result of the run that it trained; no result where it was stopped.

        Raises:
            TokenReelError: the process was killed, or died.
            Exception: what ended it.
        """
        assert self.number is not None
        number, self.number = self.number, None
        try:
            found = self.pipe.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            if is_stopping:
                return number, None
            raise process_lost("a process that trains", self.process.exitcode, ADVICE) from None
        if isinstance(found, BaseException):
            if is_stopping and isinstance(found, SystemExit):
                return number, None
            raise found
        return number, found

    def end(self) -> None:
        """End the process; one that still trains is killed."""
        self.pipe.close()
        if self.number is not None:
            self.process.kill()
        self.process.join()


@contextmanager
def _signals() -> Iterator[list[int]]:
    """The signals that came, SIGTERM and Ctrl-C, in order; a second Ctrl-C interrupts at once."""
    stopped: list[int] = []

    def stop(number: int, _: FrameType | None) -> None:
        stopped.append(number)
        if stopped.count(signal.SIGINT) > 1:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield stopped  # the owner of the process handles signals
        return
    former = {number: signal.signal(number, stop) for number in STOPS}
    try:
        yield stopped
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _work(pipe: Any, processes: int) -> None:
    """Train one run after another, until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's: the parent sends SIGTERM
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    threading.Thread(target=_end_with_parent, daemon=True).start()
    logging.basicConfig(format="%(message)s")
    logging.getLogger("tokenreel.fuse.train.lockstep").setLevel(logging.ERROR)  # stops
    import torch

    from tokenreel.fuse.data.placement import available_memory_bytes
    from tokenreel.fuse.train.train import train_together

    torch.set_num_threads(1)
    keep_freed_memory()
    memory = int(available_memory_bytes() * MEMORY_SHARE / processes)
    while True:
        try:
            job = pipe.recv()
        except EOFError:  # the parent has closed its end
            return
        try:
            [found] = train_together([job], device="cpu", memory_bytes=memory, progress=False)
        except BaseException as error:
            pipe.send(_portable(error))
        else:
            if found.error is not None:
                found = replace(found, error=_portable(found.error))
            pipe.send(found)


def keep_freed_memory() -> bool:
    """Keep what one step frees for the next one; False where the C library has no such setting.

    By default glibc may return the floats of a step to the system, which then clears them page by
    page for the next: a quarter of the time of a small model.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    sizes = ((M_MMAP_THRESHOLD, MOST_BYTES), (M_TRIM_THRESHOLD, KEPT_BYTES))
    return all(mallopt(name, size) for name, size in sizes)


def _portable(error: E) -> E | TokenReelError:
    """An error that another process can read; its text where it cannot."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return TokenReelError("".join(traceback.format_exception(error)))
    return error


def _end_with_parent() -> None:
    """End this process when its parent dies, which cannot end it if it was killed."""
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
