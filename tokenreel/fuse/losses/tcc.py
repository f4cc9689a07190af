"""Temporal cycle consistency (Dwibedi et al., 2019), as CARL's released code computes it.

A frame of one clip goes to its soft nearest neighbour in another clip of the same action, and back:
the cycle should return where it began.  Cycle-back regression is of the time t that it returns to,
with mean m and variance v: (t - m)^2 / v + lambda log v, or (t - m)^2 alone; cycle-back
classification is the cross-entropy of the frame.

Shapes: S sequences, T frames, C channels, P ordered pairs.
"""

import torch
from torch import Tensor
from torch.nn import functional

from tokenreel.fuse.config.loss import TccConfig
from tokenreel.fuse.losses.checks import (
    require_floats,
    require_masks,
    require_shape,
    require_times,
)
from tokenreel.fuse.losses.inputs import Loss, LossInput, masked_mean


def tcc(inputs: LossInput, config: TccConfig) -> Tensor:
    """The loss of a batch: every ordered pair, a scalar."""
    embeddings, valid = inputs.sequences()
    pairs = inputs.pairs(config.pairs, "ordered")
    if config.kind == "mse_var":  # every cycle of a single frame ends where it began
        pairs = pairs[(valid.sum(dim=1) > 1)[pairs[:, 0]]]
    return temporal_cycle_consistency_loss(
        embeddings, inputs.times(normalise=config.normalise_times), valid, pairs, config
    )


def temporal_cycle_consistency_loss(
    embeddings: Tensor, times: Tensor, valid: Tensor, pairs: Tensor, config: TccConfig
) -> Tensor:
    """The mean over the frames of the first sequence of each pair.

    Args:
        embeddings: (S, T, C), of any length.
        times: (S, T) of each frame, in frames or as a share of the clip.
        valid: bool (S, T), False at padding, which is neither a start nor a neighbour.
        pairs: int64 (P, 2), first and second sequence.
        config: which of the forms, and its constants.

    Returns:
        A scalar; for "mse_var" NaN where a cycle ends at one frame for certain, since embeddings
        are so far apart: the time that it returns to has no variance.

    Raises:
        TypeError: half precision, times of fewer than 32 bits, a mask that is not bool.
        ValueError: NaN or infinity, another shape.
    """
    require_floats(embeddings=embeddings)
    require_times(times=times)
    require_masks(valid=valid)
    require_shape("times", times, embeddings.shape[:2])
    require_shape("valid", valid, embeddings.shape[:2])
    first, second = pairs.unbind(1)
    has_first, has_second = valid[first], valid[second]
    logits = cycle_back_logits(embeddings[first], embeddings[second], has_second, config)
    targets = _targets(has_first, config.label_smoothing, logits.dtype)
    columns = has_first[:, None]
    if config.kind == "classification_kl":  # KL of logits that are no logarithms, as released
        terms = targets * (targets.clamp_min(1e-38).log() - logits)
        return masked_mean(torch.where(targets > 0, terms, 0.0), columns & has_first[..., None])
    logits = logits.masked_fill(~columns, -torch.inf)
    if config.kind == "classification":
        terms = torch.where(columns, targets * logits.log_softmax(-1), 0.0)
        return masked_mean(-terms.sum(-1), has_first)
    return masked_mean(_time_error(logits, targets, times[first], config), has_first)


def cycle_back_logits(
    first: Tensor, second: Tensor, has_second: Tensor, config: TccConfig
) -> Tensor:
    """Where the cycle of each frame ends: (P, T, T), rows of the start, columns of the end.

    Args:
        first: (P, T, C).
        second: (P, T, C).
        has_second: bool (P, T), False at padding of the second.
        config: which similarity, and its temperature; it is divided by C too.

    Raises:
        TypeError: half precision, a mask that is not bool.
        ValueError: NaN or infinity.
    """
    require_floats(first=first, second=second)
    require_masks(has_second=has_second)
    there = _similarity(first, second, config)
    there = there.masked_fill(~has_second[:, None], -torch.inf)
    return _similarity(there.softmax(-1) @ second, first, config)


def _similarity(first: Tensor, second: Tensor, config: TccConfig) -> Tensor:
    near = first @ second.transpose(-1, -2)
    if config.similarity == "l2":
        lengths = (first**2).sum(-1)[..., :, None] + (second**2).sum(-1)[..., None, :]
        near = -(lengths - 2 * near).clamp_min(0)
    return near / (first.shape[-1] * config.temperature)


def _targets(valid: Tensor, smoothing: float, dtype: torch.dtype) -> Tensor:
    """(P, T, T): 1 - smoothing where the cycle began, the rest on the other frames."""
    own = torch.eye(valid.shape[1], dtype=torch.bool, device=valid.device)
    others = (valid.sum(-1) - 1).clamp_min(1).to(dtype)[:, None, None]
    return torch.where(own, 1 - smoothing, smoothing / others) * valid[:, None]


def _time_error(logits: Tensor, targets: Tensor, times: Tensor, config: TccConfig) -> Tensor:
    """(P, T): the error of the time that each cycle returns to."""
    shares = logits.softmax(-1)
    times = times[:, None]
    wanted, found = (times * targets).sum(-1), (times * shares).sum(-1)
    if config.kind == "huber":
        return functional.huber_loss(found, wanted, reduction="none", delta=config.huber_delta)
    squared = (wanted - found) ** 2
    if config.kind == "mse":
        return squared
    log_variance = ((times - found[..., None]) ** 2 * shares).sum(-1).log()
    return (-log_variance).exp() * squared + config.variance_weight * log_variance


TCC = Loss(TccConfig, tcc)
