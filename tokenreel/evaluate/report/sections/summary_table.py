"""The papers' table on the page: a row a recipe, published numbers as rows of their own."""

import math
from collections.abc import Mapping, Sequence

from tokenreel.evaluate.report.data.scores import task_title
from tokenreel.evaluate.report.page.html import Html, join, number, tag
from tokenreel.evaluate.tables.summary import Row

__all__ = ["summary_table"]


def summary_table(rows: Sequence[Row], colours: Mapping[str, int]) -> Html:
    """Mean and 2 std over seeds (ddof 0, as published) of each row, averaged over actions.

    The best measured value of a column is bold, the second underlined, among the rows of one data
    set, protocol and share of labels; both are told to a screen reader too.
    """
    tasks = list(
        dict.fromkeys(
            task
            for row in rows
            for task, values in row.values.items()
            if any(not math.isnan(value) for value in values)
        )
    )
    several = {
        name: len({getattr(row, name) for row in rows}) > 1
        for name in ("dataset", "protocol", "fraction")
    }
    extra = [name for name, differ in several.items() if differ]
    head = [tag("th", words, scope="col") for words in ("Recipe", *map(str.capitalize, extra))]
    head.append(tag("th", "Seeds", scope="col", class_="num"))
    head += [tag("th", task_title(task), scope="col", class_="num") for task in tasks]
    body = []
    for row in rows:
        swatch = tag("span", class_=f"swatch c{colours.get(row.recipe, 0) % 8}", aria_hidden="true")
        published = row.kind == "published"
        cells = [tag("th", None if published else swatch, row.recipe, scope="row")]
        cells += [tag("td", _setting(row, name)) for name in extra]
        cells.append(tag("td", "published" if published else row.num_seeds, class_="num"))
        cells += [_cell(row, task, _rank(row, rows, task)) for task in tasks]
        body.append(tag("tr", *cells, class_="published" if published else None))
    table = tag("table", tag("thead", tag("tr", *head)), tag("tbody", *body), class_="summary")
    return tag(
        "div", table, class_="scroll", tabindex="0", role="region", aria_label="Summary table"
    )


def _cell(row: Row, task: str, rank: int) -> Html:
    mean = row.mean(task)
    if math.isnan(mean):
        return tag("td", "-", class_="num")
    shown = number(mean)
    value = {0: tag("strong", shown, title="best"), 1: tag("u", shown, title="second")}.get(
        rank, tag("span", shown)
    )
    spread = row.two_std(task, 0)
    is_known = not math.isnan(spread) and (row.kind == "published" or row.num_seeds > 1)
    words = tag("span", f" \u00b1 {number(spread)}", class_="spread") if is_known else None
    return tag("td", join(value, words), class_="num")


def _rank(row: Row, rows: Sequence[Row], task: str) -> int:
    """0 for the best measured row of its kind, 1 for the second; 9 for others and a lone row."""

    def same(other: Row) -> bool:
        return (other.kind, other.dataset, other.protocol, other.fraction) == (
            "measured",
            row.dataset,
            row.protocol,
            row.fraction,
        )

    values = [other.mean(task) for other in rows if same(other)]
    order = sorted({value for value in values if not math.isnan(value)}, reverse=True)
    mean = row.mean(task)
    return order.index(mean) if same(row) and len(values) > 1 and mean in order else 9


def _setting(row: Row, name: str) -> str:
    return f"{row.fraction:.0%}" if name == "fraction" else str(getattr(row, name))
