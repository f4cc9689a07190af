"""Attention with absorbed queries on a CPU: what :mod:`absorbed` computes, in compiled loops.

The frames are shared among as many threads as torch may use; results do not depend on how many.

Shapes: F frames, N tokens, E rows of attention, d stored channels of all layers.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from tokenreel.fuse.kernels import loops
from tokenreel.fuse.kernels.layout import Array, Block, by_layer, by_row, end_to_end, rows_of
from tokenreel.fuse.kernels.tokens import width_of

__all__ = ["dots", "mix", "pool", "pool_backward", "pool_backward_each", "pool_each"]

Outputs = tuple[Tensor, Tensor, Tensor]

PART = 8  # frames at most that a thread takes at once
CHUNK = 64  # frames whose gradients are summed at once


def pool(
    codes: Sequence[Tensor], queries: Tensor, scales: Sequence[Tensor], hidden: Tensor | None
) -> Outputs:
    """As :func:`tokenreel.fuse.kernels.absorbed.pool`."""
    return pool_each(codes, [queries], scales, hidden)[0]


def pool_each(
    codes: Sequence[Tensor],
    models: Sequence[Tensor],
    scales: Sequence[Tensor],
    hidden: Tensor | None,
) -> list[Outputs]:
    """Attend for several models in one pass; each gets the bytes that it would get alone.

    Args:
        codes: as in :func:`pool`.
        models: queries of each, as in :func:`pool`, of one dtype.
        scales: as in :func:`pool`.
        hidden: as in :func:`pool`.

    Returns:
        What :func:`pool` returns, for each model.
    """
    frames, num_tokens = codes[0].shape[:2]
    widths = [width_of(layer) for layer in codes]
    models = [queries.detach().expand(frames, -1, -1) for queries in models]
    found = [
        (queries.new_empty(queries.shape), queries.new_empty(*queries.shape[:2], num_tokens),
         queries.new_empty(queries.shape[:2]))
        for queries in models
    ]  # fmt: skip

    def attend(at: slice) -> None:
        block = Block.read(codes, scales, at, models[0].dtype)
        vectors = by_layer([queries[at] for queries in models], widths)
        rows = vectors.shape[1] // sum(widths)
        pooled = np.empty((block.frames, vectors.shape[1]), vectors.dtype)
        scores = np.empty((block.frames, rows, num_tokens), vectors.dtype)
        lse = np.empty((block.frames, rows), vectors.dtype)
        unseen = np.empty((0, num_tokens), bool) if hidden is None else hidden[at].numpy()
        loops.attend(
            block.codes, block.scales, vectors, unseen, block.room(rows), pooled, scores, lse
        )
        parts = by_row(pooled, widths), torch.from_numpy(scores), torch.from_numpy(lse)
        for outs, own in zip(found, rows_of(models), strict=True):
            for out, part in zip(outs, parts, strict=True):
                out[at] = part[:, own]

    _in_parts(slice(0, frames), attend)
    return found


def pool_backward(
    codes: Sequence[Tensor], gradient: Tensor, scales: Sequence[Tensor], outputs: Outputs,
    *, shared: bool,
) -> Tensor:  # fmt: skip
    """As :func:`tokenreel.fuse.kernels.absorbed.pool_backward`."""
    return pool_backward_each(codes, [gradient], scales, [outputs], shared=shared)[0]


def pool_backward_each(
    codes: Sequence[Tensor],
    gradients: Sequence[Tensor],
    scales: Sequence[Tensor],
    outputs: Sequence[Outputs],
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
    widths = [width_of(layer) for layer in codes]
    gradients = [gradient.detach() for gradient in gradients]
    scores = [own.detach() for _, own, _ in outputs]
    sides = [
        torch.stack([lse.detach(), (pooled.detach() * gradient).sum(-1)])
        for gradient, (pooled, _, lse) in zip(gradients, outputs, strict=True)
    ]

    def work(at: slice) -> Array:
        block = Block.read(codes, scales, at, gradients[0].dtype)
        vectors = by_layer([gradient[at] for gradient in gradients], widths)
        lse, delta = end_to_end([side[:, at] for side in sides], dim=2)
        out = np.zeros_like(vectors)
        own = end_to_end([part[at] for part in scores], dim=1)
        room = block.room(own.shape[1])
        loops.attend_backward(block.codes, block.scales, vectors, room, own, lse, delta, out)
        return out

    return _collect(work, gradients, widths, shared=shared)


def dots(codes: Sequence[Tensor], vectors: Tensor, scales: Sequence[Tensor]) -> Tensor:
    """As :func:`tokenreel.fuse.kernels.absorbed.dots`."""
    frames, num_tokens = codes[0].shape[:2]
    widths = [width_of(layer) for layer in codes]
    vectors = vectors.detach().expand(frames, -1, -1)
    found = vectors.new_empty(*vectors.shape[:2], num_tokens)

    def work(at: slice) -> None:
        block = Block.read(codes, scales, at, vectors.dtype)
        own = by_layer([vectors[at]], widths)
        room = block.room(own.shape[1] // sum(widths))
        loops.dots(block.codes, block.scales, own, room, found[at].numpy())

    _in_parts(slice(0, frames), work)
    return found


def mix(
    codes: Sequence[Tensor], weights: Tensor, scales: Sequence[Tensor], *, shared: bool
) -> Tensor:
    """As :func:`tokenreel.fuse.kernels.absorbed.mix`."""
    widths = [width_of(layer) for layer in codes]
    weights = weights.detach()

    def work(at: slice) -> Array:
        block = Block.read(codes, scales, at, weights.dtype)
        own = end_to_end([weights[at]], dim=1)
        out = np.zeros((block.frames, own.shape[1] * sum(widths)), own.dtype)
        loops.mix(block.codes, block.scales, own, block.room(own.shape[1]), out)
        return out

    return _collect(work, [weights], widths, shared=shared)[0]


def _collect(
    work: Callable[[slice], Array], models: Sequence[Tensor], widths: Sequence[int], *, shared: bool
) -> list[Tensor]:
    """Rows of each frame that `work` finds, for each model; summed over frames where shared."""
    frames, dim = models[0].shape[0], sum(widths)
    found = [model.new_zeros(*model.shape[1 if shared else 0 : 2], dim) for model in models]
    for start in range(0, frames, CHUNK):
        chunk = slice(start, min(frames, start + CHUNK))
        outs = [
            out.new_empty(chunk.stop - start, *out.shape) if shared else out[chunk] for out in found
        ]

        def place(at: slice, outs: list[Tensor] = outs, start: int = start) -> None:
            rows = by_row(work(at), widths)
            for out, own in zip(outs, rows_of(models), strict=True):
                out[at.start - start : at.stop - start] = rows[:, own]

        _in_parts(chunk, place)
        if shared:
            for total, out in zip(found, outs, strict=True):
                total += out.sum(0)
    return found


def _in_parts(frames: slice, work: Callable[[slice], None]) -> None:
    """Do the work of all frames, on as many threads as torch may use."""
    threads = torch.get_num_threads()
    is_inference = torch.is_inference_mode_enabled()  # which a thread does not inherit
    count = frames.stop - frames.start
    size = min(PART, -(-count // threads))
    parts = [
        slice(at, min(at + size, frames.stop)) for at in range(frames.start, frames.stop, size)
    ]
    if threads == 1 or len(parts) == 1:
        for part in parts:
            work(part)
        return

    def alike(part: slice) -> None:
        with torch.inference_mode(is_inference):
            work(part)

    with ThreadPoolExecutor(threads) as workers:
        for _ in workers.map(alike, parts):  # raises what a part raised
            pass
