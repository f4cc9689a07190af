"""Attention with absorbed queries on a CPU: what :mod:`absorbed` computes, in compiled loops.

The frames are shared among as many threads as torch may use; results do not depend on how many.
Addresses are read: what does not fit raises ValueError or TypeError, however it came here.

Shapes: F frames, N tokens, E rows of attention of a model, d stored channels of all blocks; f
frames at a time.  The loops read rows of all models end to end, each model's made up with zeros to
a multiple of `ROWS`.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from tokenreel.fuse.kernels.attention.tokens import (
    CodedTokens,
    GainedTokens,
    check_tokens,
    unpack,
)
from tokenreel.fuse.kernels.cpu import loops
from tokenreel.fuse.kernels.cpu.loops import ROWS

Array = NDArray[Any]
Outputs = tuple[Tensor, Tensor, Tensor]
Work = Callable[[slice, Array], None]  # of frames, on their rows of an array

PART = 8  # frames at most that a thread takes at once
CHUNK = 64  # frames whose gradients are summed at once
BLOCK_BYTES = 1 << 19  # of codes that lie in the core's own cache
DECODED_BYTES = 5 << 18  # of floats that are made at once, and read there
BITS = {torch.float16: torch.int16, torch.bfloat16: torch.uint16}  # numpy has no bfloat16


def pool(
    codes: Sequence[Tensor], queries: Tensor, scales: Sequence[Tensor], hidden: Tensor | None
) -> Outputs:
    """As :func:`tokenreel.fuse.kernels.attention.absorbed.pool`."""
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
        models: queries of each, as in :func:`pool`, of one dtype; all (E, d) or all (F, E, d).
        scales: as in :func:`pool`.
        hidden: as in :func:`pool`.

    Returns:
        What :func:`pool` returns, for each model.
    """
    return pool_from(Stored(_checked(codes, scales, hidden)), models, hidden)


def pool_from(
    tokens: "Stored | Decoder", models: Sequence[Tensor], hidden: Tensor | None
) -> list[Outputs]:
    """As :func:`pool_each`, of tokens wherever they are."""
    frames, num_tokens = tokens.num_frames, tokens.num_tokens
    vectors = _vectors(tokens, models)
    rows = vectors.shape[1] // sum(tokens.widths)
    pooled = np.empty((frames, vectors.shape[1]), vectors.dtype)
    scores = np.empty((frames, rows, num_tokens), vectors.dtype)
    lse = np.empty((frames, rows), vectors.dtype)
    unseen = np.empty((0, num_tokens), bool) if hidden is None else hidden.contiguous().numpy()

    def work(at: slice, out: Array) -> None:
        for part, block in tokens.blocks(at, models[0].dtype):
            loops.attend(
                block.codes,
                block.scales,
                _of(vectors, part),
                unseen[part],
                block.room(rows),
                out[part.start - at.start : part.stop - at.start],
                scores[part],
                lse[part],
            )

    _fill([pooled], work)
    parts = by_row(pooled, tokens.widths), torch.from_numpy(scores), torch.from_numpy(lse)
    found = []
    for own in rows_of(models):
        first, second, third = (part[:, own].contiguous() for part in parts)
        found.append((first, second, third))
    return found


def pool_backward(
    codes: Sequence[Tensor],
    gradient: Tensor,
    scales: Sequence[Tensor],
    outputs: Outputs,
    *,
    shared: bool,
) -> Tensor:
    """As :func:`tokenreel.fuse.kernels.attention.absorbed.pool_backward`."""
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
    return pool_backward_from(Stored(_checked(codes, scales)), gradients, outputs, shared=shared)


