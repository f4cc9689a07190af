"""The papers' table: a row for each recipe, its seeds together, published numbers beside them.

Text, CSV, Markdown and LaTeX of mean +- 2 std over seeds (ddof=0, as published; summary.csv has
ddof=1 beside it).  Published numbers are rows of their own, marked `published`.  The best measured
value of a column is bold and the second underlined, among rows of one data set, protocol and share
of labels, where the best is above the clock by more than its spread.  The clock, a control that
knows only the position of a frame in its clip, is a row without a rank; a value that is not above
the clock's on the same clips is marked.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from tokenreel.cache.files import make_directory, write_whole
from tokenreel.evaluate.data.results import MEAN, RESULTS, Score, write_rows
from tokenreel.evaluate.escape import for_latex, for_markdown, for_spreadsheet, one_line
from tokenreel.evaluate.protocol import TASKS
from tokenreel.evaluate.tables.printed import (
    Published,
    align_columns,
    as_measured,
    two_std,
)
from tokenreel.evaluate.tasks.task import (
    columns,
    is_error,
    is_of_class,
    is_percent,
    short_row_title,
    task_of,
)

MEASURED, PUBLISHED, CONTROL = "measured", "published", "control"
OF_CLIPS = ("tags", "actions", "pairs")  # protocols without the columns of frames
ROUNDING = 1e-9  # of a mean
DAGGER = "\u2020"  # marks a value that is
NOT_ABOVE = (
    "not above the clock, which knows only the position of a frame in its clip, or how common each "
    "tag is"
)

Key = tuple[str, str, str, str, float]  # recipe, data set, weights, protocol, fraction


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        recipe, dataset, weights, protocol, fraction: what the seeds of a row have in common.
        kind: "measured", "published", or "control", as the clock is.
        values: task -> one value a seed, 0 to 1.
        spread: task -> 2 std, of a published row alone; None where not given.
        counts: task -> its counts, the first seed's.
        clock: task -> the clock's value on the clips of each seed.
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
    clock: dict[str, list[float]] = field(default_factory=dict)

    @property
    def num_seeds(self) -> int:
        """Seeds of the task with the most."""
        return max((len(values) for values in self.values.values()), default=0)

    @property
    def seeds(self) -> str:
        """The cell of the column "seeds": their number, "published" or "control"."""
        return str(self.num_seeds) if self.kind == MEASURED else self.kind

    def is_not_above_clock(self, task: str) -> bool:
        """Whether the mean is at most the clock's on the same clips; False where it is unknown."""
        values = self.clock.get(task, [])
        return bool(values) and self.mean(task) <= float(np.mean(values)) + ROUNDING

    def is_clearly_above_clock(self, task: str) -> bool:
        """Whether the mean is above the clock's by more than 2 std; True where it is unknown."""
        values = self.clock.get(task, [])
        return is_clearly_above(
            self.mean(task),
            self.two_std(task, 0),
            clock=float(np.mean(values)) if values else float("nan"),
        )

    def mean(self, task: str) -> float:
        """Mean over seeds, NaN without any."""
        values = self.values.get(task, [])
        return float(np.mean(values)) if values else float("nan")

    def two_std(self, task: str, ddof: int) -> float:
        """2 std over seeds, NaN where it is not defined."""
        if self.kind == PUBLISHED:
            given = self.spread.get(task)
            return float("nan") if given is None or ddof else given
        return two_std(self.values.get(task, []), ddof=ddof)


def is_clearly_above(mean: float, spread: float, *, clock: float) -> bool:
    """Whether a mean may be called best: above the clock's value by more than its spread.

    Args:
        mean: over seeds.
        spread: 2 std over seeds, NaN where there is none.
        clock: on the same clips, NaN where it is unknown, which hinders nothing.

    >>> is_clearly_above(0.998, 0.0, clock=0.999), is_clearly_above(0.6, 0.1, clock=0.49)
    (False, True)
    """
    wide = 0.0 if np.isnan(spread) else spread
    return bool(np.isnan(clock)) or mean - clock > wide + ROUNDING


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
        task = task_of(score.task)
        learned = task is not None and task.by_share
        whole = max(s.fraction for s in means if s.protocol == score.protocol)
        share = score.fraction if learned else whole
        key = (name, score.dataset, score.weights, score.protocol, share)
        kind = CONTROL if score.is_clock else MEASURED
        row = rows.setdefault(key, Row(*key, kind=kind, values={}))
        row.values.setdefault(score.task, []).append(score.value)
        row.clock.setdefault(score.task, []).append(score.clock_value)
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
    return replace(
        row,
        weights="",
        kind=PUBLISHED,
        values={task: [mean / scale[task]] for task, (mean, _) in given.items()},
        spread={t: None if two is None else two / scale[t] for t, (_, two) in given.items()},
        counts={},
        clock={},
    )


