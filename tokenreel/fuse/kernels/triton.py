"""Attention with absorbed queries in one read of the codes: forward and backward for Triton.

A program owns a tile of tokens.  Its first sweep contracts channels (scores), its second contracts
tokens (weighted sums); the tile is read from DRAM by the first and from cache by the second.  The
sums of all channels stay in registers, as a tuple of (R, BD) blocks.  R = 16 rows is the least a
matrix unit takes, and E <= 8 of them are needed: the others carry the LOW half of the small operand
(queries, gradients, weights), so results have float32's quality on int8 and half-precision units.

Letters of the kernels: L layers of D channels, ND = blocks of BD channels in a layer, BN tokens of
a tile, BE rows of attention with padding, R = 2 BE where low halves are stacked (SPLIT), else BE.
I8: codes are int8 with scales.  DT: what the second sweep multiplies in.  ASM: int8 to float16 by
byte permutes.  UP: multiply in float32, for the interpreter, which takes bfloat16 for raw bits.

Source of the schedule: online softmax of FlashAttention; the absorption is DeepSeek-V2's (MLA).
"""

import triton
import triton.language as tl

from tokenreel.fuse.kernels.tiles import (
    accumulate,
    empty_blocks,
    empty_rows,
    products,
    store_sums,
)

__all__ = ["pool_backward_kernel", "pool_kernel"]


@triton.jit(
    do_not_specialize=["num_rows", "num_splits", "tiles_of_split", "q_stride", "q_scale_stride"]
)  # they vary with the batch: no new compilation
def pool_kernel(x0, x1, x2, x3, fs0, fs1, fs2, fs3, s0, s1, s2, s3, unit, hidden, q, q_scale,
                out, extremes, scores, lse, num_tokens, num_rows, num_splits, tiles_of_split,
                q_stride, q_scale_stride, low_weight, L: tl.constexpr, D: tl.constexpr,
                BD: tl.constexpr, ND: tl.constexpr, BN: tl.constexpr, BE: tl.constexpr,
                SPLIT: tl.constexpr, I8: tl.constexpr, HIDES: tl.constexpr, DT: tl.constexpr,
                ASM: tl.constexpr, WHOLE: tl.constexpr, PRECISION: tl.constexpr,
                UP: tl.constexpr):  # fmt: skip
    """Pool frames: grid (F, num_splits), each program a part of a frame's tokens.

    q (..., L, R, D) holds stacked rows, q_scale (..., L, BE) what they are worth.  WHOLE: there
    is one split, `out` (F, E, L * D) is finished and `lse` (F, E) written; otherwise `out`
    (F, num_splits, E, L * D) and `extremes` (F, num_splits, 2, E), the largest score and the sum,
    wait to be joined.
    """
    R: tl.constexpr = BE * 2 if SPLIT else BE
    frame = tl.program_id(0).to(tl.int64)  # F * N * D passes 2^31
    split = tl.program_id(1)
    rows = tl.arange(0, BE)
    q += frame * q_stride
    q_scale += frame * q_scale_stride
    top = tl.full([BE], -float("inf"), tl.float32)
    total = tl.zeros([BE], tl.float32)
    sums = empty_blocks(L * ND, R, BD)
    offsets = empty_rows(L if ASM else 0, R)
    first = split * tiles_of_split * BN
    for n0 in range(first, tl.minimum(first + tiles_of_split * BN, num_tokens), BN):
        tokens = n0 + tl.arange(0, BN)
        seen = tokens < num_tokens
        if HIDES:
            seen = seen & (tl.load(hidden + frame * num_tokens + tokens, mask=seen, other=1) == 0)
        s = products(x0, x1, x2, x3, fs0, fs1, fs2, fs3, s0, s1, s2, s3, q, q_scale, frame, n0,
                      num_tokens, low_weight, L, D, BD, ND, BN, BE, R, SPLIT, I8, PRECISION,
                      UP)  # fmt: skip
        s = tl.where(seen[None, :], s, -float("inf"))
        at = scores + (frame * num_rows + rows)[:, None] * num_tokens + tokens[None, :]
        tl.store(at, s, mask=(rows < num_rows)[:, None] & (tokens < num_tokens)[None, :])
        new_top = tl.maximum(top, tl.max(s, 1))
        safe = tl.where(new_top == -float("inf"), 0.0, new_top)  # nothing seen so far
        keep = tl.exp(top - safe)
        p = tl.exp(s - safe[:, None])
        total = total * keep + tl.sum(p, 1)
        top = new_top
        sums, offsets = accumulate(
            sums, offsets, p, keep, x0, x1, x2, x3, fs0, fs1, fs2, fs3, s0, s1, s2, s3, unit,
            frame, n0, num_tokens, L, D, BD, ND, BN, BE, R, SPLIT, I8, DT, ASM, PRECISION,
            UP)  # fmt: skip
    factor = tl.full([BE], 1.0, tl.float32)
    if WHOLE:
        tl.store(lse + frame * num_rows + rows, top + tl.log(total), mask=rows < num_rows)
        factor = 1.0 / total
    else:
        at = extremes + (frame * num_splits + split) * 2 * num_rows + rows
        tl.store(at, top, mask=rows < num_rows)
        tl.store(at + num_rows, total, mask=rows < num_rows)
    out += (frame * num_splits + split) * num_rows * (L * D)
    store_sums(out, sums, offsets, factor, unit, num_rows, L, D, BD, ND, BE, SPLIT, I8, ASM)


