"""Every metric of every embedding file: per action and averaged, with its counts.

Frames without a label are dropped before any stride.  Where a file has no labels, tau is computed
within groups of clips that show the same video, and everything else is skipped with the reason.
Rows are appended to results.csv as they are computed; existing rows of the same data and settings
are reused.
"""

import fcntl
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tokenreel.cache.errors import EmbeddingFileError, UsageError
from tokenreel.cache.files import make_directory
from tokenreel.cache.progress import Progress
from tokenreel.evaluate.data.clips import load_screened
from tokenreel.evaluate.data.results import (
    MEAN,
    RESULTS,
    Score,
    append_rows,
    mean_rows,
    read_rows,
    write_rows,
)
from tokenreel.evaluate.jobs.plan import FilePlan, Job, plan_file, row_key
from tokenreel.evaluate.jobs.pool import run_jobs
from tokenreel.evaluate.methods.nearest import MEMORY_BYTES
from tokenreel.evaluate.protocol import EvaluateConfig
from tokenreel.evaluate.tables.printed import Published
from tokenreel.evaluate.tables.summary import format_summary, write_tables
from tokenreel.evaluate.tasks.task import load_task

log = logging.getLogger(__name__)

SMALL_BYTES = 16_000_000  # of embeddings: a second of work


@dataclass(frozen=True, eq=False)
class SuiteReport:
    """Result of `evaluate all`.

    Attributes:
        scores: the rows of results.csv.
        problems: problems of the data, one sentence each.
        summary: the table for people.
        num_jobs: pieces of work.
        num_kept: those whose rows were reused.
    """

    scores: tuple[Score, ...]
    problems: tuple[str, ...]
    summary: str
    num_jobs: int = 0
    num_kept: int = 0

    @property
    def exit_status(self) -> int:
        """0, or 3 when there are problems."""
        return 3 if self.problems else 0


def evaluate_files(
    paths: Sequence[Path],
    *,
    config: EvaluateConfig,
    out: Path,
    progress: bool = True,
    jobs: int = 1,
    memory_bytes: int = MEMORY_BYTES,
    published: Mapping[str, Published] | None = None,
    spreadsheet: bool = False,
) -> SuiteReport:
    """Evaluate embedding files and write results.csv and summary.csv, .md and .tex.

    Args:
        paths: embedding files.
        config: settings; they win over those of a file's own recipe.
        out: folder of the tables.
        progress: show a bar.
        jobs: processors to use; the numbers do not depend on it.
        memory_bytes: for embeddings and the blocks of searches, of all processes together.
        published: recipe -> published numbers, for rows beside the measured ones.
        spreadsheet: put an apostrophe before text in CSV that a spreadsheet would compute.

    Raises:
        UsageError: another evaluation is writing to the folder; a metric that cannot be loaded.
        WorkerLost: a process was killed; the rows found so far stay in results.csv.
    """
    for name in config.tasks or ():
        load_task(name)
    plans, problems = _plan(paths, config)
    make_directory(out)
    with _alone_in(out):
        found, num_jobs, num_kept = _compute(
            plans, out / RESULTS, jobs=jobs, memory_bytes=memory_bytes, progress=progress
        )
        scores = [score for plan in plans for score in _in_order(plan, found)]
        problems += _problems_of(scores)
        write_tables(scores, out, published, spreadsheet=spreadsheet)
    summary = format_summary(scores, published)
    return SuiteReport(tuple(scores), tuple(problems), summary, num_jobs, num_kept)


def _problems_of(scores: Sequence[Score]) -> list[str]:
    """Problems of the rows, each once: the metrics that share a reason stand in one sentence."""
    by_reason: dict[tuple[str, str, str], dict[str, None]] = {}
    averaged = {score.task for score in scores if score.action != MEAN}
    for score in scores:
        if score.status == "problem" and (score.action != MEAN or score.task not in averaged):
            by_reason.setdefault((score.run, score.action, score.note), {})[score.task] = None
    return [
        f"{run}: {action}: {', '.join(tasks)}: {note}"
        for (run, action, note), tasks in by_reason.items()
    ]