def pool_backward_from(
    tokens: "Stored | Decoder",
    gradients: Sequence[Tensor],
    outputs: Sequence[Outputs],
    *,
    shared: bool,
) -> list[Tensor]:
    """As :func:`pool_backward_each`, of tokens wherever they are."""
    for gradient, (pooled, scores, lse) in zip(gradients, outputs, strict=True):
        shape = (tokens.num_frames, gradient.shape[1])
        _require("gradient", gradient, *shape, sum(tokens.widths))
        _require("pooled codes", pooled, *gradient.shape)
        _require("scores", scores, *shape, tokens.num_tokens)
        _require("lse", lse, *shape)
    vectors = _vectors(tokens, gradients)
    own = end_to_end([scores for _, scores, _ in outputs], dim=1)
    sums = end_to_end([lse for _, _, lse in outputs], dim=1)
    delta = end_to_end(
        [(pooled * part).sum(-1) for (pooled, _, _), part in zip(outputs, gradients, strict=True)],
        dim=1,
    )

    def work(at: slice, out: Array) -> None:
        for part, block in tokens.blocks(at, gradients[0].dtype):
            loops.attend_backward(
                block.codes,
                block.scales,
                vectors[part],
                block.room(own.shape[1]),
                own[part],
                sums[part],
                delta[part],
                out[part.start - at.start : part.stop - at.start],
            )

    rows = by_row(_collect(work, vectors.shape, vectors.dtype, shared=shared), tokens.widths)
    return [(rows[0, at] if shared else rows[:, at]).contiguous() for at in rows_of(gradients)]


