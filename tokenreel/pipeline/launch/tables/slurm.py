"""The engine of SLURM for tables: a job for each lock-step group, and one that makes the table.

The jobs of runs that give first weights to rows come first, those of the rows when they have ended,
well or not, and the job that evaluates all runs and writes the table last.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenreel.cache.canonical import canonical_json, parse_object
from tokenreel.cache.errors import Damaged, TokenReelError, UsageError
from tokenreel.cache.files import make_directory, write_whole
from tokenreel.pipeline.defaults import EMBEDDINGS
from tokenreel.pipeline.launch.base import Placement, import_package, require_package
from tokenreel.pipeline.launch.slurm import (
    OPTIONS,
    REQUEUES,
    folder_of_jobs,
    is_to_resume,
    job_parameters,
    requeue,
    require_login_node,
    script_of,
)
from tokenreel.pipeline.launch.tables.base import (
    Group,
    LaunchedTable,
    TableRequest,
    groups_of,
    result_of,
    train_rest,
)
from tokenreel.pipeline.phases.ablation import (
    folder_of_table,
    name_backbones,
    plan_rows,
    runs_of_first_weights,
    runs_of_rows,
    split_stores,
)
from tokenreel.pipeline.text import say

if TYPE_CHECKING:  # torch
    from tokenreel.fuse.train.train import Job, RunResult

JOBS = "jobs"  # in the folder of the table: scripts, logs, results and reasons


@dataclass(frozen=True)
class GroupJob:
    """A job that trains a group; submitit calls it on a node.

    Attributes:
        group: its runs.
        reasons: the file that says how each of them ended, absolute.
    """

    group: Group
    reasons: Path

    def __call__(self) -> int:
        """Train the group; returns the exit status that the command would have."""
        from tokenreel.fuse.train.lockstep import Stopped

        try:
            found = self.group.train()
        except Stopped as stopped:
            if is_to_resume(stopped.signal):
                requeue()
            raise
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            self._note({str(job.out): text for job in self.group.jobs})
            raise
        self._note(found)
        return TokenReelError.exit_status if any(found.values()) else 0

    def _note(self, found: dict[str, str | None]) -> None:
        make_directory(self.reasons.parent)
        write_whole(self.reasons, canonical_json(found))

    def checkpoint(self) -> Any:
        """What submitit queues in its place when it is preempted: the same job, which resumes."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


@dataclass(frozen=True)
class TableJob:
    """The job that evaluates all runs and writes the table.

    Attributes:
        request: the table.
        folder: the current folder of the command.
        reasons: folder of the files of the groups, absolute.
    """

    request: TableRequest
    folder: str
    reasons: Path

    def __call__(self) -> int:
        """Make the table; returns the exit status that the command would have."""
        os.chdir(self.folder)
        report = self.request.make(self._results, progress=False)
        say(report.text)
        for problem in report.problems:
            say(f"problem: {problem}")
        return report.exit_status

    def _results(self, jobs: Sequence["Job"]) -> list["RunResult"]:
        """How the runs ended, as files say."""
        reasons = reasons_in(self.reasons)
        logs = f"its job ended before it; its log is in {self.reasons}"

        def of_the_rest(some: Sequence["Job"]) -> list["RunResult"]:
            return [result_of(job, reasons.get(str(job.out)) or logs) for job in some]

        return train_rest(jobs, of_the_rest)


def reasons_in(folder: Path) -> dict[str, str | None]:
    """Folder of each run -> why it failed, None where it did not, as the jobs of groups noted."""
    found: dict[str, str | None] = {}
    for path in sorted(folder.glob("group-*.json")):
        try:
            found |= parse_object(path.read_bytes(), where=path)
        except Damaged as error:
            say(f"left out: {error}")
    return found


@dataclass(frozen=True)
class Jobs:
    """The jobs of a table, in the order in which they run.

    Attributes:
        first: of runs that give first weights.
        rows: of the runs of the rows.
        table: that makes the table.
    """

    first: list[GroupJob] = field(default_factory=list)
    rows: list[GroupJob] = field(default_factory=list)
    table: TableJob | None = None


