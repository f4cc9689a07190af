"""Interface of the engines of tables: the table, and what each of them trains elsewhere.

What is spread are lock-step groups: runs that one stream over a store feeds.  They are split only
where there are more jobs than groups.
"""

import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tokenreel.cache.errors import TokenReelError
from tokenreel.pipeline.defaults import EMBEDDINGS
from tokenreel.pipeline.launch.base import require_versions, versions_here
from tokenreel.pipeline.phases.ablation import AblationReport, Trainer, ablate
from tokenreel.pipeline.phases.training import Stores

if TYPE_CHECKING:  # torch
    from tokenreel.fuse.train.train import Job, RunResult


@dataclass(frozen=True)
class TableRequest:
    """A table: the arguments of `fuse ablate`.

    Attributes:
        words: tables, recipes and `key=a,b,c` grids.
        seeds: runs of each row.
        stores: that may feed rows.
        splits: whether they are splits of one data set.
        out: folder of the tables.
        device: "auto", "cpu" or "cuda".
        placement: where codes stay.
        memory_bytes: most that codes may take in memory.
    """

    words: tuple[str, ...]
    seeds: int
    stores: tuple[Stores, ...] = ()
    splits: bool = False
    out: Path | None = None
    device: str = "auto"
    placement: str = "auto"
    memory_bytes: int | None = None

    def make(self, train: Trainer | None = None, *, progress: bool = True) -> AblationReport:
        """Train, evaluate and print the table; raises as ablate.

        Args:
            train: of the runs; None for this process.
            progress: show bars.
        """
        return ablate(
            self.words,
            seeds=self.seeds,
            stores=self.stores,
            splits=self.splits,
            out=self.out,
            device=self.device,
            placement=self.placement,
            memory_bytes=self.memory_bytes,
            progress=progress,
            train=train,
        )


@dataclass(frozen=True)
class LaunchedTable:
    """What an engine did.

    Attributes:
        report: the table; None where its jobs are queued, or were only shown.
        lines: for the user.
    """

    report: AblationReport | None
    lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class Group:
    """Runs that one process trains, elsewhere.

    Attributes:
        jobs: the runs.
        device: of the process.
        placement: where codes stay.
        memory_bytes: most that codes may take in memory.
        folder: the current folder of the command.
        versions: of the command.
    """

    jobs: tuple["Job", ...]
    device: str
    placement: str
    memory_bytes: int | None
    folder: str
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Its first run, and how many more there are."""
        more = f" and {len(self.jobs) - 1} more" if len(self.jobs) > 1 else ""
        return f"{self.jobs[0].out.name}{more}"

    def train(self) -> dict[str, str | None]:
        """Train or resume the runs: folder of each -> why it failed, None where it did not."""
        logging.basicConfig(format="%(message)s", stream=sys.stderr)
        logging.getLogger("tokenreel").setLevel(logging.INFO)
        from tokenreel.fuse.train.train import train_together

        try:
            os.chdir(self.folder)
            require_versions(self.versions)
            results = train_together(
                self.jobs,
                device=self.device,
                placement=self.placement,
                memory_bytes=self.memory_bytes,
                progress=False,
            )
        except TokenReelError as error:  # of the node, not of one run
            return {str(job.out): str(error) for job in self.jobs}
        return {
            str(result.path): None if result.error is None else str(result.error)
            for result in results
        }


def groups_of(
    request: TableRequest, jobs: Sequence["Job"], count: int | None, device: str
) -> list[Group]:
    """The groups of runs, the largest first, one for each process that trains some.

    Args:
        request: the table.
        jobs: its runs.
        count: processes; None for one a lock-step group.
        device: of each process.
    """
    from tokenreel.fuse.train.train import lockstep_groups

    versions = versions_here()
    return [
        Group(
            tuple(part),
            device,
            request.placement,
            request.memory_bytes,
            str(Path.cwd()),
            versions,
        )
        for part in spread(lockstep_groups(jobs), count)
    ]


def spread(groups: Sequence[Sequence["Job"]], count: int | None) -> list[list["Job"]]:
    """Groups dealt out to processes, the largest first; halves of the largest where too few.

    Args:
        groups: of runs.
        count: processes; None for one a group.

    >>> spread(["abcd", "ef", "g"], 2), spread(["abcd", "ef"], 3), spread(["ab"], 5)
    ([['a', 'b', 'c', 'd'], ['e', 'f', 'g']], [['a', 'b'], ['c', 'd'], ['e', 'f']], [['a'], ['b']])
    """
    parts = [list(group) for group in groups]
    wanted = len(parts) if count is None else min(count, sum(map(len, parts)))
    while len(parts) < wanted:
        largest = max(parts, key=len)
        place, half = parts.index(largest), -(-len(largest) // 2)
        parts[place : place + 1] = [largest[:half], largest[half:]]
    shares: list[list[Job]] = [[] for _ in range(wanted)]
    for part in sorted(parts, key=len, reverse=True):
        min(shares, key=len).extend(part)
    return shares


def result_of(job: "Job", reason: str | None) -> "RunResult":
    """How a run ended in another process.

    Args:
        job: the run.
        reason: why it failed; None where it did not.
    """
    from tokenreel.fuse.train.train import RunResult

    error = None if reason is None else TokenReelError(reason)
    return RunResult(job.out, job.out / EMBEDDINGS, was_done=False, error=error)


def train_rest(jobs: Sequence["Job"], train: Trainer) -> list["RunResult"]:
    """Train the runs that have no embeddings elsewhere; look at the others here.

    Args:
        jobs: runs of a table.
        train: of those that are left.
    """
    from tokenreel.fuse.train.train import train_together

    done = [job for job in jobs if (job.out / EMBEDDINGS).exists()]
    rest = [job for job in jobs if job not in done]
    results = []
    if done:
        results += train_together(done, device="cpu", progress=False)
    if rest:
        results += train(rest)
    by_folder = {result.path: result for result in results}
    return [by_folder[job.out] for job in jobs]