def dots(codes: Sequence[Tensor], vectors: Tensor, scales: Sequence[Tensor]) -> Tensor:
    """As :func:`tokenreel.fuse.kernels.attention.absorbed.dots`."""
    tokens = _checked(codes, scales)
    own = _vectors(tokens, [vectors])
    found = np.empty(
        (tokens.num_frames, own.shape[1] // sum(tokens.widths), tokens.num_tokens), own.dtype
    )

    def work(at: slice, out: Array) -> None:
        block = Block.read(tokens, at, vectors.dtype)
        loops.dots(block.codes, block.scales, _of(own, at), block.room(out.shape[1]), out)

    _fill([found], work)
    return torch.from_numpy(found)[:, : vectors.shape[-2]].contiguous()


def mix(
    codes: Sequence[Tensor], weights: Tensor, scales: Sequence[Tensor], *, shared: bool
) -> Tensor:
    """As :func:`tokenreel.fuse.kernels.attention.absorbed.mix`."""
    tokens = _checked(codes, scales)
    _require("weights", weights, tokens.num_frames, weights.shape[1], tokens.num_tokens)
    own = end_to_end([weights], dim=1)

    def work(at: slice, out: Array) -> None:
        block = Block.read(tokens, at, weights.dtype)
        loops.mix(block.codes, block.scales, own[at], block.room(own.shape[1]), out)

    shape = len(own), own.shape[1] * sum(tokens.widths)
    rows = by_row(_collect(work, shape, own.dtype, shared=shared), tokens.widths)
    rows = rows[:, : weights.shape[1]]
    return (rows[0] if shared else rows).contiguous()


def _checked(
    codes: Sequence[Tensor], scales: Sequence[Tensor], hidden: Tensor | None = None
) -> CodedTokens:
    tokens = CodedTokens(tuple(codes), tuple(scales))
    check_tokens(tokens, hidden)
    return tokens


def _require(name: str, found: Tensor, *wanted: int) -> None:
    if found.shape != wanted:
        raise ValueError(f"{name} of shape {tuple(found.shape)}: want {wanted}")


def _vectors(tokens: "CodedTokens | Stored | Decoder", models: Sequence[Tensor]) -> Array:
    """Rows (E, d) or (F, E, d) of each model as the loops read them: (1 or F, rows * d)."""
    models = [rows if rows.dim() == 3 else rows[None] for rows in models]
    for rows in models:
        frames = 1 if len(models[0]) == 1 else tokens.num_frames
        _require("queries", rows, frames, rows.shape[1], sum(tokens.widths))
    return by_layer(models, tokens.widths)


def _of(vectors: Array, at: slice) -> Array:
    return vectors if len(vectors) == 1 else vectors[at]


def _collect(work: Work, shape: tuple[int, ...], dtype: Any, *, shared: bool) -> Array:
    """What `work` adds to zeros, a row a frame; where shared, the sum of all rows, (1, width)."""
    if not shared:
        out = np.zeros(shape, dtype)
        _fill([out], work)
        return out
    frames, width = shape
    total = np.zeros((1, width), dtype)

    def chunks() -> Iterator[Array]:
        for start in range(0, frames, CHUNK):
            out = np.zeros((min(CHUNK, frames - start), width), dtype)
            yield out  # to be filled
            np.add(total, out.sum(0), out=total)  # row by row: the order that any width gets

    _fill(chunks(), work)
    return total


def _fill(outs: Iterable[Array], work: Work) -> None:
    """Let threads fill a row a frame of one array after another."""
    threads = torch.get_num_threads()
    first = 0
    with ThreadPoolExecutor(threads) as workers:  # makes as many as are given something to do
        for out in outs:
            size = min(PART, -(-len(out) // threads))
            starts = range(0, len(out), size)
            run = map if threads == 1 or len(starts) == 1 else workers.map
            frames = [slice(first + at, first + min(at + size, len(out))) for at in starts]
            rows = [out[at : at + size] for at in starts]
            list(run(work, frames, rows))  # raises what a part raised
            first += len(out)


@dataclass(frozen=True, eq=False)
class Block:
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
    def read(cls, tokens: CodedTokens, at: slice, dtype: torch.dtype) -> "Block":
        """The frames `at`, in place; codes of a dtype that no loop reads become floats first."""
        layers = [layer[at] for layer in tokens.codes]
        scales = [scale[at] for scale in tokens.scales]
        if layers[0].dtype == torch.uint8:
            layers = [unpack(*pair, dtype) for pair in zip(layers, scales, strict=True)]
            scales = []
        elif torch.float64 in (dtype, layers[0].dtype):
            layers = [layer.to(dtype, memory_format=torch.contiguous_format) for layer in layers]
        count, num_tokens = layers[0].shape[:2]
        addresses = [
            layer.data_ptr() + np.arange(count) * (layer.stride(0) * layer.itemsize)
            for layer in layers
        ]
        factors = layers[0].new_ones(len(layers), 1, num_tokens, dtype=dtype)
        if scales:
            factors = torch.stack([scale.to(dtype) for scale in scales]).detach()
        like = layers[0].new_empty(0)
        return cls(
            (
                np.array(addresses),
                np.array([layer.shape[2] for layer in layers]),
                like.view(BITS.get(like.dtype, like.dtype)).numpy(),
            ),
            factors.numpy(),
            layers,
        )

    def room(self, rows: int) -> Array:
        """For the products of the tokens of a block, (rows, tokens)."""
        _, widths, like = self.codes
        tokens = BLOCK_BYTES // (int(widths.sum()) * like.itemsize)
        tokens = max(4, min(tokens, self.scales.shape[2]) // 4 * 4)
        return np.empty((rows, tokens), self.scales.dtype)


@dataclass(frozen=True, eq=False)
class Stored:
    """Tokens as the loops read them, where they lie.

    Attributes:
        tokens: their codes.
    """

    tokens: CodedTokens

    @property
    def num_frames(self) -> int:
        """F."""
        return self.tokens.num_frames

    @property
    def num_tokens(self) -> int:
        """N."""
        return self.tokens.num_tokens

    @property
    def widths(self) -> tuple[int, ...]:
        """Stored channels of each block."""
        return self.tokens.widths

    def blocks(self, at: slice, dtype: torch.dtype) -> Iterator[tuple[slice, Block]]:
        """The frames `at`, at once."""
        yield at, Block.read(self.tokens, at, dtype)


def decodes(tokens: GainedTokens) -> bool:
    """Whether :class:`Decoder` knows the codes: int8 on a CPU, in the channels of the tokens."""
    coded = tokens.tokens
    if coded.device.type != "cpu" or coded.codes[0].dtype != torch.int8 or not coded.foldings:
        return False
    return all(
        folding is not None
        and folding.rotation is None
        and scales.dtype == folding.channel_scale.dtype == torch.float32
        for scales, folding in zip(coded.scales, coded.foldings, strict=True)
    )


class Decoder:
    """Makes floats of some frames at a time: what :meth:`GainedTokens.decode` gives, bit for bit.

    Args:
        tokens: that :func:`decodes`.

    Raises:
        ValueError: frames or windows that there are not.
    """

    def __init__(self, tokens: GainedTokens) -> None:
        coded = tokens.tokens
        check_tokens(coded, None)
        _require("gains", tokens.gains, len(tokens.gains), tokens.dim)
        _require("window", tokens.window, tokens.num_frames)
        for name, found, count in (
            ("rows", tokens.rows, coded.num_frames),
            ("window", tokens.window, len(tokens.gains)),
        ):
            if len(found) and not 0 <= int(found.min()) <= int(found.max()) < count:
                given = f"{int(found.min())} to {int(found.max())}"
                raise ValueError(f"{name} {given}: want 0 to {count - 1}")
        self.num_frames, self.num_tokens = tokens.num_frames, tokens.num_tokens
        self.widths = (tokens.dim,)
        self._layers: list[tuple[Any, ...]] = []
        start = 0
        for codes, scales, folding in zip(coded.codes, coded.scales, coded.foldings, strict=True):
            assert folding is not None
            parts = (codes, scales, folding.channel_scale, folding.channel_offset)
            self._layers.append((*(part.detach().contiguous().numpy() for part in parts), start))
            start += codes.shape[2]
        self._rows, self._window = tokens.rows.contiguous().numpy(), tokens.window.numpy()
        self._gains = tokens.gains.contiguous().numpy()

    def fill(self, at: slice, out: Array) -> None:
        """Write the frames `at` into (f, N, D)."""
        for *parts, start in self._layers:
            loops.decode(*parts, self._gains, self._window[at], self._rows[at], start, out)

    def blocks(self, at: slice, dtype: torch.dtype) -> Iterator[tuple[slice, Block]]:
        """Some of the frames `at` at a time, all in the same memory."""
        shape = (self.num_tokens, *self.widths)
        count = min(max(1, DECODED_BYTES // (4 * math.prod(shape))), at.stop - at.start)
        floats = np.empty((count, *shape), np.float32)
        block = Block.read(CodedTokens((torch.from_numpy(floats),)), slice(0, count), dtype)
        for first in range(at.start, at.stop, count):
            part = slice(first, min(first + count, at.stop))
            self.fill(part, floats)
            yield part, block


def decode(tokens: GainedTokens) -> Tensor:
    """As :meth:`GainedTokens.decode`, of tokens that :func:`decodes`."""
    decoder = Decoder(tokens)
    found = np.empty((decoder.num_frames, decoder.num_tokens, *decoder.widths), np.float32)
    _fill([found], decoder.fill)
    return torch.from_numpy(found)


def rows_of(models: Sequence[Tensor]) -> list[slice]:
    """Where the rows (..., E, d) of each model lie among those of all, end to end."""
    places, start = [], 0
    for model in models:
        places.append(slice(start, start + model.shape[-2]))
        start += -(-model.shape[-2] // ROWS) * ROWS
    return places


def end_to_end(models: Sequence[Tensor], dim: int) -> Array:
    """Rows of all models, those of each made up with zeros to a multiple of `ROWS`."""
    parts = []
    for model in models:
        missing = -model.shape[dim] % ROWS
        parts.append(pad(model, [0, 0] * (model.dim() - dim - 1) + [0, missing]))
    return torch.cat(parts, dim).detach().numpy()


def by_layer(models: Sequence[Tensor], widths: Sequence[int]) -> Array:
    """Rows (f, E, d) of each model as the loops read them, (f, rows * d)."""
    rows = torch.from_numpy(end_to_end(models, dim=1))
    return torch.cat([part.flatten(1) for part in rows.split(list(widths), dim=-1)], 1).numpy()


def by_row(flat: Array, widths: Sequence[int]) -> Tensor:
    """What :func:`by_layer` made, as rows (f, rows, d) again."""
    rows = flat.shape[1] // sum(widths)
    parts = torch.from_numpy(flat).split([rows * width for width in widths], dim=1)
    return torch.cat([part.unflatten(1, (rows, -1)) for part in parts], dim=-1)
