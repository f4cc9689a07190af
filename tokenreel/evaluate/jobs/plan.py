"""Plan of an evaluation: independent jobs, and rows that need no work.

A job is one metric of one action of one file, at one share of labels.  It knows the keys of its
rows, so that existing rows of results.csv are reused.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tokenreel.evaluate.data.clips import ScreenedFile, file_sha256, load_screened
from tokenreel.evaluate.data.clock import CLOCK
from tokenreel.evaluate.data.results import MEAN, Score
from tokenreel.evaluate.protocol import EvaluateConfig, Settings, settings_of
from tokenreel.evaluate.tasks.task import RowPlan, Task, load_task

METRICS_VERSION = 2  # raised when a change of the code changes a number

GROUP = "group "  # the "action" of clips without labels that show the same video


@dataclass(frozen=True)
class Job:
    """One independent piece of work.

    Attributes:
        path, sha256: the embedding file.
        kind: the metric as in Settings.tasks.
        settings: of the protocol.
        blank: the row that its rows are copies of.
        rows: that it gives.
        is_group: whether it is of clips without labels that show the same video.
    """

    path: Path
    sha256: str
    kind: str
    settings: Settings
    blank: Score
    rows: RowPlan
    is_group: bool = False

    @property
    def keys(self) -> list[tuple[object, ...]]:
        """Keys of its rows, unique within results.csv."""
        return [row_key(replace(self.blank, task=task)) for task in self.rows.names]


@dataclass(frozen=True, eq=False)
class FilePlan:
    """The jobs of one file, the rows that need no work, what is wrong with its clips.

    Attributes:
        jobs: in the order of the rows.
        skipped: rows of tasks that the file has no data for.
        problems: one sentence each.
        num_bytes: of its embeddings.
        notes: what was read in another way than it was written, one sentence each.
        sha256: of the file.
        is_clock: whether it is the control that knows only the position of a frame.
        clock: number of the clock of its clips.
    """

    jobs: tuple[Job, ...]
    skipped: tuple[Score, ...]
    problems: tuple[str, ...]
    num_bytes: int
    notes: tuple[str, ...] = ()
    sha256: str = ""
    is_clock: bool = False
    clock: int | None = None


def row_key(score: Score) -> tuple[object, ...]:
    """Unique key of a row, its settings and its data included."""
    return (
        score.run,
        score.embeddings_sha256,
        score.settings,
        score.protocol,
        score.task,
        score.action,
        score.split,
        score.fraction,
    )


def plan_file(path: Path, config: EvaluateConfig) -> FilePlan:
    """The jobs of a file under each requested protocol.

    Raises:
        EmbeddingFileError: the file cannot be read, or its recipe has settings that do not exist.
        UsageError: a metric that cannot be loaded.
    """
    sha256 = file_sha256(path)
    screened = load_screened(path, sha256)
    jobs: list[Job] = []
    skipped: list[Score] = []
    for settings in settings_of(screened.file, config):
        if settings.split != "val" and any(
            load_task(name).scope == "action" for name in settings.tasks
        ):
            raise ValueError(
                f"split={settings.split} is of metrics of the tags of clips: leave it out, or set "
                "protocol=tags"
            )
        blank = _blank(screened, sha256, settings)
        file_jobs = _Jobs(screened, path, sha256, settings, blank)
        if any((clip.labels >= 0).any() for clip in screened.file.clips):
            jobs += file_jobs.of_actions()
        else:
            of_groups, no_data = file_jobs.without_labels()
            jobs += of_groups
            skipped += no_data
        jobs += file_jobs.of_file()
    num_bytes = sum(clip.embeddings.nbytes for clip in screened.file.clips)
    notes = tuple(f"{path}: {note}" for note in screened.file.notes)
    return FilePlan(
        tuple(jobs),
        tuple(skipped),
        _problems(screened),
        num_bytes,
        notes,
        sha256,
        is_clock=screened.file.provenance.get("model") == CLOCK,
    )


@dataclass(frozen=True, eq=False)
class _Jobs:
    """The jobs of a file under one protocol."""

    screened: ScreenedFile
    path: Path
    sha256: str
    settings: Settings
    blank: Score

    def tasks(self, scope: str) -> list[Task]:
        """The metrics of the protocol with that scope."""
        return [task for task in map(load_task, self.settings.tasks) if task.scope == scope]

    def job(self, task: Task, blank: Score, rows: RowPlan, *, is_group: bool = False) -> Job:
        """A job of a metric."""
        blank = replace(blank, fraction=rows.fraction)
        return Job(self.path, self.sha256, task.name, self.settings, blank, rows, is_group)

    def of_actions(self) -> list[Job]:
        """Of each action that has a label, or a clip that was left out."""
        labelled = [clip for clip in self.screened.file.clips if (clip.labels >= 0).any()]
        left_out = self.screened.left_out
        jobs = []
        for action in sorted({clip.action for clip in labelled} | set(left_out)):
            own = [clip for clip in labelled if clip.action == action]
            num_left_out = len(left_out.get(action, ()))
            here = replace(self.blank, action=action, num_left_out=num_left_out)
            for task in self.tasks("action"):
                jobs += [self.job(task, here, rows) for rows in task.rows(self.settings, own)]
        return jobs

    def of_file(self) -> list[Job]:
        """Of metrics that are computed once a file."""
        file = self.screened.file
        num_left_out = sum(map(len, self.screened.left_out.values()))
        here = replace(self.blank, num_left_out=num_left_out)
        return [
            self.job(task, here, rows)
            for task in self.tasks("file")
            for rows in task.rows(self.settings, file)
        ]

    def without_labels(self) -> tuple[list[Job], list[Score]]:
        """Metrics that need no labels, within groups; all else is skipped with the reason."""
        reason = "no phase labels in the embedding file"
        if self.screened.left_out:
            reason = "no sound clip with phase labels in the embedding file"
        clips = self.screened.file.clips
        sizes = Counter(clip.group for clip in clips if clip.group)
        groups = [group for group in sorted(sizes) if sizes[group] > 1]
        jobs: list[Job] = []
        skipped: list[Score] = []
        no_group: list[Score] = []
        for task in self.tasks("action"):
            if task.unlabelled is None:
                skipped.append(_skipped(self.blank, task.name, reason))
                continue
            for group in groups:
                row = replace(self.blank, action=GROUP + group, split="all")
                plans = task.rows(self.settings, [])
                jobs += [self.job(task, row, rows, is_group=True) for rows in plans]
            if not groups:
                why = f"{reason}, and no group of clips of the same video"
                row = replace(self.blank, split="all")
                no_group += [
                    _skipped(row, name, why)
                    for rows in task.rows(self.settings, [])
                    for name in rows.names
                ]
        return jobs, skipped + no_group


def _skipped(blank: Score, task: str, note: str) -> Score:
    return replace(blank, task=task, note=note, status="skipped")


def _problems(screened: ScreenedFile) -> tuple[str, ...]:
    sentences = []
    for action, reasons in screened.left_out.items():
        where = f"{screened.file.run_name}: {action + ': ' if action else ''}"
        more = f", and {len(reasons) - 5} more" if len(reasons) > 5 else ""
        named = "; ".join(reasons[:5])
        sentences.append(f"{where}{len(reasons)} clip(s) left out: {named}{more}")
    return tuple(sentences)


def _blank(screened: ScreenedFile, sha256: str, settings: Settings) -> Score:
    provenance: Mapping[str, Any] = screened.file.provenance

    def word(name: str) -> str:
        return str(provenance.get(name, ""))

    versions = {task.name: task.version for task in map(load_task, settings.tasks)}
    raised = "".join(f" {name} {number}" for name, number in versions.items() if number != 1)
    words = f"{METRICS_VERSION} {settings.words()}{raised}"
    digest = hashlib.sha256(words.encode()).hexdigest()
    return Score(
        run=screened.file.run_name,
        recipe=word("recipe"),
        model=word("model"),
        seed=word("seed"),
        dataset=word("dataset"),
        task="",
        action=MEAN,
        split=settings.split,
        fraction=1.0,
        value=float("nan"),
        protocol=settings.protocol,
        store_fingerprint=word("store_fingerprint"),
        weights=word("weights"),
        augmentation=word("augmentation"),
        commit=word("commit"),
        embeddings_sha256=sha256,
        settings=digest[:12],
    )
