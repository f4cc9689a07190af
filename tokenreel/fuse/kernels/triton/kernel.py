"""Attention with absorbed queries in one read of the codes: forward and backward for Triton.

A program owns a tile of tokens.  Its first sweep contracts channels (scores), its second contracts
tokens (weighted sums); the tile is read from DRAM by the first and from cache by the second.  The
small operand (queries, gradients, weights) is a high and a low half, so that results have float32's
quality on int8 and half-precision units.  In the first sweep, where 16 rows are the fewest that a
unit takes, halves of 8 rows of attention are stacked.  In the second, rows of attention are
columns, of which 8 are the fewest, and halves are two products: the sums of all channels, which
stay in registers as a tuple of (BD, BE) blocks, have no padding.  More rows of attention are groups
of 8; the programs of a frame's groups run beside each other, so that the first brings the codes
from DRAM and the others find them in cache.

With HOLD a tile is loaded once for both sweeps, as values that the compiler's pipeline keeps in
shared memory while the next tile's are copied there: where it fits, and was measured to be faster.

Letters of the kernels: L layers of D channels, ND = blocks of BD channels in a layer, BN tokens of
a tile, BE rows of attention, R = 2 BE where there are low halves (SPLIT), else BE.  I8: codes are
int8 with scales.  DT: what the second sweep multiplies in.  INTERPRET: no assembly, and products in
float32: the interpreter takes bfloat16 for raw bits.

Source of the schedule: online softmax of FlashAttention; the absorption is DeepSeek-V2's (MLA).
"""

import triton
import triton.language as tl

from tokenreel.fuse.kernels.triton.tiles import (
    accumulate,
    empty_blocks,
    load_tile,
    products,
    store_sums,
)

__all__ = ["pool_backward_kernel", "pool_kernel"]


