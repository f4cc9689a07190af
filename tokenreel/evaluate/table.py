"""The tables of phase 3: one row a number, and the papers' layout."""

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from tokenreel.cache.files import make_directory, write_whole

__all__ = ["MEAN", "Score", "format_summary", "write_tables"]

MEAN = "mean"  # the "action" of a row that averages over actions
COLUMNS = ("classification", "progression", "tau", "ap@5", "ap@10", "ap@15")


@dataclass(frozen=True)
class Score:
    """One number and all that says what it is.  A row of results.csv.

    Attributes:
        run, recipe, model, seed, dataset: what was evaluated.
        task: classification, progression, tau or ap@K.
        action: the action, or "mean" over them.
        split, fraction: validation split; share of labelled training clips.
        value: 0 to 1 (progression can be negative), NaN where it is not defined: see note.
        protocol, stride, distance: how it was computed.
        num_clips, num_frames, num_dropped, num_nan, num_classes: validation clips and frames used,
            frames without a label, pairs or clips that gave NaN, phases seen in training.
        store_fingerprint, weights, augmentation, commit: where the embeddings come from.
        note: why there is no value.
    """

    run: str
    recipe: str
    model: str
    seed: str
    dataset: str
    task: str
    action: str
    split: str
    fraction: float
    value: float
    protocol: str
    stride: int
    distance: str
    num_clips: int
    num_frames: int
    num_dropped: int
    num_nan: int
    num_classes: int
    store_fingerprint: str
    weights: str
    augmentation: str
    commit: str
    note: str = ""


def write_tables(scores: Sequence[Score], out: Path) -> None:
    """Write results.csv and summary.csv, each whole."""
    make_directory(out)
    columns = [field.name for field in fields(Score)]
    rows: list[list[object]] = [list(asdict(score).values()) for score in scores]
    write_whole(out / "results.csv", _csv(columns, rows))
    header = ["recipe", "dataset", "weights", "fraction", "seeds"]
    for task in COLUMNS:
        header += [f"{task} mean", f"{task} 2std ddof=0", f"{task} 2std ddof=1"]
    rows = []
    for key, by_task in _by_recipe(scores).items():
        seeds = max((len(values) for values in by_task.values()), default=0)
        row: list[object] = [*key, seeds]
        for task in COLUMNS:
            row += _mean_and_spread(by_task.get(task, []))
        rows.append(row)
    write_whole(out / "summary.csv", _csv(header, rows))


def format_summary(scores: Sequence[Score]) -> str:
    """The papers' table as text: mean +- 2 std (ddof=0) over seeds, averaged over actions."""
    header = ["recipe", "weights", "seeds", *COLUMNS]
    lines = [header]
    for (recipe, _, weights, fraction), by_task in _by_recipe(scores).items():
        name = recipe if fraction == 1 else f"{recipe} ({fraction:.0%})"
        seeds = max((len(values) for values in by_task.values()), default=0)
        cells = [_cell(by_task.get(task, [])) for task in COLUMNS]
        lines.append([name, weights, str(seeds), *cells])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip()
            for line in lines]  # fmt: skip
    reasons = sorted({f"{s.run}: {s.task}: {s.note}" for s in scores if s.note})
    return "\n".join([*text, *(f"skipped: {reason}" for reason in reasons)])


def _by_recipe(
    scores: Sequence[Score],
) -> dict[tuple[str, str, str, float], dict[str, list[float]]]:
    found: dict[tuple[str, str, str, float], dict[str, list[float]]] = {}
    fractions = sorted({score.fraction for score in scores}, reverse=True)
    for score in scores:
        if score.action != MEAN:
            continue
        whole = score.task in ("tau", "ap@5", "ap@10", "ap@15")
        for fraction in fractions[:1] if whole else [score.fraction]:
            key = (score.recipe or score.run, score.dataset, score.weights, fraction)
            found.setdefault(key, {}).setdefault(score.task, []).append(score.value)
    return found


def _mean_and_spread(values: Sequence[float]) -> list[object]:
    if not values:
        return ["", "", ""]
    sample = 2 * float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
    return [float(np.mean(values)), 2 * float(np.std(values)), sample]


def _cell(values: Sequence[float]) -> str:
    if not values or np.isnan(values).all():
        return "-"
    return f"{np.mean(values):.4f} +- {2 * np.std(values):.4f}"


def _csv(header: Sequence[str], rows: Sequence[Sequence[object]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([[repr(c) if isinstance(c, float) else c for c in row] for row in rows])
    return text.getvalue().encode()
