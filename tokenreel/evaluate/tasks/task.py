"""Definition of a metric, and how its rows are called in tables."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.errors import UsageError
from tokenreel.evaluate.data.results import Score
from tokenreel.evaluate.methods.nearest import MEMORY_BYTES
from tokenreel.evaluate.protocol import TASKS, Settings

Metric = Callable[[NDArray[np.int64]], float]
"""How often each validation clip was drawn, (clips,) -> the value."""


@dataclass(frozen=True)
class Limits:
    """Resources of a job: bytes for the blocks of a search, and its threads."""

    memory_bytes: int = MEMORY_BYTES
    threads: int = 1


@dataclass(frozen=True)
class RowPlan:
    """Rows of results.csv that one computation gives.

    Attributes:
        names: the `task` of each row, such as ("ap@5", "ap@10").
        fraction: share of the training clips whose labels are used.
        shots: labelled clips of few-shot.
    """

    names: tuple[str, ...]
    fraction: float = 1.0
    shots: int = 0


@dataclass(frozen=True)
class Request:
    """A computation, beside its data.

    Attributes:
        settings: of the protocol.
        rows: what is wanted.
        blank: the row that its rows are copies of: run, action, share of labels, counts of clips.
        limits: of memory and threads.
    """

    settings: Settings
    rows: RowPlan
    blank: Score
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True)
class Task:
    """A metric: all that plans, tables, comparisons and the report know about it.

    Rows of results.csv are called by the column, alone or with more: "ap@5" (a number after "@"),
    "classification-unshared" (a variant after "-").

    Attributes:
        name: as in Settings.tasks.
        title: on the page, "AP"; a number follows, as in "AP@5".
        is_percent: printed in percent with two digits, else from 0 to 1 with three.
        scope: "action": computed from the ActionData of each action, then averaged; "file":
            once, from the EmbeddingFile with its sound clips, labelled or not.
        missing: data -> why the metric cannot be computed and the status of its rows ("skipped",
            "problem"); ("", "") when it can.
        rows: settings, labelled clips of the action (the file) -> its computations.
        compute: data, request -> its rows; a ValueError becomes the note of a problem.
        resampled: data, settings -> row -> its value on resampled validation clips, for
            `evaluate compare`; None when it cannot be resampled.
        unlabelled: embeddings (T_i, C) of clips that show the same video, request -> its rows; for
            a metric that needs no labels.
        span: its range and direction, such as "0 to 1, higher is better".
        description: one sentence on what it is and what it rewards, for the page.
        short_title: in the papers' tables; the title when "".
        column: of its rows; the name when "".
        columns: rows that the papers' table always shows.
        variants: part of a row's name after "-" -> its title on the page.
        by_share: whether its rows differ by share of labels in tables.
        by_class: whether the rows NAME@K are of the K of a file's class names: they are no columns
            of the printed table.
        is_error: whether lower is better: tables rank no row of it.
        is_slow: whether even a small file is worth several processes.
        version: raised when a change of its code changes a number, so that old rows are not reused.
    """

    name: str
    title: str
    is_percent: bool
    scope: Literal["action", "file"]
    missing: Callable[[Any], tuple[str, str]]
    rows: Callable[[Settings, Any], list[RowPlan]]
    compute: Callable[[Any, Request], list[Score]]
    resampled: Callable[[Any, Settings], dict[str, Metric]] | None = None
    unlabelled: Callable[[Sequence[NDArray[np.float32]], Request], list[Score]] | None = None
    span: str = ""
    description: str = ""
    short_title: str = ""
    column: str = ""
    columns: tuple[str, ...] = ()
    variants: Mapping[str, str] = field(default_factory=dict)
    by_share: bool = False
    by_class: bool = False
    is_error: bool = False
    is_slow: bool = False
    version: int = 1

    def owns(self, row: str) -> bool:
        """Whether a row of that name is one of this metric."""
        column = self.column or self.name
        return row == column or row.startswith((f"{column}@", f"{column}-"))


@cache
def load_task(name: str) -> Task:
    """The metric of a name in Settings.tasks.

    Raises:
        UsageError: no such metric; or a plugin that cannot be imported or gives something else.
    """
    found: Any = TASKS.load(name)
    if not isinstance(found, Task) or found.name != name:
        what = f"the metric {found.name!r}" if isinstance(found, Task) else repr(found)
        raise UsageError(
            f"the plugin of the metric {name!r} gives {what}: give Task({name!r}, ...)"
        )
    return found


@cache
def task_of(row: str) -> Task | None:
    """The metric that gives a row of results.csv; None for one that no installed metric gives."""
    ours = (load_task(name) for name in TASKS.ours)
    found = next((task for task in ours if task.owns(row)), None)
    return found or next((task for task in _plugin_tasks() if task.owns(row)), None)


def columns() -> list[str]:
    """Rows that the papers' table always shows, in order."""
    return [row for name in TASKS.ours for row in load_task(name).columns]


def is_percent(row: str) -> bool:
    """Whether a row is printed in percent.

    >>> is_percent("ap@5"), is_percent("classification@10%"), is_percent("tau")
    (True, True, False)
    """
    task = task_of(row)
    return task is None or task.is_percent


def is_error(row: str) -> bool:
    """Whether lower is better in a row.

    >>> is_error("mse"), is_error("map")
    (True, False)
    """
    task = task_of(row)
    return task is not None and task.is_error


def is_of_class(row: str) -> bool:
    """Whether a row is of one class of a file, and not of the file.

    >>> is_of_class("f1@drama"), is_of_class("f1"), is_of_class("ap@5")
    (True, False, False)
    """
    task = task_of(row)
    return task is not None and task.by_class and "@" in row


def row_title(row: str) -> str:
    """What a row is called on the page.

    >>> row_title("ap@5"), row_title("few-shot@1"), row_title("classification-unshared")
    ('AP@5', 'Few-shot@1', 'Classification, unshared events')
    """
    task = task_of(row)
    if task is None:
        return row[:1].upper() + row[1:]
    more = row.removeprefix(task.column or task.name)
    return task.variants.get(more[1:], f"{task.title}{more}")


def short_row_title(row: str) -> str:
    """What a row is called in the papers' table, without its unit.

    >>> short_row_title("classification"), short_row_title("ap@5"), short_row_title("few-shot@1")
    ('Class.', 'AP@5', 'few-shot@1')
    """
    task = task_of(row)
    more = "" if task is None else row.removeprefix(task.column or task.name)
    if task is None or more.startswith("-"):
        return row
    return f"{task.short_title or task.title}{more}"


def _plugin_tasks() -> list[Task]:
    """The metrics of plugins; one that cannot be loaded is left out, so that tables are printed."""
    found = []
    for name in TASKS.names():
        if name not in TASKS.ours:
            try:
                found.append(load_task(name))
            except UsageError:
                continue
    return found
