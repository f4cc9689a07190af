"""Bars of every action and recipe, a chart a task."""

import math
from collections.abc import Callable

from tokenreel.evaluate.jobs.table import MEAN
from tokenreel.evaluate.report.data.scores import ScoreTable, task_title
from tokenreel.evaluate.report.page.html import Html, join, number, svg, tag

__all__ = ["action_bars"]

BAR, GAP, LABEL, CHART, RIGHT, TOP = 13, 12, 0, 300, 46, 6


def action_bars(table: ScoreTable, colours: dict[str, int]) -> Html:
    """A chart a task: for each action a bar a recipe, two standard deviations over seeds on it."""
    charts = [_chart(table, task, colours) for task in table.tasks]
    legend = tag(
        "ul",
        *(
            tag(
                "li",
                tag(
                    "span",
                    class_=f"swatch c{colours.get(table.recipe_of[row], 0) % 8}",
                    aria_hidden="true",
                ),
                row,
            )
            for row in table.rows
        ),
        class_="legend",
    )
    return join(legend, tag("div", *charts, class_="charts"))


def _chart(table: ScoreTable, task: str, colours: dict[str, int]) -> Html:
    actions = [*table.actions, MEAN] if len(table.actions) != 1 else table.actions
    cells = {(a, r): table.cell(r, a, task) for a in actions for r in table.rows}
    known = [cell.mean for cell in cells.values() if cell.known]
    low, high = min(0.0, *known, 0.0), max(1.0, *known)
    parts: list[Html] = []
    y = TOP
    ends = (LABEL, LABEL + CHART)

    def place(value: float) -> float:
        clipped = min(high, max(low, value))
        return ends[0] + (clipped - low) / (high - low) * CHART

    for action in actions:
        parts.append(_words(ends[0], y + 10, action, "axis"))
        y += 16
        for row in table.rows:
            cell = cells[action, row]
            parts.append(
                _bar(place, y, cell.mean, cell.spread, colours.get(table.recipe_of[row], 0))
            )
            y += BAR
        y += GAP
    ticks = [_tick(place(value), value, y) for value in _round_values(low, high)]
    words = "; ".join(
        f"{action}: " + ", ".join(f"{row} {number(cells[action, row].mean)}" for row in table.rows)
        for action in actions
    )
    drawing = svg(
        LABEL + CHART + RIGHT, y + 14, *ticks, *parts, label=f"{task_title(task)}. {words}"
    )
    return tag("figure", tag("figcaption", task_title(task)), drawing, class_="chart")


def _bar(
    place: Callable[[float], float], y: float, mean: float, spread: float, colour: int
) -> Html:
    if math.isnan(mean):
        return _words(place(0) + 4, y + 10, "no value", "axis")
    left, right = sorted((place(0), place(mean)))
    bar = Html(
        f'<rect class="c{colour % 8}" x="{left:.1f}" y="{y + 1:.1f}" rx="2" '
        f'width="{max(1.0, right - left):.1f}" height="{BAR - 2}"/>'
    )
    whisker = Html("")
    end = right
    if spread > 0:
        a, b = place(mean - spread), place(mean + spread)
        end = max(end, b)
        middle = y + BAR / 2
        whisker = Html(
            f'<path class="whisker" d="M{a:.1f} {middle}H{b:.1f}M{a:.1f} {middle - 3}v6'
            f'M{b:.1f} {middle - 3}v6"/>'
        )
    return join(bar, whisker, _words(end + 4, y + 10, number(mean), "value"))


def _tick(x: float, value: float, bottom: float) -> Html:
    line = f'<path class="grid" d="M{x:.1f} {TOP}V{bottom}"/>'
    return join(Html(line), _words(x, bottom + 11, f"{value:g}", "axis middle"))


def _words(x: float, y: float, words: str, class_: str) -> Html:
    return tag("text", words, x=f"{x:.1f}", y=f"{y:.1f}", class_=class_)


def _round_values(low: float, high: float) -> list[float]:
    """Values for grid lines.

    >>> _round_values(0, 1), _round_values(-1.2, 1)
    ([0.0, 0.25, 0.5, 0.75, 1.0], [-1.0, 0.0, 1.0])
    """
    step = 0.25 if high - low <= 1.25 else 0.5 if high - low <= 2 else 1.0
    while (high - low) / step > 8:
        step *= 2
    first = math.ceil(low / step)
    return [step * i for i in range(first, math.floor(high / step) + 1)]
