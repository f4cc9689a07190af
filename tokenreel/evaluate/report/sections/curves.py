"""Training curves from metrics.jsonl, one SVG a quantity."""

import math
from collections.abc import Callable, Sequence

from tokenreel.evaluate.report.data.gather import RunPage
from tokenreel.evaluate.report.page.html import Html, absent, colour_class, join, svg, tag

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 380, 210, 52, 30, 10, 12
DASHES = ("", "6 3", "2 3", "8 3 2 3")
MOST_POINTS = 400
Line = tuple[RunPage, list[tuple[float, float]]]


def training_curves(runs: Sequence[RunPage]) -> Html:
    """A chart of each quantity that a run has logged by epoch; colour is recipe, dash is seed."""
    keys = sorted({key for run in runs for line in run.curves for key in line} - {"epoch"})
    keys.sort(key=lambda key: (key != "loss", key == "lr", key))
    trained = [run for run in runs if run.curves]
    if not keys:
        return absent(
            "No run has a metrics.jsonl with epochs: nothing was trained, or the runs "
            "are embedding files alone."
        )
    legend = tag(
        "ul",
        *(tag("li", _sample(run.colour, _dash(runs, run)), run.name) for run in trained),
        class_="legend",
    )
    charts = []
    for key in keys:
        lines = [(run, _points(run, key)) for run in trained]
        charts.append(_chart(key, [(run, points) for run, points in lines if points], runs))
    return join(legend, tag("div", *charts, class_="charts"))


def _points(run: RunPage, key: str) -> list[tuple[float, float]]:
    points = [
        (line.get("epoch", float(row)), line[key])
        for row, line in enumerate(run.curves)
        if key in line
    ]
    step = max(1, math.ceil(len(points) / MOST_POINTS))
    return points if step == 1 else [*points[:-1:step], points[-1]]


def _chart(key: str, lines: Sequence[Line], runs: Sequence[RunPage]) -> Html:
    xs = [x for _, points in lines for x, _ in points]
    ys = [y for _, points in lines for _, y in points]
    last = max(*xs, 1.0)
    low, high = min(ys), max(ys)
    if high == low:
        low, high = low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1)

    def place(point: tuple[float, float]) -> str:
        x = LEFT + point[0] / last * (WIDTH - LEFT - RIGHT)
        y = TOP + (high - point[1]) / (high - low) * (HEIGHT - TOP - BOTTOM)
        return f"{x:.1f} {y:.1f}"

    parts = [_grid(low + (high - low) * share, place, last) for share in (0, 0.25, 0.5, 0.75, 1)]
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(tag("text", "epoch", x=f"{middle:.0f}", y=HEIGHT - 4, class_="axis middle"))
    for epoch, end in ((0, "start"), (last, "end")):
        x = place((epoch, low)).split()[0]
        parts.append(tag("text", f"{epoch:g}", x=x, y=HEIGHT - 16, class_=f"axis {end}"))
    for run, points in lines:
        d = "M" + "L".join(place(point) for point in points)
        if len(points) == 1:
            d += "h.01"
        dash = DASHES[_dash(runs, run)]
        parts.append(
            Html(
                f'<path class="line {colour_class(run.colour)}" stroke-dasharray="{dash}" d="{d}"/>'
            )
        )
    ends = "; ".join(
        f"{run.name}: {points[0][1]:.4g} to {points[-1][1]:.4g}" for run, points in lines
    )
    drawing = svg(WIDTH, HEIGHT, *parts, label=f"{key} by epoch. {ends}")
    return tag("figure", tag("figcaption", key.replace("_", " ")), drawing, class_="chart")


def _grid(value: float, place: Callable[[tuple[float, float]], str], last: float) -> Html:
    x, y = place((0.0, value)).split()
    end = place((last, value)).split()[0]
    line = Html(f'<path class="grid" d="M{x} {y}H{end}"/>')
    shown = f"{value:.1e}" if value and abs(value) < 1e-2 else f"{value:.3g}"
    return join(line, tag("text", shown, x=LEFT - 5, y=f"{float(y) + 3.5:.1f}", class_="axis end"))


def _dash(runs: Sequence[RunPage], run: RunPage) -> int:
    """Which of its recipe's runs it is: the dash of its line."""
    own = [other for other in runs if other.recipe == run.recipe]
    return own.index(run) % len(DASHES)


def _sample(colour: int, dash: int) -> Html:
    line = Html(
        f'<path class="line {colour_class(colour)}" stroke-dasharray="{DASHES[dash]}" d="M0 5H30"/>'
    )
    return Html(f'<svg class="sample" viewBox="0 0 30 10" aria-hidden="true">{line}</svg>')
