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


@triton.jit
def _widen(x, I8: tl.constexpr, DT: tl.constexpr, INTERPRET: tl.constexpr):
    # int8 to float16, exactly, in five instructions for four codes: a byte after 0x64 is 1024 + it
    # in float16, so permuted bytes are 1152 + x.  1152 goes off at once: matrix units round their
    # sums towards zero, and a sum of 1152 for each token would show it.  Without is_pure=False the
    # conversion moves behind the change of layout, and loads become byte-wise.
    if I8 and not INTERPRET:
        return tl.inline_asm_elementwise(
            "{ .reg .b32 t, c; mov.b32 c, 0x64806480; xor.b32 t, $2, 0x80808080; "
            "prmt.b32 $0, t, 0x64646464, 0x4140; prmt.b32 $1, t, 0x64646464, 0x4342; "
            "sub.rn.f16x2 $0, $0, c; sub.rn.f16x2 $1, $1, c; }",
            "=&r,=&r,r",
            [x],
            dtype=tl.float16,
            is_pure=False,
            pack=4,
        )
    else:
        return x.to(DT)


@triton.jit
def _dot(a, b, c, PRECISION: tl.constexpr, INTERPRET: tl.constexpr):
    if INTERPRET:  # whose dot takes bfloat16 for raw bits
        return tl.dot(a.to(tl.float32), b.to(tl.float32), c, input_precision="ieee")
    else:
        return tl.dot(a, b, c, input_precision=PRECISION)


@triton.jit
def _merge(rows, low_weight, BE: tl.constexpr, WIDTH: tl.constexpr, SPLIT: tl.constexpr):
    # (R, WIDTH) to (BE, WIDTH): high rows plus low_weight times low rows.
    if SPLIT:
        halves = tl.reshape(rows, [2, BE, WIDTH])
        weight = tl.where(tl.arange(0, 2) == 0, 1.0, low_weight)
        return tl.sum(halves * weight[:, None, None], 0)
    else:
        return rows


@triton.jit
def _tile(
    x, n0, num_tokens, i, D: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr, LAST: tl.constexpr
):
    tokens = n0 + tl.arange(0, BN)
    channels = i * BD + tl.arange(0, BD)
    mask = (tokens < num_tokens)[:, None]
    if D % BD != 0:
        mask = mask & (channels < D)[None, :]
    at = x + tokens[:, None] * D + channels[None, :]
    if LAST:  # PTX forbids .ca together with an eviction hint
        return tl.load(at, mask=mask, other=0, eviction_policy="evict_first")
    else:  # .ca: keep the tile for the second sweep; 16-byte copies would go around L1
        return tl.load(at, mask=mask, other=0, cache_modifier=".ca")


@triton.jit
def load_tile(
    tile,
    L: tl.constexpr,
    D: tl.constexpr,
    BD: tl.constexpr,
    ND: tl.constexpr,
    BN: tl.constexpr,
    HOLD: tl.constexpr,
):
    # Blocks (BN, BD) of a whole tile, layer after layer, for both sweeps; none unless HOLD.
    codes, strides, _, frame, n0, num_tokens = tile
    blocks = ()
    for layer in tl.static_range(L if HOLD else 0):
        x = codes[layer] + frame * strides[layer]
        for i in tl.static_range(ND):
            blocks = blocks + (_tile(x, n0, num_tokens, i, D, BD, BN, True),)
    return blocks