def write_tables(
    scores: Sequence[Score],
    out: Path,
    published: Mapping[str, Published] | None = None,
    *,
    spreadsheet: bool = False,
) -> None:
    """Write results.csv, summary.csv, summary.md and summary.tex, each whole.

    Args:
        scores: rows of results.csv, those that average over actions included.
        out: folder of the tables.
        published: recipe -> published numbers.
        spreadsheet: put an apostrophe before text in CSV that a spreadsheet would compute.
    """
    make_directory(out)
    rows = summarise(scores, published)
    write_rows(scores, out / RESULTS, spreadsheet=spreadsheet)
    write_whole(out / "summary.csv", _csv(rows, spreadsheet=spreadsheet).encode())
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
        words = [one_line(_name(row, rows)), one_line(row.weights), row.seeds]
        lines.append([*words, *cells])
    marks = [f"*: {NOT_ABOVE}"] if _has_marks(rows) else []
    noted = [score for score in scores if score.note]
    said = {(score.task, score.action, score.note) for score in noted if not score.is_clock}
    notes = {
        _note(score)
        for score in noted
        if not score.is_clock or (score.task, score.action, score.note) not in said
    }
    return "\n".join([*align_columns(lines), *marks, *sorted(notes)])


def _csv(rows: Sequence[Row], *, spreadsheet: bool) -> str:
    tasks = _tasks(rows, each_class=True)
    header = ["recipe", "dataset", "weights", "protocol", "fraction", "kind", "seeds"]
    for task in tasks:
        header += [f"{task} mean", f"{task} 2std ddof=0", f"{task} 2std ddof=1"]
    counts = ("num_clips", "num_frames", "num_dropped", "num_nan", "num_classes", "stride")
    header += [f"{task} {name}" for task in tasks for name in counts]
    header.append("not above clock")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    for row in rows:
        cells: list[object] = [getattr(row, name) for name in header[:6]]
        cells.append(row.num_seeds if row.kind == MEASURED else "")
        for task in tasks:
            cells += [_number(row.mean(task)), *(_number(row.two_std(task, d)) for d in (0, 1))]
        for task in tasks:
            score = row.counts.get(task)
            cells += [getattr(score, name) if score else "" for name in counts]
        cells.append(" ".join(task for task in tasks if row.is_not_above_clock(task)))
        writer.writerow(for_spreadsheet(cells) if spreadsheet else cells)
    return text.getvalue()


def _markdown(rows: Sequence[Row]) -> str:
    tasks = _tasks(rows)
    titles = [for_markdown(_title(task)) for task in tasks]
    lines = [
        "| " + " | ".join(["", "weights", "seeds", *titles]) + " |",
        "| " + " | ".join(["---", "---", "---:", *["---:"] * len(tasks)]) + " |",
    ]
    for row in rows:
        cells = _cells(row, rows, "±", "**{}**", "<u>{}</u>", f"{{}}{DAGGER}")
        words = [for_markdown(_name(row, rows)), for_markdown(row.weights), row.seeds, *cells]
        lines.append("| " + " | ".join(words) + " |")
    return "\n".join([*lines, "", for_markdown(_caption(rows)), ""])


def _latex(rows: Sequence[Row]) -> str:
    tasks = _tasks(rows)
    lines = [
        f"% {one_line(_caption(rows))}",
        rf"\begin{{tabular}}{{lll{'c' * len(tasks)}}}",
        r"\hline",
        " & ".join(["", "weights", "seeds", *(for_latex(_title(task)) for task in tasks)]) + r" \\",
        r"\hline",
    ]
    for row in rows:
        cells = _cells(row, rows, r"$\pm$", r"\textbf{{}}", r"\underline{{}}", r"{}$^\dagger$")
        words = [for_latex(_name(row, rows)), for_latex(row.weights), row.seeds, *cells]
        lines.append(" & ".join(words) + r" \\")
    return "\n".join([*lines, r"\hline", r"\end{tabular}", ""])


