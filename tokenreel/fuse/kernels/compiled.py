"""Attention with absorbed queries on a CPU: what :mod:`absorbed` computes, in compiled loops.

The frames are shared among as many threads as torch may use; results do not depend on how many.

Shapes: F frames, N tokens, E rows of attention, d stored channels of all layers.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from tokenreel.fuse.kernels import loops
from tokenreel.fuse.kernels.tokens import unpack, width_of

__all__ = ["dots", "mix", "pool", "pool_backward", "pool_backward_each", "pool_each"]

Array = NDArray[Any]
Outputs = tuple[Tensor, Tensor, Tensor]

BLOCK_BYTES = 1 << 19  # of codes that lie in the core's own cache
PART = 8  # frames at most that a thread takes at once
CHUNK = 64  # frames whose gradients are summed at once
BITS = {torch.float16: torch.int16, torch.bfloat16: torch.uint16}  # numpy has no bfloat16


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
        block = _Block.read(codes, scales, at, models[0].dtype)
        vectors = _by_layer([queries[at] for queries in models], widths)
        rows = vectors.shape[1] // sum(widths)
        pooled = np.empty((block.frames, vectors.shape[1]), vectors.dtype)
        scores = np.empty((block.frames, rows, num_tokens), vectors.dtype)
        lse = np.empty((block.frames, rows), vectors.dtype)
        unseen = np.empty((0, num_tokens), bool) if hidden is None else hidden[at].numpy()
        loops.attend(
            block.codes, block.scales, vectors, unseen, block.room(rows), pooled, scores, lse
        )
        parts = _by_row(pooled, widths), torch.from_numpy(scores), torch.from_numpy(lse)
        for outs, own in zip(found, _rows_of(models), strict=True):
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
        block = _Block.read(codes, scales, at, gradients[0].dtype)
        vectors = _by_layer([gradient[at] for gradient in gradients], widths)
        lse, delta = _end_to_end([side[:, at] for side in sides], dim=2)
        out = np.zeros_like(vectors)
        own = _end_to_end([part[at] for part in scores], dim=1)
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
        block = _Block.read(codes, scales, at, vectors.dtype)
        own = _by_layer([vectors[at]], widths)
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
        block = _Block.read(codes, scales, at, weights.dtype)
        own = _end_to_end([weights[at]], dim=1)
        out = np.zeros((block.frames, own.shape[1] * sum(widths)), own.dtype)
        loops.mix(block.codes, block.scales, own, block.room(own.shape[1]), out)
        return out

    return _collect(work, [weights], widths, shared=shared)[0]


@dataclass(frozen=True, eq=False)
class _Block:
    """Codes as the loops read them, where they lie.

    Attributes:
        codes: addresses of frames (layers, f), widths (layers,), an empty array of their dtype.
        scales: (layers, f or 1, N).
        kept: what lies at the addresses.
    """

    codes: tuple[Array, Array, Array]
    scales: Array
    kept: Sequence[Tensor]

    @classmethod
    def read(
        cls, codes: Sequence[Tensor], scales: Sequence[Tensor], at: slice, dtype: torch.dtype
    ) -> "_Block":
        layers = [layer[at] for layer in codes]
        if layers[0].dtype == torch.uint8:
            layers = [
                unpack(layer, scale[at], dtype) for layer, scale in zip(layers, scales, strict=True)
            ]
            scales = ()
        elif torch.float64 in (dtype, layers[0].dtype):
            layers = [layer.to(dtype) for layer in layers]
        like = layers[0].new_empty(0)
        steps = np.arange(layers[0].shape[0])
        addresses = [
            layer.data_ptr() + steps * (layer.stride(0) * layer.itemsize) for layer in layers
        ]
        own = torch.stack([scale[at].to(dtype) for scale in scales]) if scales else None
        factors = (
            torch.ones(len(layers), 1, layers[0].shape[1], dtype=dtype) if own is None else own
        )
        return cls(
            (
                np.array(addresses),
                np.array([layer.shape[2] for layer in layers]),
                like.view(BITS.get(like.dtype, like.dtype)).numpy(),
            ),
            factors.numpy(),
            layers,
        )

    @property
    def frames(self) -> int:
        return self.codes[0].shape[1]

    def room(self, rows: int) -> Array:
        """For the products of the tokens of a block, (rows, tokens)."""
        _, widths, like = self.codes
        tokens = BLOCK_BYTES // (int(widths.sum()) * like.itemsize)
        tokens = max(4, min(tokens, self.scales.shape[2]) // 4 * 4)
        return np.empty((rows, tokens), self.scales.dtype)


def _rows_of(models: Sequence[Tensor]) -> list[slice]:
    """Where the rows (f, E, ...) of each model lie among those of all, end to end."""
    places, start = [], 0
    for model in models:
        places.append(slice(start, start + model.shape[1]))
        start += -(-model.shape[1] // loops.ROWS) * loops.ROWS
    return places


def _end_to_end(models: Sequence[Tensor], dim: int) -> Array:
    """Rows of all models, those of each made up with zeros to a multiple of `loops.ROWS`."""
    parts = []
    for model in models:
        missing = -model.shape[dim] % loops.ROWS
        parts.append(pad(model, [0, 0] * (model.dim() - dim - 1) + [0, missing]))
    return torch.cat(parts, dim).numpy()


def _by_layer(models: Sequence[Tensor], widths: Sequence[int]) -> Array:
    """Rows (f, E, d) of each model as the loops read them, (f, rows * d)."""
    rows = torch.from_numpy(_end_to_end(models, dim=1))
    return torch.cat([part.flatten(1) for part in rows.split(list(widths), dim=-1)], 1).numpy()


def _by_row(flat: Array, widths: Sequence[int]) -> Tensor:
    """What :func:`_by_layer` made, as rows (f, rows, d) again."""
    rows = flat.shape[1] // sum(widths)
    parts = torch.from_numpy(flat).split([rows * width for width in widths], dim=1)
    return torch.cat([part.unflatten(1, (rows, -1)) for part in parts], dim=-1)


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
            rows = _by_row(work(at), widths)
            for out, own in zip(outs, _rows_of(models), strict=True):
                out[at.start - start : at.stop - start] = rows[:, own]

        _in_parts(chunk, place)
        if shared:
            for total, out in zip(found, outs, strict=True):
                total += out.sum(0)
    return found


def _in_parts(frames: slice, work: Callable[[slice], None]) -> None:
    threads = torch.get_num_threads()
    count = frames.stop - frames.start
    size = min(PART, -(-count // threads))
    parts = [
        slice(at, min(at + size, frames.stop)) for at in range(frames.start, frames.stop, size)
    ]
    if threads == 1 or len(parts) == 1:
        for part in parts:
            work(part)
        return
    with ThreadPoolExecutor(threads) as workers:
        for _ in workers.map(work, parts):  # raises what a part raised
            pass