def _compute(
    plans: Sequence[FilePlan], results: Path, *, jobs: int, memory_bytes: int, progress: bool
) -> tuple["Found", int, int]:
    """All rows by key, those of results.csv used again; how many jobs there are and were done."""
    found = _kept_rows(plans, results)
    planned = [job for plan in plans for job in plan.jobs]
    todo = [job for job in planned if not _is_done(job, found)]
    num_kept = len(planned) - len(todo)
    if num_kept:
        log.info("%d of %d tasks are in %s already", num_kept, len(planned), results)
    write_rows(found.values(), results)
    processes = _num_processes(plans, todo, jobs, memory_bytes)
    threads = max(1, jobs // processes)
    bar = Progress(
        desc="evaluate", unit="task", total=len(planned), initial=num_kept, enabled=progress
    )
    with bar:
        for rows in run_jobs(todo, processes=processes, threads=threads, memory_bytes=memory_bytes):
            append_rows(rows, results)
            found |= {row_key(row): row for row in rows}
            bar.update()
    return found, len(planned), num_kept


@contextmanager
def _alone_in(out: Path) -> Iterator[None]:
    """Lock the folder against other evaluations; the lock ends with the process."""
    handle = os.open(out, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise UsageError(
            f"another evaluation is writing to {out}: wait, or choose another --out"
        ) from error
    finally:
        os.close(handle)
        load_screened.cache_clear()  # embeddings are kept between jobs, not between evaluations


Found = dict[tuple[object, ...], Score]


def _plan(paths: Sequence[Path], config: EvaluateConfig) -> tuple[list[FilePlan], list[str]]:
    plans: list[FilePlan] = []
    problems: list[str] = []
    for path in dict.fromkeys(paths):
        try:
            plan = plan_file(path, config)
        except (EmbeddingFileError, OSError) as error:
            problems.append(str(error))
        except ValueError as error:
            problems.append(f"{path}: settings of its recipe: {error}")
        else:
            plans.append(plan)
            problems += plan.problems
            for note in plan.notes:
                log.warning("%s", note)
    return plans, problems


def _kept_rows(plans: Sequence[FilePlan], results: Path) -> Found:
    """The rows of results.csv that belong to a job that gave all of its rows."""
    existing = {row_key(row): row for row in read_rows(results)}
    return {
        key: existing[key]
        for plan in plans
        for job in plan.jobs
        if _is_done(job, existing)
        for key in job.keys
    }


def _is_done(job: Job, found: Found) -> bool:
    return all(key in found for key in job.keys)


def _num_processes(
    plans: Sequence[FilePlan], todo: Sequence[Job], jobs: int, memory_bytes: int
) -> int:
    """At most one a job, and no more than can hold their embeddings in half of the memory.

    One where a new process would take longer to start than the work takes.
    """
    waiting = {job.path for job in todo}
    sizes = [plan.num_bytes for plan in plans if any(job.path in waiting for job in plan.jobs)]
    is_slow = any(load_task(job.kind).is_slow or job.settings.classifier == "sgd" for job in todo)
    if sum(sizes) < SMALL_BYTES and not is_slow:
        return 1
    fit = memory_bytes // 2 // max([1, *sizes])
    return max(1, min(jobs, len(todo), fit))


def _in_order(plan: FilePlan, found: Found) -> list[Score]:
    """The rows of a file as planned, its averages last."""
    rows = [*plan.skipped, *(found[key] for job in plan.jobs for key in job.keys)]
    skipped = {(row.protocol, row.task) for row in plan.skipped}
    actions = [row for row in rows if (row.protocol, row.task) not in skipped]
    actions = [row for row in actions if row.action != MEAN]  # not those of the whole file
    return rows + mean_rows(actions)
