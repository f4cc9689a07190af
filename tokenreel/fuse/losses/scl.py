"""Sequence contrastive loss (CARL, section 3.4, equations 1 and 2), batched by clip.

For a frame of one view, the label is a Gaussian over the frames of the other view, by distance in
time; the prediction is a softmax of similarities over those same frames; the loss is their KL
divergence, averaged over the frames that are not padding.  As in the released code, a masked pair
keeps the weight 1e-6 and the logarithm is of p + 1e-6.
"""

from typing import Literal

import torch
from torch import Tensor

from tokenreel.fuse.loss_config import SclConfig
from tokenreel.fuse.losses.inputs import LossInput

__all__ = ["gaussian_labels", "scl", "sequence_contrastive_loss"]

_EPSILON = 1e-6


def scl(inputs: LossInput, config: SclConfig) -> Tensor:
    """The loss of a batch of two views, a scalar."""
    return sequence_contrastive_loss(
        inputs.embeddings,
        inputs.steps,
        inputs.valid,
        temperature=config.temperature,
        label_variance=config.label_variance,
        label_mode=config.label_mode,
        negatives=config.negatives,
    )


def sequence_contrastive_loss(
    embeddings: Tensor,
    steps: Tensor,
    valid: Tensor,
    *,
    temperature: float,
    label_variance: float,
    label_mode: Literal["official", "stable"] = "official",
    negatives: Literal["view", "batch_noself", "batch"] = "view",
) -> Tensor:
    """The loss of two views of each clip.

    Args:
        embeddings: (B, 2, T, C), of unit length.
        steps: (B, 2, T) frame numbers, in frames.
        valid: bool (B, 2, T), False at padding.
        temperature: tau.
        label_variance: sigma squared, in frames squared.
        label_mode: "official" lets a label underflow to zero in float32, and then skips its frame;
            "stable" computes labels in log space, so that every frame counts.
        negatives: "view" compares a frame with those of the other view only, in (B, T, T);
            "batch_noself" with those of the other clips too, "batch" also with those of its own
            view, in the whole (2 B T, 2 B T).

    Returns:
        A scalar, in the dtype of the embeddings.
    """
    logits = embeddings[:, 0] @ embeddings[:, 1].transpose(-1, -2) / temperature  # (B, T, T)
    distance = (steps[:, 0, :, None] - steps[:, 1, None, :]).to(logits.dtype)
    both = valid[:, 0, :, None] & valid[:, 1, None, :]
    further = _EPSILON * _weight_of_padding(embeddings, valid, temperature)
    if negatives != "view":
        further = further + _weight_of_batch(embeddings, valid, temperature, negatives)
    total = logits.new_zeros(())
    for view in (0, 1):
        labels = gaussian_labels(distance, both, label_variance, label_mode)
        weights = torch.where(both, 1.0, 0.0).to(logits.dtype)
        predicted = logits.exp()
        every = (predicted * weights).sum(-1) + further[:, view]
        shares = predicted / every[..., None]
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


def _weight_of_batch(
    embeddings: Tensor, valid: Tensor, temperature: float, negatives: str
) -> Tensor:
    """(B, 2, T): sum of exp(similarity) over the frames that are not of the clip's other view."""
    clips, views, frames = valid.shape
    flat, is_valid = embeddings.flatten(0, 2), valid.flatten()
    weights = (is_valid[:, None] & is_valid).to(flat.dtype)
    similar = (flat @ flat.T / temperature).exp() * weights
    by_sequence = similar.unflatten(1, (-1, frames)).sum(-1).unflatten(0, (-1, frames))
    own_clip = torch.ones(views, views, device=valid.device)
    if negatives == "batch":
        own_clip.fill_diagonal_(0.0)
    left_out = torch.block_diag(*[own_clip] * clips)  # (2 B, 2 B)
    return (by_sequence * (1 - left_out[:, None])).sum(-1).view(valid.shape)
