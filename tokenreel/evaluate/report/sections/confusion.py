"""Confusion matrices of the linear classifier: true phase by row, predicted phase by column."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.embeddings import EmbeddedClip
from tokenreel.evaluate.methods.probe import classify_phases
from tokenreel.evaluate.report.data.gather import Group, RunPage
from tokenreel.evaluate.report.page.html import Html, absent, scroll, tag
from tokenreel.evaluate.report.sections.alignment import run_title

MOST_PHASES = 24  # a larger table cannot be read


@dataclass(frozen=True, eq=False)
class Confusion:
    """Confusion matrix of the validation frames.

    Attributes:
        counts: int64 (phases, phases), true phase by row, predicted by column.
        names: of the phases.
        reason: why there are no counts, "" where there are.
    """

    counts: NDArray[np.int64]
    names: tuple[str, ...]
    reason: str = ""


def confuse(run: RunPage, group: Group) -> Confusion:
    """Fit on the labelled training frames of the group's action, predict its shown clips."""
    shown = group.clips(run)
    action = shown[0].action
    train = [clip for clip in run.file.clips if clip.split == "train" and clip.action == action]
    train = [clip for clip in train if clip.clip_id not in set(group.clip_ids)]
    try:
        x, y = _labelled(train)
        val, wanted = _labelled(shown)
        found = classify_phases(x, y, val, wanted)
    except ValueError as error:
        return Confusion(np.zeros((0, 0), np.int64), (), str(error))
    count = int(max(y.max(), wanted.max())) + 1
    if count > MOST_PHASES:
        reason = f"{count} classes are more than a table can show ({MOST_PHASES})"
        return Confusion(np.zeros((0, 0), np.int64), (), reason)
    counts = np.zeros((count, count), np.int64)
    np.add.at(counts, (wanted, found.predicted), 1)
    phases = shown[0].phases
    names = tuple(phases[i] if i < len(phases) else str(i) for i in range(count))
    return Confusion(counts, names)


def confusion_article(group: Group, runs: Sequence[RunPage]) -> Html:
    """The tables of a group, one a run."""
    tables = [_table(run, confuse(run, group)) for run in runs if group.clips(run)]
    return tag("article", tag("h3", group.title), tag("div", *tables, class_="confusions"))


def _labelled(clips: Sequence[EmbeddedClip]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    if not any((clip.labels >= 0).any() for clip in clips):
        raise ValueError("no labelled clips to learn from or to test on")
    frames = np.concatenate([clip.embeddings[clip.labels >= 0] for clip in clips])
    labels = np.concatenate([clip.labels[clip.labels >= 0] for clip in clips])
    return frames, labels.astype(np.int64)


def _table(run: RunPage, found: Confusion) -> Html:
    if found.reason:
        return tag("figure", tag("figcaption", run_title(run)), absent(found.reason))
    right = int(np.trace(found.counts))
    total = int(found.counts.sum())
    head = tag(
        "tr",
        tag("td", "true \\ predicted", class_="corner"),
        *(tag("th", tag("span", name), scope="col") for name in found.names),
    )
    rows = []
    for i, (name, line) in enumerate(zip(found.names, found.counts.tolist(), strict=True)):
        cells = [_cell(value, sum(line), is_right=i == j) for j, value in enumerate(line)]
        rows.append(tag("tr", tag("th", name, scope="row"), *cells))
    caption = tag("caption", run_title(run), tag("small", f" {right} of {total} frames right"))
    table = tag("table", caption, tag("thead", head), tag("tbody", *rows), class_="confusion")
    return scroll(table, f"Confusion matrix, {run.recipe}")


def _cell(value: int, total: int, *, is_right: bool) -> Html:
    share = value / total if total else 0.0
    words = f"{value} frames, {100 * share:.0f} % of the phase"
    return tag(
        "td",
        f"{100 * share:.0f}" if value else "0",
        title=words,
        class_="hit" if is_right else None,
        style=f"--share:{share:.3f}",
    )
