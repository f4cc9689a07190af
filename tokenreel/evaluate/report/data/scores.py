"""Scores by recipe, action and task."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tokenreel.evaluate.data.results import MEAN, Score, names_apart
from tokenreel.evaluate.tables.printed import two_std
from tokenreel.evaluate.tasks.task import columns


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
        return two_std(self.known)


class ScoreTable:
    """Scores at each task's largest label fraction, by recipe, action and task.

    A recipe that was evaluated by several protocols is a row for each: "name [protocol]"; one of
    several data sets or weights is a row for each too.

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
        self._controls: set[str] = set()
        names = names_apart(score.kind_key for score in scores)
        for score in scores:
            if score.fraction != largest[score.task]:
                continue
            recipe = names[score.kind_key]
            row = f"{recipe} [{score.protocol}]" if len(protocols) > 1 else recipe
            self.recipe_of[row] = recipe
            if score.is_clock:
                self._controls.add(row)
            self._values.setdefault((row, score.action, score.task), []).append(score.value)
        self.rows = list(self.recipe_of)
        found = {task for _, _, task in self._values if self._is_known(task)}
        order = columns()
        self.tasks = sorted(found, key=lambda t: (order.index(t) if t in order else 99, t))
        self.actions = sorted({action for _, action, _ in self._values} - {MEAN})

    def is_control(self, row: str) -> bool:
        """Whether it is the clock."""
        return row in self._controls

    def colour(self, row: str, colours: Mapping[str, int]) -> int:
        """The number of its recipe's colour, -1 for a control."""
        return -1 if self.is_control(row) else colours.get(self.recipe_of[row], 0)

    def cell(self, row: str, action: str, task: str) -> Cell:
        """The values of a recipe; without values where it has none."""
        return Cell(tuple(self._values.get((row, action, task), ())))

    def _is_known(self, task: str) -> bool:
        return any(Cell(tuple(v)).known for (_, _, name), v in self._values.items() if name == task)
