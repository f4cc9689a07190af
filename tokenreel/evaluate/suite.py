"""Every metric of every embedding file: per action and averaged, with its counts.

Frames without a label are dropped before any stride.  Where a file has no labels, tau is computed
within groups of clips that show the same video, and everything else is skipped with the reason.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.embeddings import EmbeddedClip, EmbeddingFile, read_embeddings
from tokenreel.cache.errors import EmbeddingFileError
from tokenreel.cache.progress import Progress
from tokenreel.evaluate.config import EvaluateConfig
from tokenreel.evaluate.probe import classify_phases, labelled_prefix
from tokenreel.evaluate.progression import AbsentPhase, progression_score, progression_targets
from tokenreel.evaluate.retrieval import retrieve_frames
from tokenreel.evaluate.table import MEAN, Score, format_summary, write_tables
from tokenreel.evaluate.tau import align_clips

__all__ = ["SuiteReport", "evaluate_files"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class SuiteReport:
    """What `evaluate all` found.

    Attributes:
        scores: the rows of results.csv.
        problems: what was wrong with the data, one sentence each.
        summary: the table for people.
    """

    scores: tuple[Score, ...]
    problems: tuple[str, ...]
    summary: str

    @property
    def exit_status(self) -> int:
        """0, or 3 when there are problems."""
        return 3 if self.problems else 0


@dataclass(frozen=True, eq=False)
class Side:
    """The labelled frames of one split of one action: embeddings and labels by clip."""

    embeddings: list[NDArray[np.float32]]
    labels: list[NDArray[np.int64]]
    num_dropped: int

    @property
    def num_frames(self) -> int:
        return sum(map(len, self.labels))


def evaluate_files(
    paths: Sequence[Path], *, config: EvaluateConfig, out: Path, progress: bool = True
) -> SuiteReport:
    """Evaluate embedding files and write results.csv and summary.csv.

    Args:
        paths: embedding files.
        config: settings; a file's own recipe may change them.
        out: folder of the tables.
        progress: show a bar.
    """
    scores: list[Score] = []
    problems: list[str] = []
    for path in Progress(paths, desc="evaluate", unit="run", enabled=progress):
        try:
            file = read_embeddings(path)
        except EmbeddingFileError as error:
            problems.append(str(error))
            continue
        own = EvaluateConfig.model_validate(
            config.model_dump() | dict(file.provenance.get("evaluate", {}))
        )
        scores += _evaluate_file(file, own, problems)
    write_tables(scores, out)
    return SuiteReport(tuple(scores), tuple(problems), format_summary(scores))


def _evaluate_file(file: EmbeddingFile, config: EvaluateConfig, problems: list[str]) -> list[Score]:
    blank = _blank_score(file, config)
    labelled = [clip for clip in file.clips if (clip.labels >= 0).any()]
    if not labelled:
        return _without_labels(list(file.clips), blank, config)
    scores: list[Score] = []
    for action in sorted({clip.action for clip in labelled}):
        own = [clip for clip in labelled if clip.action == action]
        scores += _evaluate_action(own, replace(blank, action=action), config, problems)
    return scores + _mean_over_actions(scores)


def _blank_score(file: EmbeddingFile, config: EvaluateConfig) -> Score:
    about = {key: str(value) for key, value in file.provenance.items()}
    return Score(
        run=about.get("run", file.path.parent.name),
        recipe=about.get("recipe", ""),
        model=about.get("model", ""),
        seed=about.get("seed", ""),
        dataset=about.get("dataset", ""),
        task="",
        action=MEAN,
        split="val",
        fraction=1.0,
        value=float("nan"),
        protocol=config.protocol,
        stride=1,
        distance="sqeuclidean",
        num_clips=0,
        num_frames=0,
        num_dropped=0,
        num_nan=0,
        num_classes=0,
        store_fingerprint=about.get("store_fingerprint", ""),
        weights=about.get("weights", ""),
        augmentation=about.get("augmentation", ""),
        commit=about.get("commit", ""),
    )


def _evaluate_action(
    clips: list[EmbeddedClip], blank: Score, config: EvaluateConfig, problems: list[str]
) -> list[Score]:
    train, val = _side(clips, "train"), _side(clips, "val")
    blank = replace(
        blank, num_clips=len(val.labels), num_frames=val.num_frames, num_dropped=val.num_dropped
    )
    phases = max(int(labels.max()) for labels in [*train.labels, *val.labels]) + 1
    num_phases = max(phases, *(len(clip.phases) for clip in clips))
    scores: list[Score] = []

    def add(task: str, compute: Callable[[], list[Score]]) -> None:
        reason = _missing(task, train, val)
        if reason:
            scores.append(replace(blank, task=task, note=reason))
            return
        try:
            scores.extend(compute())
        except (AbsentPhase, ValueError) as error:
            problems.append(f"{blank.run}: {blank.action}: {task}: {error}")
            scores.append(replace(blank, task=task, note=str(error)))

    for fraction in config.fractions:
        here = replace(blank, fraction=fraction)
        add("classification", lambda here=here: _classification(train, val, here))  # type: ignore[misc]
        add("progression", lambda here=here: _progression(train, val, here, config, num_phases))  # type: ignore[misc]
    add("tau", lambda: [_tau(val.embeddings, blank, config)])
    add("retrieval", lambda: _retrieval(val, blank, config))
    return scores


def _missing(task: str, train: Side, val: Side) -> str:
    """Why a task cannot be computed, "" when it can."""
    if task in ("classification", "progression") and not train.labels:
        return "no labelled clips of the split train"
    wanted = 1 if task in ("classification", "progression") else 2
    if len(val.labels) < wanted:
        return f"{len(val.labels)} labelled clip(s) of the split val, it needs {wanted}"
    return ""


def _side(clips: list[EmbeddedClip], split: str) -> Side:
    chosen = [clip for clip in clips if clip.split == split]
    kept = [clip.labels >= 0 for clip in chosen]
    return Side(
        [clip.embeddings[keep] for clip, keep in zip(chosen, kept, strict=True)],
        [clip.labels[keep].astype(np.int64) for clip, keep in zip(chosen, kept, strict=True)],
        int(sum((~keep).sum() for keep in kept)),
    )


def _classification(train: Side, val: Side, blank: Score) -> list[Score]:
    count = labelled_prefix(len(train.labels), blank.fraction)
    found = classify_phases(
        np.concatenate(train.embeddings[:count]),
        np.concatenate(train.labels[:count]),
        np.concatenate(val.embeddings),
        np.concatenate(val.labels),
    )
    return [
        replace(blank, task="classification", value=found.accuracy, num_classes=found.num_classes)
    ]


def _progression(
    train: Side, val: Side, blank: Score, config: EvaluateConfig, num_phases: int
) -> list[Score]:
    if num_phases < 2:
        raise ValueError("one phase has no boundary")
    count = labelled_prefix(len(train.labels), blank.fraction)

    def targets(labels: list[NDArray[np.int64]]) -> list[NDArray[np.float64]]:
        return [progression_targets(one, num_phases, config.absent_phase) for one in labels]

    value = progression_score(
        np.concatenate(train.embeddings[:count]),
        targets(train.labels[:count]),
        np.concatenate(val.embeddings),
        targets(val.labels),
    )
    return [replace(blank, task="progression", value=value, num_classes=num_phases)]


def _tau(embeddings: list[NDArray[np.float32]], blank: Score, config: EvaluateConfig) -> Score:
    found = align_clips([one[:: config.tau_stride] for one in embeddings])
    return replace(
        blank,
        task="tau",
        value=found.tau,
        stride=config.tau_stride,
        num_nan=found.num_nan_pairs,
        note="" if not np.isnan(found.tau) else "every pair of clips gives NaN",
    )


def _retrieval(val: Side, blank: Score, config: EvaluateConfig) -> list[Score]:
    stride = config.retrieval_stride
    found = retrieve_frames(
        [one[::stride] for one in val.embeddings],
        [one[::stride] for one in val.labels],
        config.ks,
    )
    return [
        replace(blank, task=f"ap@{k}", value=value, stride=stride, num_nan=found.num_nan_clips)
        for k, value in found.precision.items()
    ]


def _without_labels(clips: list[EmbeddedClip], blank: Score, config: EvaluateConfig) -> list[Score]:
    reason = "no phase labels in the embedding file"
    scores = [
        replace(blank, task=task, note=reason)
        for task in ("classification", "progression", "retrieval")
    ]
    groups = sorted({clip.group for clip in clips if clip.group})
    own = [[clip for clip in clips if clip.group == group] for group in groups]
    pairs = [(group, some) for group, some in zip(groups, own, strict=True) if len(some) > 1]
    if not pairs:
        why = f"{reason}, and no group of clips of the same video"
        return [*scores, replace(blank, task="tau", split="all", note=why)]
    found = []
    for group, some in pairs:
        here = replace(
            blank,
            action=f"group {group}",
            split="all",
            num_clips=len(some),
            num_frames=sum(clip.num_frames for clip in some),
        )
        found.append(_tau([clip.embeddings for clip in some], here, config))
    return [*scores, *found, *_mean_over_actions(found)]


def _mean_over_actions(scores: list[Score]) -> list[Score]:
    """One row a task and fraction: the unweighted mean over actions, NaN and skipped ones out."""
    means = []
    for task, fraction in dict.fromkeys((score.task, score.fraction) for score in scores):
        rows = [s for s in scores if (s.task, s.fraction) == (task, fraction)]
        known = [row for row in rows if not np.isnan(row.value)]
        if not known:
            means.append(replace(rows[0], action=MEAN))
            continue
        total = {
            name: sum(getattr(row, name) for row in known)
            for name in ("num_clips", "num_frames", "num_dropped", "num_nan", "num_classes")
        }
        left = len(rows) - len(known)
        note = f"{left} of {len(rows)} actions left out" if left else ""
        value = float(np.mean([row.value for row in known]))
        means.append(replace(known[0], action=MEAN, value=value, note=note, **total))
    return means
