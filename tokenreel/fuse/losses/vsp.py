"""Process contrastive loss over Brownian bridges (Zhang et al., VSP, 2023), as released.

Between the first and the last frame of a sequence the embedding should follow a Brownian bridge: a
frame is told from the frames of the other bridges by how near it is to the straight line, measured
with the bridge's spread at its time.
"""

import numpy as np
import torch
from torch import Tensor

from tokenreel.fuse.loss_config import VspConfig
from tokenreel.fuse.losses.inputs import LossInput

__all__ = ["draw_bridges", "process_contrastive_loss", "vsp"]


def vsp(inputs: LossInput, config: VspConfig) -> Tensor:
    """The loss of a batch: one bridge a sequence, a scalar; 0 with fewer than two bridges."""
    embeddings, valid = inputs.sequences()
    numbers, bridges = draw_bridges(valid, inputs.rng)
    if len(numbers) < 2:
        return embeddings.sum() * 0.0
    where = torch.from_numpy(numbers).to(embeddings.device)
    points = torch.from_numpy(bridges).to(embeddings.device)
    return process_contrastive_loss(embeddings[where[:, None], points], points)


def draw_bridges(valid: Tensor, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A start, a middle and an end in each sequence of at least three valid frames.

    Args:
        valid: bool (S, T), False at padding, which is at the end.
        rng: where the middle is drawn from.

    Returns:
        The numbers of those sequences (R,), and positions (R, 3).
    """
    counts = valid.sum(-1).cpu().numpy()
    numbers = np.flatnonzero(counts >= 3)
    ends = counts[numbers] - 1
    middles = rng.integers(1, ends)
    return numbers, np.stack([np.zeros_like(ends), middles, ends], axis=1)


def process_contrastive_loss(points: Tensor, times: Tensor) -> Tensor:
    """The mean over bridges; negatives are all three points of every other bridge.

    Args:
        points: (R, 3, C): start, middle and end of each bridge, of unit length; R at least 2.
        times: (R, 3) of the points, in frames, increasing.
    """
    start, middle, end = times.to(points.dtype).unbind(1)
    share = ((middle - start) / (end - start))[:, None]
    line = (1 - share) * points[:, 0] + share * points[:, 2]
    # The bridge's variance; the released code squares it again, as if it were the deviation.
    spread = (share[:, 0] * (end - middle)) ** 2
    squared = ((points.flatten(0, 1)[None] - line[:, None]) ** 2).sum(-1)  # (R, 3 R)
    scores = (-squared / (2 * spread[:, None])).unflatten(1, (-1, 3))
    own = torch.eye(len(points), dtype=torch.bool, device=points.device)
    positive = scores[..., 1][own]
    is_candidate = ~own[..., None].expand_as(scores).clone()
    is_candidate[..., 1] = True  # its own middle is in the sum, its own ends are not
    every = scores.masked_fill(~is_candidate, -torch.inf).flatten(1).logsumexp(-1)
    return (every - positive).mean()
