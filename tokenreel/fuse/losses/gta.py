"""Global temporal alignment (Hadji et al., 2021), as the authors' code computes it.

Each clip is aligned with another of its action by a differentiable DTW whose costs are contrastive:
the negative log share of a frame among all frames of the other clip that could match.  Going there
along one alignment and back along the other should end where it began.

Shapes: S sequences, T frames, C channels, P pairs.
"""

from functools import partial

import torch
from torch import Tensor

from tokenreel.fuse.config.loss import GtaConfig
from tokenreel.fuse.losses.checks import (
    require_floats,
    require_masks,
    require_positive,
    require_shape,
)
from tokenreel.fuse.losses.dtw import expected_minimum, path_ends, path_table, soft_minimum
from tokenreel.fuse.losses.inputs import Loss, LossInput, masked_mean

LOW = -1e9  # of what is padding: finite, so that no gradient is NaN


def gta(inputs: LossInput, config: GtaConfig) -> Tensor:
    """The loss of a batch: the first clip of an action with each other one, a scalar."""
    embeddings, valid = inputs.sequences()
    return global_alignment_loss(embeddings, valid, inputs.pairs(config.pairs, "first"), config)


def global_alignment_loss(
    embeddings: Tensor, valid: Tensor, pairs: Tensor, config: GtaConfig
) -> Tensor:
    """The mean over pairs: cost of the path, or the cycle's loss with both paths' costs.

    Args:
        embeddings: (S, T, C), of unit length.
        valid: bool (S, T), False at padding, which is at the end and counts nowhere.
        pairs: int64 (P, 2).
        config: its constants.

    Raises:
        TypeError: half precision, a mask that is not bool.
        ValueError: NaN or infinity, another shape.
    """
    require_floats(embeddings=embeddings)
    require_masks(valid=valid)
    require_shape("valid", valid, embeddings.shape[:2])
    first, second = pairs.unbind(1)
    a, b, in_a, in_b = embeddings[first], embeddings[second], valid[first], valid[second]
    forth = _paths(match_costs(a, b, in_a, config.gamma_match), config)
    if not config.consistency:
        return path_ends(forth, in_a, in_b).mean()
    back = _paths(match_costs(b, a, in_b, config.gamma_match), config)
    ends = (path_ends(forth, in_a, in_b) + path_ends(back, in_b, in_a)).mean()
    return cycle_loss(forth, back, in_a, in_b, config.label_smoothing) + (
        config.alignment_weight * ends
    )


def match_costs(a: Tensor, b: Tensor, in_a: Tensor, gamma: float) -> Tensor:
    """(P, T, T): minus the log share of each frame of a among those that match a frame of b.

    Source: Hadji et al., 2021, equation 8.

    Raises:
        TypeError: half precision, a mask that is not bool.
        ValueError: NaN or infinity, a gamma that is not above 0.
    """
    require_floats(a=a, b=b)
    require_masks(in_a=in_a)
    require_positive(gamma=gamma)
    scores = (a @ b.transpose(-1, -2) / gamma).masked_fill(~in_a[..., None], LOW)
    return -scores.log_softmax(dim=1)


def cycle_loss(forth: Tensor, back: Tensor, in_a: Tensor, in_b: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy of the cycle with the identity; as released, a softmax of shares.

    Args:
        forth: (P, T, T) path costs from a to b.
        back: (P, T, T) path costs from b to a.
        in_a: bool (P, T).
        in_b: bool (P, T).
        smoothing: share of the target that is spread over all frames.

    Raises:
        TypeError: half precision, a mask that is not bool.
        ValueError: NaN or infinity.
    """
    require_floats(forth=forth, back=back)
    require_masks(in_a=in_a, in_b=in_b)
    there = (-forth).masked_fill(~in_a[..., None], LOW).softmax(dim=1)
    home = (-back).masked_fill(~in_b[..., None], LOW).softmax(dim=1)
    cycle = (there @ home).masked_fill(~in_a[..., None], LOW)
    count = in_a.sum(-1).clamp_min(1)[:, None, None]
    own = torch.eye(in_a.shape[1], dtype=cycle.dtype, device=cycle.device)
    targets = (1 - smoothing) * own + smoothing / count
    terms = torch.where(in_a[..., None], targets * cycle.log_softmax(dim=1), 0.0)
    return masked_mean(-terms.sum(1), in_a)


def _paths(costs: Tensor, config: GtaConfig) -> Tensor:
    smooth = {"expected": expected_minimum, "soft": soft_minimum}[config.minimum]
    return path_table(costs, partial(smooth, gamma=config.gamma_path))


GTA = Loss(GtaConfig, gta)
