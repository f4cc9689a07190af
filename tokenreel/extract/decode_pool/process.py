"""A decode process as its parent sees it: its pipe, its ring of slots, when it was last heard."""

import atexit
import contextlib
import multiprocessing
import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

from tokenreel.cache.errors import TokenReelError
from tokenreel.extract.decode_pool.shared_ring import SHARED_MEMORY, SharedRing
from tokenreel.extract.decode_pool.worker import DecodeJob, serve
from tokenreel.extract.signals import unheard_by_children

__all__ = ["STOP_SECONDS", "DecodeProcess", "Task"]

SLOTS = 3  # of a process: one filled, one read, one spare
START_SECONDS = 120.0  # a process imports torch before it first answers
STOP_SECONDS = 5.0
PRELOADED = [
    "tokenreel.extract.decode_pool.fill",
    "tokenreel.extract.images.augment",
    "tokenreel.extract.video.decoders",
]


@dataclass
class Task:
    """A clip that is being decoded."""

    position: int
    job: DecodeJob
    attempt: int = 1
    failures: list[str] = field(default_factory=list)
    frame: int | None = None  # the last one heard of, its place in the video


class DecodeProcess:
    """A process with its ring of shared memory.

    Args:
        slot_bytes: of each of its slots.

    Raises:
        TokenReelError: there is not so much shared memory.
    """

    def __init__(self, slot_bytes: int) -> None:
        context = multiprocessing.get_context("forkserver")  # imports torch once, not in each
        context.set_forkserver_preload(PRELOADED)
        _require_room(SLOTS * slot_bytes)
        self.ring = SharedRing((SLOTS, slot_bytes))
        self.pipe, child = context.Pipe()
        self.process = context.Process(target=serve, args=(child, self.ring), daemon=True)
        try:
            with unheard_by_children(signal.SIGINT, signal.SIGTERM):
                self.process.start()
                atexit.register(self.process.kill)  # it hears no SIGTERM of multiprocessing's
        except BaseException:  # Ctrl-C: nobody else knows of the process yet
            self.close(kill=True)
            raise
        child.close()
        self.task: Task | None = None
        self.lent = 0  # slots that the parent has not given back
        self.heard = time.monotonic()
        self.has_answered = False

    def give(self, task: Task) -> None:
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

    def peak_bytes(self) -> int:
        """Most memory that the process has held, its slots not counted; 0 when it is gone."""
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
    """Raise where shared memory is short: to write beyond it would kill the process instead."""
    if not SHARED_MEMORY.is_dir():
        return
    status = os.statvfs(SHARED_MEMORY)
    if status.f_bavail * status.f_frsize < num_bytes:
        raise TokenReelError(
            f"{SHARED_MEMORY} has {status.f_bavail * status.f_frsize / 1e6:.0f} MB left, a decode "
            f"process needs {num_bytes / 1e6:.0f} MB: fewer workers=, a smaller batch_frames=, or "
            "more shared memory (docker run --shm-size)"
        )
