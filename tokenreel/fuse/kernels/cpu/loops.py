"""Attention with absorbed queries as loops over tokens, compiled for this processor by Numba.

A block of tokens is small enough to be found in the core's own cache by the second of the two
products that it meets; codes become floats in registers.  So a pass costs one read of the codes.
Sums are of `ROWS` rows at a time, each by the same instructions: what a row gets depends neither on
the other rows nor on the number of threads.

Shapes: f frames, N tokens, E rows of attention, d channels of all layers; `room` is (rows, block)
where rows is E made up to a multiple of `ROWS`.  A side that meets tokens lies layer after layer:
(f, rows * d), of each layer (rows, its channels).  Half floats come as the integers of their bits:
int16 is a float16, uint16 a bfloat16.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, overload
from numba.np.numpy_support import carray

from tokenreel.fuse.kernels.cpu.numba_cache import keep

ROWS = 3
MATHS = {"reassoc", "nsz", "contract", "arcp"}  # sums in any order; NaN and infinity stay


whole = njit(nogil=True, fastmath=MATHS, error_model="numpy")
# Inside its entry, each: a process that compiles would else call another copy of the code than one
# that finds the entry on disk, and the two may round differently.
part = njit(nogil=True, fastmath=MATHS, error_model="numpy", forceinline=True)


def entry(function: Callable[..., Any], compile_with: Callable[..., Any] = whole) -> Any:
    """Compile, and keep the machine code with that of all parts that it calls."""
    loops = compile_with(function)
    keep(loops, function)
    return loops


# Every product and sum is rounded, in the order written, as torch does.
exact = njit(nogil=True, error_model="numpy")


@intrinsic
def pointer(context, address, like):
    """Pointer to the elements, of the dtype of `like`, that lie at an address."""

    def make(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(like.dtype)(address, like), make


@intrinsic
def _of_half(context, bits):
    def make(context, builder, signature, arguments):
        return builder.fpext(builder.bitcast(arguments[0], ir.HalfType()), ir.FloatType())

    return types.float32(bits), make


@intrinsic
def _of_bfloat16(context, bits):
    def make(context, builder, signature, arguments):
        word = ir.IntType(32)
        wide = builder.shl(builder.zext(arguments[0], word), ir.Constant(word, 16))
        return builder.bitcast(wide, ir.FloatType())

    return types.float32(bits), make


def number(code: Any) -> Any:
    """The float that a code is before its scale."""
    raise NotImplementedError("for compiled code alone")


@overload(number, inline="always")
def _(code):
    if code == types.int16:
        return lambda code: _of_half(code)
    if code == types.uint16:
        return lambda code: _of_bfloat16(code)
    if code == types.int8:
        return lambda code: np.float32(code)
    return lambda code: code


@part
def _score(tokens, scales, vectors, first, stop, room):
    """Add products of tokens (N, c) of one layer with vectors (rows, c); two tokens at a time."""
    zero = vectors.dtype.type(0)
    for n in range(first, stop, 2):
        m = min(n + 1, stop - 1)
        for e in range(0, len(vectors), 3):
            a = b = c = x = y = z = zero
            for i in range(tokens.shape[1]):
                one, other = number(tokens[n, i]), number(tokens[m, i])
                u, v, w = vectors[e, i], vectors[e + 1, i], vectors[e + 2, i]
                a, b, c = a + u * one, b + v * one, c + w * one
                x, y, z = x + u * other, y + v * other, z + w * other
            for row, value in enumerate((a, b, c)):
                room[e + row, n - first] += scales[n] * value
            if m > n:
                for row, value in enumerate((x, y, z)):
                    room[e + row, m - first] += scales[m] * value


@part
def _four(room, scales, row, first, n, stop):
    """Weights of the tokens from n on, times their scales; 0 where there are no more tokens."""
    zero = room.dtype.type(0)
    a = room[row, n - first] * scales[n]
    b = room[row, n + 1 - first] * scales[n + 1] if n + 1 < stop else zero
    c = room[row, n + 2 - first] * scales[n + 2] if n + 2 < stop else zero
    d = room[row, n + 3 - first] * scales[n + 3] if n + 3 < stop else zero
    return a, b, c, d


@part
def _mix(tokens, scales, room, first, stop, out):
    """Add sums of tokens (N, c) of one layer times weights, to (rows, c); four at a time."""
    for n in range(first, stop, 4):
        n1, n2, n3 = min(n + 1, stop - 1), min(n + 2, stop - 1), min(n + 3, stop - 1)
        for e in range(0, len(room), 3):
            a, b, c, d = _four(room, scales, e, first, n, stop)
            f, g, h, j = _four(room, scales, e + 1, first, n, stop)
            p, q, r, s = _four(room, scales, e + 2, first, n, stop)
            for i in range(tokens.shape[1]):
                w, x = number(tokens[n, i]), number(tokens[n1, i])
                y, z = number(tokens[n2, i]), number(tokens[n3, i])
                out[e, i] += a * w + b * x + c * y + d * z
                out[e + 1, i] += f * w + g * x + h * y + j * z
                out[e + 2, i] += p * w + q * x + r * y + s * z


@part
def _score_layers(codes, scales, frame, vectors, first, stop, room):
    addresses, widths, like = codes
    rows, start = len(room), 0
    room[:] = 0
    for layer, width in enumerate(widths):
        tokens = carray(pointer(addresses[layer, frame], like), (scales.shape[2], width))
        own = vectors[start : start + rows * width].reshape((rows, width))
        _score(tokens, scales[layer, frame % scales.shape[1]], own, first, stop, room)
        start += rows * width


@part
def _mix_layers(codes, scales, frame, room, first, stop, out):
    addresses, widths, like = codes
    rows, start = len(room), 0
    for layer, width in enumerate(widths):
        tokens = carray(pointer(addresses[layer, frame], like), (scales.shape[2], width))
        own = out[start : start + rows * width].reshape((rows, width))
        _mix(tokens, scales[layer, frame % scales.shape[1]], room, first, stop, own)
        start += rows * width


@part
def _take_in(row, factor, widths, rows, out, piece):
    """Scale a row and add what a block gave, which becomes zeros.

    Sums of blocks are rounded less than one sum of all tokens.
    """
    start = 0
    for width in widths:
        for i in range(start + row * width, start + (row + 1) * width):
            out[i] = out[i] * factor + piece[i]
            piece[i] = 0
        start += rows * width


@part
def _hide(scores, hidden):
    for n in range(len(scores)):
        if hidden[n]:
            scores[n] = -np.inf


@part
def _soften(room, scores, top, total):
    """Make the scores of a block weights, relative to the largest score so far.

    Args:
        room: scores (tokens,); becomes weights.
        scores: is filled, (tokens,).
        top: the largest before.
        total: sum of the weights before, relative to that.

    Returns:
        Both with this block, and the factor from weights before to what they are now.
    """
    before = top
    for n in range(len(room)):
        scores[n] = room[n]
        top = max(top, room[n])
    shift = top if top > -np.inf else room.dtype.type(0)  # all are hidden, or NaN
    factor = math.exp(before - shift)
    total *= factor
    for n in range(len(room)):
        room[n] = math.exp(room[n] - shift)
        total += room[n]
    return top, total, factor


@entry
def attend(codes, scales, vectors, hidden, room, pooled, scores, lse):
    """Attention and its sums of tokens, by a softmax that grows block by block.

    Args:
        codes: addresses of frames (layers, f), widths (layers,), an empty array of their dtype.
        scales: (layers, f or 1, N).
        vectors: (f or 1, rows * d).
        hidden: bool (f, N), or (0, N).
        room: as above.
        pooled: is filled, (f, rows * d).
        scores: is filled, (f, E, N); -inf where hidden.
        lse: is filled, (f, E).
    """
    count, num_rows, num_tokens = scores.shape
    block = room.shape[1]
    top, total, factor = np.empty((3, num_rows), room.dtype)
    piece = np.zeros_like(pooled[0])
    for frame in range(count):
        out = pooled[frame]
        out[:], top[:], total[:] = 0, -np.inf, 0
        for first in range(0, num_tokens, block):
            stop = min(num_tokens, first + block)
            _score_layers(codes, scales, frame, vectors[frame % len(vectors)], first, stop, room)
            for e in range(num_rows):
                own = room[e, : stop - first]
                if len(hidden):
                    _hide(own, hidden[frame, first:stop])
                top[e], total[e], factor[e] = _soften(
                    own, scores[frame, e, first:stop], top[e], total[e]
                )
            _mix_layers(codes, scales, frame, room, first, stop, piece)
            for e in range(num_rows):
                _take_in(e, factor[e], codes[1], len(room), out, piece)
        for e in range(num_rows):
            _take_in(e, 1 / total[e], codes[1], len(room), out, piece)
            lse[frame, e] = top[e] + math.log(total[e])


@entry
def attend_backward(codes, scales, gradients, room, scores, lse, delta, out):
    """Add the gradient of the vectors of :func:`attend`.

    Args:
        codes: as there.
        scales: as there.
        gradients: of the pooled codes, (f, rows * d).
        room: as above.
        scores: as there.
        lse: as there.
        delta: sums of pooled codes times gradients, (f, E).
        out: is added to, (f, rows * d), or (1, rows * d) where all frames share the vectors.
    """
    count, num_rows, num_tokens = scores.shape
    block = room.shape[1]
    for frame in range(count):
        for first in range(0, num_tokens, block):
            stop = min(num_tokens, first + block)
            _score_layers(codes, scales, frame, gradients[frame], first, stop, room)
            for e in range(num_rows):
                for n in range(stop - first):
                    attention = math.exp(scores[frame, e, first + n] - lse[frame, e])
                    room[e, n] = attention * (room[e, n] - delta[frame, e])
            _mix_layers(codes, scales, frame, room, first, stop, out[frame % len(out)])


@entry
def dots(codes, scales, vectors, room, found):
    """Products of tokens with vectors (f or 1, rows * d), into `found` (f, E, N)."""
    count, num_rows, num_tokens = found.shape
    block = room.shape[1]
    for frame in range(count):
        for first in range(0, num_tokens, block):
            stop = min(num_tokens, first + block)
            _score_layers(codes, scales, frame, vectors[frame % len(vectors)], first, stop, room)
            for e in range(num_rows):
                for n in range(first, stop):
                    found[frame, e, n] = room[e, n - first]


@entry
def mix(codes, scales, weights, room, out):
    """Add sums of tokens times weights (f, E, N), to `out` (f or 1, rows * d)."""
    count, num_rows, num_tokens = weights.shape
    block = room.shape[1]
    for frame in range(count):
        for first in range(0, num_tokens, block):
            stop = min(num_tokens, first + block)
            for e in range(num_rows):
                for n in range(first, stop):
                    room[e, n - first] = weights[frame, e, n]
            _mix_layers(codes, scales, frame, room, first, stop, out[frame % len(out)])


def _decode(codes, scales, factors, offsets, gains, window, rows, start, out):
    """Frames of int8 codes of one layer as floats, each channel times that of a window.

    Args:
        codes: int8 (F, N, d).
        scales: (F, N).
        factors: (d,), of each channel.
        offsets: (d,), added to what both give.
        gains: (W, channels of all layers).
        window: (f,) of each frame.
        rows: (f,) which of the F frames.
        start: the layer's first channel among those of all layers.
        out: is filled from `start` on, (f or more, N, channels of all layers).
    """
    for place in range(len(rows)):
        frame, own = rows[place], window[place]
        for n in range(codes.shape[1]):
            scale = scales[frame, n]
            for i in range(codes.shape[2]):
                token = np.float32(codes[frame, n, i]) * scale * factors[i] + offsets[i]
                out[place, n, start + i] = token * gains[own, start + i]


decode = entry(_decode, exact)
