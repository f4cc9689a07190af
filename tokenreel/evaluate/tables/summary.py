"""The rows of the papers' table: one a recipe, its seeds together, published numbers beside them.

:mod:`summary_text` writes them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tokenreel.evaluate.jobs.table import MEAN, Score

__all__ = ["MEASURED", "PUBLISHED", "Published", "Row", "is_percent", "summarise"]

MEASURED, PUBLISHED = "measured", "published"

Published = Mapping[str, tuple[float, float | None]]
"""Task -> the published mean and 2 std, as printed: classification and AP in percent."""

Key = tuple[str, str, str, str, float]  # recipe, data set, weights, protocol, fraction


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        recipe, dataset, weights, protocol, fraction: what the seeds of a row have in common.
        kind: "measured" or "published".
        values: task -> one value a seed, 0 to 1.
        spread: task -> 2 std, of a published row alone; None where not given.
        counts: task -> its counts, the first seed's.
    """

    recipe: str
    dataset: str
    weights: str
    protocol: str
    fraction: float
    kind: str
    values: dict[str, list[float]]
    spread: dict[str, float | None] = field(default_factory=dict)
    counts: dict[str, Score] = field(default_factory=dict)

    @property
    def num_seeds(self) -> int:
        """Seeds of the task with the most."""
        return max((len(values) for values in self.values.values()), default=0)

    def mean(self, task: str) -> float:
        """Mean over seeds, NaN without any."""
        values = self.values.get(task, [])
        return float(np.mean(values)) if values else float("nan")

    def two_std(self, task: str, ddof: int) -> float:
        """2 std over seeds, NaN where it is not defined."""
        if self.kind == PUBLISHED:
            given = self.spread.get(task)
            return float("nan") if given is None or ddof else given
        values = self.values.get(task, [])
        return 2 * float(np.std(values, ddof=ddof)) if len(values) > ddof else float("nan")


def summarise(
    scores: Sequence[Score], published: Mapping[str, Published] | None = None
) -> list[Row]:
    """The rows of the table, each followed by what is published for its recipe.

    Metrics that need no labels to learn from stand in the row of the largest share of labels.

    Args:
        scores: rows of results.csv; those that average over actions are used.
        published: recipe -> published numbers; a recipe with changes has none.
    """
    means = [score for score in scores if score.action == MEAN]
    rows: dict[Key, Row] = {}
    for score in sorted(means, key=lambda score: -score.fraction):
        name = score.recipe or score.run
        learned = score.task.startswith("classification") or score.task == "progression"
        whole = max(s.fraction for s in means if s.protocol == score.protocol)
        share = score.fraction if learned else whole
        key = (name, score.dataset, score.weights, score.protocol, share)
        row = rows.setdefault(key, Row(*key, kind=MEASURED, values={}))
        row.values.setdefault(score.task, []).append(score.value)
        row.counts.setdefault(score.task, score)
    found = []
    for row in rows.values():
        found.append(row)
        given = _of_share((published or {}).get(row.recipe, {}), row.fraction)
        if given and row.protocol != "tcc":
            found.append(_published_row(row, given))
    return found


def _of_share(given: Published, share: float) -> Published:
    """What is published for a share of the labels, such as "classification@10%" for 0.1."""
    mark = "" if share == 1 else f"@{share:.0%}"
    return {
        task.removesuffix(mark): values
        for task, values in given.items()
        if (task.endswith(mark) if mark else not task.endswith("%"))
    }


def _published_row(row: Row, given: Published) -> Row:
    scale = {task: 100 if is_percent(task) else 1 for task in given}
    return Row(
        row.recipe,
        row.dataset,
        "",
        row.protocol,
        row.fraction,
        PUBLISHED,
        {task: [mean / scale[task]] for task, (mean, _) in given.items()},
        {task: None if two is None else two / scale[task] for task, (_, two) in given.items()},
    )


def is_percent(task: str) -> bool:
    """Whether the papers print the metric in percent."""
    return task not in ("progression", "tau")
