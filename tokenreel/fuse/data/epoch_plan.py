"""Which clips each step of an epoch takes, and all that decides it."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.format.clip import ClipRecord
from tokenreel.fuse.config.system import DataConfig


@dataclass(frozen=True, eq=False)
class Draw:
    """The units of a clip in a step.

    Attributes:
        units: int64 (V, T), rows of the clip in the store: of V sequences, T positions each.
        valid: bool (V, T), False where a position is padding, at the end of a sequence.
    """

    units: NDArray[np.int64]
    valid: NDArray[np.bool_]


@dataclass(frozen=True)
class Sampling:
    """All that decides which units a step sees: runs of an equal one share a stream.

    Attributes:
        key: what decides it.
        data: seed, sizes and stored views.
        batches: the clips of each step of an epoch, by their places.
        draw: the units of a clip.
    """

    key: Hashable
    data: DataConfig
    batches: Callable[[Sequence[ClipRecord], np.random.Generator], list[list[int]]] = field(
        compare=False
    )
    draw: Callable[[ClipRecord, np.random.Generator], Draw] = field(compare=False)


def hold_out(
    clips: Sequence[ClipRecord], share: float
) -> tuple[list[ClipRecord], list[ClipRecord]]:
    """Split the training clips into those trained on and those held out, whatever the seed.

    Clips of one group (the same video) stay together, so that no frame is on both sides.

    Args:
        clips: of the split train.
        share: of the clips to hold out; 0 for none.
    """
    if share == 0:
        return list(clips), []
    groups = sorted({clip.group or clip.video for clip in clips})
    order = np.random.default_rng(0).permutation(len(groups))
    count = min(len(groups) - 1, max(1, round(share * len(groups))))
    out = {groups[i] for i in order[:count]}
    return (
        [clip for clip in clips if (clip.group or clip.video) not in out],
        [clip for clip in clips if (clip.group or clip.video) in out],
    )


def plan_epoch(clips: Sequence[ClipRecord], sampling: Sampling, epoch: int) -> list[list[int]]:
    """Which clips each step of an epoch takes.

    Args:
        clips: the training clips.
        sampling: of the run.
        epoch: number of the pass, from 0.
    """
    return sampling.batches(clips, np.random.default_rng([sampling.data.seed, epoch]))


def shuffled_batches(
    clips: Sequence[ClipRecord], size: int, rng: np.random.Generator, *, by_action: bool = False
) -> list[list[int]]:
    """Clips in batches; the last may be smaller, of one only where all are.

    Args:
        clips: the training clips.
        size: of a batch.
        rng: of their order.
        by_action: all clips of a batch are of one action; the batches of all actions are shuffled,
            and a clip that is the only one of its action is in none.
    """
    order = rng.permutation(len(clips))
    if not by_action:
        return _cut(order, size)
    actions = np.array([clip.action for clip in clips])
    parts = [order[actions[order] == action] for action in np.unique(actions[actions != ""])]
    batches = [batch for part in parts if len(part) > 1 for batch in _cut(part, size)]
    return [batches[number] for number in rng.permutation(len(batches))]


def _cut(order: NDArray[np.int64], size: int) -> list[list[int]]:
    """Groups of a size, a last one of one clip joined to that before unless all are of one.

    >>> _cut(np.arange(5), 2)
    [[0, 1], [2, 3, 4]]
    >>> _cut(np.arange(3), 1)
    [[0], [1], [2]]
    """
    groups = [order[start : start + size] for start in range(0, len(order), size)]
    if len(groups) > 1 and len(groups[-1]) == 1 < size:
        groups[-2:] = [np.concatenate(groups[-2:])]
    return [group.tolist() for group in groups]
