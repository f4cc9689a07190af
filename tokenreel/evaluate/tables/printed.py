"""Numbers as the papers print them: mean +- 2 std over seeds, published values beside them.

Progression and tau are printed from 0 to 1 with three digits, all else in percent with two.  The
spread is twice the standard deviation with ddof=0, as published.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from tokenreel.evaluate.tasks.task import is_percent

Published = Mapping[str, tuple[float, float | None]]
"""Task -> the published mean and 2 std (None where not given), as printed."""


def two_std(values: Sequence[float], *, ddof: int = 0) -> float:
    """Twice the standard deviation over seeds, NaN where it is not defined."""
    return 2 * float(np.std(values, ddof=ddof)) if len(values) > ddof else float("nan")


def as_measured(task: str, mean: float, spread: float, *, sign: str = "+-") -> str:
    """A mean and its spread, in the papers' units and digits.

    Args:
        task: the metric.
        mean: over seeds, in percent or from 0 to 1; NaN gives "-".
        spread: 2 std over seeds in the same unit, NaN where there is none.
        sign: between the two.

    >>> as_measured("classification", 92.0, 3.266), as_measured("tau", 0.9, float("nan"))
    ('92.00 +- 3.27', '0.900')
    """
    digits = 2 if is_percent(task) else 3
    if np.isnan(mean):
        return "-"
    return f"{mean:.{digits}f}" + ("" if np.isnan(spread) else f" {sign} {spread:.{digits}f}")


def as_printed(task: str, mean: float, spread: float | None) -> str:
    """A published number: percent with two digits, 0 to 1 with three, or more where it has more.

    >>> as_printed("classification", 94.21, 0.04), as_printed("tau", 0.992, 0.0004)
    ('94.21 +- 0.04', '0.992 +- 0.0004')
    """
    digits = 2 if is_percent(task) else 3
    parts = [
        f"{number:.{digits}f}" if round(number, digits) == number else str(number)
        for number in (mean, spread)
        if number is not None
    ]
    return " +- ".join(parts)


def align_columns(lines: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines of text, each column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
