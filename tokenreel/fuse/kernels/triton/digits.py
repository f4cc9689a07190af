"""Small operands of the fused kernels as what matrix units multiply: a high digit and a low one.

The units take int8 or half precision; two digits of it are as good as float32, and the second costs
nothing: it fills rows that would be padding.  One pass over the operand: gradients of a large batch
are no small tensor, and a chain of tensor operations on them took as long as the pass over codes.

Shapes: F frames, E rows of attention, L layers of D channels.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["LOW_WEIGHT", "split_digits"]

LOW_WEIGHT = {torch.int8: 1 / 254, torch.float32: 0.0}  # what a low digit is worth, else 1


def split_digits(
    rows: Tensor, dtype: torch.dtype, layers: int, pooled: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows as the matrix units take them, on a device of Triton or in its interpreter.

    Args:
        rows: (F, E, L * D) float32, contiguous.
        dtype: of the codes that they meet.
        layers: L.
        pooled: (F, E, L * D) to multiply the rows with, or None.

    Returns:
        Digits (F, L, 2, E, D) in that dtype, high ones and low ones, for float32 (F, L, 1, E, D);
        what a high one is worth, (F, L, E); and products of the rows with `pooled`, (F, E).
    """
    frames, count, width = rows.shape
    channels, is_split = width // layers, dtype != torch.float32
    digits = torch.empty(
        frames, layers, 2 if is_split else 1, count, channels, dtype=dtype, device=rows.device
    )
    worth = torch.empty(frames, layers, count, device=rows.device)
    dots = torch.empty(frames, count, device=rows.device)
    block = triton.next_power_of_2(channels)
    split_kernel[(frames * count,)](
        rows,
        rows if pooled is None else pooled,
        digits,
        worth,
        dots,
        count,
        L=layers,
        D=channels,
        BLOCK=block,
        SPLIT=is_split,
        I8=dtype == torch.int8,
        DOTS=pooled is not None,
        num_warps=min(8, max(1, block // 256)),
        enable_fp_fusion=True,
    )
    return digits, worth, dots


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
