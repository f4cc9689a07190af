"""Which clips each step of an epoch takes, and all that decides it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.format.clip import ClipRecord
from tokenreel.fuse.config.run import DataConfig, FuseConfig


@dataclass(frozen=True)
class Sampling:
    """All that decides which frames a step sees: runs that agree in it share a stream.

    Attributes:
        data: order, sizes and rules.
        by_action: whether all clips of a batch are of one action.
        pair_window: frames before each drawn frame where a second is drawn; 0: none is.
        labelled_seed: of the draw of labelled clips; None where all clips are trained on.
    """

    data: DataConfig
    by_action: bool = False
    pair_window: int = 0
    labelled_seed: int | None = None

    @classmethod
    def of(cls, config: FuseConfig) -> "Sampling":
        """That of a run."""
        loss, data = config.loss, config.data
        labelled_seed = config.seed if data.label_share < 1 else None
        return cls(data, loss.pairs_by_action, loss.pair_window, labelled_seed)


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
    """Which clips each step of an epoch takes; the last may be smaller, of one only where all are.

    Args:
        clips: the training clips.
        sampling: order and sizes.  By action, the batches of all actions are shuffled, and a clip
            that is the only one of its action is in none.
        epoch: number of the pass, from 0.
    """
    rng = np.random.default_rng([sampling.data.seed, epoch])
    order, size = rng.permutation(len(clips)), sampling.data.batch_clips
    if not sampling.by_action:
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
