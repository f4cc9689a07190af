"""Tasks of phase 3, from the clips of an action to rows; nothing here writes to disk."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tokenreel.evaluate.jobs.data import ActionData, Side, load_action, load_screened
from tokenreel.evaluate.jobs.plan import GROUP, Job
from tokenreel.evaluate.jobs.table import Score
from tokenreel.evaluate.methods.nearest import MEMORY_BYTES
from tokenreel.evaluate.methods.probe import (
    Classified,
    classify_phases,
    draw_episodes,
    labelled_prefix,
    stratified_draw,
)
from tokenreel.evaluate.methods.progression import (
    Regressed,
    count_absent,
    fit_progression,
    progression_targets,
)
from tokenreel.evaluate.methods.retrieval import Retrieved, retrieve_frames
from tokenreel.evaluate.methods.sgd_probe import BATCH_CLIPS, train_layer
from tokenreel.evaluate.methods.tau import Alignment, align_clips
from tokenreel.evaluate.protocol import Settings


@dataclass(frozen=True)
class Limits:
    """Resources of a job: bytes for the blocks of a search, and its threads."""

    memory_bytes: int = MEMORY_BYTES
    threads: int = 1


def run_job(job: Job, limits: Limits) -> list[Score]:
    """The rows of a job; unusable data gives rows with the reason."""
    if job.kind == "group-tau":
        return _group_tau(job, limits)
    data = load_action(job.path, job.sha256, job.blank.action)
    blank = replace(
        job.blank,
        num_clips=len(data.val.labels),
        num_frames=data.val.num_frames,
        num_dropped=data.val.num_dropped,
    )
    why, status = missing_data(job.kind, data)
    if why:
        return [replace(blank, task=task, note=why, status=status) for task in job.tasks]
    try:
        return TASKS[job.kind](job, data, blank, limits)
    except (ValueError, np.linalg.LinAlgError, ModuleNotFoundError) as error:
        note = str(error)
        return [replace(blank, task=task, note=note, status="problem") for task in job.tasks]


def missing_data(kind: str, data: ActionData) -> tuple[str, str]:
    """Why a task cannot be computed, and the status of its rows; ("", "") when it can."""
    learns = kind in ("classification", "progression", "few-shot")
    if learns and not data.train.labels:
        return "no labelled clips of the split train", "skipped"
    if not data.val.labels:
        return "no labelled clips of the split val", "skipped"
    if not learns and len(data.val.labels) < 2:
        return "1 labelled clip(s) of the split val, it needs 2", "problem"
    return "", ""


def choose_labelled(train: Side, settings: Settings, fraction: float) -> list[int]:
    """The training clips whose labels may be used."""
    num_clips = len(train.labels)
    count = labelled_prefix(num_clips, fraction)
    if settings.classifier == "sgd":
        count = min(num_clips, max(BATCH_CLIPS, count))
    if settings.labelled == "prefix":
        return list(range(count))
    return stratified_draw(train.labels, count, seed=settings.seed)


def classify_action(data: ActionData, settings: Settings, chosen: list[int]) -> Classified:
    """Train the classifier of a protocol on the chosen clips, predict all validation frames."""
    clips = [data.train.embeddings[i] for i in chosen]
    labels = [data.train.labels[i] for i in chosen]
    val, wanted = np.concatenate(data.val.embeddings), np.concatenate(data.val.labels)
    if settings.classifier != "sgd":
        return classify_phases(
            np.concatenate(clips),
            np.concatenate(labels),
            val,
            wanted,
            classifier=settings.classifier,
        )
    layer = train_layer(
        clips,
        labels,
        num_classes=data.num_phases,
        learning_rate=settings.learning_rate,
        epochs=settings.epochs,
        seed=settings.seed,
    )
    predicted = layer.predict(val)
    seen = len(np.unique(np.concatenate(labels)))
    return Classified(float((predicted == wanted).mean()), predicted, seen)


def _classification(job: Job, data: ActionData, blank: Score, _: Limits) -> list[Score]:
    chosen = choose_labelled(data.train, job.settings, blank.fraction)
    found = classify_action(data, job.settings, chosen)
    row = replace(
        _learned(blank, data.train, chosen, job.settings),
        task="classification",
        value=found.accuracy,
        num_classes=found.num_classes,
        classifier=job.settings.classifier,
    )
    if "classification-unshared" not in job.tasks:
        return [row]
    lengths = list(map(len, data.val.labels))
    own = ~np.repeat(data.is_shared, lengths)
    right = found.predicted == np.concatenate(data.val.labels)
    num_shared = sum(data.is_shared)
    rest = replace(
        row,
        task="classification-unshared",
        num_clips=row.num_clips - num_shared,
        num_frames=int(own.sum()),
        value=float(right[own].mean()) if own.any() else float("nan"),
        note=f"without {num_shared} clips whose video is among the training clips too",
        status="ok" if own.any() else "undefined",
    )
    return [row, rest]


def regress_action(data: ActionData, settings: Settings, chosen: list[int]) -> Regressed:
    """Fit the boundaries of the chosen clips, predict those of all validation frames."""
    if data.num_phases < 2:
        raise ValueError("one phase has no boundary")
    labels = [data.train.labels[i] for i in chosen]
    rule = settings.absent_phase
    return fit_progression(
        np.concatenate([data.train.embeddings[i] for i in chosen]),
        [progression_targets(phases, data.num_phases, rule) for phases in labels],
        np.concatenate(data.val.embeddings),
        [progression_targets(phases, data.num_phases, rule) for phases in data.val.labels],
    )


def _progression(job: Job, data: ActionData, blank: Score, _: Limits) -> list[Score]:
    chosen = choose_labelled(data.train, job.settings, blank.fraction)
    found = regress_action(data, job.settings, chosen)
    used = [*(data.train.labels[i] for i in chosen), *data.val.labels]
    row = replace(
        _learned(blank, data.train, chosen, job.settings),
        task="progression",
        value=found.score,
        num_classes=data.num_phases,
        absent_phase=job.settings.absent_phase,
        num_absent=sum(count_absent(phases, data.num_phases) > 0 for phases in used),
    )
    return [row]


def _few_shot(job: Job, data: ActionData, blank: Score, _: Limits) -> list[Score]:
    shots = job.shots
    if shots > len(data.train.labels):
        raise ValueError(f"{len(data.train.labels)} training clips, {shots} shots are wanted")
    draws = draw_episodes(len(data.train.labels), shots, job.settings.episodes)
    values, classes = [], 0
    for episode in draws:
        if len(np.unique(np.concatenate([data.train.labels[i] for i in episode]))) < 2:
            values.append(float("nan"))
            continue
        found = classify_action(data, job.settings, episode)
        values.append(found.accuracy)
        classes = max(classes, found.num_classes)
    num_nan = int(np.isnan(values).sum())
    row = replace(
        blank,
        task=job.tasks[0],
        num_nan=num_nan,
        num_pairs=len(values),
        num_classes=classes,
        num_train_clips=shots,
        classifier=job.settings.classifier,
        value=float(np.nanmean(values)) if num_nan < len(values) else float("nan"),
        note="" if num_nan < len(values) else "every draw has one phase only",
        status="ok" if num_nan < len(values) else "undefined",
    )
    return [row]


def align_action(clips: list[NDArray[np.float32]], settings: Settings, limits: Limits) -> Alignment:
    """Tau of every pair of clips at the stride of the protocol."""
    strided = [frames[:: settings.tau_stride] for frames in clips]
    return align_clips(strided, memory_bytes=limits.memory_bytes)


def _tau(job: Job, data: ActionData, blank: Score, limits: Limits) -> list[Score]:
    return [_tau_row(align_action(data.val.embeddings, job.settings, limits), blank, job.settings)]


def _tau_row(found: Alignment, blank: Score, settings: Settings) -> Score:
    is_nan = bool(np.isnan(found.tau))
    return replace(
        blank,
        task="tau",
        value=found.tau,
        stride=settings.tau_stride,
        distance="sqeuclidean",
        num_pairs=found.num_pairs,
        num_nan=found.num_nan_pairs,
        note="every pair of clips gives NaN" if is_nan else "",
        status="undefined" if is_nan else "ok",
    )


def _group_tau(job: Job, limits: Limits) -> list[Score]:
    group = job.blank.action.removeprefix(GROUP)
    file = load_screened(job.path, job.sha256).file
    clips = [clip.embeddings for clip in file.clips if clip.group == group]
    blank = replace(job.blank, num_clips=len(clips), num_frames=sum(map(len, clips)))
    return [_tau_row(align_action(clips, job.settings, limits), blank, job.settings)]


def retrieve_action(data: ActionData, settings: Settings, limits: Limits) -> Retrieved:
    """AP@K at the stride of the protocol."""
    stride = settings.retrieval_stride
    return retrieve_frames(
        [frames[::stride] for frames in data.val.embeddings],
        [phases[::stride] for phases in data.val.labels],
        settings.ks,
        memory_bytes=limits.memory_bytes,
        threads=limits.threads,
    )


def _retrieval(job: Job, data: ActionData, blank: Score, limits: Limits) -> list[Score]:
    found = retrieve_action(data, job.settings, limits)
    row = replace(
        blank,
        stride=job.settings.retrieval_stride,
        distance="sqeuclidean",
        num_nan=found.num_nan_clips,
    )
    return [replace(row, task=f"ap@{k}", value=value) for k, value in found.precision.items()]


def _learned(blank: Score, train: Side, chosen: list[int], settings: Settings) -> Score:
    return replace(
        blank,
        labelled=settings.labelled,
        num_train_clips=len(chosen),
        num_train_frames=sum(len(train.labels[i]) for i in chosen),
    )


TASKS: dict[str, Callable[[Job, ActionData, Score, Limits], list[Score]]] = {
    "classification": _classification,
    "progression": _progression,
    "tau": _tau,
    "retrieval": _retrieval,
    "few-shot": _few_shot,
}
