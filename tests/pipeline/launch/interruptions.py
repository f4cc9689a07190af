"""Work of the engines that is interrupted once, at a place in the work, and not at a time.

So a slow machine is interrupted where a fast one is, and neither comes too late.
"""

import os
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.extract.extraction import shards
from tokenreel.pipeline.launch.ray_engine import Worker
from tokenreel.pipeline.launch.slurm import ShardJob
from tokenreel.pipeline.launch.tables.base import Group

PROCESSES = {  # variables of those that import this module
    "PYTHONPATH": str(Path(__file__).parents[3]),
    "RAY_memory_monitor_refresh_ms": "0",  # else it kills them where others fill the memory
}


def mark_of(folder):
    """The file that the process makes that is interrupted; its number is in it."""
    return folder.with_name(f"{folder.name}-interrupted")


def interrupt_once(folder, number, is_time):
    """Send this process a signal once it opens a file of a folder when it is time.

    Of all processes that call this one is interrupted.
    """
    mark, has_come = mark_of(folder), False

    def look(event, about):
        nonlocal has_come
        if event != "open" or has_come or not isinstance(about[0], str | os.PathLike):
            return
        if os.path.abspath(about[0]).startswith(f"{folder}/") and is_time():  # noqa: PTH100
            has_come = True
            with suppress(FileExistsError):
                with mark.open("x") as file:
                    file.write(str(os.getpid()))
                os.kill(os.getpid(), number)

    sys.addaudithook(look)


def has_shards(store, count):
    """Whether a store has so many shards, begun ones included."""
    return len(shards(store)) >= count


class KilledWorker(Worker):
    """An actor that is killed: one segment is whole, of 2 blocks, and one has begun."""

    def extract(self, job, task):
        interrupt_once(job.store, signal.SIGKILL, lambda: has_shards(job.store, 3))
        return super().extract(job, task)


class KilledGroup(Group):
    """A group whose process is killed when the first of its checkpoints is whole."""

    def train(self):
        folders = [Path(self.folder, job.out) for job in self.jobs]
        interrupt_once(
            folders[0].parent,
            signal.SIGKILL,
            lambda: any((folder / "checkpoint.pt").exists() for folder in folders),
        )
        return Group.train(self)


@dataclass(frozen=True)
class PreemptedJob:
    """A job that is preempted when two segments of a clip are whole, of 2 blocks."""

    job: ShardJob

    def __call__(self):
        store = self.job.extraction.out
        interrupt_once(store, signal.SIGUSR2, lambda: has_shards(store, 5))
        return self.job()

    def checkpoint(self):
        return self.job.checkpoint()