@triton.jit(
    do_not_specialize=["num_rows", "num_splits", "tiles_of_split", "varies"]
)  # they differ from batch to batch: no new compilation
def pool_kernel(
    x0,
    x1,
    x2,
    x3,
    fs0,
    fs1,
    fs2,
    fs3,
    s0,
    s1,
    s2,
    s3,
    peaks,
    hidden,
    digits,
    worth,
    out,
    extremes,
    scores,
    lse,
    num_tokens,
    num_rows,
    num_groups,
    num_splits,
    tiles_of_split,
    varies,
    low_weight,
    L: tl.constexpr,
    D: tl.constexpr,
    BD: tl.constexpr,
    ND: tl.constexpr,
    BN: tl.constexpr,
    BE: tl.constexpr,
    SPLIT: tl.constexpr,
    I8: tl.constexpr,
    HIDES: tl.constexpr,
    HOLD: tl.constexpr,
    DT: tl.constexpr,
    WHOLE: tl.constexpr,
    PRECISION: tl.constexpr,
    INTERPRET: tl.constexpr,
):
    """Pool frames: grid (F * num_groups, num_splits), each program a part of a frame's tokens.

    digits (..., L, R / BE, E, D) are those of the queries, worth (..., L, E) what a high one is
    worth; with `varies` 1 of each frame, with 0 of all.  WHOLE: there is one split, `out`
    (F, E, L * D) is finished and `lse` (F, E) written; otherwise `out` (F, num_splits, E, L * D)
    and `extremes` (F, num_splits, 2, E), the largest score and the sum, wait to be joined.
    """
    R: tl.constexpr = BE * 2 if SPLIT else BE
    frame = (tl.program_id(0) // num_groups).to(tl.int64)  # F * N * D passes 2^31
    first_row = (tl.program_id(0) % num_groups) * BE
    split = tl.program_id(1)
    rows = first_row + tl.arange(0, BE)
    is_row = rows < num_rows
    digits += frame * varies * (L * (R // BE) * D) * num_rows
    worth += frame * varies * L * num_rows
    top = tl.full([BE], -float("inf"), tl.float32)
    total = tl.zeros([BE], tl.float32)
    sums = empty_blocks(L * ND, BD, BE)
    first = split * tiles_of_split * BN
    for n0 in range(first, tl.minimum(first + tiles_of_split * BN, num_tokens), BN):
        tokens = n0 + tl.arange(0, BN)
        seen = tokens < num_tokens
        if HIDES:
            seen = seen & (tl.load(hidden + frame * num_tokens + tokens, mask=seen, other=1) == 0)
        held = load_tile(
            x0, x1, x2, x3, fs0, fs1, fs2, fs3, frame, n0, num_tokens, L, D, BD, ND, BN, HOLD
        )
        s = products(
            held,
            x0,
            x1,
            x2,
            x3,
            fs0,
            fs1,
            fs2,
            fs3,
            s0,
            s1,
            s2,
            s3,
            digits,
            worth,
            frame,
            n0,
            num_tokens,
            first_row,
            num_rows,
            low_weight,
            L,
            D,
            BD,
            ND,
            BN,
            BE,
            SPLIT,
            I8,
            HOLD,
            PRECISION,
            INTERPRET,
        )
        s = tl.where(seen[None, :], s, -float("inf"))
        at = scores + (frame * num_rows + rows)[:, None] * num_tokens + tokens[None, :]
        tl.store(at, s, mask=is_row[:, None] & (tokens < num_tokens)[None, :])
        new_top = tl.maximum(top, tl.max(s, 1))
        safe = tl.where(new_top == -float("inf"), 0.0, new_top)  # nothing seen so far
        keep = tl.exp(top - safe)
        p = tl.exp(s - safe[:, None])
        total = total * keep + tl.sum(p, 1)
        top = new_top
        sums = accumulate(
            held,
            sums,
            p,
            keep,
            x0,
            x1,
            x2,
            x3,
            fs0,
            fs1,
            fs2,
            fs3,
            s0,
            s1,
            s2,
            s3,
            peaks,
            frame,
            n0,
            num_tokens,
            L,
            D,
            BD,
            ND,
            BN,
            BE,
            SPLIT,
            I8,
            HOLD,
            DT,
            PRECISION,
            INTERPRET,
        )
    factor = tl.full([BE], 1.0, tl.float32)
    if WHOLE:
        tl.store(lse + frame * num_rows + rows, top + tl.log(total), mask=is_row)
        factor = 1.0 / total
    else:
        at = extremes + (frame * num_splits + split) * 2 * num_rows + rows
        tl.store(at, top, mask=is_row)
        tl.store(at + num_rows, total, mask=is_row)
    out += (frame * num_splits + split) * num_rows * (L * D)
    store_sums(out, sums, factor, peaks, first_row, num_rows, L, D, BD, ND, BE, I8)


@triton.jit(do_not_specialize=["num_rows", "num_tiles", "num_units", "units_of_program"])
def pool_backward_kernel(
    x0,
    x1,
    x2,
    x3,
    fs0,
    fs1,
    fs2,
    fs3,
    s0,
    s1,
    s2,
    s3,
    peaks,
    digits,
    worth,
    scores,
    lse,
    delta,
    out,
    num_tokens,
    num_rows,
    num_groups,
    num_tiles,
    num_units,
    units_of_program,
    low_weight,
    L: tl.constexpr,
    D: tl.constexpr,
    BD: tl.constexpr,
    ND: tl.constexpr,
    BN: tl.constexpr,
    BE: tl.constexpr,
    SPLIT: tl.constexpr,
    I8: tl.constexpr,
    HOLD: tl.constexpr,
    DT: tl.constexpr,
    PRECISION: tl.constexpr,
    INTERPRET: tl.constexpr,
):
    """Gradient of queries: grid (P * num_groups,), each program units, (frame, tile) pairs.

    digits (F, L, R / BE, E, D) and worth (F, L, E) are those of the gradient of pooled tokens,
    delta (F, E) its products with them.  No atomics: `out` (P, E, L * D) are partial sums, added in
    a fixed order by the caller; P = F with a frame's tiles each gives the gradient of each frame's
    own queries.  The weights of a row are kept below 1 by what was its largest so far, so that half
    precision holds them.
    """
    R: tl.constexpr = BE * 2 if SPLIT else BE
    program = tl.program_id(0) // num_groups
    first_row = (tl.program_id(0) % num_groups) * BE
    rows = first_row + tl.arange(0, BE)
    is_row = rows < num_rows
    top = tl.full([BE], 1e-30, tl.float32)
    sums = empty_blocks(L * ND, BD, BE)
    first = program * units_of_program
    for u in range(first, tl.minimum(first + units_of_program, num_units)):
        frame = (u // num_tiles).to(tl.int64)
        n0 = (u % num_tiles) * BN
        tokens = n0 + tl.arange(0, BN)
        held = load_tile(
            x0, x1, x2, x3, fs0, fs1, fs2, fs3, frame, n0, num_tokens, L, D, BD, ND, BN, HOLD
        )
        t = products(
            held,
            x0,
            x1,
            x2,
            x3,
            fs0,
            fs1,
            fs2,
            fs3,
            s0,
            s1,
            s2,
            s3,
            digits + frame * (L * (R // BE) * D) * num_rows,
            worth + frame * L * num_rows,
            frame,
            n0,
            num_tokens,
            first_row,
            num_rows,
            low_weight,
            L,
            D,
            BD,
            ND,
            BN,
            BE,
            SPLIT,
            I8,
            HOLD,
            PRECISION,
            INTERPRET,
        )
        own = frame * num_rows + rows
        at = scores + own[:, None] * num_tokens + tokens[None, :]
        s = tl.load(at, mask=is_row[:, None] & (tokens < num_tokens)[None, :], other=-float("inf"))
        shift = tl.load(delta + own, mask=is_row, other=0.0)
        norm = tl.load(lse + own, mask=is_row, other=0.0)
        w = tl.exp(s - norm[:, None]) * (t - shift[:, None])
        new_top = tl.maximum(top, tl.max(tl.abs(w), 1))
        keep = top / new_top
        top = new_top
        sums = accumulate(
            held,
            sums,
            w / new_top[:, None],
            keep,
            x0,
            x1,
            x2,
            x3,
            fs0,
            fs1,
            fs2,
            fs3,
            s0,
            s1,
            s2,
            s3,
            peaks,
            frame,
            n0,
            num_tokens,
            L,
            D,
            BD,
            ND,
            BN,
            BE,
            SPLIT,
            I8,
            HOLD,
            DT,
            PRECISION,
            INTERPRET,
        )
    out += program.to(tl.int64) * num_rows * (L * D)
    store_sums(out, sums, top, peaks, first_row, num_rows, L, D, BD, ND, BE, I8)
