"""The table of an ablation, in the papers' form: mean +- 2 std, the published value beside it."""

import csv
import io
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tokenreel.evaluate.table import MEAN, Score

__all__ = ["Row", "Values", "ablation_csv", "format_ablation", "values_of_rows"]

TASKS = ("classification", "progression", "tau", "ap@5", "ap@10", "ap@15")
PERCENT = ("classification", "ap@5", "ap@10", "ap@15")  # in percent in the papers


@dataclass(frozen=True, eq=False)
class Row:
    """A row of the table.

    Attributes:
        recipe: name of the recipe.
        words: its changes, without the seed.
        label: what the table calls it.
        published: task -> mean and 2 std (None where not given), as printed.
    """

    recipe: str
    words: tuple[str, ...]
    label: str
    published: Mapping[str, tuple[float, float | None]]


Values = dict[Row, dict[str, list[float]]]
"""Row -> task -> one value a seed, in the papers' units; a seed without a value is not in it."""


def values_of_rows(scores: Sequence[Score], rows: Mapping[str, Row]) -> tuple[Values, list[str]]:
    """The values of a table, averaged over actions, with all labels.

    Args:
        scores: of the evaluation of every run.
        rows: name of a run -> its row.

    Returns:
        The values, and a sentence for each that is not defined.
    """
    values: Values = {}
    missing: list[str] = []
    whole = max((score.fraction for score in scores), default=1.0)
    for score in scores:
        if score.action != MEAN or score.run not in rows:
            continue
        if score.fraction != whole and score.task in ("classification", "progression"):
            continue
        if np.isnan(score.value):
            missing.append(f"{score.run}: {score.task}: {score.note or 'not a number'}")
            continue
        by_task = values.setdefault(rows[score.run], {})
        factor = 100 if score.task in PERCENT else 1
        by_task.setdefault(score.task, []).append(score.value * factor)
    return values, missing


def format_ablation(rows: Sequence[Row], values: Values, scores: Sequence[Score]) -> str:
    """The table as text: mean +- 2 std over seeds (ddof=0, as the papers), published values beside.

    Args:
        rows: of the table, in order.
        values: what was measured.
        scores: where it comes from: weights and augmentation are told below.
    """
    tasks = _tasks(rows, values)
    lines = [["", "row", *itertools.chain.from_iterable((task, "published") for task in tasks)]]
    for number, row in enumerate(rows, 1):
        cells = [str(number), row.label]
        for task in tasks:
            own = values.get(row, {}).get(task, [])
            cells.append(_pair(_mean_and_spread(own), task) if own else "-")
            cells.append(_pair(row.published[task], task) if task in row.published else "-")
        lines.append(cells)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    return "\n".join([*text, *_notes(values, scores)])


def ablation_csv(rows: Sequence[Row], values: Values) -> str:
    """The table as CSV: one line a row and task."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["row", "recipe", "changes", "task", "seeds", "mean", "2std ddof=0", "2std ddof=1",
         "published", "published 2std"]
    )  # fmt: skip
    for row in rows:
        for task in _tasks([row], values):
            own = values.get(row, {}).get(task, [])
            mean, spread = _mean_and_spread(own) if own else (None, None)
            sample = 2 * float(np.std(own, ddof=1)) if len(own) > 1 else None
            writer.writerow(
                [row.label, row.recipe, " ".join(row.words), task, len(own), mean, spread,
                 sample, *row.published.get(task, ("", ""))]
            )  # fmt: skip
    return text.getvalue()


def _tasks(rows: Sequence[Row], values: Values) -> list[str]:
    seen = {task for row in rows for task in [*row.published, *values.get(row, {})]}
    return [task for task in TASKS if task in seen]


def _mean_and_spread(values: Sequence[float]) -> tuple[float, float | None]:
    return float(np.mean(values)), 2 * float(np.std(values)) if len(values) > 1 else None


def _pair(pair: tuple[float, float | None], task: str) -> str:
    digits = 2 if task in PERCENT else 3
    mean, spread = pair
    return f"{mean:.{digits}f}" + ("" if spread is None else f" +- {spread:.{digits}f}")


def _notes(values: Values, scores: Sequence[Score]) -> list[str]:
    counts = sorted({len(own) for by_task in values.values() for own in by_task.values()})
    seeds = " or ".join(map(str, counts)) or "no"
    weights = sorted({score.weights for score in scores})
    augmentation = sorted({score.augmentation for score in scores})
    return [
        f"mean +- 2 std (ddof=0) over {seeds} seed(s), averaged over actions; "
        "classification and AP in percent; published: as printed in the paper",
        f"weights of the backbone: {', '.join(weights)}; augmentation: {', '.join(augmentation)}",
    ]
