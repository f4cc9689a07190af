"""The table of an ablation, in the papers' form: mean +- 2 std, the published value beside it."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from tokenreel.evaluate.data.results import MEAN, Score
from tokenreel.evaluate.tables.printed import (
    Published,
    align_columns,
    as_measured,
    as_printed,
    two_std,
)
from tokenreel.evaluate.tables.summary import NOT_ABOVE, ROUNDING
from tokenreel.evaluate.tasks.task import is_of_class, is_percent, task_of

TASKS = (
    "classification@10%",
    "classification@50%",
    "classification",
    "progression",
    "tau",
    "ap@5",
    "ap@10",
    "ap@15",
)
CSV_COLUMNS = (
    "row",
    "recipe",
    "changes",
    "task",
    "seeds",
    "mean",
    "2std ddof=0",
    "2std ddof=1",
    "published",
    "published 2std",
    "standard error",
    "parameters",
    "published parameters",
)


@dataclass(frozen=True, eq=False)
class AblationRow:
    """A row of an ablation: a recipe with its changes, all seeds together.

    Attributes:
        recipe: name of the recipe.
        words: its changes, without the seed.
        label: what the table calls it.
        published: task -> mean and 2 std (None where not given), as printed.
        caveat: a doubt about the published number.
        spread: what the paper wants beside a mean over seeds, "2 std" or "standard error".
        published_parameters: millions of trained parameters as printed.
    """

    recipe: str
    words: tuple[str, ...]
    label: str
    published: Published
    caveat: str = ""
    spread: str = "2 std"
    published_parameters: float | None = None


Values = dict[AblationRow, dict[str, list[float]]]
"""Row -> task -> one value a seed, in the papers' units; a seed without a value is not in it."""


def values_of_rows(
    scores: Sequence[Score], rows: Mapping[str, tuple[AblationRow, int]]
) -> tuple[Values, list[str]]:
    """The values of a table, averaged over actions.

    What is learned from a share of the labels is a task of its own, such as "classification@10%".
    Where a row is one run for each action, they are averaged like the actions of one run.

    Args:
        scores: of the evaluation of every run.
        rows: name of a run -> its row and seed.

    Returns:
        The values, and a sentence for each that is not defined.
    """
    by_seed: dict[tuple[AblationRow, str, int], list[float]] = {}
    missing: list[str] = []
    whole = max((score.fraction for score in scores), default=1.0)
    for score in scores:
        if score.action != MEAN or score.run not in rows:
            continue
        if np.isnan(score.value):
            if not score.is_clock:  # which has the reasons of the rows that it is beside
                missing.append(f"{score.run}: {score.task}: {score.note or 'not a number'}")
            continue
        task = _task(score, whole)
        row, seed = rows[score.run]
        factor = 100 if is_percent(task) else 1
        by_seed.setdefault((row, task, seed), []).append(score.value * factor)
    values: Values = {}
    for (row, task, _), of_runs in by_seed.items():
        values.setdefault(row, {}).setdefault(task, []).append(float(np.mean(of_runs)))
    return values, missing


def _task(score: Score, whole: float) -> str:
    """The column of a score; a probe that learns from a share of the labels has its own column."""
    metric = task_of(score.task)
    is_share = metric is not None and metric.by_share and score.fraction != whole
    return f"{score.task}@{score.fraction:.0%}" if is_share else score.task


def not_above_clock(
    scores: Sequence[Score], owners: Mapping[str, tuple[AblationRow, int]]
) -> dict[AblationRow, set[str]]:
    """Row -> the tasks where its mean is at most the clock's on the same clips."""
    gains: dict[tuple[AblationRow, str], list[float]] = {}
    whole = max((score.fraction for score in scores), default=1.0)
    for score in scores:
        if score.action == MEAN and score.run in owners and not np.isnan(score.value):
            row = owners[score.run][0]
            gains.setdefault((row, _task(score, whole)), []).append(score.value - score.clock_value)
    found: dict[AblationRow, set[str]] = {}
    for (row, task), values in gains.items():
        if np.mean(values) <= ROUNDING:  # False where the clock has no value
            found.setdefault(row, set()).add(task)
    return found


