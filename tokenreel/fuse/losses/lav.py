"""Learning by aligning videos in time (Haresh et al., 2021), as the authors' code computes it.

Two clips of one action are aligned by soft-DTW, and within each the frames that are far apart in
time are pushed apart, those that are near pulled together (contrastive inverse difference moment).

Shapes: S sequences, T frames, C channels, P pairs.
"""

from functools import partial

import torch
from torch import Tensor

from tokenreel.fuse.config.loss import LavConfig
from tokenreel.fuse.losses.checks import (
    require_floats,
    require_masks,
    require_positive,
    require_shape,
    require_times,
)
from tokenreel.fuse.losses.dtw import path_ends, path_table, soft_minimum
from tokenreel.fuse.losses.inputs import Loss, LossInput


def lav(inputs: LossInput, config: LavConfig) -> Tensor:
    """The loss of a batch: every pair once, a scalar."""
    embeddings, valid = inputs.sequences()
    return align_videos_loss(
        embeddings,
        inputs.times(normalise=config.normalise_times),
        inputs.lengths(),
        valid,
        inputs.pairs(config.pairs, "unordered"),
        config,
    )


def align_videos_loss(
    embeddings: Tensor,
    times: Tensor,
    lengths: Tensor,
    valid: Tensor,
    pairs: Tensor,
    config: LavConfig,
) -> Tensor:
    """The mean over pairs of (soft-DTW + alpha (moment of one + moment of the other)) / T.

    Args:
        embeddings: (S, T, C), of unit length.
        times: (S, T), in frames or as a share of the clip.
        lengths: (S,) frames of the clips.
        valid: bool (S, T), False at padding, which is at the end and counts nowhere.
        pairs: int64 (P, 2).
        config: its constants.

    Raises:
        TypeError: half precision, times of fewer than 32 bits, a mask that is not bool.
        ValueError: NaN or infinity, another shape.
    """
    require_floats(embeddings=embeddings)
    require_times(times=times, lengths=lengths)
    require_masks(valid=valid)
    require_shape("times", times, embeddings.shape[:2])
    require_shape("valid", valid, embeddings.shape[:2])
    require_shape("lengths", lengths, embeddings.shape[:1])
    first, second = pairs.unbind(1)
    a, b, in_a, in_b = embeddings[first], embeddings[second], valid[first], valid[second]
    cost = soft_dtw(a, b, in_a, in_b, gamma=config.gamma)
    if config.normalise:
        own = [soft_dtw(x, x, mask, mask, gamma=config.gamma) for x, mask in ((a, in_a), (b, in_b))]
        cost = cost - 0.5 * (own[0] + own[1])
    # As released, the window is a share of the clip even where times are in frames.
    moments = inverse_difference_moment(
        embeddings, times, valid, window=config.window / lengths, margin=config.margin
    )
    total = cost + config.weight * (moments[first] + moments[second])
    return total.mean() / embeddings.shape[1]


def soft_dtw(a: Tensor, b: Tensor, in_a: Tensor, in_b: Tensor, *, gamma: float) -> Tensor:
    """Soft-DTW of squared distances: (P, T, C) twice -> (P,), to the last valid frame of each.

    Raises:
        TypeError: half precision, a mask that is not bool.
        ValueError: NaN or infinity, a gamma that is not above 0.
    """
    require_floats(a=a, b=b)
    require_masks(in_a=in_a, in_b=in_b)
    require_positive(gamma=gamma)
    return path_ends(path_table(_squared(a, b), partial(soft_minimum, gamma=gamma)), in_a, in_b)


def inverse_difference_moment(
    embeddings: Tensor, times: Tensor, valid: Tensor, *, window: Tensor, margin: float
) -> Tensor:
    """The contrastive moment of each sequence, (S, T, C) -> (S,).

    Args:
        embeddings: of unit length.
        times: (S, T).
        valid: bool (S, T).
        window: (S,) how far apart, in the unit of times, frames are near; at that distance the
            rounding of their times decides, as in the released code.
        margin: squared distance that is wanted of frames that are not.

    Raises:
        TypeError: half precision, times of fewer than 32 bits, a mask that is not bool.
        ValueError: NaN or infinity.
    """
    require_floats(embeddings=embeddings, window=window)
    require_times(times=times)
    require_masks(valid=valid)
    gap = (times[:, :, None] - times[:, None, :]).abs()
    distance = _squared(embeddings, embeddings)
    far = (1 + gap**2) * (margin - distance).relu()
    terms = torch.where(gap > window[:, None, None], far, distance)
    return torch.where(valid[:, :, None] & valid[:, None, :], terms, 0.0).sum((1, 2))


def _squared(a: Tensor, b: Tensor) -> Tensor:
    lengths = (a**2).sum(-1)[..., :, None] + (b**2).sum(-1)[..., None, :]
    return (lengths - 2 * a @ b.transpose(-1, -2)).clamp_min(0)


LAV = Loss(LavConfig, lav)
