"""The weights that only a loss sees: on top of the embeddings in training, never in evaluation."""

from collections.abc import Mapping

from torch import Tensor, nn

from tokenreel.fuse.config.loss import LOSSES, LossBase


def make_head(config: LossBase, *, width: int, num_classes: int) -> nn.Module:
    """The head of a loss; the identity for most.

    Args:
        config: of the loss.
        width: channels C of an embedding.
        num_classes: phases of the store, for a supervised loss.

    Raises:
        ValueError: fewer than two classes to tell apart.
    """
    head: nn.Module = LOSSES.load(config.name).make_head(config, width, num_classes)
    return head


def classes_in(state: Mapping[str, Tensor]) -> int:
    """The classes of a model's state, whatever the store has that it is used on; 0 for none."""
    weight = state.get("projection.weight")  # only a linear classifier has one
    return 0 if weight is None else len(weight)


def apply_head(head: nn.Module, config: LossBase, embeddings: Tensor) -> Tensor:
    """What a loss sees of each frame: (S, T, C) -> (S, T, C), of unit length, or (S, T, classes).

    Losses that take embeddings as they are, or apply their head to several at once, see them
    unchanged.
    """
    seen: Tensor = LOSSES.load(config.name).apply_head(head, config, embeddings)
    return seen
