"""Attention with absorbed queries in plain torch: any device.

Codes become floats some frames at a time, so memory does not grow with the batch.

Shapes: F frames, N tokens, E rows of attention, d stored channels of all blocks; f frames at a
time.
"""

from collections.abc import Iterator, Sequence
from itertools import zip_longest

import torch
from torch import Tensor

from tokenreel.fuse.kernels.attention.tokens import unpack, width_of

FLOATS_BYTES = 1 << 28  # that codes become at once


def pool(
    codes: Sequence[Tensor], queries: Tensor, scales: Sequence[Tensor], hidden: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Attend over the codes of each frame.

    Args:
        codes: a block's (F, N, d), or uint8 (F, N, d/2).
        queries: absorbed, (E, d of all blocks) or (F, E, d).
        scales: a block's (F, N) or (F, N, groups), or ().
        hidden: bool (F, N) or None.

    Returns:
        Pooled codes (F, E, d of all blocks), scores (F, E, N), -inf where hidden, and their
        logarithm of the sum of exponentials (F, E).
    """
    frames, num_tokens = codes[0].shape[:2]
    queries = queries.expand(frames, -1, -1)
    pooled = torch.empty_like(queries, memory_format=torch.contiguous_format)
    scores = queries.new_empty(*queries.shape[:2], num_tokens)
    lse = queries.new_empty(queries.shape[:2])
    for at in _chunks(codes, queries.dtype):
        parts = _parts(codes, scales, at, queries.dtype)
        own = _scores(parts, queries[at])
        if hidden is not None:
            own.masked_fill_(hidden[at, None], -torch.inf)
        scores[at] = own
        lse[at] = own.logsumexp(-1)
        pooled[at] = _mixed(parts, own.softmax(-1))
    return pooled, scores, lse


def pool_backward(
    codes: Sequence[Tensor],
    gradient: Tensor,
    scales: Sequence[Tensor],
    outputs: tuple[Tensor, Tensor, Tensor],
    *,
    shared: bool,
) -> Tensor:
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
    delta = (pooled * gradient).sum(-1, keepdim=True)  # what the softmax takes off: sum of a t
    out = _room(gradient, gradient.shape[-1], shared)
    for at in _chunks(codes, gradient.dtype):
        parts = _parts(codes, scales, at, gradient.dtype)
        attention = (scores[at] - lse[at, :, None]).exp_()
        _add(out, at, parts, attention * (_scores(parts, gradient[at]) - delta[at]))
    return out


def dots(codes: Sequence[Tensor], vectors: Tensor, scales: Sequence[Tensor]) -> Tensor:
    """Products of every token with vectors (E, d) or (F, E, d): (F, E, N)."""
    frames, num_tokens = codes[0].shape[:2]
    out = vectors.new_empty(frames, vectors.shape[-2], num_tokens)
    vectors = vectors.expand(frames, -1, -1)
    for at in _chunks(codes, vectors.dtype):
        out[at] = _scores(_parts(codes, scales, at, vectors.dtype), vectors[at])
    return out


def mix(
    codes: Sequence[Tensor], weights: Tensor, scales: Sequence[Tensor], *, shared: bool
) -> Tensor:
    """Sums of tokens times weights (F, E, N): (F, E, d), or (E, d) over all frames where shared."""
    out = _room(weights, sum(map(width_of, codes)), shared)
    for at in _chunks(codes, weights.dtype):
        _add(out, at, _parts(codes, scales, at, weights.dtype), weights[at])
    return out


def _room(like: Tensor, width: int, shared: bool) -> Tensor:
    return like.new_zeros(*like.shape[1 if shared else 0 : 2], width)


def _chunks(codes: Sequence[Tensor], dtype: torch.dtype) -> Iterator[slice]:
    """Frames at a time.  Floats are used whole, where they lie."""
    frames, num_tokens = codes[0].shape[:2]
    step = frames
    if any(block.dtype != dtype for block in codes):
        frame_bytes = num_tokens * sum(map(width_of, codes)) * dtype.itemsize
        step = max(1, FLOATS_BYTES // frame_bytes)
    for first in range(0, frames, step):
        yield slice(first, min(first + step, frames))


def _parts(
    codes: Sequence[Tensor], scales: Sequence[Tensor], at: slice, dtype: torch.dtype
) -> list[Tensor]:
    """Floats (f, N, d) of a chunk: each block where it lies, or codes made floats, end to end."""
    blocks = [block[at] for block in codes]
    if all(block.dtype == dtype for block in blocks):
        return blocks
    widths = [width_of(block) for block in blocks]
    out = blocks[0].new_empty(*blocks[0].shape[:2], sum(widths), dtype=dtype)
    for block, scale, place in zip_longest(blocks, scales, out.split(widths, dim=-1)):
        if block.dtype == torch.uint8:
            place.copy_(unpack(block, scale[at], dtype))
            continue
        place.copy_(block)
        if scale is not None:
            place.mul_(scale[at, :, None])
    return [out]


def _scores(parts: list[Tensor], vectors: Tensor) -> Tensor:
    """(f, E, N).

    `bmm` and not `@`: where the vectors carry a gradient, that takes a product half as fast.
    """
    widths = [values.shape[-1] for values in parts]
    first, *others = zip(parts, vectors.split(widths, dim=-1), strict=True)
    total = torch.bmm(first[1], first[0].transpose(1, 2))
    for values, own in others:
        total += torch.bmm(own, values.transpose(1, 2))
    return total


def _mixed(parts: list[Tensor], weights: Tensor) -> Tensor:
    sums = [torch.bmm(weights, values) for values in parts]
    return sums[0] if len(sums) == 1 else torch.cat(sums, dim=-1)


def _add(out: Tensor, at: slice, parts: list[Tensor], weights: Tensor) -> None:
    """Sums of tokens times weights (f, E, N), onto those frames of (F, E, d) or onto (E, d)."""
    own = _mixed(parts, weights)
    if out.dim() == 3:
        out[at] += own
    else:
        out += own.sum(0)