def launch(request: TableRequest, placement: Placement) -> LaunchedTable:
    """Queue the jobs of a table and return; with `dry_run`, return their scripts instead.

    Raises:
        UsageError: submitit or SLURM is not on this machine, or an option is wrong.
        TokenReelError: SLURM refused a job.
    """
    placement.require_only("slurm", OPTIONS)
    require_package("submitit", "slurm")
    import_package("submitit", "slurm")
    if placement.gpus not in (None, "1"):
        raise UsageError(
            f"--gpus {placement.gpus}: a job of a table trains on one GPU: give --gpus 1, and by "
            "--nodes how many jobs there are"
        )
    target = folder_of_table(request.words, request.out)
    parameters = job_parameters(f"ablate-{target.name}", placement)
    jobs = table_jobs(request, placement)
    folder = folder_of_jobs(target / JOBS)
    if not placement.dry_run:
        require_login_node()
        for path in folder.glob("group-*.json"):  # of the jobs of before
            path.unlink()
    on_processors = {key: value for key, value in parameters.items() if key != "gpus_per_node"}
    stages: list[tuple[str, list[Any], dict[str, Any]]] = [
        ("group(s) of first weights", jobs.first, parameters),
        ("group(s) of rows", jobs.rows, parameters),
        ("table", [jobs.table], on_processors),
    ]
    lines, before = [], ""
    for what, stage, own in stages:
        if not stage:
            continue
        if before:
            waits = own["additional_parameters"] | {"dependency": f"afterany:{before}"}
            own = own | {"additional_parameters": waits}
        if placement.dry_run:
            lines.append(script_of(folder / "%j", len(stage), own))
            before = f"JOB_{len(lines)}"
        else:
            before = _submit(folder, stage, own, after=before)
            lines.append(f"job {before}: {len(stage)} {what} queued, logs in {folder}")
    if not placement.dry_run:
        table = folder.parent / "ablation.csv"
        lines.append(f"{table} is written by job {before}; rerun the command for what failed")
    return LaunchedTable(None, tuple(lines))


def _submit(
    folder: Path, jobs: Sequence[Any], parameters: dict[str, Any], *, after: str = ""
) -> str:
    """Queue an array of jobs; returns its number.

    Args:
        folder: of their files.
        jobs: of the array.
        parameters: as submitit names them.
        after: number of the job that was queued before; "" for none.

    Raises:
        TokenReelError: SLURM refused it.
    """
    from submitit import SlurmExecutor
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    executor = SlurmExecutor(folder / "%j", max_num_timeout=REQUEUES)
    executor.update_parameters(**parameters)
    try:
        submitted = executor.submit_array(jobs)
    except (FailedJobError, FailedSubmissionError) as error:
        queued = f"; job {after} is queued, `scancel {after}` ends it" if after else ""
        raise TokenReelError(f"SLURM refused the job: {str(error).strip()}{queued}") from error
    return str(submitted[0].job_id).partition("_")[0]


def table_jobs(request: TableRequest, placement: Placement) -> Jobs:
    """The jobs of a table: of the groups that are left, and of the table itself.

    Raises:
        UsageError: as ablate.
    """
    rows = plan_rows(request.words)
    parts = split_stores(request.stores) if request.splits else {"": list(request.stores)}
    first, _ = runs_of_first_weights(rows, request.seeds, parts, request.out)
    pending = {job.out for job in first}
    planned, _ = runs_of_rows(rows, request.seeds, parts, request.out, pending)
    _, planned, _ = name_backbones(rows, planned)
    folder = (folder_of_table(request.words, request.out) / JOBS).absolute()
    device = "cuda" if placement.gpus else "cpu" if request.device == "auto" else request.device

    def of(jobs: Sequence["Job"], name: str) -> list[GroupJob]:
        left = [job for job in jobs if not (job.out / EMBEDDINGS).exists()]
        groups = groups_of(request, left, placement.nodes, device)
        return [GroupJob(g, folder / f"group-{name}-{n}.json") for n, g in enumerate(groups)]

    table = TableJob(replace(request, device="cpu"), str(Path.cwd()), folder)
    return Jobs(of(first, "first"), of([job for _, _, job in planned], "rows"), table)
