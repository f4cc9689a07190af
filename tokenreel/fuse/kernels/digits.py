"""Small operands of the fused kernels as what matrix units multiply: a high digit and a low one.

The units take int8 or half precision; two digits of it are as good as float32, and the second costs
nothing: it fills rows that would be padding.
"""

import torch
from torch import Tensor

__all__ = ["split_digits"]


def split_digits(
    rows: Tensor, dtype: torch.dtype, layers: int, padded: int
) -> tuple[Tensor, Tensor, float]:
    """Rows as the matrix units take them.

    Args:
        rows: (..., E, L * D) float32.
        dtype: of the codes that they meet.
        layers: L.
        padded: rows of attention with padding, E or more.

    Returns:
        Digits (..., L, R, D) in their dtype, high rows and then low ones; what a high one is worth,
        (..., L, padded); and how much less a low one is.
    """
    value = rows.unflatten(-1, (layers, -1)).movedim(-2, -3)
    value = torch.nn.functional.pad(value, (0, 0, 0, padded - value.shape[-2]))
    peak = value.abs().amax(-1).clamp_min(1e-30)
    if dtype == torch.int8:
        worth = peak / 127
        exact = value / worth[..., None]
        high = exact.round().clamp(-127, 127)
        low = ((exact - high) * 254).round().clamp(-127, 127)
        return torch.cat([high, low], -2).to(dtype).contiguous(), worth.contiguous(), 1 / 254
    # A power of two brings each row into the middle of what the dtype can hold.
    worth = torch.exp2(torch.floor(torch.log2(peak)))
    value = value / worth[..., None]
    if dtype == torch.float32:
        return value.contiguous(), worth.contiguous(), 0.0
    high = value.to(dtype)
    low = (value - high.float()).to(dtype)
    return torch.cat([high, low], -2).contiguous(), worth.contiguous(), 1.0
