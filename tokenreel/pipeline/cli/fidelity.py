"""`tokenreel fidelity STORE|DATASET`: what each codec costs, and which to take."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tokenreel.pipeline.text import format_table, say

if TYPE_CHECKING:
    from tokenreel.pipeline.tools.fidelity import FidelityReport, FidelityRow

__all__ = ["fidelity", "fidelity_table"]


def fidelity(
    name: Annotated[str, typer.Argument(help="path of a store, or name of a data set")],
    words: Annotated[
        list[str] | None, typer.Argument(help="for a data set: as for `extract run`")
    ] = None,
    *,
    root: Annotated[Path | None, typer.Option(help="folder of the videos")] = None,
    clips: Annotated[int, typer.Option(min=1, help="at most so many, spread over splits")] = 54,
    codec: Annotated[list[str] | None, typer.Option(help="only this codec; repeat")] = None,
) -> None:
    """What each codec costs in bytes, errors, probe accuracy, tau and AP@5; and which to take."""
    from tokenreel.pipeline.tools.fidelity import fidelity_of

    report = fidelity_of(name, words or [], root=root, clips=clips, codecs=codec or ())
    say(fidelity_table(report))


def fidelity_table(report: "FidelityReport") -> str:
    """The report for people: the table, what it is of, the recommendation."""
    from tokenreel.pipeline.tools.codec_metrics import TASKS
    from tokenreel.pipeline.tools.fidelity import COMPACT

    tasks = [task for task in TASKS if any(task in row.metrics for row in report.rows)]
    header = [
        "codec",
        "bytes/frame",
        "of fp16",
        "rel error",
        "cos median",
        "cos worst 1%",
        "pooled error",
        *(word for task in tasks for word in (_short(task), "+/-")),
    ]
    rows = [
        [
            row.codec,
            round(row.bytes_per_frame),
            f"{row.share:.4f}",
            f"{row.error.relative:.4f}",
            f"{row.error.cosine_median:.4f}",
            f"{row.error.cosine_worst:.4f}",
            f"{row.error.pooled:.4f}",
            *_metrics(report, row, tasks),
        ]
        for row in report.rows
    ]
    lines = [format_table(header, rows), ""]
    lines.append(
        f"{report.num_clips} clips, {report.num_frames} frames of {report.source}; weights "
        f"{report.weights}"
    )
    lines += [f"note: {note}" for note in report.notes]
    if report.weights.startswith("random:"):
        lines.append("note: these weights are random: the numbers tell codecs apart, no more")
    lines.append(f"recommended: {report.default.codec}, {_cost(report, report.default, tasks)}")
    compact = report.compact
    if compact is None:
        lines.append(f"compact: none of these has at most {COMPACT} of fp16's bytes")
    else:
        lines.append(f"compact: {compact.codec}, {_cost(report, compact, tasks)}")
    return "\n".join(lines)


def _cost(report: "FidelityReport", row: "FidelityRow", tasks: list[str]) -> str:
    changes = [
        f"{_short(task)} {report.change(row, task):+.3f}"
        for task in tasks
        if task in row.metrics and task in report.rows[0].metrics
    ]
    parts = [f"{row.share:.3f} of fp16's bytes", f"pooled error {row.error.pooled:.4f}", *changes]
    return ", ".join(parts)


def _metrics(report: "FidelityReport", row: "FidelityRow", tasks: list[str]) -> list[str]:
    cells = []
    for task in tasks:
        value, change = row.metrics.get(task), report.change(row, task)
        cells += [
            "absent" if value is None else f"{value:.3f}",
            "absent" if math.isnan(change) else f"{change:+.3f}",
        ]
    return cells


def _short(task: str) -> str:
    return "probe" if task == "classification" else task
