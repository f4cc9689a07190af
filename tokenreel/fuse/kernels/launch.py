"""The host side of the fused kernels: operands in digits, sizes, grids, joining of partial results.

Shapes: F frames, N tokens, E rows of attention, L layers of D stored channels, R stacked rows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.runtime.errors import OutOfResources

from tokenreel.fuse.kernels import triton as kernels
from tokenreel.fuse.kernels.choose import CannotRun, is_interpreted
from tokenreel.fuse.kernels.digits import split_digits
from tokenreel.fuse.kernels.tuned import Sizes, sizes_for, small_sizes

__all__ = ["pool", "pool_backward"]

GROUP = 8  # rows of attention of one pass: the other half of 16 carries low digits


@dataclass(frozen=True, eq=False)
class _Call:
    """What both directions share."""

    codes: Sequence[Tensor]
    scales: tuple[Tensor, ...]
    unit: Tensor
    pointers: tuple[Any, ...]

    @property
    def width(self) -> int:
        return self.codes[0].shape[2]

    @property
    def is_int8(self) -> bool:
        return self.codes[0].dtype == torch.int8

    @property
    def num_multiprocessors(self) -> int:
        device = self.codes[0].device
        if device.type != "cuda":
            return 2
        return int(torch.cuda.get_device_properties(device).multi_processor_count)

    def sizes(self, direction: str) -> Sizes:
        """Of this case on this GPU."""
        device = self.codes[0].device
        gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
        dtype = str(self.codes[0].dtype).removeprefix("torch.")
        return sizes_for(gpu, direction, dtype, len(self.codes), self.width)

    def constants(self, sizes: Sizes) -> dict[str, Any]:
        """Compile-time arguments."""
        dtype = self.codes[0].dtype
        split = dtype != torch.float32
        interpreted = is_interpreted()
        return {
            "L": len(self.codes),
            "D": self.width,
            "BD": sizes.channels,
            "ND": triton.cdiv(self.width, sizes.channels),
            "BN": sizes.tokens,
            "BE": GROUP if split else 2 * GROUP,
            "SPLIT": split,
            "I8": self.is_int8,
            "DT": {torch.bfloat16: tl.bfloat16, torch.float32: tl.float32}.get(dtype, tl.float16),
            "ASM": self.is_int8 and not interpreted,
            "PRECISION": "tf32" if split else "ieee",
            "UP": interpreted and dtype == torch.bfloat16,
            "num_warps": sizes.warps,
            "num_stages": sizes.stages,
            "enable_fp_fusion": True,  # the default is about to change, with a warning
        }


def pool(
    codes: Sequence[Tensor], queries: Tensor, scales: Sequence[Tensor], hidden: Tensor | None,
    *, sizes: Sizes | None = None, splits: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The fused form of :func:`tokenreel.fuse.kernels.absorbed.pool`, in float32.

    Args:
        codes: a layer's (F, N, D), of one width.
        queries: absorbed.
        scales: a layer's (F, N) for int8, else ().
        hidden: bool (F, N) or None.
        sizes: None for the measured or default ones, or smaller ones where those do not fit.
        splits: programs that share a frame, None to fill the GPU.

    Returns:
        As there.

    Raises:
        CannotRun: no size of the kernel fits this GPU, or there is no compiler for its launcher.
    """
    call = _prepare(codes, scales)
    groups = []
    for rows in queries.float().split(GROUP, dim=-2):
        run = partial(_pool_group, call, rows, hidden, splits)
        groups.append(_first_that_fits(call, "forward", sizes, run))
    if len(groups) == 1:
        return groups[0]
    pooled, scores, lse = (torch.cat(parts, dim=1) for parts in zip(*groups, strict=True))
    return pooled, scores, lse


def pool_backward(
    codes: Sequence[Tensor], gradient: Tensor, scales: Sequence[Tensor],
    outputs: tuple[Tensor, Tensor, Tensor],
    *, shared: bool, sizes: Sizes | None = None, programs: int | None = None,
) -> Tensor:  # fmt: skip
    """The fused form of :func:`tokenreel.fuse.kernels.absorbed.pool_backward`.

    Args:
        codes: as in :func:`pool`.
        gradient: (F, E, d of all layers).
        scales: as in :func:`pool`.
        outputs: of :func:`pool`.
        shared: queries were the same for all frames.
        sizes: None for the measured or default ones.
        programs: that share the work where shared, None to fill the GPU.

    Raises:
        CannotRun: as there.
    """
    call = _prepare(codes, scales)
    groups = []
    operands = (gradient.float(), *outputs)
    for group in zip(*(part.split(GROUP, dim=1) for part in operands), strict=True):
        run = partial(_backward_group, call, group, shared, programs)
        groups.append(_first_that_fits(call, "backward", sizes, run))
    return groups[0] if len(groups) == 1 else torch.cat(groups, dim=-2)


