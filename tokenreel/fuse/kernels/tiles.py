"""Parts of the fused kernels: tiles, digits, and the two sweeps over a tile of tokens.

The letters are those of :mod:`tokenreel.fuse.kernels.triton`.
"""

import triton
import triton.language as tl

__all__ = ["accumulate", "empty_blocks", "empty_rows", "products", "store_sums"]


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
def _dequantise(x, DT: tl.constexpr, ASM: tl.constexpr):
    # ASM gives 1152 + x exactly; the caller takes 1152 times the weights' sum off again.  Without
    # is_pure=False the conversion moves behind the change of layout, and loads become byte-wise.
    if ASM:
        return tl.inline_asm_elementwise(
            "{ .reg .b32 t; xor.b32 t, $2, 0x80808080; prmt.b32 $0, t, 0x64646464, 0x4140; "
            "prmt.b32 $1, t, 0x64646464, 0x4342; }",
            "=r,=r,r",
            [x],
            dtype=tl.float16,
            is_pure=False,
            pack=4,
        )
    else:
        return x.to(DT)


@triton.jit
def _dot(a, b, c, PRECISION: tl.constexpr, UP: tl.constexpr):
    if UP:
        return tl.dot(a.to(tl.float32), b.to(tl.float32), c, input_precision="ieee")
    else:
        return tl.dot(a, b, c, input_precision=PRECISION)


@triton.jit
def _stack(high, BE: tl.constexpr, BN: tl.constexpr, SPLIT: tl.constexpr, DT: tl.constexpr):
    # (BE, BN) float32 to (R, BN): rows [0, BE) the value in DT, [BE, 2 BE) what that left over.
    rounded = high.to(DT)
    if SPLIT:
        low = (high - rounded.to(tl.float32)).to(DT)
        return tl.reshape(tl.permute(tl.join(rounded, low), [2, 0, 1]), [2 * BE, BN])
    else:
        return rounded


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
def _twice(row, R: tl.constexpr, SPLIT: tl.constexpr):
    # (BE,) to (R,): the same factor for high and low rows.
    if SPLIT:
        return tl.reshape(tl.permute(tl.join(row, row), [1, 0]), [R])
    else:
        return row


@triton.jit
def _tile(x, n0, num_tokens, i, D: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr,
          LAST: tl.constexpr):  # fmt: skip
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
def _rows(q, i, D: tl.constexpr, BD: tl.constexpr, R: tl.constexpr):
    rows = tl.arange(0, R)
    channels = i * BD + tl.arange(0, BD)
    at = q + rows[:, None] * D + channels[None, :]
    if D % BD != 0:
        return tl.load(at, mask=(channels < D)[None, :], other=0)
    else:
        return tl.load(at)


@triton.jit
def _contract(x, q, n0, num_tokens, D: tl.constexpr, BD: tl.constexpr, ND: tl.constexpr,
              BN: tl.constexpr, R: tl.constexpr, I8: tl.constexpr, PRECISION: tl.constexpr,
              UP: tl.constexpr):  # fmt: skip
    # (R, BN) float32: rows of q times tokens of the tile, over the channels of a layer.
    if I8:
        total = tl.zeros([R, BN], tl.int32)
        for i in range(ND):
            tile = _tile(x, n0, num_tokens, i, D, BD, BN, False)
            total = tl.dot(_rows(q, i, D, BD, R), tl.trans(tile), total, out_dtype=tl.int32)
        return total.to(tl.float32)
    else:
        total = tl.zeros([R, BN], tl.float32)
        for i in range(ND):
            tile = _tile(x, n0, num_tokens, i, D, BD, BN, False)
            total = _dot(_rows(q, i, D, BD, R), tl.trans(tile), total, PRECISION, UP)
        return total


