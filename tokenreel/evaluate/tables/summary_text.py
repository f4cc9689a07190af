"""The papers' table as text, CSV, Markdown and LaTeX: mean +- 2 std over seeds.

The spread is twice the standard deviation with ddof=0, as published; summary.csv has ddof=1 beside
it.  Published numbers are rows of their own, marked `published`.  The best measured value of a
column is bold and the second underlined, among rows of one data set, protocol and share of labels.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tokenreel.cache.files import make_directory, write_whole
from tokenreel.evaluate.jobs.table import MEAN, RESULTS, Score, write_rows
from tokenreel.evaluate.tables.summary import (
    MEASURED,
    PUBLISHED,
    Published,
    Row,
    is_percent,
    summarise,
)

__all__ = ["COLUMNS", "format_summary", "write_tables"]

COLUMNS = ("classification", "progression", "tau", "ap@5", "ap@10", "ap@15")
TITLES = {"classification": "Class.", "progression": "Progress", "tau": "Tau"}


def write_tables(
    scores: Sequence[Score], out: Path, published: Mapping[str, Published] | None = None
) -> None:
    """Write results.csv, summary.csv, summary.md and summary.tex, each whole.

    Args:
        scores: rows of results.csv, those that average over actions included.
        out: folder of the tables.
        published: recipe -> published numbers.
    """
    make_directory(out)
    rows = summarise(scores, published)
    write_rows(scores, out / RESULTS)
    write_whole(out / "summary.csv", _csv(rows).encode())
    write_whole(out / "summary.md", _markdown(rows).encode())
    write_whole(out / "summary.tex", _latex(rows).encode())


def format_summary(
    scores: Sequence[Score], published: Mapping[str, Published] | None = None
) -> str:
    """The table as plain text for a terminal, and what is missing from it."""
    rows = summarise(scores, published)
    tasks = _tasks(rows)
    lines = [["recipe", "weights", "seeds", *tasks]]
    for row in rows:
        cells = [_plain(row, task) for task in tasks]
        seeds = PUBLISHED if row.kind == PUBLISHED else str(row.num_seeds)
        lines.append([_name(row, rows), row.weights, seeds, *cells])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [
        "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines
    ]
    return "\n".join([*text, *sorted({_note(score) for score in scores if score.note})])


def _csv(rows: Sequence[Row]) -> str:
    tasks = _tasks(rows)
    header = ["recipe", "dataset", "weights", "protocol", "fraction", "kind", "seeds"]
    for task in tasks:
        header += [f"{task} mean", f"{task} 2std ddof=0", f"{task} 2std ddof=1"]
    counts = ("num_clips", "num_frames", "num_dropped", "num_nan", "num_classes", "stride")
    header += [f"{task} {name}" for task in tasks for name in counts]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    for row in rows:
        cells: list[object] = [
            row.recipe,
            row.dataset,
            row.weights,
            row.protocol,
            row.fraction,
            row.kind,
            row.num_seeds if row.kind == MEASURED else "",
        ]
        for task in tasks:
            cells += [_number(row.mean(task)), *(_number(row.two_std(task, d)) for d in (0, 1))]
        for task in tasks:
            score = row.counts.get(task)
            cells += [getattr(score, name) if score else "" for name in counts]
        writer.writerow(cells)
    return text.getvalue()


def _markdown(rows: Sequence[Row]) -> str:
    tasks = _tasks(rows)
    lines = [
        "| " + " | ".join(["", "weights", "seeds", *map(_title, tasks)]) + " |",
        "| " + " | ".join(["---", "---", "---:", *["---:"] * len(tasks)]) + " |",
    ]
    marks = {0: ("**", "**"), 1: ("<u>", "</u>")}
    for row in rows:
        cells = [_marked(row, task, rows, marks, _cell(row, task, "±")) for task in tasks]
        seeds = PUBLISHED if row.kind == PUBLISHED else str(row.num_seeds)
        name = _name(row, rows).replace("|", "\\|")
        lines.append("| " + " | ".join([name, row.weights, seeds, *cells]) + " |")
    return "\n".join([*lines, "", _caption(rows), ""])


def _latex(rows: Sequence[Row]) -> str:
    tasks = _tasks(rows)
    marks = {0: (r"\textbf{", "}"), 1: (r"\underline{", "}")}
    lines = [
        f"% {_caption(rows)}",
        rf"\begin{{tabular}}{{lll{'c' * len(tasks)}}}",
        r"\hline",
        " & ".join(["", "weights", "seeds", *(_escape(_title(task)) for task in tasks)]) + r" \\",
        r"\hline",
    ]
    for row in rows:
        cells = [_marked(row, task, rows, marks, _cell(row, task, r"$\pm$")) for task in tasks]
        seeds = PUBLISHED if row.kind == PUBLISHED else str(row.num_seeds)
        words = [_escape(_name(row, rows)), _escape(row.weights), seeds, *cells]
        lines.append(" & ".join(words) + r" \\")
    return "\n".join([*lines, r"\hline", r"\end{tabular}", ""])


def _marked(
    row: Row, task: str, rows: Sequence[Row], marks: Mapping[int, tuple[str, str]], text: str
) -> str:
    """The cell, bold when it is the best of its kind and underlined when the second."""
    peers = {
        _digits(other.mean(task), task)
        for other in rows
        if other.kind == row.kind == MEASURED
        and (other.dataset, other.protocol, other.fraction)
        == (row.dataset, row.protocol, row.fraction)
        and not np.isnan(other.mean(task))
    }
    own = row.mean(task)
    if row.kind != MEASURED or np.isnan(own) or len(peers) < 2:
        return text
    rank = sorted(peers, key=float, reverse=True).index(_digits(own, task))
    before, after = marks.get(rank, ("", ""))
    return f"{before}{text}{after}"


def _plain(row: Row, task: str) -> str:
    mean, spread = row.mean(task), row.two_std(task, 0)
    if np.isnan(mean):
        return "-"
    return f"{mean:.4f}" if np.isnan(spread) else f"{mean:.4f} +- {spread:.4f}"


def _cell(row: Row, task: str, sign: str) -> str:
    mean, spread = row.mean(task), row.two_std(task, 0)
    if np.isnan(mean):
        return "-"
    is_one = row.kind == MEASURED and len(row.values[task]) < 2
    text = _digits(mean, task)
    return text if is_one or np.isnan(spread) else f"{text} {sign} {_digits(spread, task)}"


def _digits(value: float, task: str) -> str:
    """As the papers print it: percent with two digits, or 0 to 1 with three."""
    return f"{100 * value:.2f}" if is_percent(task) else f"{value:.3f}"


def _tasks(rows: Sequence[Row]) -> list[str]:
    seen = dict.fromkeys(task for row in rows for task in row.values)
    return [*COLUMNS, *(task for task in seen if task not in COLUMNS and task != "retrieval")]


def _title(task: str) -> str:
    name = TITLES.get(task, task.upper() if task.startswith("ap") else task)
    return f"{name} (%)" if is_percent(task) else name


def _name(row: Row, rows: Sequence[Row]) -> str:
    """The recipe, with what tells rows apart where they differ in it."""
    words = [row.recipe]
    if len({other.dataset for other in rows}) > 1:
        words.append(row.dataset)
    if len({other.protocol for other in rows}) > 1:
        words.append(row.protocol)
    if row.fraction != 1:
        words.append(f"{row.fraction:.0%} of labels")
    return words[0] if len(words) == 1 else f"{words[0]} ({', '.join(words[1:])})"


def _caption(rows: Sequence[Row]) -> str:
    protocols = ", ".join(dict.fromkeys(row.protocol for row in rows))
    return (
        f"Mean of the actions, then mean and 2 std (ddof=0) over seeds; protocol {protocols}. "
        "Best measured value bold, second underlined."
    )


def _note(score: Score) -> str:
    kind = "note" if score.status == "ok" else score.status
    where = "" if score.action == MEAN else f"{score.action}: "
    return f"{kind}: {score.run}: {where}{score.task}: {score.note}"


def _number(value: float) -> str:
    return "" if np.isnan(value) else repr(value)


def _escape(text: str) -> str:
    return "".join("\\" + c if c in "#$%&_{}" else c for c in text)