def _prepare(codes: Sequence[Tensor], scales: Sequence[Tensor]) -> _Call:
    own = tuple(part.float().contiguous() for part in scales)
    first = codes[0]
    unit = torch.ones(len(codes), device=first.device)
    if own:  # weights times scales near 1, whatever the scales: half precision holds them
        peak = torch.stack([part.amax() for part in own]).clamp_min(1e-30)
        unit = torch.exp2(-torch.ceil(torch.log2(peak)))
    fill = 4 - len(codes)
    pointers = (
        *codes, *[first] * fill,
        *(part.stride(0) for part in codes), *[0] * fill,
        *own, *[own[0] if own else first] * (4 - len(own)),
        unit,
    )  # fmt: skip
    return _Call(codes, own, unit, pointers)


def _first_that_fits(
    call: _Call, direction: str, sizes: Sizes | None, run: Callable[[Sizes], Any]
) -> Any:
    """Run with the sizes given, or the measured, or those that need least, where the codes are."""
    wanted = (sizes,) if sizes else (call.sizes(direction), small_sizes(call.width))
    with torch.cuda.device_of(call.codes[0]):  # Triton launches on the current one
        for used in wanted:
            try:
                return run(used)
            except OutOfResources as error:
                reason = f"no size of the fused kernel fits this GPU: {error}"
            except RuntimeError as error:
                if "C compiler" not in str(error):
                    raise
                reason = f"Triton could not build the launcher: {error}"
    raise CannotRun(reason)


def _pool_group(
    call: _Call, queries: Tensor, hidden: Tensor | None, splits: int | None, sizes: Sizes
) -> tuple[Tensor, Tensor, Tensor]:
    frames, num_tokens, _ = call.codes[0].shape
    rows, device = queries.shape[-2], queries.device
    constants = call.constants(sizes)
    digits, worth, low_weight = split_digits(
        queries, call.codes[0].dtype, len(call.codes), constants["BE"]
    )
    tiles = triton.cdiv(num_tokens, sizes.tokens)
    if splits is None:
        splits = triton.cdiv(2 * call.num_multiprocessors, frames)
    tiles_of_split = triton.cdiv(tiles, min(tiles, splits))
    splits = triton.cdiv(tiles, tiles_of_split)
    width = len(call.codes) * call.width
    out = torch.empty(frames, splits, rows, width, device=device)
    extremes = torch.empty(frames, splits, 2, rows, device=device)
    scores = torch.empty(frames, rows, num_tokens, device=device)
    lse = torch.empty(frames, rows, device=device)
    strides = (digits.stride(0), worth.stride(0)) if queries.dim() == 3 else (0, 0)
    kernels.pool_kernel[(frames, splits)](
        *call.pointers, call.unit if hidden is None else hidden.to(torch.int8).contiguous(),
        digits, worth, out, extremes, scores, lse, num_tokens, rows, splits, tiles_of_split,
        *strides, low_weight, HIDES=hidden is not None, WHOLE=splits == 1, **constants,
    )  # fmt: skip
    if splits == 1:
        return out[:, 0], scores, lse
    top, total = extremes.unbind(2)
    lse = torch.logsumexp(top + total.log(), dim=1)
    return (out * (top - lse[:, None]).exp()[..., None]).sum(1), scores, lse


def _backward_group(
    call: _Call, operands: tuple[Tensor, ...], shared: bool, programs: int | None, sizes: Sizes
) -> Tensor:
    gradient, pooled, scores, lse = operands
    frames, rows, width = gradient.shape
    num_tokens = scores.shape[-1]
    constants = call.constants(sizes)
    digits, worth, low_weight = split_digits(
        gradient, call.codes[0].dtype, len(call.codes), constants["BE"]
    )
    tiles = triton.cdiv(num_tokens, sizes.tokens)
    units = frames * tiles
    if shared:
        count = min(units, programs or call.num_multiprocessors * sizes.programs)
        of_program = triton.cdiv(units, count)
    else:
        of_program = tiles
    count = triton.cdiv(units, of_program)
    out = torch.empty(count, rows, width, device=gradient.device)
    delta = (pooled * gradient).sum(-1).contiguous()
    kernels.pool_backward_kernel[(count,)](
        *call.pointers, digits, worth, scores.contiguous(), lse.contiguous(), delta, out,
        num_tokens, rows, tiles, units, of_program, low_weight, **constants,
    )  # fmt: skip
    return out.sum(0) if shared else out
