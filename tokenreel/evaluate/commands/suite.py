"""Every metric of every embedding file: per action and averaged, with its counts.

Frames without a label are dropped before any stride.  Where a file has no labels, tau is computed
within groups of clips that show the same video, and everything else is skipped with the reason.
The clock, a control that knows only the position of a frame in its clip, is evaluated beside the
files, and each row has its value on the same clips.
Rows are appended to results.csv as they are computed; existing rows of the same data and settings
are reused.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tokenreel.cache.errors import EmbeddingFileError, UsageError, limit_behind
from tokenreel.cache.files import make_directory
from tokenreel.cache.locks import lock_folder
from tokenreel.cache.progress import Progress
from tokenreel.evaluate.data.clips import CHANGED, load_screened
from tokenreel.evaluate.data.clock import Clocks
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
    clock: bool = True,
) -> SuiteReport:
    """Evaluate embedding files and write results.csv, summary.csv, .md and .tex, and clock.h5.

    Args:
        paths: embedding files.
        config: settings; they win over those of a file's own recipe.
        out: folder of the tables.
        progress: show a bar.
        jobs: processors to use; the numbers do not depend on it.
        memory_bytes: for embeddings and the blocks of searches, of all processes together.
        published: recipe -> published numbers, for rows beside the measured ones.
        spreadsheet: put an apostrophe before text in CSV that a spreadsheet would compute.
        clock: evaluate the control that knows only the position of a frame in its clip.

    Raises:
        UsageError: another evaluation is writing to the folder; a metric that cannot be loaded.
        WorkerLost: a process was killed; the rows found so far stay in results.csv.
    """
    for name in config.tasks or ():
        load_task(name)
    clocks = Clocks() if clock else None
    plans, problems = _plan(paths, config, clocks)
    make_directory(out)
    with _alone_in(out):
        of_clocks = [plan_file(path, config) for path in clocks.write(out)] if clocks else []
        every = [*plans, *of_clocks]
        found, num_jobs, num_kept = _compute(
            every, out / RESULTS, jobs=jobs, memory_bytes=memory_bytes, progress=progress
        )
        scores = []
        for plan in plans:
            of_clock = of_clocks[plan.clock] if plan.clock is not None else None
            scores += _in_order(plan, found, of_clock)
        problems += _problems_of(scores)  # the clock has those of the files that it is of
        scores += [score for plan in of_clocks for score in _in_order(plan, found)]
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
    with ExitStack() as stack:
        try:
            stack.enter_context(lock_folder(out))
        except BlockingIOError as error:
            raise UsageError(
                f"another evaluation is writing to {out}: wait, or choose another --out"
            ) from error
        stack.callback(load_screened.cache_clear)  # embeddings are kept between jobs only
        yield


Found = dict[tuple[object, ...], Score]


def _plan(
    paths: Sequence[Path], config: EvaluateConfig, clocks: Clocks | None
) -> tuple[list[FilePlan], list[str]]:
    """The plans of the files that can be read, their clips added to the clocks; problems.

    A file of a clock is left out where there are others: it is made again.
    """
    plans: list[FilePlan] = []
    problems: list[str] = []
    for path in dict.fromkeys(paths):
        try:
            plan = plan_file(path, config)
        except (EmbeddingFileError, OSError) as error:
            if limit := limit_behind(error):  # of all files
                raise limit from error
            problems.append(str(error))
        except ValueError as error:  # such as a metric of a plugin that is not installed
            problems.append(f"{path}: {error}")
        else:
            problems += plan.problems
            for note in plan.notes:
                log.warning("%s", note)
            plans.append(plan)
            if clocks is not None and not plan.is_clock:
                file = load_screened(path, plan.sha256).file  # kept since it was planned
                if file.clips:
                    plans[-1] = replace(plan, clock=clocks.add(file))
    others = [plan for plan in plans if not plan.is_clock]
    return (others or plans) if clocks is not None else plans, problems


def _kept_rows(plans: Sequence[FilePlan], results: Path) -> Found:
    """The rows of results.csv that belong to a job that gave all of its rows.

    Rows of a file that changed while it was evaluated are computed again.
    """
    rows = (row for row in read_rows(results) if not row.note.endswith(CHANGED))
    existing = {row_key(row): row for row in rows}
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


def _in_order(plan: FilePlan, found: Found, of_clock: FilePlan | None = None) -> list[Score]:
    """The rows of a file as planned, its averages last, with the values of its clock."""
    of_jobs = of_clock.jobs if of_clock is not None else ()
    values = {_question(row): row.value for row in _rows_of(of_jobs, found)}
    computed = [
        replace(row, clock_value=values.get(_question(row), float("nan")))
        for row in _rows_of(plan.jobs, found)
    ]
    rows = [*plan.skipped, *computed]
    skipped = {(row.protocol, row.task) for row in plan.skipped}
    actions = [row for row in rows if (row.protocol, row.task) not in skipped]
    actions = [row for row in actions if row.action != MEAN]  # not those of the whole file
    return rows + mean_rows(actions)


def _rows_of(jobs: Sequence[Job], found: Found) -> list[Score]:
    return [found[key] for job in jobs for key in job.keys]


def _question(row: Score) -> tuple[object, ...]:
    """What a row answers: of the same clips, by the same settings."""
    names = ("settings", "task", "action", "split", "fraction", "num_clips")
    return tuple(getattr(row, name) for name in names)
