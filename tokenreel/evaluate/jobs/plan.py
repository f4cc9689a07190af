"""Plan of an evaluation: independent jobs, and rows that need no work.

A job is one task of one action of one file, at one share of labels.  It knows the keys of its rows,
so that existing rows of results.csv are reused.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tokenreel.cache.embeddings import EmbeddedClip
from tokenreel.evaluate.jobs.data import ScreenedFile, file_sha256, load_screened, shared_clips
from tokenreel.evaluate.jobs.table import MEAN, Score
from tokenreel.evaluate.protocol import EvaluateConfig, Settings, resolve

METRICS_VERSION = 2  # raised when a change of the code changes a number

GROUP = "group "  # the "action" of clips without labels that show the same video


@dataclass(frozen=True)
class Job:
    """One independent piece of work.

    Attributes:
        path, sha256: the embedding file.
        kind: the task as in Settings.tasks, or "group-tau" for clips without labels.
        settings: of the protocol.
        blank: the row that its rows are copies of.
        tasks: the `task` of each row it gives.
        shots: labelled clips, of few-shot.
    """

    path: Path
    sha256: str
    kind: str
    settings: Settings
    blank: Score
    tasks: tuple[str, ...]
    shots: int = 0

    @property
    def keys(self) -> list[tuple[object, ...]]:
        """Keys of its rows, unique within results.csv."""
        return [row_key(replace(self.blank, task=task)) for task in self.tasks]


@dataclass(frozen=True, eq=False)
class FilePlan:
    """The jobs of one file, the rows that need no work, what is wrong with its clips.

    Attributes:
        jobs: in the order of the rows.
        skipped: rows of tasks that the file has no data for.
        problems: one sentence each.
        num_bytes: of its embeddings.
    """

    jobs: tuple[Job, ...]
    skipped: tuple[Score, ...]
    problems: tuple[str, ...]
    num_bytes: int


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
        EmbeddingFileError: the file cannot be read.
        ValueError: its recipe has settings that do not exist.
    """
    sha256 = file_sha256(path)
    screened = load_screened(path, sha256)
    about = screened.file.provenance
    jobs: list[Job] = []
    skipped: list[Score] = []
    for settings in resolve(config, dict(about.get("evaluate", {}))):
        blank = _blank(screened, sha256, settings)
        if any((clip.labels >= 0).any() for clip in screened.file.clips):
            jobs += _jobs_of_actions(screened, path, sha256, settings, blank)
        else:
            more, rows = _jobs_without_labels(screened, path, sha256, settings, blank)
            jobs += more
            skipped += rows
    num_bytes = sum(clip.embeddings.nbytes for clip in screened.file.clips)
    return FilePlan(tuple(jobs), tuple(skipped), _problems(screened, path), num_bytes)


def _jobs_of_actions(
    screened: ScreenedFile, path: Path, sha256: str, settings: Settings, blank: Score
) -> list[Job]:
    labelled = [clip for clip in screened.file.clips if (clip.labels >= 0).any()]
    jobs = []
    for action in sorted({clip.action for clip in labelled} | set(screened.left_out)):
        own = [clip for clip in labelled if clip.action == action]
        here = replace(blank, action=action, num_left_out=len(screened.left_out.get(action, ())))
        for kind in settings.tasks:
            for fraction, shots, tasks in _rows_of(kind, settings, own):
                row = replace(here, fraction=fraction)
                jobs.append(Job(path, sha256, kind, settings, row, tasks, shots))
    return jobs


def _rows_of(
    kind: str, settings: Settings, clips: list[EmbeddedClip]
) -> list[tuple[float, int, tuple[str, ...]]]:
    """Share of labels, shots and rows of each job of a task."""
    if kind == "classification":
        tasks: tuple[str, ...] = ("classification",)
        if any(shared_clips(clips)):
            tasks += ("classification-unshared",)
        return [(fraction, 0, tasks) for fraction in settings.fractions]
    if kind == "progression":
        return [(fraction, 0, ("progression",)) for fraction in settings.fractions]
    if kind == "few-shot":
        return [(1.0, shots, (f"few-shot@{shots}",)) for shots in settings.shots]
    if kind == "retrieval":
        return [(1.0, 0, tuple(f"ap@{k}" for k in settings.ks))]
    return [(1.0, 0, (kind,))]


def _jobs_without_labels(
    screened: ScreenedFile, path: Path, sha256: str, settings: Settings, blank: Score
) -> tuple[list[Job], list[Score]]:
    """Tau within groups of clips of the same video; all else is skipped with the reason."""
    reason = "no phase labels in the embedding file"
    if screened.left_out:
        reason = "no sound clip with phase labels in the embedding file"
    clips = screened.file.clips
    groups = sorted({clip.group for clip in clips if clip.group})
    sizes = {group: sum(clip.group == group for clip in clips) for group in groups}
    skipped = [
        replace(blank, task=task, note=reason, status="skipped")
        for task in settings.tasks
        if task != "tau"
    ]
    jobs = []
    if "tau" in settings.tasks:
        for group in (group for group in groups if sizes[group] > 1):
            row = replace(blank, action=GROUP + group, split="all")
            jobs.append(Job(path, sha256, "group-tau", settings, row, ("tau",)))
        if not jobs:
            why = f"{reason}, and no group of clips of the same video"
            skipped.append(replace(blank, task="tau", split="all", note=why, status="skipped"))
    return jobs, skipped


def _problems(screened: ScreenedFile, path: Path) -> tuple[str, ...]:
    sentences = []
    for action, reasons in screened.left_out.items():
        where = f"{_run_name(screened, path)}: {action + ': ' if action else ''}"
        more = f", and {len(reasons) - 5} more" if len(reasons) > 5 else ""
        named = "; ".join(reasons[:5])
        sentences.append(f"{where}{len(reasons)} clip(s) left out: {named}{more}")
    return tuple(sentences)


def _run_name(screened: ScreenedFile, path: Path) -> str:
    return str(screened.file.provenance.get("run", path.parent.name or path.stem))


def _blank(screened: ScreenedFile, sha256: str, settings: Settings) -> Score:
    about: Mapping[str, Any] = screened.file.provenance

    def word(name: str) -> str:
        return str(about.get(name, ""))

    digest = hashlib.sha256(f"{METRICS_VERSION} {settings.words()}".encode()).hexdigest()
    return Score(
        run=_run_name(screened, screened.file.path),
        recipe=word("recipe"),
        model=word("model"),
        seed=word("seed"),
        dataset=word("dataset"),
        task="",
        action=MEAN,
        split="val",
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