@triton.jit
def products(x0, x1, x2, x3, fs0, fs1, fs2, fs3, s0, s1, s2, s3, q, q_scale, frame, n0,
              num_tokens, low_weight, L: tl.constexpr, D: tl.constexpr, BD: tl.constexpr,
              ND: tl.constexpr, BN: tl.constexpr, BE: tl.constexpr, R: tl.constexpr,
              SPLIT: tl.constexpr, I8: tl.constexpr, PRECISION: tl.constexpr,
              UP: tl.constexpr):  # fmt: skip
    # (BE, BN) float32: the first sweep over all layers.
    rows = tl.arange(0, BE)
    tokens = n0 + tl.arange(0, BN)
    total = tl.zeros([BE, BN], tl.float32)
    for layer in tl.static_range(L):
        x = _pick(x0, x1, x2, x3, layer) + frame * _pick(fs0, fs1, fs2, fs3, layer)
        part = _contract(x, q + layer * R * D, n0, num_tokens, D, BD, ND, BN, R, I8, PRECISION, UP)
        part = _merge(part, low_weight, BE, BN, SPLIT)
        part = part * tl.load(q_scale + layer * BE + rows)[:, None]
        if I8:
            at = _pick(s0, s1, s2, s3, layer) + frame * num_tokens + tokens
            part = part * tl.load(at, mask=tokens < num_tokens, other=0.0)[None, :]
        total += part
    return total


@triton.jit
def accumulate(sums, offsets, weights, keep, x0, x1, x2, x3, fs0, fs1, fs2, fs3, s0, s1, s2, s3,
                unit, frame, n0, num_tokens, L: tl.constexpr, D: tl.constexpr, BD: tl.constexpr,
                ND: tl.constexpr, BN: tl.constexpr, BE: tl.constexpr, R: tl.constexpr,
                SPLIT: tl.constexpr, I8: tl.constexpr, DT: tl.constexpr, ASM: tl.constexpr,
                PRECISION: tl.constexpr, UP: tl.constexpr):  # fmt: skip
    # The second sweep: sums * keep + weights @ tile, for each block of channels of each layer.
    tokens = n0 + tl.arange(0, BN)
    kept = _twice(keep, R, SPLIT)
    new_sums = ()
    new_offsets = ()
    for layer in tl.static_range(L):
        x = _pick(x0, x1, x2, x3, layer) + frame * _pick(fs0, fs1, fs2, fs3, layer)
        own = weights
        if I8:
            at = _pick(s0, s1, s2, s3, layer) + frame * num_tokens + tokens
            scale = tl.load(at, mask=tokens < num_tokens, other=0.0) * tl.load(unit + layer)
            own = own * scale[None, :]
        stacked = _stack(own, BE, BN, SPLIT, DT)
        if ASM:
            total = tl.sum(stacked.to(tl.float32), 1)
            new_offsets = new_offsets + (offsets[layer] * kept + total,)
        for i in tl.static_range(ND):
            tile = _dequantise(_tile(x, n0, num_tokens, i, D, BD, BN, True), DT, ASM)
            former = sums[layer * ND + i] * kept[:, None]
            new_sums = new_sums + (_dot(stacked, tile, former, PRECISION, UP),)
    return new_sums, new_offsets


@triton.jit
def store_sums(out, sums, offsets, factor, unit, num_rows, L: tl.constexpr, D: tl.constexpr,
                BD: tl.constexpr, ND: tl.constexpr, BE: tl.constexpr, SPLIT: tl.constexpr,
                I8: tl.constexpr, ASM: tl.constexpr):  # fmt: skip
    # Rows of `out`, (E, L * D), times factor (BE,).
    rows = tl.arange(0, BE)
    for layer in tl.static_range(L):
        scale = factor
        if I8:
            scale = scale / tl.load(unit + layer)
        for i in tl.static_range(ND):
            block = sums[layer * ND + i]
            if ASM:
                block = block - 1152.0 * offsets[layer][:, None]
            merged = _merge(block, 1.0, BE, BD, SPLIT) * scale[:, None]
            channels = i * BD + tl.arange(0, BD)
            at = out + rows[:, None] * (L * D) + (layer * D + channels)[None, :]
            tl.store(at, merged, mask=(rows < num_rows)[:, None] & (channels < D)[None, :])


@triton.jit
def empty_blocks(COUNT: tl.constexpr, R: tl.constexpr, BD: tl.constexpr):
    blocks = ()
    for _ in tl.static_range(COUNT):
        blocks = blocks + (tl.zeros([R, BD], tl.float32),)
    return blocks


@triton.jit
def empty_rows(COUNT: tl.constexpr, R: tl.constexpr):
    blocks = ()
    for _ in tl.static_range(COUNT):
        blocks = blocks + (tl.zeros([R], tl.float32),)
    return blocks
