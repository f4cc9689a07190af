"""What every loss is given, and the pairs of sequences that an alignment loss compares.

Shapes: B clips, V windows, T frames of a sequence, C channels, S = B V sequences, P pairs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from tokenreel.fuse.config.loss import LossBase
from tokenreel.fuse.losses.checks import (
    require_floats,
    require_labels,
    require_masks,
    require_shape,
    require_times,
)


def no_head(config: Any, width: int, num_classes: int) -> nn.Module:
    """The identity: the loss sees embeddings as they are."""
    return nn.Identity()


def unchanged(head: nn.Module, config: Any, embeddings: Tensor) -> Tensor:
    """Embeddings as they are; a loss that applies its head to several at once does so itself."""
    return embeddings


@dataclass(frozen=True)
class Loss:
    """A loss, as the table `tokenreel.fuse.config.loss.LOSSES` or an entry point names it.

    Attributes:
        config: of its fields, chosen by `loss.name`.
        compute: the loss of a batch, a scalar.
        make_head: weights that only the loss sees, for embeddings of a width, and for as many
            classes as there are phases.
        apply_head: what the loss sees of each frame: (S, T, C) -> (S, T, C or classes).
    """

    config: type[LossBase]
    compute: Callable[["LossInput", Any], Tensor]
    make_head: Callable[[Any, int, int], nn.Module] = no_head
    apply_head: Callable[[nn.Module, Any, Tensor], Tensor] = unchanged


@dataclass(frozen=True, eq=False)
class LossInput:
    """A batch as a loss sees it.

    Attributes:
        embeddings: (B, V, T, C), or what the loss's head made of them; float32 (or more) whatever
            the precision of the forward pass: alignment costs and their masks need its range.
        steps: int64 (B, V, T) frame numbers in the clip.
        valid: bool (B, V, T), False at padding, which is at the end of a sequence.
        padding: int64 (P,), which of the B V T frames are padding; found on the host, so that no
            loss waits for a GPU.
        labels: int64 (B, V, T) class of a frame, -1 where it has none.
        actions: the B actions, "" where unknown.
        num_frames: int64 (B,) frames of each clip.
        head: weights that a loss applies itself; the identity for most.
        rng: where a loss draws from: the same in every process of a run.

    Raises:
        TypeError: embeddings in half precision, steps or labels that are not whole, a mask that is
            not bool.
        ValueError: embeddings with NaN or infinity, another shape.
    """

    embeddings: Tensor
    steps: Tensor
    valid: Tensor
    padding: Tensor
    labels: Tensor
    actions: Sequence[str]
    num_frames: Tensor
    head: Callable[[Tensor], Tensor]
    rng: np.random.Generator

    def __post_init__(self) -> None:
        require_shape("embeddings", self.embeddings, (None,) * 4)
        require_floats(embeddings=self.embeddings)
        require_times(steps=self.steps, num_frames=self.num_frames)
        require_masks(valid=self.valid)
        require_labels("labels", self.labels)
        for name in ("steps", "valid", "labels"):
            require_shape(name, getattr(self, name), self.embeddings.shape[:3])
        require_shape("num_frames", self.num_frames, self.embeddings.shape[:1])

    def sequences(self) -> tuple[Tensor, Tensor]:
        """The windows of all clips, one after another: embeddings (S, T, C) and valid (S, T)."""
        return self.embeddings.flatten(0, 1), self.valid.flatten(0, 1)

    def times(self, *, normalise: bool) -> Tensor:
        """Frame numbers (S, T), float; as shares of the clip where normalised."""
        steps = self.steps.to(self.embeddings.dtype)
        return (steps / self.num_frames[:, None, None] if normalise else steps).flatten(0, 1)

    def lengths(self) -> Tensor:
        """Frames of the clip of each sequence, float (S,)."""
        return self.num_frames.to(self.embeddings.dtype).repeat_interleave(self.valid.shape[1])

    def pairs(
        self, between: Literal["action", "windows"], kind: Literal["ordered", "unordered", "first"]
    ) -> Tensor:
        """Which sequences are aligned: (P, 2), on the device of the embeddings.

        Args:
            between: clips of one action, the same window of each; or two windows of a clip.
            kind: as in :func:`action_pairs`.

        Raises:
            ValueError: no two clips of one action, or one window only.
        """
        windows = self.valid.shape[1]
        if between == "windows":
            found = window_pairs(len(self.actions), windows, kind)
        else:
            found = action_pairs(self.actions, windows, kind)
        if not found:
            raise ValueError(
                f"nothing to align: clips of the actions {sorted(set(self.actions))}, "
                f"{windows} windows of each; draw batches with two clips of one action, or set "
                "loss.pairs=windows"
            )
        return torch.tensor(found, device=self.embeddings.device)


def action_pairs(
    actions: Sequence[str], windows: int, kind: Literal["ordered", "unordered", "first"]
) -> list[tuple[int, int]]:
    """Pairs of sequences, the same window of different clips of one known action.

    Args:
        actions: of the clips.
        windows: of each clip; sequence v of clip b has the number b * windows + v.
        kind: every pair both ways; once; or the first clip of an action with each other one.

    >>> action_pairs(["run", "swim", "run", "run"], 1, "ordered")
    [(0, 2), (0, 3), (2, 0), (2, 3), (3, 0), (3, 2)]
    >>> action_pairs(["swim", "run", "run", "run"], 2, "first")
    [(2, 4), (3, 5), (2, 6), (3, 7)]
    >>> action_pairs(["", ""], 1, "ordered")
    []
    """
    clips = [
        (i, j)
        for i, action in enumerate(actions)
        for j, other in enumerate(actions)
        if i != j and action == other != ""
    ]
    if kind == "unordered":
        clips = [(i, j) for i, j in clips if i < j]
    if kind == "first":
        clips = [(i, j) for i, j in clips if i == list(actions).index(actions[i])]
    return [(i * windows + v, j * windows + v) for i, j in clips for v in range(windows)]


def window_pairs(
    clips: int, windows: int, kind: Literal["ordered", "unordered", "first"]
) -> list[tuple[int, int]]:
    """Pairs of windows of each clip; `kind` as in :func:`action_pairs`.

    >>> window_pairs(2, 2, "ordered")
    [(0, 1), (1, 0), (2, 3), (3, 2)]
    """
    one_clip = action_pairs(["a"] * windows, 1, kind)
    return [(b * windows + i, b * windows + j) for b in range(clips) for i, j in one_clip]


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """The mean of the values where the mask is true; 0 where it never is."""
    return torch.where(mask, values, 0.0).sum() / mask.sum().clamp_min(1)
