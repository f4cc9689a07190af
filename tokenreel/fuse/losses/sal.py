"""Shuffle and learn (Misra et al., 2016), in the form that TCC compares with.

Of five frames in order, the three in the middle are an ordered triplet; put the first or the last
of the five between the outer two of them, and it is shuffled.  A classifier tells which.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from tokenreel.fuse.config.loss import SalConfig
from tokenreel.fuse.losses.checks import require_floats, require_masks
from tokenreel.fuse.losses.inputs import Loss, LossInput


def sal(inputs: LossInput, config: SalConfig) -> Tensor:
    """The loss of a batch: triplets of every sequence, a scalar; 0 where all are too short."""
    embeddings, valid = inputs.sequences()
    rows, triplets, is_ordered = draw_triplets(
        valid, inputs.rng, count=config.triplets, shuffled=config.shuffled
    )
    if not len(rows):
        return embeddings.sum() * 0.0
    where, positions, wanted = (
        torch.from_numpy(part).to(embeddings.device) for part in (rows, triplets, is_ordered)
    )
    logits = inputs.head(embeddings[where[:, None], positions].flatten(1))
    return shuffle_and_learn_loss(logits, wanted)


def draw_triplets(
    valid: Tensor, rng: np.random.Generator, *, count: int, shuffled: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Triplets of valid frames, half of them backwards in time.

    Args:
        valid: bool (S, T), False at padding, which is at the end.
        rng: where they are drawn from.
        count: triplets K of a sequence; none of one with fewer than five valid frames.
        shuffled: share of shuffled ones.

    Returns:
        Number of the sequence (R K,), positions (R K, 3), and whether they are in order (R K,).

    Raises:
        TypeError: a mask that is not bool.
    """
    require_masks(valid=valid)
    rows, triplets, is_ordered = [], [], []
    for number, frames in enumerate(valid.sum(-1).tolist()):
        for _ in range(count if frames >= 5 else 0):
            five = np.sort(rng.permutation(frames)[:5])
            five = five[::-1] if rng.random() < 0.5 else five
            ordered = rng.random() >= shuffled
            middle = 2 if ordered else rng.choice([0, 4])
            rows.append(number)
            triplets.append(five[[1, middle, 3]])
            is_ordered.append(ordered)
    shape = (len(rows), 3)
    return (
        np.array(rows, np.int64),
        np.array(triplets, np.int64).reshape(shape),
        np.array(is_ordered, bool),
    )


def shuffle_and_learn_loss(logits: Tensor, is_ordered: Tensor) -> Tensor:
    """Cross-entropy of logits (R, 2), shuffled and ordered, with what they are, bool (R,).

    Raises:
        TypeError: half precision, a mask that is not bool.
        ValueError: NaN or infinity.
    """
    require_floats(logits=logits)
    require_masks(is_ordered=is_ordered)
    return functional.cross_entropy(logits, is_ordered.long())


def _make_head(config: SalConfig, width: int, num_classes: int) -> nn.Module:
    first, second = config.hidden
    return nn.Sequential(
        nn.Linear(3 * width, first),
        nn.ReLU(),
        nn.Linear(first, second),
        nn.ReLU(),
        nn.Linear(second, 2),
    )


SAL = Loss(SalConfig, sal, _make_head)