def format_ablation(
    rows: Sequence[AblationRow],
    values: Values,
    scores: Sequence[Score],
    owners: Mapping[str, tuple[AblationRow, int]],
    *,
    counts: Mapping[AblationRow, int] = MappingProxyType({}),
) -> str:
    """The table as text: mean +- 2 std over seeds (ddof=0, as the papers), published values beside.

    A table whose rows all want the standard error has that in place of 2 std.  Where some row has
    published parameters, there are columns of those that it trains.

    Where some row has published values, the columns are theirs, each with the published value
    beside; otherwise they are of all tasks with all labels.

    Args:
        rows: of the table, in order.
        values: what was measured.
        scores: of the runs; lines below the table give their weights and augmentation, the
            augmentation of each row where rows differ.
        owners: name of a run -> its row and seed.
        counts: parameters that each row trains.
    """
    spread = _spread_of(rows)
    has_counts = any(row.published_parameters is not None for row in rows)
    published = {task for row in rows for task in row.published}
    tasks = [task for task in _tasks(rows, values) if task in published]
    every = [task for task in _tasks(rows, values) if "%" not in task]
    tasks = tasks or [task for task in every if not is_of_class(task)]
    below = not_above_clock(scores, owners)
    run = {row for row, _ in owners.values()}
    lines = [["", "row"]]
    for task in tasks:
        lines[0] += [task, "published"] if task in published else [task]
    lines[0] += ["million parameters", "published"] if has_counts else []
    for number, row in enumerate(rows, 1):
        cells = [str(number), row.label]
        for task in tasks:
            own = values.get(row, {}).get(task, [])
            cell = as_measured(task, float(np.mean(own)), SPREADS[spread](own)) if own else "-"
            if row not in run and task == tasks[0]:
                cell = "not run"
            cells.append(f"{cell} *" if task in below.get(row, ()) else cell)
            if task in published:
                given = row.published.get(task)
                cells.append("-" if given is None else as_printed(task, *given))
        if has_counts:
            given_count = row.published_parameters
            cells.append(f"{counts[row] / 1e6:.2f}" if row in counts else "-")
            cells.append("-" if given_count is None else f"{given_count:g}")
        lines.append(cells)
    marks = [f"*: {NOT_ABOVE}"] if below else []
    marks += [f"{row.label}: published number {row.caveat}" for row in rows if row.caveat]
    return "\n".join([*align_columns(lines), *marks, *_notes(spread, values, scores, owners)])


def format_splits(
    parted: Mapping[AblationRow, Mapping[str, AblationRow]], values: Values
) -> list[str]:
    """A line for each row and task: the values of each split, of which the table has the mean.

    Args:
        parted: row -> split -> the row of that split.
        values: of the rows of splits.
    """
    lines = []
    for row, parts in parted.items():
        every = [task for task in _tasks(list(parts.values()), values) if "%" not in task]
        for task in row.published or [task for task in every if not is_of_class(task)]:
            cells = []
            for name, part in parts.items():
                own = values.get(part, {}).get(task, [])
                shown = (
                    as_measured(task, float(np.mean(own)), SPREADS["2 std"](own)) if own else "-"
                )
                cells.append(f"{name} {shown}")
            lines.append(f"{row.label}: {task} by split: {', '.join(cells)}")
    return lines


def standard_error(values: Sequence[float]) -> float:
    """The standard error of the mean over seeds (ddof=1); NaN of one seed, which has none."""
    count = len(values)
    return float(np.std(values, ddof=1)) / count**0.5 if count > 1 else float("nan")


SPREADS = {
    "2 std": lambda own: two_std(own) if len(own) > 1 else float("nan"),
    "standard error": standard_error,
}
SAID = {"2 std": "2 std (ddof=0)", "standard error": "standard error (ddof=1)"}


def _spread_of(rows: Sequence[AblationRow]) -> str:
    """What is beside the means of a table: what all rows with published numbers want."""
    found = {row.spread for row in rows if row.published}
    return found.pop() if len(found) == 1 else "2 std"


def ablation_csv(
    rows: Sequence[AblationRow],
    values: Values,
    *,
    counts: Mapping[AblationRow, int] = MappingProxyType({}),
) -> str:
    """The table as CSV: one line a row and task; a row without a parameter count has none."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for row in rows:
        for task in _tasks([row], values):
            own = values.get(row, {}).get(task, [])
            mean = float(np.mean(own)) if own else None
            spreads = [two_std(own, ddof=ddof) if len(own) > 1 else None for ddof in (0, 1)]
            published = row.published.get(task, ("", ""))
            others = [
                standard_error(own) if len(own) > 1 else None,
                counts.get(row),
                None if row.published_parameters is None else row.published_parameters * 1e6,
            ]
            changes = " ".join(row.words)
            writer.writerow(
                [
                    row.label,
                    row.recipe,
                    changes,
                    task,
                    len(own),
                    mean,
                    *spreads,
                    *published,
                    *others,
                ]
            )
    return text.getvalue()


def _tasks(rows: Sequence[AblationRow], values: Values) -> list[str]:
    seen = {task for row in rows for task in [*row.published, *values.get(row, {})]}
    return [*(task for task in TASKS if task in seen), *sorted(seen - set(TASKS))]


def _notes(
    spread: str,
    values: Values,
    scores: Sequence[Score],
    owners: Mapping[str, tuple[AblationRow, int]],
) -> list[str]:
    counts = sorted({len(own) for by_task in values.values() for own in by_task.values()})
    seeds = " or ".join(map(str, counts)) or "no"
    of_stores = [score for score in scores if not score.is_clock]
    weights = sorted({score.weights for score in of_stores})
    labels: dict[str, dict[str, None]] = {}
    for score in of_stores:
        if score.run in owners:
            labels.setdefault(score.augmentation, {})[owners[score.run][0].label] = None
    told = [what if len(labels) == 1 else f"{what} ({', '.join(labels[what])})" for what in labels]
    return [
        f"mean +- {SAID[spread]} over {seeds} seed(s), averaged over actions; "
        "classification and AP in percent; published: as printed in the paper",
        f"weights of the backbone: {', '.join(weights)}; augmentation: {'; '.join(told) or 'none'}",
    ]
