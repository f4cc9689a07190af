"""Attention with absorbed queries in plain torch: any device, the path of the CPU.

A few frames at a time: codes become floats, so memory does not grow with the batch, and floats of
the wanted precision, which are used where they lie, stay in the cache of a CPU.

Shapes: F frames, N tokens, E rows of attention, d stored channels of all layers.
"""

from collections.abc import Iterator, Sequence
from itertools import zip_longest

import torch
from torch import Tensor

from tokenreel.fuse.kernels.tokens import unpack, width_of

__all__ = ["dots", "mix", "pool", "pool_backward"]

CHUNK_BYTES = {"cpu": 1 << 23, "cuda": 1 << 28}  # of decoded tokens at once

# Floats of one layer, and the scales of its tokens where those are not in them yet.
Part = tuple[Tensor, Tensor | None]


def pool(
    codes: Sequence[Tensor], queries: Tensor, scales: Sequence[Tensor], hidden: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Attend over the codes of each frame, each chunk of them decoded once.

    Args:
        codes: a layer's (F, N, d), or uint8 (F, N, d/2).
        queries: absorbed, (E, d of all layers) or (F, E, d).
        scales: a layer's (F, N) or (F, N, groups), or ().
        hidden: bool (F, N) or None.

    Returns:
        Pooled codes (F, E, d of all layers), scores (F, E, N), -inf where hidden, and their
        logarithm of the sum of exponentials (F, E).
    """
    frames, num_tokens = codes[0].shape[:2]
    rows, dtype = queries.shape[-2], queries.dtype
    pooled = queries.new_empty(frames, rows, sum(map(width_of, codes)))
    scores = queries.new_empty(frames, rows, num_tokens)
    lse = queries.new_empty(frames, rows)
    for at, parts in _chunks(codes, scales, dtype):
        own = _scores(parts, queries if queries.dim() == 2 else queries[at])
        if hidden is not None:
            own = own.masked_fill(hidden[at, None], -torch.inf)
        scores[at] = own
        lse[at] = own.logsumexp(-1)
        _mix_into(pooled[at], parts, (own - lse[at, :, None]).exp_())
    return pooled, scores, lse


def pool_backward(
    codes: Sequence[Tensor], gradient: Tensor, scales: Sequence[Tensor],
    outputs: tuple[Tensor, Tensor, Tensor], *, shared: bool,
) -> Tensor:  # fmt: skip
    """Gradient of the absorbed queries: one more pass over the codes.

    Args:
        codes: as in :func:`pool`.
        gradient: of the pooled codes, (F, E, d).
        scales: as in :func:`pool`.
        outputs: of :func:`pool`.
        shared: queries were the same for all frames.

    Returns:
        (E, d) where shared, else (F, E, d).
    """
    pooled, scores, lse = outputs
    frames, rows, width = gradient.shape
    delta = (pooled * gradient).sum(-1, keepdim=True)  # what the softmax takes off: sum of a t
    out = gradient.new_zeros(rows, width) if shared else gradient.new_empty(frames, rows, width)
    for at, parts in _chunks(codes, scales, gradient.dtype):
        weights = _scores(parts, gradient[at]).sub_(delta[at])
        weights *= (scores[at] - lse[at, :, None]).exp_()
        if shared:
            _add_shared(out, parts, weights)
        else:
            _mix_into(out[at], parts, weights)
    return out


def dots(codes: Sequence[Tensor], vectors: Tensor, scales: Sequence[Tensor]) -> Tensor:
    """Products of every token with vectors (E, d) or (F, E, d): (F, E, N)."""
    frames, num_tokens = codes[0].shape[:2]
    out = vectors.new_empty(frames, vectors.shape[-2], num_tokens)
    for at, parts in _chunks(codes, scales, vectors.dtype):
        out[at] = _scores(parts, vectors if vectors.dim() == 2 else vectors[at])
    return out


def mix(
    codes: Sequence[Tensor], weights: Tensor, scales: Sequence[Tensor], *, shared: bool
) -> Tensor:
    """Sums of tokens times weights (F, E, N): (F, E, d), or (E, d) over all frames where shared."""
    width = sum(map(width_of, codes))
    if shared:
        out = weights.new_zeros(weights.shape[1], width)
    else:
        out = weights.new_empty(*weights.shape[:2], width)
    for at, parts in _chunks(codes, scales, weights.dtype):
        if shared:
            _add_shared(out, parts, weights[at])
        else:
            _mix_into(out[at], parts, weights[at])
    return out


def _chunks(
    codes: Sequence[Tensor], scales: Sequence[Tensor], dtype: torch.dtype
) -> Iterator[tuple[slice, list[Part]]]:
    frames, num_tokens = codes[0].shape[:2]
    step, device = frames, codes[0].device.type
    if codes[0].dtype != dtype or device == "cpu":  # there the second sweep finds a chunk in cache
        width = sum(map(width_of, codes))
        chunk = CHUNK_BYTES.get(device, CHUNK_BYTES["cpu"])
        step = max(1, chunk // (num_tokens * width * dtype.itemsize))
    for start in range(0, frames, step):
        at = slice(start, start + step)
        yield at, [_part(c[at], None if s is None else s[at], dtype)
                   for c, s in zip_longest(codes, scales)]  # fmt: skip


def _part(codes: Tensor, scales: Tensor | None, dtype: torch.dtype) -> Part:
    if codes.dtype == torch.uint8:
        assert scales is not None
        return unpack(codes, scales, dtype), None
    # A token's scale goes to its score and its weight: E * N products instead of N * d.
    return codes.to(dtype), None if scales is None else scales[:, None].to(dtype)


def _scores(parts: list[Part], vectors: Tensor) -> Tensor:
    """(F, E, N), contiguous."""
    total: Tensor | None = None
    for (values, scales), own in zip(parts, _split(vectors, parts), strict=True):
        products = own @ values.transpose(-1, -2)  # three times as fast as values @ own^T
        products = products if scales is None else products.mul_(scales)
        total = products if total is None else total.add_(products)
    assert total is not None
    return total


def _mix_into(out: Tensor, parts: list[Part], weights: Tensor) -> None:
    for (values, scales), place in zip(parts, _split(out, parts), strict=True):
        place.copy_((weights if scales is None else weights * scales) @ values)


def _add_shared(out: Tensor, parts: list[Part], weights: Tensor) -> None:
    for (values, scales), place in zip(parts, _split(out, parts), strict=True):
        own = weights if scales is None else weights * scales
        place.addmm_(own.transpose(0, 1).flatten(1), values.flatten(0, 1))


def _split(rows: Tensor, parts: list[Part]) -> tuple[Tensor, ...]:
    return rows.split([values.shape[-1] for values, _ in parts], dim=-1)
