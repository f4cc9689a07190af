"""Losses of FTP: InfoNCE of clips and texts, cross-entropy of mixed and smoothed classes.

Shapes: B clips, E channels, K classes.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, normalize

LARGEST_SCALE = 100.0  # of similarities, as in CLIP


def info_nce(visual: Tensor, text: Tensor, log_scale: Tensor) -> Tensor:
    """Symmetric InfoNCE of pairs, by cosine.

    The mean of two cross-entropies: that each clip finds its text among all texts, and each text
    its clip among all clips.  Of fewer than two pairs it is 0, with zero gradients.

    Args:
        visual: (B, ...) of clips; all but the first axis are one vector.
        text: (B, ...), the text of each.
        log_scale: scalar, the logarithm of one over the temperature; at most that of
            LARGEST_SCALE counts.
    """
    one, two = normalized(visual), normalized(text)
    similarity = one @ two.T * log_scale.exp().clamp(max=LARGEST_SCALE)
    if len(similarity) < 2:
        return similarity.sum() * 0.0
    right = torch.arange(len(similarity), device=similarity.device)
    rows = -log_softmax(similarity, dim=1)[right, right].mean()
    columns = -log_softmax(similarity, dim=0)[right, right].mean()
    return (rows + columns) / 2


def normalized(x: Tensor) -> Tensor:
    """Unit vectors of (B, E), or (B, R, E) with unit rows, as one unit vector each: (B, R E)."""
    unit = normalize(x.float(), dim=-1)
    return unit.flatten(1) / math.sqrt(x.shape[1]) if x.ndim == 3 else unit


def class_targets(classes: Tensor, num_classes: int, smoothing: float) -> Tensor:
    """Shares of classes to learn, (B, K): 1 - smoothing of its own, and smoothing spread over all.

    Args:
        classes: int64 (B,).
        num_classes: K.
        smoothing: share that is spread.
    """
    targets = torch.full(
        (len(classes), num_classes), smoothing / num_classes, device=classes.device
    )
    own = torch.full((len(classes), 1), 1.0 - smoothing, device=classes.device)
    return targets.scatter_add_(1, classes[:, None], own)


def soft_cross_entropy(scores: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of scores (B, K) before any softmax with shares of classes (B, K)."""
    return -(targets * log_softmax(scores.float(), dim=1)).sum(dim=1).mean()