@triton.jit(do_not_specialize=["num_rows", "num_tiles", "num_units", "units_of_program"])
def pool_backward_kernel(x0, x1, x2, x3, fs0, fs1, fs2, fs3, s0, s1, s2, s3, unit, g, g_scale,
                         scores, lse, delta, out, num_tokens, num_rows, num_tiles, num_units,
                         units_of_program, low_weight, L: tl.constexpr, D: tl.constexpr,
                         BD: tl.constexpr, ND: tl.constexpr, BN: tl.constexpr, BE: tl.constexpr,
                         SPLIT: tl.constexpr, I8: tl.constexpr, DT: tl.constexpr,
                         ASM: tl.constexpr, PRECISION: tl.constexpr, UP: tl.constexpr):  # fmt: skip
    """Gradient of queries: grid (P,), each program the same number of units, (frame, tile) pairs.

    No atomics: `out` (P, E, L * D) are partial sums, added in a fixed order by the caller; P = F
    with a frame's tiles each gives the gradient of each frame's own queries.  The weights of a row
    are kept below 1 by what was its largest so far, so that half precision holds them.
    """
    R: tl.constexpr = BE * 2 if SPLIT else BE
    program = tl.program_id(0).to(tl.int64)
    rows = tl.arange(0, BE)
    top = tl.full([BE], 1e-30, tl.float32)
    sums = empty_blocks(L * ND, R, BD)
    offsets = empty_rows(L if ASM else 0, R)
    first = program * units_of_program
    for u in range(first, tl.minimum(first + units_of_program, num_units)):
        frame = (u // num_tiles).to(tl.int64)
        n0 = ((u % num_tiles) * BN).to(tl.int32)
        tokens = n0 + tl.arange(0, BN)
        t = products(x0, x1, x2, x3, fs0, fs1, fs2, fs3, s0, s1, s2, s3, g + frame * (L * R * D),
                      g_scale + frame * (L * BE), frame, n0, num_tokens, low_weight, L, D, BD, ND,
                      BN, BE, R, SPLIT, I8, PRECISION, UP)  # fmt: skip
        is_row = rows < num_rows
        own = frame * num_rows + rows
        at = scores + own[:, None] * num_tokens + tokens[None, :]
        s = tl.load(at, mask=is_row[:, None] & (tokens < num_tokens)[None, :], other=-float("inf"))
        shift = tl.load(delta + own, mask=is_row, other=0.0)
        norm = tl.load(lse + own, mask=is_row, other=0.0)
        w = tl.exp(s - norm[:, None]) * (t - shift[:, None])
        new_top = tl.maximum(top, tl.max(tl.abs(w), 1))
        keep = top / new_top
        top = new_top
        sums, offsets = accumulate(
            sums, offsets, w / new_top[:, None], keep, x0, x1, x2, x3, fs0, fs1, fs2, fs3, s0, s1,
            s2, s3, unit, frame, n0, num_tokens, L, D, BD, ND, BN, BE, R, SPLIT, I8, DT, ASM,
            PRECISION, UP)  # fmt: skip
    out += program * num_rows * (L * D)
    store_sums(out, sums, offsets, top, unit, num_rows, L, D, BD, ND, BE, SPLIT, I8, ASM)
