"""Sequence contrastive loss (CARL, section 3.4, equations 1 and 2), batched by clip.

For a frame of one window, the label is a Gaussian over the frames of the other window, by distance
in time; the prediction is a softmax of similarities over those same frames; the loss is their KL
divergence, averaged over the frames that are not padding.  As in the released code, a masked pair
keeps the weight 1e-6 and the logarithm is of p + 1e-6.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from tokenreel.fuse.config.loss import SclConfig
from tokenreel.fuse.losses.checks import (
    require_floats,
    require_masks,
    require_positive,
    require_shape,
    require_times,
)
from tokenreel.fuse.losses.inputs import Loss, LossInput

_EPSILON = 1e-6


def scl(inputs: LossInput, config: SclConfig) -> Tensor:
    """The loss of a batch of two windows, a scalar."""
    return sequence_contrastive_loss(
        inputs.embeddings,
        inputs.steps,
        inputs.valid,
        inputs.padding,
        temperature=config.temperature,
        label_variance=config.label_variance,
        label_mode=config.label_mode,
        negatives=config.negatives,
    )


def sequence_contrastive_loss(
    embeddings: Tensor,
    steps: Tensor,
    valid: Tensor,
    padding: Tensor | None = None,
    *,
    temperature: float,
    label_variance: float,
    label_mode: Literal["official", "stable"] = "official",
    negatives: Literal["window", "clip", "batch_noself", "batch"] = "window",
) -> Tensor:
    """The loss of two windows of each clip.

    Args:
        embeddings: (B, 2, T, C), of unit length.
        steps: (B, 2, T) frame numbers, in frames.
        valid: bool (B, 2, T), False at padding.
        padding: int64 (P,), which of the B 2 T frames are padding; found from `valid` when None.
        temperature: tau.
        label_variance: sigma squared, in frames squared.
        label_mode: "official" lets a label underflow to zero in float32, and then skips its frame;
            "stable" computes labels in log space, so that every frame counts.
        negatives: "window" compares a frame with those of the other window only, in (B, T, T);
            "clip" with those of the same window too; "batch_noself" with those of the other window
            and of the other clips, "batch" with all, in the whole (2 B T, 2 B T).

    Returns:
        A scalar, in the dtype of the embeddings.

    Raises:
        TypeError: embeddings in half precision, steps of fewer than 32 bits, a mask that is not
            bool.
        ValueError: NaN or infinity, another shape, a temperature or variance that is not above 0.
    """
    require_shape("embeddings", embeddings, (None, 2, None, None))
    require_floats(embeddings=embeddings)
    require_times(steps=steps)
    require_masks(valid=valid)
    require_shape("steps", steps, embeddings.shape[:3])
    require_shape("valid", valid, embeddings.shape[:3])
    require_positive(temperature=temperature, label_variance=label_variance)
    products = embeddings[:, 0] @ embeddings[:, 1].transpose(-1, -2) / temperature  # (B, T, T)
    distance = (steps[:, 0, :, None] - steps[:, 1, None, :]).to(products.dtype)
    both = valid[:, 0, :, None] & valid[:, 1, None, :]
    if padding is None:
        padding = (~valid).flatten().nonzero().flatten()
    further = _weight_of_padding(embeddings, padding, temperature)
    if negatives != "window":
        others = _weight_of_others(embeddings, valid, temperature, negatives)
        further = torch.logaddexp(further, others)
    total = products.new_zeros(())
    for window in (0, 1):
        labels = gaussian_labels(distance, both, label_variance, label_mode)
        logits = products.masked_fill(~both, _least(products))
        every = torch.logaddexp(logits.logsumexp(-1), further[:, window])  # finite
        shares = (logits - every[..., None]).exp()
        divergence = labels * (labels.clamp_min(1e-38).log() - (shares + _EPSILON).log())
        total = total + torch.where(both & (labels > 0), divergence, 0.0).sum()
        products, distance, both = (x.transpose(-1, -2) for x in (products, distance, both))
    return total / valid.sum().clamp_min(1)


def gaussian_labels(
    distance: Tensor, both: Tensor, variance: float, mode: Literal["official", "stable"]
) -> Tensor:
    """(B, T, T) of distances -> rows of a Gaussian that sum to one, or to zero where none is left.

    Args:
        distance: in frames.
        both: bool, False where either frame is padding.
        variance: sigma squared.
        mode: as in :func:`sequence_contrastive_loss`.

    Raises:
        TypeError: distances in half precision, a mask that is not bool.
        ValueError: NaN or infinity, a variance that is not above 0.
    """
    require_floats(distance=distance)
    require_masks(both=both)
    require_positive(variance=variance)
    exponent = -(distance**2) / (2 * variance)
    if mode == "stable":
        exponent = exponent.masked_fill(~both, -torch.inf)
        has_any = both.any(-1, keepdim=True)
        return torch.where(has_any, exponent.masked_fill(~has_any, 0.0).softmax(-1), 0.0)
    weights = torch.where(both, exponent.exp(), 0.0)
    total = weights.sum(-1, keepdim=True)
    return weights / torch.where(total > 0, total, 1.0)  # also of a total that is subnormal


def _weight_of_padding(embeddings: Tensor, padding: Tensor, temperature: float) -> Tensor:
    """(B, 2, T): log of 1e-6 exp(similarity) over every pair with padding, in the whole batch."""
    if not len(padding):
        return embeddings.new_full(embeddings.shape[:3], _least(embeddings))
    padded = embeddings.flatten(0, 2).index_select(0, padding) / temperature  # (P, C)
    # Clip by clip: much padding is a large matrix, of which there is then one and not three.
    of_clips = [(clip @ padded.T).logsumexp(-1) for clip in embeddings.flatten(1, 2)]
    return (torch.stack(of_clips) + math.log(_EPSILON)).view(embeddings.shape[:3])


def _weight_of_others(
    embeddings: Tensor, valid: Tensor, temperature: float, negatives: str
) -> Tensor:
    """(B, 2, T): log of exp(similarity) over negatives that are not of the clip's other window."""
    clips, windows, frames = valid.shape
    if negatives == "clip":
        own = embeddings / temperature @ embeddings.transpose(-1, -2)  # (B, 2, T, T)
        return own.masked_fill(~valid[:, :, None], _least(own)).logsumexp(-1)
    flat = embeddings.flatten(0, 2)
    clip = torch.arange(clips, device=valid.device).repeat_interleave(windows * frames)
    is_counted = (clip[:, None] != clip) & valid.flatten()
    if negatives == "batch":
        window = torch.arange(clips * windows, device=valid.device).repeat_interleave(frames)
        is_counted |= (window[:, None] == window) & valid.flatten()
    similar = flat / temperature @ flat.T
    return similar.masked_fill(~is_counted, _least(similar)).logsumexp(-1).view(valid.shape)


def _least(like: Tensor) -> float:
    """In place of minus infinity: no gradient is NaN where a row has nothing else."""
    return torch.finfo(like.dtype).min


def _make_head(config: SclConfig, width: int, num_classes: int) -> nn.Module:
    hidden = config.projection_hidden
    return nn.Sequential(
        nn.Linear(width, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, width)
    )


def _apply_head(head: nn.Module, config: SclConfig, embeddings: Tensor) -> Tensor:
    """Of unit length."""
    flat: Tensor = head(embeddings.flatten(0, 1))
    return functional.normalize(flat.unflatten(0, embeddings.shape[:2]), dim=-1)


SCL = Loss(SclConfig, scl, _make_head, _apply_head)
