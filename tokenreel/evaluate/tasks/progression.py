"""Phase progression: mean R2 of the time to each phase boundary, regressed from the embeddings."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.embeddings import EmbeddedClip
from tokenreel.evaluate.data.clips import ActionData
from tokenreel.evaluate.data.results import Score
from tokenreel.evaluate.methods.progression import (
    Regressed,
    count_absent,
    fit_progression,
    progression_targets,
)
from tokenreel.evaluate.protocol import Settings
from tokenreel.evaluate.tasks.labelled import (
    choose_labelled,
    learned_row,
    missing_training,
    sums_by_clip,
)
from tokenreel.evaluate.tasks.task import Metric, Request, RowPlan, Task


def _regress(data: ActionData, settings: Settings, chosen: Sequence[int]) -> Regressed:
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


def _rows(settings: Settings, clips: Sequence[EmbeddedClip]) -> list[RowPlan]:
    return [RowPlan(("progression",), fraction) for fraction in settings.fractions]


def _compute(data: ActionData, request: Request) -> list[Score]:
    settings = request.settings
    chosen = choose_labelled(data.train, settings, request.blank.fraction)
    found = _regress(data, settings, chosen)
    used = [*(data.train.labels[i] for i in chosen), *data.val.labels]
    row = replace(
        learned_row(request.blank, data.train, chosen, settings),
        task="progression",
        value=found.score,
        num_classes=data.num_phases,
        absent_phase=settings.absent_phase,
        num_absent=sum(count_absent(phases, data.num_phases) > 0 for phases in used),
    )
    return [row]


def _resampled(data: ActionData, settings: Settings) -> dict[str, Metric]:
    chosen = choose_labelled(data.train, settings, max(settings.fractions))
    predicted = _regress(data, settings, chosen).predicted
    rule = settings.absent_phase
    wanted = np.concatenate(
        [progression_targets(phases, data.num_phases, rule) for phases in data.val.labels]
    )
    rest, frames = sums_by_clip(data, np.square(wanted - predicted))
    total, squares = sums_by_clip(data, wanted)[0], sums_by_clip(data, wanted**2)[0]

    def r2(drawn: NDArray[np.int64]) -> float:
        spread = drawn @ squares - (drawn @ total) ** 2 / (drawn @ frames)
        with np.errstate(divide="ignore", invalid="ignore"):
            value = 1 - (drawn @ rest) / spread
        return float(np.mean(np.where(spread > 1e-12, value, np.nan)))

    return {"progression": r2}


TASK = Task(
    "progression",
    title="Progression R\u00b2",
    short_title="Progress",
    is_percent=False,
    scope="action",
    span="up to 1, can be negative, higher is better",
    description="At most 1, negative where the mean would be better, higher is better: R\u00b2 of "
    "the time to each phase boundary, regressed from the embedding. It rewards "
    "embeddings that change steadily with time, which a position in the clip does by "
    "itself.",
    missing=missing_training,
    rows=_rows,
    compute=_compute,
    resampled=_resampled,
    columns=("progression",),
    by_share=True,
)
