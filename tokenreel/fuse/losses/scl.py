"""Sequence contrastive loss (CARL, section 3.4, equations 1 and 2), batched by clip.

For a frame of one view, the label is a Gaussian over the frames of the other view, by distance in
time; the prediction is a softmax of similarities over those same frames; the loss is their KL
divergence, averaged over the frames that are not padding.  As in the released code, a masked pair
keeps the weight 1e-6 and the logarithm is of p + 1e-6.
"""

from typing import Literal

import torch
from torch import Tensor

__all__ = ["gaussian_labels", "sequence_contrastive_loss"]

_EPSILON = 1e-6


def sequence_contrastive_loss(
    embeddings: Tensor,
    steps: Tensor,
    valid: Tensor,
    *,
    temperature: float,
    label_variance: float,
    label_mode: Literal["official", "stable"] = "official",
) -> Tensor:
    """The loss of two views of each clip, negatives from the other view only.

    Args:
        embeddings: (B, 2, T, C), of unit length.
        steps: (B, 2, T) frame numbers, in frames.
        valid: bool (B, 2, T), False at padding.
        temperature: tau.
        label_variance: sigma squared, in frames squared.
        label_mode: "official" lets a label underflow to zero in float32, and then skips its frame;
            "stable" computes labels in log space, so that every frame counts.

    Returns:
        A scalar, in the dtype of the embeddings.
    """
    logits = embeddings[:, 0] @ embeddings[:, 1].transpose(-1, -2) / temperature  # (B, T, T)
    distance = (steps[:, 0, :, None] - steps[:, 1, None, :]).to(logits.dtype)
    both = valid[:, 0, :, None] & valid[:, 1, None, :]
    padding = _weight_of_padding(embeddings, valid, temperature)
    total = logits.new_zeros(())
    for view in (0, 1):
        labels = gaussian_labels(distance, both, label_variance, label_mode)
        weights = torch.where(both, 1.0, 0.0).to(logits.dtype)
        predicted = logits.exp()
        negatives = (predicted * weights).sum(-1) + _EPSILON * padding[:, view]
        shares = predicted / negatives[..., None]
        divergence = labels * (labels.clamp_min(1e-38).log() - (shares + _EPSILON).log())
        total = total + torch.where(both & (labels > 0), divergence, 0.0).sum()
        logits, distance, both = (x.transpose(-1, -2) for x in (logits, distance, both))
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
    """
    exponent = -(distance**2) / (2 * variance)
    if mode == "stable":
        exponent = exponent.masked_fill(~both, -torch.inf)
        has_any = both.any(-1, keepdim=True)
        return torch.where(has_any, exponent.masked_fill(~has_any, 0.0).softmax(-1), 0.0)
    weights = torch.where(both, exponent.exp(), 0.0)
    total = weights.sum(-1, keepdim=True)
    return torch.where(total > 0, weights / total.clamp_min(1e-38), 0.0)


def _weight_of_padding(embeddings: Tensor, valid: Tensor, temperature: float) -> Tensor:
    """(B, 2, T): sum of exp(similarity) over every pair with padding in it, in the whole batch."""
    flat, is_valid = embeddings.flatten(0, 2), valid.flatten()
    if bool(is_valid.all()):
        return torch.zeros(valid.shape, dtype=embeddings.dtype, device=embeddings.device)
    to_padding = (flat @ flat[~is_valid].T / temperature).exp().sum(-1)
    return to_padding.view(valid.shape)