def rank_of(row: Row, rows: Sequence[Row], task: str) -> int | None:
    """0 for the best measured row of its data set, protocol and share of labels, 1 for the second.

    Values that are printed alike share a rank.  None for a published row, the clock, a row without
    a value, a lone row, and a row that is not above the clock by more than its spread; of two rows
    the other is no second, and where the best has no rank, none has.  Errors, of which the lowest
    is best, have none.
    """
    if is_error(task):
        return None
    names = ("kind", "dataset", "protocol", "fraction")
    peers = [o for o in rows if all(getattr(o, name) == getattr(row, name) for name in names)]
    shown = [_cell(other, task, " ").split()[0] for other in peers]
    own = _cell(row, task, " ").split()[0]
    values = [value for value in shown if value != "-"]
    if row.kind != MEASURED or own == "-" or len(values) < 2:
        return None
    ordered = sorted(set(values), key=float, reverse=True)
    best = [other for other, text in zip(peers, shown, strict=True) if text == ordered[0]]
    if not row.is_clearly_above_clock(task) or not any(
        other.is_clearly_above_clock(task) for other in best
    ):
        return None
    rank = ordered.index(own)
    return rank if rank == 0 or len(values) > 2 else None


def _cells(
    row: Row, rows: Sequence[Row], sign: str, best: str, second: str, not_above: str
) -> list[str]:
    """The cells of a row.

    `best`, `second` and `not_above`, the clock, say how those of a column are marked: "**{}**".
    """
    marks: dict[int | None, str] = {0: best, 1: second}
    cells = []
    for task in _tasks(rows):
        mark = marks.get(rank_of(row, rows, task), "{}")
        cell = mark.replace("{}", _cell(row, task, sign))
        cells.append(not_above.replace("{}", cell) if row.is_not_above_clock(task) else cell)
    return cells


def _plain(row: Row, task: str) -> str:
    mean, spread = row.mean(task), row.two_std(task, 0)
    if np.isnan(mean):
        return "-"
    spread = float("nan") if row.kind == CONTROL else spread
    cell = f"{mean:.4f}" if np.isnan(spread) else f"{mean:.4f} +- {spread:.4f}"
    return f"{cell} *" if row.is_not_above_clock(task) else cell


def _cell(row: Row, task: str, sign: str) -> str:
    is_one = row.kind != PUBLISHED and len(row.values.get(task, [])) < 2
    spread = float("nan") if is_one else row.two_std(task, 0)
    unit = 100 if is_percent(task) else 1
    return as_measured(task, unit * row.mean(task), unit * spread, sign=sign)


def _tasks(rows: Sequence[Row], *, each_class: bool = False) -> list[str]:
    """The columns: those of the papers' table, then what else there is.

    Args:
        rows: of the table.
        each_class: whether metrics of one class of a file are columns too.
    """
    seen = dict.fromkeys(task for row in rows for task in row.values)
    is_of_tags = bool(rows) and all(row.protocol in OF_CLIPS for row in rows)
    always = [] if is_of_tags else columns()
    more = [task for task in seen if task not in always and not _is_kind(task)]
    return [*always, *(task for task in more if each_class or not is_of_class(task))]


def _is_kind(task: str) -> bool:
    """Whether a row has the name of a metric instead of a column's: it was skipped."""
    return task_of(task) is None and task in TASKS


def _title(task: str) -> str:
    return f"{short_row_title(task)} (%)" if is_percent(task) else short_row_title(task)


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
        "Best measured value bold, second underlined, where above the clock by more than 2 std."
    ) + (f" {DAGGER}: {NOT_ABOVE}." if _has_marks(rows) else "")


def _has_marks(rows: Sequence[Row]) -> bool:
    return any(row.is_not_above_clock(task) for row in rows for task in row.values)


def _note(score: Score) -> str:
    kind = "note" if score.status == "ok" else score.status
    where = "" if score.action == MEAN else f"{score.action}: "
    return one_line(f"{kind}: {score.run}: {where}{score.task}: {score.note}")


def _number(value: float) -> str:
    return "" if np.isnan(value) else repr(value)
