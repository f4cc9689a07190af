"""Order of a table as a sentence: the rows that the trained model is above, level with or below."""

import math
from collections.abc import Mapping

ORDERED = ("classification", "ap@5", "progression")  # not tau: the clock is almost 1
ABOVE, LEVEL, BELOW = "above", "level with", "below"
CONTROLS = "every control"

Numbers = Mapping[str, tuple[float, float]]
"""Row -> mean and 2 std over seeds; NaN where there is none."""


def order_sentence(row: str, tables: Mapping[str, Numbers], *, quote: str = "") -> str:
    """Say for each metric whether a row is above the best of the others, level with it or below.

    Level is a difference of at most the larger of both spreads.

    Args:
        row: the trained model's.
        tables: metric -> its numbers; those of ORDERED are used.
        quote: written around names of rows.

    Returns:
        The sentence, "" where there is nothing to compare.

    >>> order_sentence("sample", {"ap@5": {"sample": (0.6, 0.02), "clock": (0.4, float("nan"))}})
    'In this run MV-Former (sample) is above every control in AP@5.'
    """
    found: dict[str, dict[str, list[str]]] = {ABOVE: {}, LEVEL: {}, BELOW: {}}
    for task in ORDERED:
        known = {n: v for n, v in tables.get(task, {}).items() if not math.isnan(v[0])}
        if row not in known or len(known) < 2:
            continue
        mean, spread = known.pop(row)
        highest, best = max((value[0], name) for name, value in known.items())
        gap = mean - highest
        wide = max([0.0, *(value for value in (spread, known[best][1]) if value == value)])
        kind = LEVEL if abs(gap) <= wide else BELOW if gap < 0 else ABOVE
        other = CONTROLS if kind == ABOVE else f"{quote}{best}{quote}"
        found[kind].setdefault(other, []).append(task.replace("ap@", "AP@"))
    parts = [
        f"{kind} {other} in {', '.join([*titles[:-2], ' and '.join(titles[-2:])])}"
        for kind, others in found.items()
        for other, titles in others.items()
    ]
    name = f"{quote}{row}{quote}"
    return f"In this run MV-Former ({name}) is {', '.join(parts)}." if parts else ""
