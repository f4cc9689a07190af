"""Significance of a gain: two sets of runs on the same clips, paired bootstrap over clips.

A resample draws the clips of each action with replacement, the same ones for A and B, and computes
every metric of both from what each clip contributes; the mean is over actions, and over the runs
(seeds) of a side.  Classifier, regression and the frames that are searched stay as they are: only
which clips are judged varies.  A pair of a clip with its own copy is no pair of tau.  Of files of
scores of tags all clips of the split are drawn together.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.embeddings import EmbeddingFile
from tokenreel.cache.errors import UsageError
from tokenreel.cache.progress import Progress
from tokenreel.evaluate.data.clips import ActionData, file_sha256, load_action, load_screened
from tokenreel.evaluate.protocol import EvaluateConfig, Settings, settings_of
from tokenreel.evaluate.tasks.paired import pairs_of
from tokenreel.evaluate.tasks.task import Metric, load_task

log = logging.getLogger(__name__)

RESAMPLES = 2000
WHOLE = "all clips"  # in place of an action
FEWEST_CLIPS = 8  # a bootstrap over fewer says nothing

Ints = NDArray[np.int64]

Metrics = dict[str, Metric | str]
"""Task -> its metric, or why it has none."""


@dataclass(frozen=True)
class Difference:
    """A metric of A and of B.

    Attributes:
        task: the metric.
        a, b: values on all clips.
        gain: b - a.
        low, high: 95 % interval of the gain.
        p_value: twice the share of resamples on the rarer side of 0, one more counted in each, so
            that it is never 0.
        num_clips, num_actions: that were resampled.
        num_resamples: that gave a value.
        note: actions that were left out, and why.
    """

    task: str
    a: float
    b: float
    gain: float
    low: float
    high: float
    p_value: float
    num_clips: int
    num_actions: int
    num_resamples: int
    note: str = ""

    @property
    def is_decided(self) -> bool:
        """Whether there are enough clips, and an interval of some width, to judge by."""
        return self.num_clips >= FEWEST_CLIPS and self.high > self.low

    @property
    def is_real(self) -> bool:
        """Whether the interval excludes 0, and there is enough to judge by."""
        return self.is_decided and (self.low > 0 or self.high < 0)

    @property
    def verdict(self) -> str:
        """In words: real, within chance, or why neither can be said."""
        if self.num_clips < FEWEST_CLIPS:
            return f"no verdict: {self.num_clips} clips, {FEWEST_CLIPS} are needed"
        if np.isnan(self.low):
            return "no verdict: no value"
        if not self.is_decided:
            return "no verdict: every draw gives the same"
        return "real" if self.is_real else "within chance"


def compare_files(
    first: Sequence[Path],
    second: Sequence[Path],
    *,
    config: EvaluateConfig,
    resamples: int = RESAMPLES,
    seed: int = 0,
    progress: bool = True,
) -> list[Difference]:
    """Every metric of two sets of runs.

    Args:
        first: embedding files of A, the seeds of one recipe.
        second: those of B.
        config: settings; the protocol is the first that it or the recipe names.
        resamples: draws of clips.
        seed: of the draws.
        progress: show a bar.

    Raises:
        UsageError: the files hold no validation clips with labels in common, a side holds runs of
            several recipes, or no metric can be resampled.
        EmbeddingFileError: a file cannot be read.
    """
    sides = [_load(path, config) for path in [*first, *second]]
    for name, of_side in (("A", sides[: len(first)]), ("B", sides[len(first) :])):
        _require_one_recipe(name, of_side)
    clips = _common_clips(sides)
    bar = Progress(sides, desc="compare", unit="run", enabled=progress)
    found = [
        {
            action: _for_order(
                clips[action],
                side.clips[action],
                resampled_metrics(_data_of(side, action), side.settings),
            )
            for action in clips
        }
        for side in bar
    ]
    tasks = dict.fromkeys(task for run in found for metrics in run.values() for task in metrics)
    if not tasks:
        wanted = ", ".join(sides[0].settings.tasks)
        raise UsageError(f"none of the metrics {wanted} can be resampled: try tasks=tau,retrieval")
    return [
        _compare_task(task, found, clips, len(first), resamples=resamples, seed=seed)
        for task in tasks
    ]


def _for_order(wanted: Sequence[str], own: Sequence[str], metrics: Metrics) -> Metrics:
    """The metrics of an action as functions of draws in the order of another file's clips.

    Args:
        wanted: ids of the clips in that order.
        own: of the same clips, in the order of the file that the metrics are of.
        metrics: of the action.
    """
    if list(own) == list(wanted):
        return metrics
    place = {clip_id: number for number, clip_id in enumerate(wanted)}
    order = np.array([place[clip_id] for clip_id in own])

    def reordered(metric: Metric) -> Metric:
        return lambda drawn: metric(drawn[order])

    return {
        task: metric if isinstance(metric, str) else reordered(metric)
        for task, metric in metrics.items()
    }


def _compare_task(
    task: str,
    found: Sequence[Mapping[str, Metrics]],
    clips: Mapping[str, Sequence[str]],
    num_first: int,
    *,
    resamples: int,
    seed: int,
) -> Difference:
    """One metric over the actions where every run has it; the others are named."""
    reasons: dict[str, str] = {}
    metrics: dict[str, list[Metric]] = {action: [] for action in clips}
    for run in found:
        for action, of_action in run.items():
            metric = of_action[task]
            if isinstance(metric, str):
                reasons[action] = metric
            else:
                metrics[action].append(metric)
    actions = [action for action in clips if action not in reasons]
    return paired_bootstrap(
        task,
        [metrics[action][:num_first] for action in actions],
        [metrics[action][num_first:] for action in actions],
        [len(clips[action]) for action in actions],
        resamples=resamples,
        seed=seed,
        note="; ".join(f"without {action}: {reason}" for action, reason in reasons.items()),
    )


def paired_bootstrap(
    task: str,
    first: Sequence[Sequence[Metric]],
    second: Sequence[Sequence[Metric]],
    sizes: Sequence[int],
    *,
    resamples: int,
    seed: int,
    note: str = "",
) -> Difference:
    """Resample the clips of every action for both sides at once.

    Args:
        task: name of the metric.
        first: for each action, the metric of each run of A.
        second: the same of B.
        sizes: clips of each action.
        resamples: draws.
        seed: of the draws.
        note: for the result.
    """
    rng = np.random.default_rng(seed)
    whole = [np.ones(size, np.int64) for size in sizes]
    a, b = _mean(first, whole), _mean(second, whole)
    gains = np.empty(resamples)
    for i in range(resamples):
        drawn = [np.bincount(rng.integers(0, size, size), minlength=size) for size in sizes]
        gains[i] = _mean(second, drawn) - _mean(first, drawn)
    gains = gains[~np.isnan(gains)]
    low, high = np.quantile(gains, [0.025, 0.975]) if len(gains) else (np.nan, np.nan)
    fewer = min(np.count_nonzero(gains <= 0), np.count_nonzero(gains >= 0))
    p_value = min(1.0, 2 * (fewer + 1) / (len(gains) + 1)) if len(gains) else float("nan")
    return Difference(
        task,
        a,
        b,
        b - a,
        float(low),
        float(high),
        p_value,
        sum(sizes),
        len(sizes),
        len(gains),
        note,
    )


def _mean(metrics: Sequence[Sequence[Metric]], drawn: Sequence[Ints]) -> float:
    """Over actions, then over runs, as in the tables."""
    values = [metric(some) for runs, some in zip(metrics, drawn, strict=True) for metric in runs]
    return float(np.mean(values)) if values else float("nan")


@dataclass(frozen=True, eq=False)
class _Side:
    """A file: where it is, its settings, its actions with their validation clips, their labels."""

    path: Path
    sha256: str
    recipe: str
    settings: Settings
    clips: dict[str, list[str]]
    labels: dict[str, Ints]


def _load(path: Path, config: EvaluateConfig) -> _Side:
    sha256 = file_sha256(path)
    file = load_screened(path, sha256).file
    for note in file.notes:
        log.warning("%s: %s", path, note)
    settings = settings_of(file, config)[0]
    clips: dict[str, list[str]] = {}
    labels: dict[str, Ints] = {}
    pairs = pairs_of(file)
    for clip in file.clips:
        if file.is_of_tags or pairs is not None:
            if clip.split == settings.split:
                clips.setdefault(WHOLE, []).append(clip.clip_id)
                numbers = 0 if pairs is None else -len(pairs.prompts)  # of its texts
                labels[clip.clip_id] = clip.targets[numbers:]
        elif clip.split == "val" and (clip.labels >= 0).any():
            clips.setdefault(clip.action, []).append(clip.clip_id)
            labels[clip.clip_id] = clip.labels
    recipe = str(file.provenance.get("recipe", "") or file.run_name)
    return _Side(path, sha256, recipe, settings, clips, labels)


def _data_of(side: _Side, action: str) -> ActionData | EmbeddingFile:
    """What the metrics of a side are computed from: an action, or the whole file."""
    if action == WHOLE:
        return load_screened(side.path, side.sha256).file
    return load_action(side.path, side.sha256, action)


def _require_one_recipe(name: str, sides: Sequence[_Side]) -> None:
    """The runs of a side are averaged, so that they must be seeds of one recipe."""
    recipes = list(dict.fromkeys(side.recipe for side in sides))
    if len(recipes) > 1:
        raise UsageError(
            f"{name} holds runs of {len(recipes)} recipes ({', '.join(recipes[:6])}), which would "
            "be averaged: choose one with recipe=NAME"
        )


def _common_clips(sides: Sequence[_Side]) -> dict[str, list[str]]:
    clips = sides[0].clips
    for side in sides[1:]:
        ours, theirs = (
            {(action, name) for action, names in found.items() for name in names}
            for found in (clips, side.clips)
        )
        if ours != theirs:
            action, name = min(ours ^ theirs)
            raise UsageError(
                f"{sides[0].path} and {side.path} hold different validation clips "
                f"({len(ours)} and {len(theirs)}), such as {name}"
                + (f" of {action}" if action else "")
                + ": a paired test needs the same ones"
            )
        for clip_id, labels in side.labels.items():
            before = sides[0].labels[clip_id]
            if len(labels) == len(before) and (labels != before).any():
                raise UsageError(
                    f"{sides[0].path} and {side.path} have different labels of {clip_id} "
                    f"({int((labels != before).sum())} of {len(labels)} frames): embed the older "
                    "run again, so that both are measured by the same labels"
                )
    if not clips:
        raise UsageError(
            f"{sides[0].path} holds no labelled clips of the split {sides[0].settings.split}"
        )
    for side in sides[1:]:
        if side.settings != sides[0].settings:
            raise UsageError(
                f"{sides[0].path} and {side.path} have different evaluation settings: give "
                "them, such as tau_stride=2 retrieval_stride=2"
            )
    return clips


def resampled_metrics(data: ActionData | EmbeddingFile, settings: Settings) -> Metrics:
    """The metrics that the settings name and that can be resampled.

    Args:
        data: of an action, or a file of scores of tags.
        settings: metrics and how they are measured.
    """
    found: Metrics = {}
    scope = "file" if isinstance(data, EmbeddingFile) else "action"
    for task in map(load_task, settings.tasks):
        if task.resampled is None or task.scope != scope:
            continue
        why, _ = task.missing(data)
        try:
            if not why:
                found |= task.resampled(data, settings)
        except ValueError as error:
            why = str(error)
        if why:
            plans = task.rows(settings, data if scope == "file" else [])
            rows = [name for plan in plans for name in plan.names]
            found |= dict.fromkeys(rows, why)
    return found
