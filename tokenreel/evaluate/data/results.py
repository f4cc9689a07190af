"""Rows of results.csv, one a number, appended as they are computed."""

import csv
import io
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from tokenreel.cache.files import flush, write_all, write_whole
from tokenreel.evaluate.data.clock import CLOCK
from tokenreel.evaluate.escape import for_spreadsheet

MEAN = "mean"  # the "action" of a row that averages over actions
RESULTS = "results.csv"


def names_apart(keys: Iterable[tuple[str, str, str]]) -> dict[tuple[str, str, str], str]:
    """Recipes, each with its data set and weights where there are rows of it of several of them.

    Rows of two data sets, or of random and of trained weights, are never averaged.

    Args:
        keys: recipe, data set and weights of each row.

    Returns:
        The name of each key.

    >>> list(names_apart([("a", "d", "x"), ("a", "d", "y"), ("b", "d", "x")]).values())
    ['a (x)', 'a (y)', 'b']
    """
    own: dict[str, list[tuple[str, str, str]]] = {}
    for key in dict.fromkeys(keys):
        own.setdefault(key[0], []).append(key)
    names = {}
    for recipe, alike in own.items():
        differ = [place for place in (1, 2) if len({key[place] for key in alike}) > 1]
        for key in alike:
            words = ", ".join(key[place] or "unknown" for place in differ)
            names[key] = f"{recipe} ({words})" if words else recipe
    return names


@dataclass(frozen=True)
class Score:
    """One number with its provenance: a row of results.csv, described in docs/results.md.

    Attributes:
        run, recipe, model, seed, dataset: what was evaluated.
        task: classification, classification-unshared, progression, tau, ap@K or few-shot@K.
        action: the action, or "mean" over them.
        split, fraction: validation split; share of labelled training clips.
        value: 0 to 1 (progression and tau can be negative), NaN where it is not defined: see note.
        protocol, stride, distance: how it was computed.
        num_clips, num_frames: validation clips and frames used.
        num_dropped: their frames without a label.
        num_nan: pairs (tau), clips (ap@K) or draws (few-shot) that gave NaN and are left out.
        num_classes: phases that the classifier saw, or that progression knows.
        store_fingerprint, weights, augmentation, commit: where the embeddings come from.
        note: why there is no value, or a remark on it.
        status: "ok", "undefined" (no pair or clip counts), "skipped" (the file lacks what it
            needs) or "problem" (the data is wrong).
        num_train_clips, num_train_frames: what the classifier or regression learned from.
        num_left_out: clips of the action that were left out because their data is wrong.
        num_pairs: ordered pairs of clips (tau), draws (few-shot).
        num_absent: clips that lack a phase (progression).
        classifier, labelled, absent_phase: names of the settings.
        embeddings_sha256: of the embedding file.
        settings: short hash of all settings and of the version of the metrics.
        clock_value: the value of the clock, the control that knows only the position of a frame
            in its clip, or how common each tag is, on the same clips; NaN where there is none.
        threshold: a score above it is a decision; 0 where none is taken.
        num_positives: tags of all clips; of the row of one tag, the clips that have it.
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
    stride: int = 1
    distance: str = ""
    num_clips: int = 0
    num_frames: int = 0
    num_dropped: int = 0
    num_nan: int = 0
    num_classes: int = 0
    store_fingerprint: str = ""
    weights: str = ""
    augmentation: str = ""
    commit: str = ""
    note: str = ""
    status: str = "ok"
    num_train_clips: int = 0
    num_train_frames: int = 0
    num_left_out: int = 0
    num_pairs: int = 0
    num_absent: int = 0
    classifier: str = ""
    labelled: str = ""
    absent_phase: str = ""
    embeddings_sha256: str = ""
    settings: str = ""
    clock_value: float = float("nan")
    threshold: float = 0.0
    num_positives: int = 0

    @property
    def kind_key(self) -> tuple[str, str, str]:
        """Recipe, data set and weights: what the seeds that are averaged have in common."""
        return self.recipe or self.run, self.dataset, self.weights

    @property
    def is_clock(self) -> bool:
        """Whether it is a row of the clock itself."""
        return self.model == CLOCK


_PARSERS: dict[Any, Callable[[str], Any]] = {int: int, float: float, str: str}
_FIELDS = {field.name: _PARSERS[field.type] for field in fields(Score)}
_KNOWN_COLUMNS = tuple(list(_FIELDS)[: len(_FIELDS) - later] for later in (0, 2, 3))
COUNTS = tuple(name for name in _FIELDS if name.startswith("num_"))


def write_rows(scores: Iterable[Score], path: Path, *, spreadsheet: bool = False) -> None:
    """Replace results.csv, whole.

    Args:
        scores: its rows.
        path: of the file.
        spreadsheet: put an apostrophe before text that a spreadsheet would compute; such rows are
            not used again by the next evaluation.
    """
    rows: list[list[object]] = [list(_FIELDS), *map(_cells, scores)]
    write_whole(path, _text(rows, spreadsheet=spreadsheet).encode())


def append_rows(scores: Iterable[Score], path: Path) -> None:
    """Add rows to results.csv in one write, flushed to the disk."""
    data = _text(map(_cells, scores)).encode()
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    try:
        write_all(handle, data)
        flush(handle, path)
    finally:
        os.close(handle)


def read_rows(path: Path) -> list[Score]:
    """The whole rows of results.csv; [] without one, or with one of other columns.

    Rows of earlier versions have no threshold, or no clock_value either.  A row that was torn by a
    kill is left out: what it held is computed again.
    """
    if not path.is_file():
        return []
    text = path.read_bytes().decode(errors="replace")
    found: list[Score] = []
    reader = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1]))
    while True:
        try:
            row = next(reader, None)
            if row is None:
                return found
            if list(row) in _KNOWN_COLUMNS and None not in row.values():
                found.append(Score(**{name: _FIELDS[name](text) for name, text in row.items()}))
        except (ValueError, csv.Error):  # computed again
            continue


def mean_rows(scores: Sequence[Score]) -> list[Score]:
    """One row a protocol, task and fraction of one run: the mean over its actions.

    Unweighted, as published; actions without a value are left out and counted in the note.
    """
    grouped: dict[tuple[str, str, float], list[Score]] = {}
    for score in scores:
        grouped.setdefault((score.protocol, score.task, score.fraction), []).append(score)
    means = []
    for rows in grouped.values():
        known = [row for row in rows if not np.isnan(row.value)]
        counted = {name: sum(getattr(row, name) for row in known or rows) for name in COUNTS}
        values = asdict(known[0] if known else rows[0])
        if known:
            left = len(rows) - len(known)
            values["note"] = f"{left} of {len(rows)} actions left out" if left else ""
            values["value"] = float(np.mean([row.value for row in known]))
            values["clock_value"] = float(np.mean([row.clock_value for row in known]))
        means.append(Score(**{**values, **counted, "action": MEAN}))
    return means


def _cells(score: Score) -> list[object]:
    return list(asdict(score).values())


def _text(rows: Iterable[Sequence[object]], *, spreadsheet: bool = False) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows(map(for_spreadsheet, rows) if spreadsheet else rows)
    return text.getvalue()
