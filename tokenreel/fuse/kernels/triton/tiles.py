"""Parts of the fused kernels: tiles, digits, and the two sweeps over a tile of tokens.

The letters are those of :mod:`tokenreel.fuse.kernels.triton.kernel`.
"""

import triton
import triton.language as tl

__all__ = ["accumulate", "empty_blocks", "load_tile", "products", "store_sums"]


@triton.jit
def _pick(first, second, third, fourth, i: tl.constexpr):
    if i == 0:
        return first
    elif i == 1:
        return second
    elif i == 2:
        return third
    else:
        return fourth


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
    x0,
    x1,
    x2,
    x3,
    fs0,
    fs1,
    fs2,
    fs3,
    frame,
    n0,
    num_tokens,
    L: tl.constexpr,
    D: tl.constexpr,
    BD: tl.constexpr,
    ND: tl.constexpr,
    BN: tl.constexpr,
    HOLD: tl.constexpr,
):
    # Blocks (BN, BD) of a whole tile, layer after layer, for both sweeps; none unless HOLD.
    blocks = ()
    for layer in tl.static_range(L if HOLD else 0):
        x = _pick(x0, x1, x2, x3, layer) + frame * _pick(fs0, fs1, fs2, fs3, layer)
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
def _contract(
    held,
    x,
    digits,
    n0,
    num_tokens,
    first,
    num_rows,
    layer: tl.constexpr,
    D: tl.constexpr,
    BD: tl.constexpr,
    ND: tl.constexpr,
    BN: tl.constexpr,
    BE: tl.constexpr,
    R: tl.constexpr,
    I8: tl.constexpr,
    HOLD: tl.constexpr,
    PRECISION: tl.constexpr,
    INTERPRET: tl.constexpr,
):
    # (R, BN) float32: digits times tokens of the tile, over the channels of a layer.
    if HOLD:  # a chain of products shares its first axis among the warps: tokens, not 16 rows
        total = tl.zeros([BN, R], tl.int32 if I8 else tl.float32)
        for i in tl.static_range(ND):
            rows = tl.trans(_rows(digits, first, num_rows, i, D, BD, BE, R))
            total = _multiply(held[layer * ND + i], rows, total, I8, PRECISION, INTERPRET)
        return tl.trans(total).to(tl.float32)
    else:
        total = tl.zeros([R, BN], tl.int32 if I8 else tl.float32)
        for i in range(ND):
            tile = _tile(x, n0, num_tokens, i, D, BD, BN, False)
            rows = _rows(digits, first, num_rows, i, D, BD, BE, R)
            total = _multiply(rows, tl.trans(tile), total, I8, PRECISION, INTERPRET)
        return total.to(tl.float32)


@triton.jit
def _power_below(peak):
    # A power of two that brings the peak into [1/2, 1).
    exponent = tl.maximum(peak, 1e-30).to(tl.int32, bitcast=True) >> 23
    return (tl.maximum(253 - exponent, 1) << 23).to(tl.float32, bitcast=True)


@triton.jit
def products(
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
    R: tl.constexpr = BE * 2 if SPLIT else BE
    rows = first + tl.arange(0, BE)
    tokens = n0 + tl.arange(0, BN)
    total = tl.zeros([BE, BN], tl.float32)
    for layer in tl.static_range(L):
        x = _pick(x0, x1, x2, x3, layer) + frame * _pick(fs0, fs1, fs2, fs3, layer)
        own = digits + layer * (R // BE) * num_rows * D
        part = _contract(
            held,
            x,
            own,
            n0,
            num_tokens,
            first,
            num_rows,
            layer,
            D,
            BD,
            ND,
            BN,
            BE,
            R,
            I8,
            HOLD,
            PRECISION,
            INTERPRET,
        )
        part = _merge(part, low_weight, BE, BN, SPLIT)
        scale = tl.load(worth + layer * num_rows + rows, mask=rows < num_rows, other=0.0)
        part = part * scale[:, None]
        if I8:
            at = _pick(s0, s1, s2, s3, layer) + frame * num_tokens + tokens
            part = part * tl.load(at, mask=tokens < num_tokens, other=0.0)[None, :]
        total += part
    return total


@triton.jit
def accumulate(
    held,
    sums,
    weights,
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
    tokens = n0 + tl.arange(0, BN)
    new_sums = ()
    for layer in tl.static_range(L):
        x = _pick(x0, x1, x2, x3, layer) + frame * _pick(fs0, fs1, fs2, fs3, layer)
        own = weights
        if I8:
            at = _pick(s0, s1, s2, s3, layer) + frame * num_tokens + tokens
            scale = tl.load(at, mask=tokens < num_tokens, other=0.0)
            own = own * (scale * _power_below(tl.load(peaks + layer)))[None, :]
        own = tl.trans(own)
        high = own.to(DT)
        low = (own - high.to(tl.float32)).to(DT)
        for i in tl.static_range(ND):
            tile = held[layer * ND + i] if HOLD else _tile(x, n0, num_tokens, i, D, BD, BN, True)
            tile = _widen(tile, I8, DT, INTERPRET)
            block = sums[layer * ND + i] * keep[None, :]
            block = _dot(tl.trans(tile), high, block, PRECISION, INTERPRET)
            if SPLIT:
                block = _dot(tl.trans(tile), low, block, PRECISION, INTERPRET)
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
