"""Scores on the page: the papers' table, bars of every action, and every row of results.csv."""

import math
from collections.abc import Callable, Mapping, Sequence

from tokenreel.evaluate.data.results import COUNTS, MEAN, Score, names_apart
from tokenreel.evaluate.report.data.scores import Cell, ScoreTable
from tokenreel.evaluate.report.page.html import (
    Html,
    absent,
    colour_class,
    join,
    number,
    scroll,
    svg,
    swatch,
    tag,
    text,
)
from tokenreel.evaluate.tables.summary import CONTROL, DAGGER, MEASURED, NOT_ABOVE, Row, rank_of
from tokenreel.evaluate.tasks.task import is_of_class, row_title, task_of

BAR, GAP, CHART, RIGHT, TOP = 13, 12, 300, 46, 6
LOWEST = -1.0  # that a chart shows; a lower bar is cut there, with its value beside it
MINUS = "\u2212"
COLUMNS = (
    ("recipe", "text"),
    ("run", "text"),
    ("seed", "number"),
    ("task", "text"),
    ("action", "text"),
    ("fraction", "number"),
    ("value", "number"),
    ("clock_value", "number"),
    ("protocol", "text"),
    ("stride", "number"),
    *((name, "number") for name in COUNTS),
    ("status", "text"),
    ("note", "text"),
)


def summary_table(rows: Sequence[Row], colours: Mapping[str, int]) -> Html:
    """Mean and 2 std over seeds (ddof 0, as published) of each row, averaged over actions.

    The best measured value of a column is bold, the second underlined, among the rows of one data
    set, protocol and share of labels, where the best is above the clock by more than its spread; a
    screen reader announces both.  A value that is not above the clock's is marked.
    """
    tasks = list(
        dict.fromkeys(
            task
            for row in rows
            for task, values in row.values.items()
            if any(not math.isnan(value) for value in values) and not is_of_class(task)
        )
    )
    measured = [row for row in rows if row.kind == MEASURED]
    several = {
        name: len({getattr(row, name) for row in measured}) > 1
        for name in ("dataset", "weights", "protocol", "fraction")
    }
    names = names_apart((row.recipe, row.dataset, row.weights) for row in measured)
    extra = [name for name, differ in several.items() if differ]
    head = [tag("th", words, scope="col") for words in ("Recipe", *map(str.capitalize, extra))]
    head.append(tag("th", "Seeds", scope="col", class_="num"))
    head += [tag("th", metric_link(task), scope="col", class_="num") for task in tasks]
    body = []
    for row in rows:
        name = names.get((row.recipe, row.dataset, row.weights), row.recipe)
        square = swatch(-1 if row.kind == CONTROL else colours.get(name, 0))
        published = row.kind == "published"
        cells = [tag("th", None if published else square, row.recipe, scope="row")]
        cells += [tag("td", _setting(row, name)) for name in extra]
        cells.append(tag("td", row.seeds, class_="num"))
        cells += [_summary_cell(row, task, rank_of(row, rows, task)) for task in tasks]
        body.append(tag("tr", *cells, class_=None if row.kind == MEASURED else row.kind))
    table = tag("table", tag("thead", tag("tr", *head)), tag("tbody", *body), class_="summary")
    is_marked = any(row.is_not_above_clock(task) for row in rows for task in tasks)
    note = tag("p", f"{DAGGER}: {NOT_ABOVE}.", class_="note") if is_marked else None
    return join(scroll(table, "Summary table"), note)


def metric_link(task: str) -> Html:
    """The title of a metric, with a link to what it says."""
    metric = task_of(task)
    if metric is None or not metric.description:
        return text(row_title(task))
    return tag("a", row_title(task), href=f"#metric-{metric.name}", class_="metric")


def metric_list(tasks: Sequence[str]) -> Html:
    """A sentence for each metric: its range, its direction and what it rewards."""
    metrics = {metric.name: metric for metric in map(task_of, tasks) if metric is not None}
    items: list[Html] = []
    for metric in metrics.values():
        description = metric.description or "A metric of a package, which says nothing about it."
        items += [tag("dt", metric.title, id=f"metric-{metric.name}"), tag("dd", description)]
    return tag("dl", *items) if items else absent("No metric has a value.")


def _summary_cell(row: Row, task: str, rank: int | None) -> Html:
    mean = row.mean(task)
    if math.isnan(mean):
        return tag("td", "-", class_="num")
    shown = number(mean)
    marks = {0: tag("strong", shown, title="best"), 1: tag("u", shown, title="second")}
    value = tag("span", shown) if rank is None else marks.get(rank, tag("span", shown))
    spread = row.two_std(task, 0)
    is_known = not math.isnan(spread) and (row.kind == "published" or row.num_seeds > 1)
    words = tag("span", f" \u00b1 {number(spread)}", class_="spread") if is_known else None
    mark = tag("span", DAGGER, title=NOT_ABOVE) if row.is_not_above_clock(task) else None
    return tag("td", join(value, words, mark), class_="num")


