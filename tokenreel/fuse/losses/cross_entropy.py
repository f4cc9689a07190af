"""Supervised: cross-entropy of the phase of each frame, from a linear layer over its embedding."""

from torch import Tensor, nn
from torch.nn import functional

from tokenreel.fuse.config.loss import CrossEntropyConfig
from tokenreel.fuse.losses.checks import (
    require_floats,
    require_labels,
    require_masks,
    require_shape,
)
from tokenreel.fuse.losses.inputs import Loss, LossInput


def cross_entropy(inputs: LossInput, config: CrossEntropyConfig) -> Tensor:
    """The loss of a batch whose embeddings are logits of classes, a scalar."""
    return frame_classification_loss(inputs.embeddings, inputs.labels, inputs.valid)


def frame_classification_loss(logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
    """The mean over the frames that have a label and are not padding; 0 where none has.

    Args:
        logits: (..., K) of K classes.
        labels: int64 (...), -1 where there is none.
        valid: bool (...), False at padding.

    Raises:
        TypeError: logits in half precision, labels that are not whole, a mask that is not bool.
        ValueError: NaN or infinity, a label out of range, another shape.
    """
    require_floats(logits=logits)
    require_labels("labels", labels, logits.shape[-1])
    require_masks(valid=valid)
    require_shape("labels", labels, logits.shape[:-1])
    require_shape("valid", valid, logits.shape[:-1])
    targets = labels.masked_fill(~valid, -1).flatten()
    total = functional.cross_entropy(
        logits.flatten(0, -2), targets, ignore_index=-1, reduction="sum"
    )
    return total / (targets >= 0).sum().clamp_min(1)


def _make_head(config: CrossEntropyConfig, width: int, num_classes: int) -> nn.Module:
    if num_classes < 2:
        raise ValueError(f"{num_classes} phases: a supervised loss needs two or more")
    return nn.Linear(width, num_classes)


def _apply_head(head: nn.Module, config: CrossEntropyConfig, embeddings: Tensor) -> Tensor:
    """Logits of the classes."""
    logits: Tensor = head(embeddings)
    return logits


CROSS_ENTROPY = Loss(CrossEntropyConfig, cross_entropy, _make_head, _apply_head)
