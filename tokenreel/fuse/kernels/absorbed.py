"""Attention with absorbed queries in plain torch: any device, the path of the CPU.

Codes become floats a block at a time, so memory does not grow with the batch; on a CPU a block is
small enough to be found in the core's own cache by the two products that it meets.

Shapes: F frames, N tokens, E rows of attention, d stored channels of all layers; a block has f
frames and n tokens.
"""

from collections.abc import Iterator, Sequence
from itertools import zip_longest

import torch
from torch import Tensor

from tokenreel.fuse.kernels.tokens import unpack, width_of

__all__ = ["dots", "mix", "pool", "pool_backward", "pool_backward_each", "pool_each"]

BLOCK_BYTES = {"cpu": 1 << 20, "cuda": 1 << 28}  # of the floats that codes become at once
GROUP = 8  # frames whose blocks are joined together: fewer, longer operations


def pool(
    codes: Sequence[Tensor], queries: Tensor, scales: Sequence[Tensor], hidden: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Attend over the codes of each frame; each block of them is decoded once.

    Args:
        codes: a layer's (F, N, d), or uint8 (F, N, d/2).
        queries: absorbed, (E, d of all layers) or (F, E, d).
        scales: a layer's (F, N) or (F, N, groups), or ().
        hidden: bool (F, N) or None.

    Returns:
        Pooled codes (F, E, d of all layers), scores (F, E, N), -inf where hidden, and their
        logarithm of the sum of exponentials (F, E).
    """
    return pool_each(codes, [queries], scales, hidden)[0]


def pool_each(
    codes: Sequence[Tensor],
    models: Sequence[Tensor],
    scales: Sequence[Tensor],
    hidden: Tensor | None,
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Attend for several models over the same codes, which become floats once for all of them.

    The products are each model's own: it gets the bytes that it would get alone.

    Args:
        codes: as in :func:`pool`.
        models: queries of each, as in :func:`pool`, of one dtype.
        scales: as in :func:`pool`.
        hidden: as in :func:`pool`.

    Returns:
        What :func:`pool` returns, for each model.
    """
    frames, dtype = codes[0].shape[0], models[0].dtype
    models = [queries.expand(frames, -1, -1) for queries in models]
    found = [_room_to_pool(codes, queries) for queries in models]
    step, insides = _blocks(codes, dtype)
    for group in _slices(0, frames, max(step, GROUP)):
        sums = [pooled.new_empty(pooled[group].shape[0], len(insides), *pooled.shape[1:])
                for pooled, _, _ in found]  # fmt: skip
        for at in _slices(group.start, group.stop, step):
            here = slice(at.start - group.start, at.stop - group.start)
            for block, inside in enumerate(insides):
                parts = _parts(codes, scales, at, inside, dtype)
                for queries, (_, scores, _), place in zip(models, found, sums, strict=True):
                    own = _scores(parts, queries[at])
                    if hidden is not None:  # not -inf: a block may be hidden whole
                        own.masked_fill_(hidden[at, None, inside], torch.finfo(dtype).min)
                    scores[at, :, inside] = own
                    _mix_into(place[here, block], parts, own.softmax(-1))
        for (pooled, scores, lse), place in zip(found, sums, strict=True):
            if hidden is not None:
                scores[group].masked_fill_(hidden[group, None], -torch.inf)
            of_blocks = [scores[group, :, inside] for inside in insides]
            pooled[group], lse[group] = _join(place, of_blocks)
    return found


def _room_to_pool(codes: Sequence[Tensor], queries: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    frames, rows = queries.shape[:2]
    return (
        queries.new_empty(frames, rows, sum(map(width_of, codes))),
        queries.new_empty(frames, rows, codes[0].shape[1]),
        queries.new_empty(frames, rows),
    )


def _join(sums: Tensor, scores: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Attention over all tokens from attention within each block of them.

    Args:
        sums: pooled codes of each block, (f, blocks, E, d); overwritten.
        scores: of each block, (f, E, n).

    Returns:
        Pooled codes (f, E, d), and the logarithm of the sum of exponentials (f, E).
    """
    of_blocks = torch.stack([own.logsumexp(-1) for own in scores], dim=1)
    lse = of_blocks.logsumexp(1)
    shares = (of_blocks - lse[:, None]).exp_()
    return sums.mul_(shares[..., None]).sum(1), lse


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
    return pool_backward_each(codes, [gradient], scales, [outputs], shared=shared)[0]


def pool_backward_each(
    codes: Sequence[Tensor],
    gradients: Sequence[Tensor],
    scales: Sequence[Tensor],
    outputs: Sequence[tuple[Tensor, Tensor, Tensor]],
    *,
    shared: bool,
) -> list[Tensor]:
    """Gradients of the absorbed queries of several models, of :func:`pool_each`.

    Args:
        codes: as in :func:`pool_each`.
        gradients: of the pooled codes of each model, (F, E, d).
        scales: as in :func:`pool_each`.
        outputs: of :func:`pool_each`.
        shared: queries were the same for all frames.

    Returns:
        What :func:`pool_backward` returns, for each model.
    """
    found, softmaxes = [], []
    for gradient, (pooled, scores, lse) in zip(gradients, outputs, strict=True):
        delta = (pooled * gradient).sum(-1, keepdim=True)  # what the softmax takes off: sum of a t
        attention = (scores - lse[..., None]).exp_()
        softmaxes.append((attention * -delta, attention))
        found.append(_room(gradient, gradient.shape[-1], shared))
    step, insides = _blocks(codes, gradients[0].dtype)
    for at in _slices(0, gradients[0].shape[0], step):
        for inside in insides:
            parts = _parts(codes, scales, at, inside, gradients[0].dtype)
            where = at, slice(None), inside
            for gradient, (shift, attention), out in zip(gradients, softmaxes, found, strict=True):
                products = _scores(parts, gradient[at])
                _add(out, at, parts, torch.addcmul(shift[where], attention[where], products))
    return found


def dots(codes: Sequence[Tensor], vectors: Tensor, scales: Sequence[Tensor]) -> Tensor:
    """Products of every token with vectors (E, d) or (F, E, d): (F, E, N)."""
    frames, num_tokens = codes[0].shape[:2]
    out = vectors.new_empty(frames, vectors.shape[-2], num_tokens)
    vectors = vectors.expand(frames, -1, -1)
    step, insides = _blocks(codes, vectors.dtype)
    for at in _slices(0, frames, step):
        for inside in insides:
            parts = _parts(codes, scales, at, inside, vectors.dtype)
            out[at, :, inside] = _scores(parts, vectors[at])
    return out


def mix(
    codes: Sequence[Tensor], weights: Tensor, scales: Sequence[Tensor], *, shared: bool
) -> Tensor:
    """Sums of tokens times weights (F, E, N): (F, E, d), or (E, d) over all frames where shared."""
    out = _room(weights, sum(map(width_of, codes)), shared)
    step, insides = _blocks(codes, weights.dtype)
    for at in _slices(0, weights.shape[0], step):
        for inside in insides:
            parts = _parts(codes, scales, at, inside, weights.dtype)
            _add(out, at, parts, weights[at, :, inside])
    return out


def _room(like: Tensor, width: int, shared: bool) -> Tensor:
    return like.new_zeros(*like.shape[1 if shared else 0 : 2], width)


def _slices(start: int, stop: int, step: int) -> Iterator[slice]:
    for first in range(start, stop, step):
        yield slice(first, min(first + step, stop))


def _blocks(codes: Sequence[Tensor], dtype: torch.dtype) -> tuple[int, list[slice]]:
    """How blocks are cut: frames of one, and its tokens.  Floats are used whole, where they lie."""
    frames, num_tokens = codes[0].shape[:2]
    if all(layer.dtype == dtype for layer in codes):
        return frames, [slice(0, num_tokens)]
    device = codes[0].device.type
    size = BLOCK_BYTES.get(device, BLOCK_BYTES["cpu"])
    frame_bytes = num_tokens * sum(map(width_of, codes)) * dtype.itemsize
    num_blocks = -(-frame_bytes // size) if device == "cpu" else 1
    return max(1, size // frame_bytes), list(_slices(0, num_tokens, -(-num_tokens // num_blocks)))


def _parts(
    codes: Sequence[Tensor], scales: Sequence[Tensor], at: slice, inside: slice, dtype: torch.dtype
) -> list[Tensor]:
    """Floats (f, n, d) of a block: each layer where it lies, or codes made floats, end to end."""
    layers = [layer[at, inside] for layer in codes]
    if all(layer.dtype == dtype for layer in layers):
        return layers
    widths = [width_of(layer) for layer in layers]
    out = layers[0].new_empty(*layers[0].shape[:2], sum(widths), dtype=dtype)
    for layer, scale, place in zip_longest(layers, scales, out.split(widths, dim=-1)):
        if layer.dtype == torch.uint8:
            place.copy_(unpack(layer, scale[at, inside], dtype))
            continue
        place.copy_(layer)
        if scale is not None:
            place.mul_(scale[at, inside, None])
    return [out]


def _scores(parts: list[Tensor], vectors: Tensor) -> Tensor:
    """(f, E, n).

    `bmm` and not `@`: where the vectors carry a gradient, that takes a product half as fast.
    """
    first, *others = zip(parts, _split(vectors, parts), strict=True)
    total = torch.bmm(first[1], first[0].transpose(1, 2))
    for values, own in others:
        total += torch.bmm(own, values.transpose(1, 2))
    return total


def _mix_into(out: Tensor, parts: list[Tensor], weights: Tensor) -> None:
    for values, place in zip(parts, _split(out, parts), strict=True):
        place.copy_(torch.bmm(weights, values))


def _add(out: Tensor, at: slice, parts: list[Tensor], weights: Tensor) -> None:
    """Sums of tokens times weights (f, E, n), onto those frames of (F, E, d) or onto (E, d)."""
    for values, place in zip(parts, _split(out, parts), strict=True):
        if out.dim() == 3:
            place[at] += torch.bmm(weights, values)
        else:  # not one product, which would copy frames that lie apart
            place += torch.bmm(weights, values).sum(0)


def _split(rows: Tensor, parts: list[Tensor]) -> tuple[Tensor, ...]:
    return rows.split([values.shape[-1] for values in parts], dim=-1)
