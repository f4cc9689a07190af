"""Process contrastive loss over Brownian bridges (Zhang et al., VSP, 2023), as released.

Between the first and the last frame of a bridge the embedding should follow a Brownian bridge: a
frame is distinguished from those of other bridges by its distance to the straight line, in units of
the bridge's spread at its time.

A bridge spans a whole sequence; or one of several overlapping segments of it (Pouring and K400 as
published); or a phase, where the boundaries of phases are known (VSP-P).  VSP-F knows the phases
themselves: frames of one phase are drawn together by a supervised contrastive loss besides.

Shapes: S sequences, T frames, C channels, R bridges.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokenreel.fuse.config.loss import VspConfig
from tokenreel.fuse.losses.checks import (
    require_floats,
    require_labels,
    require_masks,
    require_positive,
    require_shape,
    require_times,
)
from tokenreel.fuse.losses.inputs import Loss, LossInput

Bridges = tuple[NDArray[np.int64], NDArray[np.int64]]


def vsp(inputs: LossInput, config: VspConfig) -> Tensor:
    """The loss of a batch, a scalar; 0 with fewer than two bridges."""
    embeddings, valid = inputs.sequences()
    labels = inputs.labels.flatten(0, 1)
    if config.supervision == "none":
        numbers, bridges = draw_bridges(
            valid, inputs.rng, segments=config.segments, overlap=config.overlap
        )
    else:
        numbers, bridges = phase_bridges(valid, labels, inputs.rng)
    if len(numbers) < 2:
        return embeddings.sum() * 0.0
    where = torch.from_numpy(numbers).to(embeddings.device)
    points = torch.from_numpy(bridges).to(embeddings.device)
    loss = process_contrastive_loss(embeddings[where[:, None], points], points)
    if config.supervision == "frame":
        middles = points[:, 1]
        loss = loss + supervised_contrastive_loss(
            embeddings[where, middles], labels[where, middles], temperature=config.temperature
        )
    return loss


def draw_bridges(
    valid: Tensor, rng: np.random.Generator, *, segments: int = 1, overlap: float = 0.0
) -> Bridges:
    """A start, a middle and an end in each segment of each sequence.

    Segments are of equal length; each end is moved at random, at the ends of the sequence inwards
    and elsewhere into the neighbour: two that reach furthest share `overlap` of a bridge that does
    so at one end.

    Args:
        valid: bool (S, T), False at padding, which is at the end.
        rng: where they are drawn from.
        segments: of a sequence; fewer in one so short that they would have no frame inside.
        overlap: of neighbours, as a share of a bridge; one segment has none.

    Returns:
        The numbers of the sequences (R,), none of fewer than three valid frames, and positions
        (R, 3).

    Raises:
        TypeError: a mask that is not bool.
    """
    require_masks(valid=valid)
    numbers, bridges = [], []
    for number, count in enumerate(valid.sum(-1).tolist()):
        if count < 3:
            continue
        pieces = max(1, min(segments, count // 3))
        length = count // pieces
        reach = int(length * overlap / (2 - overlap)) if pieces > 1 else 0
        for piece in range(pieces):
            back, ahead = rng.integers(0, reach + 1, size=2).tolist()
            start = abs(piece * length - back)
            is_last = piece + 1 == pieces
            end = count - 1 - ahead if is_last else (piece + 1) * length + ahead
            end = max(start + 2, min(end, count - 1))
            numbers.append(number)
            bridges.append([start, int(rng.integers(start + 1, end)), end])
    return _arrays(numbers, bridges)


def phase_bridges(valid: Tensor, labels: Tensor, rng: np.random.Generator) -> Bridges:
    """A start, a middle and an end in each run of frames of one phase, where it has three or more.

    Args:
        valid: bool (S, T), False at padding, which is at the end.
        labels: int64 (S, T), -1 where a frame has none; only where they change counts.
        rng: where middles are drawn from.

    Returns:
        As :func:`draw_bridges`.

    Raises:
        TypeError: a mask that is not bool, labels that are not whole.
        ValueError: a label below -1.
    """
    require_masks(valid=valid)
    require_labels("labels", labels)
    numbers, bridges = [], []
    phases = labels.masked_fill(~valid.to(labels.device), -1).cpu().numpy()
    for number, row in enumerate(phases):
        starts = np.flatnonzero(np.diff(row, prepend=row[0] - 1))
        ends = np.append(starts[1:], len(row)) - 1
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            if row[start] >= 0 and end - start >= 2:
                numbers.append(number)
                bridges.append([start, int(rng.integers(start + 1, end)), end])
    return _arrays(numbers, bridges)


def process_contrastive_loss(points: Tensor, times: Tensor) -> Tensor:
    """The mean over bridges; negatives are all three points of every other bridge.

    Args:
        points: (R, 3, C): start, middle and end of each bridge, of unit length; R at least 2.
        times: (R, 3) of the points, in frames, increasing.

    Raises:
        TypeError: half precision, times of fewer than 32 bits.
        ValueError: NaN or infinity, another shape, times that do not increase.
    """
    require_shape("points", points, (None, 3, None))
    require_floats(points=points)
    require_times(times=times)
    require_shape("times", times, points.shape[:2])
    if times.device.type == "cpu" and (np.diff(times.numpy(), axis=1) <= 0).any():
        raise ValueError("times: of a bridge they must increase, from start to middle to end")
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


def supervised_contrastive_loss(frames: Tensor, labels: Tensor, *, temperature: float) -> Tensor:
    """The mean over frames of minus the log of the share that frames of its own phase have.

    The released code adds up the shares themselves, a loss that would drive frames of one phase
    apart, and counts a frame as its own positive; this is the loss that it stands for.

    Args:
        frames: (R, C), of unit length.
        labels: int64 (R,) their phases.
        temperature: of the similarities.

    Returns:
        A scalar; 0 where no two frames are of one phase.

    Raises:
        TypeError: half precision, labels that are not whole.
        ValueError: NaN or infinity, another shape, a temperature that is not above 0.
    """
    require_floats(frames=frames)
    require_labels("labels", labels)
    require_shape("labels", labels, frames.shape[:1])
    require_positive(temperature=temperature)
    scores = frames @ frames.T / temperature
    own = torch.eye(len(frames), dtype=torch.bool, device=frames.device)
    same = (labels[:, None] == labels).to(frames.device) & ~own
    every = scores.masked_fill(own, -torch.inf).logsumexp(-1)
    has_any = same.any(-1)
    positive = scores[has_any].masked_fill(~same[has_any], -torch.inf).logsumexp(-1)
    return (every[has_any] - positive).sum() / has_any.sum().clamp_min(1)


def _arrays(numbers: list[int], bridges: list[list[int]]) -> Bridges:
    return np.array(numbers, np.int64), np.array(bridges, np.int64).reshape(-1, 3)


VSP = Loss(VspConfig, vsp)