def _setting(row: Row, name: str) -> str:
    return f"{row.fraction:.0%}" if name == "fraction" else str(getattr(row, name))


def action_bars(table: ScoreTable, colours: Mapping[str, int]) -> Html:
    """A chart a task: for each action a bar a recipe, two standard deviations over seeds on it."""
    charts = [_chart(table, task, colours) for task in table.tasks]
    legend = tag(
        "ul",
        *(tag("li", swatch(table.colour(row, colours)), row) for row in table.rows),
        class_="legend",
    )
    return join(legend, tag("div", *charts, class_="charts"))


def _chart(table: ScoreTable, task: str, colours: Mapping[str, int]) -> Html:
    actions = [*table.actions, MEAN] if len(table.actions) != 1 else table.actions
    cells = {(a, r): table.cell(r, a, task) for a in actions for r in table.rows}
    known = [cell.mean for cell in cells.values() if cell.known]
    low, high = max(LOWEST, min(0.0, *known, 0.0)), max(1.0, *known)
    parts: list[Html] = []
    y = TOP

    def place(value: float) -> float:
        return (min(high, max(low, value)) - low) / (high - low) * CHART

    for action in actions:
        parts.append(_words(0, y + 10, action, "axis"))
        y += 16
        for row in table.rows:
            colour = table.colour(row, colours)
            parts.append(_bar(place, y, cells[action, row], colour))
            y += BAR
        y += GAP
    ticks = [_tick(place(value), value, y) for value in _round_values(low, high)]
    words = "; ".join(
        f"{action}: " + ", ".join(f"{row} {number(cells[action, row].mean)}" for row in table.rows)
        for action in actions
    )
    zero = Html(f'<path class="zero" d="M{place(0):.1f} {TOP}V{y}"/>') if low < 0 else Html("")
    drawing = svg(CHART + RIGHT, y + 14, *ticks, zero, *parts, label=f"{row_title(task)}. {words}")
    metric = task_of(task)
    side = tag("small", metric.span) if metric is not None and metric.span else None
    return tag("figure", tag("figcaption", metric_link(task), side), drawing, class_="chart")


def _bar(place: Callable[[float], float], y: float, cell: Cell, colour: int) -> Html:
    mean, spread = cell.mean, cell.spread
    if math.isnan(mean):
        return _words(place(0) + 4, y + 10, "no value", "axis")
    left, right = sorted((place(0), place(mean)))
    bar = Html(
        f'<rect class="{colour_class(colour)}" x="{left:.1f}" y="{y + 1:.1f}" rx="2" '
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
    shown = number(mean).replace("-", MINUS)
    if mean < LOWEST:
        shown = f"{shown} (cut at {MINUS}{-LOWEST:g})"
    return join(bar, whisker, _words(end + 4, y + 10, shown, "value"))


def _tick(x: float, value: float, bottom: float) -> Html:
    line = f'<path class="grid" d="M{x:.1f} {TOP}V{bottom}"/>'
    return join(Html(line), _words(x, bottom + 11, f"{value:g}".replace("-", MINUS), "axis middle"))


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


def all_rows(scores: Sequence[Score]) -> Html:
    """Every score with its counts; the page's script sorts and filters it.

    A column of counts that are all 0 is left out, and named below the table.
    """
    empty = [name for name in COUNTS if not any(getattr(score, name) for score in scores)]
    shown = [(name, kind) for name, kind in COLUMNS if name not in empty]
    head = []
    for name, kind in shown:
        button = tag("button", name.removeprefix("num_").replace("_", " "), type="button")
        side = "num" if kind == "number" else None
        head.append(tag("th", button, scope="col", aria_sort="none", data_kind=kind, class_=side))
    body = [
        tag(
            "tr",
            *(_score_cell(score, name, kind) for name, kind in shown),
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
        _select("Task", "task", [(task, row_title(task)) for task in tasks]),
        _select("Action", "action", [(action, action) for action in actions]),
        tag("output", f"{len(scores)} of {len(scores)} rows", id="shown", aria_live="polite"),
        class_="controls",
        role="search",
        aria_label="Filter the scores",
    )
    names = ", ".join(name.removeprefix("num_").replace("_", " ") for name in empty)
    note = tag("p", f"0 in every row: {names}.", class_="note") if empty and scores else None
    return join(controls, scroll(table, "All scores", tall=True), note)


def _select(heading: str, name: str, options: Sequence[tuple[str, str]]) -> Html:
    every = tag("option", "all", value="")
    return tag(
        "label",
        f"{heading} ",
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
        shown = number(value, 4) if name in ("value", "clock_value") else f"{value:g}"
    key = None if name != "value" or math.isnan(value) else repr(value)
    return tag("td", shown, class_="num" if kind == "number" else None, data_key=key)
