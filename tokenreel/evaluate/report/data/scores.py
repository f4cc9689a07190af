"""The scores by recipe, action and task, and the table of all of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tokenreel.evaluate.jobs.table import COUNTS, MEAN, Score
from tokenreel.evaluate.report.page.html import Html, join, number, tag

__all__ = ["Cell", "ScoreTable", "all_rows", "task_title"]

TITLES = {
    "classification": "Classification accuracy",
    "progression": "Progression R\u00b2",
    "tau": "Kendall's tau",
    "ap@5": "AP@5",
    "ap@10": "AP@10",
    "ap@15": "AP@15",
    "classification-unshared": "Classification, unshared events",
}
COLUMNS = (
    ("recipe", "text"),
    ("run", "text"),
    ("seed", "number"),
    ("task", "text"),
    ("action", "text"),
    ("fraction", "number"),
    ("value", "number"),
    ("protocol", "text"),
    ("stride", "number"),
    *((name, "number") for name in COUNTS),
    ("status", "text"),
    ("note", "text"),
)


def task_title(task: str) -> str:
    """What a task is called on the page.

    >>> task_title("ap@5"), task_title("few-shot")
    ('AP@5', 'Few-shot')
    """
    return TITLES.get(task, task[:1].upper() + task[1:])


@dataclass(frozen=True)
class Cell:
    """The values of the seeds of a recipe; NaN ones are counted, not averaged."""

    values: tuple[float, ...]

    @property
    def known(self) -> list[float]:
        """The values that are numbers."""
        return [value for value in self.values if not math.isnan(value)]

    @property
    def mean(self) -> float:
        """Over seeds, NaN where there is none."""
        return float(np.mean(self.known)) if self.known else math.nan

    @property
    def spread(self) -> float:
        """Two standard deviations over seeds, ddof 0 as published."""
        return 2 * float(np.std(self.known)) if self.known else math.nan


class ScoreTable:
    """Scores at each task's largest label fraction, by recipe, action and task.

    A recipe that was evaluated by several protocols is a row for each: "name [protocol]".

    Attributes:
        rows: the recipes in the order of the scores.
        tasks: in the order of the papers' tables, others after them.
        actions: sorted, without the mean.
    """

    def __init__(self, scores: Sequence[Score]) -> None:
        protocols = {score.protocol for score in scores}
        largest: dict[str, float] = {}
        for score in scores:
            largest[score.task] = max(score.fraction, largest.get(score.task, 0.0))
        self._values: dict[tuple[str, str, str], list[float]] = {}
        self.recipe_of: dict[str, str] = {}
        for score in scores:
            if score.fraction != largest[score.task]:
                continue
            recipe = score.recipe or score.run
            row = f"{recipe} [{score.protocol}]" if len(protocols) > 1 else recipe
            self.recipe_of[row] = recipe
            self._values.setdefault((row, score.action, score.task), []).append(score.value)
        self.rows = list(self.recipe_of)
        found = {task for _, _, task in self._values if self._is_known(task)}
        order = list(TITLES)
        self.tasks = sorted(found, key=lambda t: (order.index(t) if t in order else 99, t))
        self.actions = sorted({action for _, action, _ in self._values} - {MEAN})

    def cell(self, row: str, action: str, task: str) -> Cell:
        """The values of a recipe; without values where it has none."""
        return Cell(tuple(self._values.get((row, action, task), ())))

    def _is_known(self, task: str) -> bool:
        return any(Cell(tuple(v)).known for (_, _, name), v in self._values.items() if name == task)


def all_rows(scores: Sequence[Score]) -> Html:
    """Every score with its counts; the page's script sorts and filters it."""
    head = []
    for name, kind in COLUMNS:
        button = tag("button", name.removeprefix("num_").replace("_", " "), type="button")
        side = "num" if kind == "number" else None
        head.append(tag("th", button, scope="col", aria_sort="none", data_kind=kind, class_=side))
    body = [
        tag(
            "tr",
            *(_score_cell(score, name, kind) for name, kind in COLUMNS),
            data_task=score.task,
            data_action=score.action,
        )
        for score in scores
    ]
    table = tag("table", tag("thead", tag("tr", *head)), tag("tbody", *body), id="score-table")
    tasks = list(dict.fromkeys(score.task for score in scores))
    actions = list(dict.fromkeys(score.action for score in scores))
    controls = tag(
        "form",
        tag(
            "label",
            "Filter ",
            tag(
                "input",
                type="search",
                id="filter",
                autocomplete="off",
                placeholder="recipe, run, note ...",
            ),
        ),
        _select("Task", "task", [(task, task_title(task)) for task in tasks]),
        _select("Action", "action", [(action, action) for action in actions]),
        tag("output", f"{len(scores)} of {len(scores)} rows", id="shown", aria_live="polite"),
        class_="controls",
        role="search",
        aria_label="Filter the scores",
    )
    region = tag(
        "div", table, class_="scroll tall", tabindex="0", role="region", aria_label="All scores"
    )
    return join(controls, region)


def _select(title: str, name: str, options: Sequence[tuple[str, str]]) -> Html:
    every = tag("option", "all", value="")
    return tag(
        "label",
        f"{title} ",
        tag(
            "select",
            every,
            *(tag("option", words, value=value) for value, words in options),
            data_column=name,
        ),
    )


def _score_cell(score: Score, name: str, kind: str) -> Html:
    value = getattr(score, name)
    shown = value
    if isinstance(value, float):
        shown = number(value, 4) if name == "value" else f"{value:g}"
    key = None if name != "value" or math.isnan(value) else repr(value)
    return tag("td", shown, class_="num" if kind == "number" else None, data_key=key)
