"""Phase labels of features that another program made, from tables beside them.

clips.csv    the column labels: a file NAME.npy of the folder, (T,) whole numbers; -1, NaN: none
labels.csv   file,start_seconds,stop_seconds,phase     phase: a number from 0, or a name
phases.csv   action,phase                              names in the order of their number
"""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tokenreel.cache.canonical import is_whole_number
from tokenreel.cache.codec.base import Array
from tokenreel.cache.csv_tables import Line, read_table
from tokenreel.cache.embeddings import labels_of
from tokenreel.cache.errors import UsageError, limit_behind
from tokenreel.cache.format.clip import leaves_root
from tokenreel.cache.manifest import UNLABELLED
from tokenreel.cache.plugins import nearest

log = logging.getLogger(__name__)

MOST_PHASES = 2**15  # labels of frames are int16


@dataclass(frozen=True)
class LabelTables:
    """Labels of the files of a folder.

    Attributes:
        phases: names of the phases of each action.
        spans: lines of labels.csv by file.
        arrays: lines of clips.csv that name a file of labels, by file.
        folder: of the files.
    """

    folder: Path
    phases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    spans: Mapping[str, Sequence[Line]] = field(default_factory=dict)
    arrays: Mapping[str, Line] = field(default_factory=dict)

    @property
    def label_files(self) -> set[Path]:
        """The files of labels, which are no features."""
        return {self.folder / line.cells["labels"] for line in self.arrays.values()}

    def labels(self, file: str, action: str, times_seconds: Array) -> Array | None:
        """Phases of the frames of a file, int16 (T,); None where no table has any.

        Args:
            file: its name, as in the tables.
            action: of its clip.
            times_seconds: of its frames, (T,).

        Raises:
            UsageError: labels of another number of frames, a phase that is none, spans that
                overlap or hold no frame; the line is named.
        """
        if file in self.arrays and file in self.spans:
            raise UsageError(
                f"{self.arrays[file].where}: {file!r} has labels here and at "
                f"{self.spans[file][0].where}: give one"
            )
        names = self.phases.get(action, ())
        if file in self.arrays:
            return self._from_array(self.arrays[file], len(times_seconds), names)
        if file in self.spans:
            return _from_spans(self.spans[file], times_seconds, names)
        return None

    def _from_array(self, line: Line, num_frames: int, names: Sequence[str]) -> Array:
        path = self.folder / line.cells["labels"]
        try:
            values = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            if limit := limit_behind(error):
                raise limit from error
            raise UsageError(f"{line.where}: labels {path.name}: {error}") from error
        if values.shape != (num_frames,):
            raise UsageError(
                f"{line.where}: labels {path.name} is {values.dtype}{values.shape}, wanted whole "
                f"numbers ({num_frames},): one a frame, -1 for none"
            )
        notes: list[str] = []
        try:
            labels: Array = labels_of(values, np.array([num_frames]), [line.cells["file"]], notes)
        except ValueError as error:
            raise UsageError(f"{line.where}: labels {path.name}: {error}") from error
        for note in notes:
            log.warning("%s: labels %s: %s", line.where, path.name, note)
        most = len(names) or MOST_PHASES
        wrong = (labels < UNLABELLED) | (labels >= most)
        if wrong.any():
            frame = int(np.flatnonzero(wrong)[0])
            raise UsageError(
                f"{line.where}: labels {path.name}: frame {frame} has phase {values[frame]}, "
                f"wanted -1 to {most - 1}"
            )
        return labels


def read_label_tables(folder: Path, arrays: Mapping[str, Line]) -> LabelTables:
    """The tables beside features that are there.

    Args:
        folder: of the features.
        arrays: lines of clips.csv that name a file of labels, by file.

    Raises:
        UsageError: a wrong line, named by file and number.
    """
    for line in arrays.values():
        if leaves_root(line.cells["labels"]):
            raise UsageError(
                f"{line.where}: labels {line.cells['labels']!r} leads out of the folder"
            )
    phases: dict[str, tuple[str, ...]] = {}
    if os.path.lexists(folder / "phases.csv"):  # a link to nowhere is refused, not passed over
        for line in read_table(folder / "phases.csv", required=("action", "phase")):
            action, phase = line.cells["action"], line.cells["phase"]
            if phase in phases.get(action, ()):
                raise UsageError(f"{line.where}: phase {phase!r} of {action!r} is listed twice")
            phases[action] = (*phases.get(action, ()), phase)
    spans: dict[str, list[Line]] = {}
    if os.path.lexists(folder / "labels.csv"):
        columns = ("file", "start_seconds", "stop_seconds", "phase")
        for line in read_table(folder / "labels.csv", required=columns):
            spans.setdefault(line.cells["file"], []).append(line)
    return LabelTables(folder, phases, spans, arrays)


def _from_spans(lines: Sequence[Line], times_seconds: Array, names: Sequence[str]) -> Array:
    labels: Array = np.full(len(times_seconds), UNLABELLED, np.int16)
    taken: list[tuple[float, float, str]] = []
    for line in lines:
        start, stop = line.seconds("start_seconds"), line.seconds("stop_seconds")
        if not start < stop:
            raise UsageError(
                f"{line.where}: reversed, it starts at {start} s and stops at {stop} s"
            )
        for other_start, other_stop, where in taken:
            if start < other_stop and other_start < stop:
                raise UsageError(f"{line.where}: overlaps {where}")
        taken.append((start, stop, line.where))
        inside = (start <= times_seconds) & (times_seconds < stop)
        if not inside.any():
            raise UsageError(
                f"{line.where}: no frame from {start} to {stop} s; the last is at "
                f"{times_seconds[-1]:.3f} s"
            )
        labels[inside] = _phase(line, names)
    return labels


def _phase(line: Line, names: Sequence[str]) -> int:
    text = line.cells["phase"]
    if text in names:
        return list(names).index(text)
    if not any(map(is_whole_number, names)) and is_whole_number(text):  # else a number is a name
        number = int(text)
        if number < (len(names) or MOST_PHASES):
            return number
    known = ", ".join(names) or "numbers from 0, or names listed in phases.csv"
    raise UsageError(f"{line.where}: unknown phase {text!r}{nearest(text, names)} (known: {known})")
