"""The weights that only a loss sees: on top of the embeddings in training, never in evaluation."""

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional

from tokenreel.fuse.config.loss import CrossEntropyConfig, LossConfig, SalConfig, SclConfig


def make_head(config: LossConfig, *, width: int, num_classes: int) -> nn.Module:
    """The head of a loss; the identity for most.

    Args:
        config: of the loss.
        width: channels C of an embedding.
        num_classes: phases of the store, for a supervised loss.

    Raises:
        ValueError: fewer than two classes to tell apart.
    """
    if isinstance(config, SclConfig):
        hidden = config.projection_hidden
        return nn.Sequential(
            nn.Linear(width, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, width)
        )
    if isinstance(config, SalConfig):
        first, second = config.hidden
        return nn.Sequential(
            nn.Linear(3 * width, first),
            nn.ReLU(),
            nn.Linear(first, second),
            nn.ReLU(),
            nn.Linear(second, 2),
        )
    if isinstance(config, CrossEntropyConfig):
        if num_classes < 2:
            raise ValueError(f"{num_classes} phases: a supervised loss needs two or more")
        return nn.Linear(width, num_classes)
    return nn.Identity()


def classes_in(state: Mapping[str, Tensor]) -> int:
    """The classes of a model's state, whatever the store has that it is used on; 0 for none."""
    weight = state.get("projection.weight")  # only a linear classifier has one
    return 0 if weight is None else len(weight)


def apply_head(head: nn.Module, config: LossConfig, embeddings: Tensor) -> Tensor:
    """What a loss sees of each frame: (S, T, C) -> (S, T, C), of unit length, or (S, T, classes).

    Losses that take embeddings as they are, or apply their head to several at once, see them
    unchanged.
    """
    if isinstance(config, SclConfig):
        flat: Tensor = head(embeddings.flatten(0, 1))
        return functional.normalize(flat.unflatten(0, embeddings.shape[:2]), dim=-1)
    if isinstance(config, CrossEntropyConfig):
        logits: Tensor = head(embeddings)
        return logits
    return embeddings