@triton.jit
def _rows(
    digits, first, num_rows, i, D: tl.constexpr, BD: tl.constexpr, BE: tl.constexpr, R: tl.constexpr
):
    # (R, BD) of digits (R / BE, num_rows, D): high ones of BE rows from the first, then low ones.
    at = tl.arange(0, R)
    rows = first + at % BE
    channels = i * BD + tl.arange(0, BD)
    mask = (rows < num_rows)[:, None]
    if D % BD != 0:
        mask = mask & (channels < D)[None, :]
    at = digits + ((at // BE) * num_rows + rows)[:, None] * D + channels[None, :]
    return tl.load(at, mask=mask, other=0)


@triton.jit
def _multiply(a, b, total, I8: tl.constexpr, PRECISION: tl.constexpr, INTERPRET: tl.constexpr):
    if I8:
        return tl.dot(a, b, total, out_dtype=tl.int32)
    else:
        return _dot(a, b, total, PRECISION, INTERPRET)


@triton.jit
def _power_below(peak):
    # A power of two that brings the peak into [1/2, 1).
    exponent = tl.maximum(peak, 1e-30).to(tl.int32, bitcast=True) >> 23
    return (tl.maximum(253 - exponent, 1) << 23).to(tl.float32, bitcast=True)


@triton.jit
def products(
    held,
    tile,
    digits,
    worth,
    first,
    num_rows,
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
    PRECISION: tl.constexpr,
    INTERPRET: tl.constexpr,
):
    # (BE, BN) float32: the first sweep, rows from the first times tokens, over all layers.
    codes, strides, scales, frame, n0, num_tokens = tile
    R: tl.constexpr = BE * 2 if SPLIT else BE
    rows = first + tl.arange(0, BE)
    tokens = n0 + tl.arange(0, BN)
    total = tl.zeros([BE, BN], tl.float32)
    for layer in tl.static_range(L):
        x = codes[layer] + frame * strides[layer]
        own = digits + layer * (R // BE) * num_rows * D
        # Digits times tokens of the tile, over the channels of a block: (R, BN) float32.
        if HOLD:  # a chain of products shares its first axis among the warps: tokens, not 16 rows
            part = tl.zeros([BN, R], tl.int32 if I8 else tl.float32)
            for i in tl.static_range(ND):
                operand = tl.trans(_rows(own, first, num_rows, i, D, BD, BE, R))
                part = _multiply(held[layer * ND + i], operand, part, I8, PRECISION, INTERPRET)
            part = tl.trans(part).to(tl.float32)
        else:
            part = tl.zeros([R, BN], tl.int32 if I8 else tl.float32)
            for i in range(ND):
                block = _tile(x, n0, num_tokens, i, D, BD, BN, False)
                operand = _rows(own, first, num_rows, i, D, BD, BE, R)
                part = _multiply(operand, tl.trans(block), part, I8, PRECISION, INTERPRET)
            part = part.to(tl.float32)
        part = _merge(part, low_weight, BE, BN, SPLIT)
        scale = tl.load(worth + layer * num_rows + rows, mask=rows < num_rows, other=0.0)
        part = part * scale[:, None]
        if I8:
            at = scales[layer] + frame * num_tokens + tokens
            part = part * tl.load(at, mask=tokens < num_tokens, other=0.0)[None, :]
        total += part
    return total


@triton.jit
def accumulate(
    held,
    sums,
    weights,
    keep,
    tile,
    peaks,
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
    # The second sweep: sums * keep + weights @ tile, for each block of channels of each layer.
    # Channels are the rows of these products and rows of attention the columns, of which a matrix
    # unit needs only 8: weights' low halves have products of their own, and sums no padding.
    codes, strides, scales, frame, n0, num_tokens = tile
    tokens = n0 + tl.arange(0, BN)
    new_sums = ()
    for layer in tl.static_range(L):
        x = codes[layer] + frame * strides[layer]
        own = weights
        if I8:
            at = scales[layer] + frame * num_tokens + tokens
            scale = tl.load(at, mask=tokens < num_tokens, other=0.0)
            own = own * (scale * _power_below(tl.load(peaks + layer)))[None, :]
        own = tl.trans(own)
        high = own.to(DT)
        low = (own - high.to(tl.float32)).to(DT)
        for i in tl.static_range(ND):
            part = held[layer * ND + i] if HOLD else _tile(x, n0, num_tokens, i, D, BD, BN, True)
            part = _widen(part, I8, DT, INTERPRET)
            block = sums[layer * ND + i] * keep[None, :]
            block = _dot(tl.trans(part), high, block, PRECISION, INTERPRET)
            if SPLIT:
                block = _dot(tl.trans(part), low, block, PRECISION, INTERPRET)
            new_sums = new_sums + (block,)
    return new_sums


@triton.jit
def store_sums(
    out,
    sums,
    factor,
    peaks,
    first,
    num_rows,
    L: tl.constexpr,
    D: tl.constexpr,
    BD: tl.constexpr,
    ND: tl.constexpr,
    BE: tl.constexpr,
    I8: tl.constexpr,
):
    # Rows of `out`, (E, L * D), from the first on, times factor (BE,).
    rows = first + tl.arange(0, BE)
    for layer in tl.static_range(L):
        scale = factor
        if I8:
            scale = scale / _power_below(tl.load(peaks + layer))
        for i in tl.static_range(ND):
            channels = i * BD + tl.arange(0, BD)
            at = out + rows[None, :] * (L * D) + (layer * D + channels)[:, None]
            mask = (rows < num_rows)[None, :] & (channels < D)[:, None]
            tl.store(at, sums[layer * ND + i] * scale[None, :], mask=mask)


@triton.jit
def empty_blocks(COUNT: tl.constexpr, BD: tl.constexpr, BE: tl.constexpr):
    blocks = ()
    for _ in tl.static_range(COUNT):
        blocks = blocks + (tl.zeros([BD, BE], tl.float32),)
    return blocks


# What differs from batch to batch is not specialised: no new compilation.
@triton.jit(do_not_specialize=["num_rows", "num_splits", "tiles_of_split", "varies"])
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
    codes, strides, scales = (x0, x1, x2, x3), (fs0, fs1, fs2, fs3), (s0, s1, s2, s3)
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
        tile = (codes, strides, scales, frame, n0, num_tokens)
        held = load_tile(tile, L, D, BD, ND, BN, HOLD)
        s = products(
            held,
            tile,
            digits,
            worth,
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
            tile,
            peaks,
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
    codes, strides, scales = (x0, x1, x2, x3), (fs0, fs1, fs2, fs3), (s0, s1, s2, s3)
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
        tile = (codes, strides, scales, frame, n0, num_tokens)
        held = load_tile(tile, L, D, BD, ND, BN, HOLD)
        t = products(
            held,
            tile,
            digits + frame * (L * (R // BE) * D) * num_rows,
            worth + frame * L * num_rows,
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
            tile,
            peaks,
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


@triton.jit(do_not_specialize=["num_rows"])
def split_kernel(
    rows,
    pooled,
    digits,
    worth,
    dots,
    num_rows,
    L: tl.constexpr,
    D: tl.constexpr,
    BLOCK: tl.constexpr,
    SPLIT: tl.constexpr,
    I8: tl.constexpr,
    DOTS: tl.constexpr,
):
    """Grid (F * E,): a program has one row, of all layers."""
    program = tl.program_id(0).to(tl.int64)
    frame, row = program // num_rows, program % num_rows
    channels = tl.arange(0, BLOCK)
    mask = channels < D
    dot = 0.0
    for layer in tl.static_range(L):
        at = program * (L * D) + layer * D + channels
        value = tl.load(rows + at, mask=mask, other=0.0)
        if DOTS:
            dot += tl.sum(value * tl.load(pooled + at, mask=mask, other=0.0), 0)
        # What is not finite must not vanish in a digit: 0 for what is, else NaN.
        peak = tl.maximum(tl.max(tl.abs(value), 0), 1e-30) + tl.sum(value * 0.0, 0)
        if I8:
            unit = peak / 127
        else:  # the power of two below brings the row to the middle of what the dtype can hold
            unit = (peak.to(tl.int32, bitcast=True) & 0x7F800000).to(tl.float32, bitcast=True)
        value = value / unit
        part = (frame * L + layer) * num_rows + row
        tl.store(worth + part, unit)
        if I8:
            high = tl.floor(value + 0.5)
            low = tl.floor((value - high) * 254 + 0.5)
        else:
            high = value.to(digits.dtype.element_ty)
            low = value - high.to(tl.float32)
        if SPLIT:
            at = digits + ((frame * L + layer) * 2 * num_rows + row) * D + channels
            tl.store(at + num_rows * D, low.to(digits.dtype.element_ty), mask=mask)
        else:
            at = digits + part * D + channels
        tl.store(at, high.to(digits.dtype.element_ty), mask=mask)
    if DOTS:
        tl.store(dots + program, dot)
