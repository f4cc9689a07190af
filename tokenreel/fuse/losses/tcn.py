"""Time-contrastive loss of one window (Sermanet et al., 2018), the n-pairs form of TCC and CARL.

A sequence holds an anchor a_i and its positive p_i in turn, the positive a few frames before; an
anchor's negatives are the other positives of the sequence: -log exp(a_i p_i) / sum_j exp(a_i p_j).
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from tokenreel.fuse.config.loss import TcnConfig
from tokenreel.fuse.losses.checks import require_floats, require_masks, require_shape
from tokenreel.fuse.losses.inputs import Loss, LossInput


def tcn(inputs: LossInput, config: TcnConfig) -> Tensor:
    """The loss of a batch, a scalar."""
    embeddings, valid = inputs.sequences()
    return time_contrastive_loss(embeddings, valid, regularisation=config.regularisation)


def time_contrastive_loss(embeddings: Tensor, valid: Tensor, *, regularisation: float) -> Tensor:
    """The mean over sequences.

    Args:
        embeddings: (S, T, C), T even: anchor, positive, anchor, positive, ...
        valid: bool (S, T); a pair with padding in it does not count, nor a sequence without pairs.
        regularisation: weight of a quarter of the mean squared length of anchors and positives.

    Raises:
        TypeError: half precision, a mask that is not bool.
        ValueError: an odd number of frames, NaN or infinity, another shape.
    """
    require_floats(embeddings=embeddings)
    require_masks(valid=valid)
    require_shape("valid", valid, embeddings.shape[:2])
    if not math.isfinite(regularisation):
        raise ValueError(f"regularisation: {regularisation}, want a finite number")
    if embeddings.shape[1] % 2:
        raise ValueError(
            f"{embeddings.shape[1]} frames cannot be pairs: set an even data.num_frames"
        )
    anchors, positives = embeddings[:, 0::2], embeddings[:, 1::2]
    both = valid[:, 0::2] & valid[:, 1::2]
    count = both.sum(-1).clamp_min(1)
    logits = anchors @ positives.transpose(-1, -2)  # (S, T/2, T/2)
    logits = logits.masked_fill(~both[:, None], torch.finfo(logits.dtype).min)
    own = torch.arange(logits.shape[-1], device=logits.device).expand(both.shape)
    error = functional.cross_entropy(logits.transpose(1, 2), own, reduction="none")
    terms = error + 0.25 * regularisation * ((anchors**2).sum(-1) + (positives**2).sum(-1))
    per_sequence = torch.where(both, terms, 0.0).sum(-1) / count
    return per_sequence.sum() / both.any(-1).sum().clamp_min(1)


TCN = Loss(TcnConfig, tcn)
