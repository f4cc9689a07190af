"""The host side of the fused kernels: operands in digits, sizes, grids, joining of partial results.

Shapes: F frames, N tokens, E rows of attention, L layers of D stored channels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from subprocess import CalledProcessError
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.runtime.errors import OutOfResources, PTXASError

from tokenreel.fuse.kernels.attention.choose import CannotRun, is_interpreted
from tokenreel.fuse.kernels.triton import kernel as kernels
from tokenreel.fuse.kernels.triton.tuned import Sizes, sizes_for, small_sizes

LOW_WEIGHT = {torch.int8: 1 / 254, torch.float32: 0.0}  # what a low digit is worth, else 1
GROUP = 8  # rows of attention of a program: the other half of 16 carries low digits


@dataclass(frozen=True, eq=False)
class _Call:
    """What both directions share."""

    codes: Sequence[Tensor]
    pointers: tuple[Any, ...]

    @property
    def width(self) -> int:
        return self.codes[0].shape[2]

    @property
    def dtype(self) -> torch.dtype:
        return self.codes[0].dtype

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
        dtype = str(self.dtype).removeprefix("torch.")
        return sizes_for(gpu, direction, dtype, len(self.codes), self.width)

    def constants(self, sizes: Sizes) -> dict[str, Any]:
        """Compile-time arguments."""
        split = self.dtype != torch.float32
        half = {torch.bfloat16: tl.bfloat16, torch.float32: tl.float32}
        return {
            "L": len(self.codes),
            "D": self.width,
            "BD": sizes.channels,
            "ND": triton.cdiv(self.width, sizes.channels),
            "BN": sizes.tokens,
            "BE": GROUP,
            "HOLD": sizes.hold,
            "SPLIT": split,
            "I8": self.dtype == torch.int8,
            "DT": half.get(self.dtype, tl.float16),
            "PRECISION": "tf32" if split else "ieee",
            "INTERPRET": is_interpreted(),
            "num_warps": sizes.warps,
            "num_stages": sizes.stages,
            "enable_fp_fusion": True,  # the default is about to change, with a warning
        }


def pool(
    codes: Sequence[Tensor],
    queries: Tensor,
    scales: Sequence[Tensor],
    hidden: Tensor | None,
    *,
    sizes: Sizes | None = None,
    splits: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The fused form of :func:`tokenreel.fuse.kernels.attention.absorbed.pool`, in float32.

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
    return _first_that_fits(call, "forward", sizes, partial(_pool, call, queries, hidden, splits))


def pool_backward(
    codes: Sequence[Tensor],
    gradient: Tensor,
    scales: Sequence[Tensor],
    outputs: tuple[Tensor, Tensor, Tensor],
    *,
    shared: bool,
    sizes: Sizes | None = None,
    programs: int | None = None,
) -> Tensor:
    """The fused form of :func:`tokenreel.fuse.kernels.attention.absorbed.pool_backward`.

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
    run = partial(_pool_backward, call, gradient, outputs, shared, programs)
    return _first_that_fits(call, "backward", sizes, run)


def _prepare(codes: Sequence[Tensor], scales: Sequence[Tensor]) -> _Call:
    own = [part.float().contiguous() for part in scales]
    first, fill = codes[0], 4 - len(codes)
    peaks = first
    if own:  # what brings weights times scales near 1: half precision holds them then
        peaks = torch.stack([torch.linalg.vector_norm(part, torch.inf) for part in own])
    pointers = (
        *codes,
        *[first] * fill,
        *(part.stride(0) for part in codes),
        *[0] * fill,
        *own,
        *[own[0] if own else first] * (4 - len(own)),
        peaks,
    )
    return _Call(codes, pointers)


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
            except PTXASError as error:
                reason = f"Triton could not compile for this GPU: {error}"
            except CalledProcessError as error:
                reason = (
                    f"Triton could not build the launcher (are Python's headers here?): {error}"
                )
            except RuntimeError as error:
                if "C compiler" not in str(error):
                    raise
                reason = f"Triton could not build the launcher: {error}"
    raise CannotRun(reason)


def _pool(
    call: _Call, queries: Tensor, hidden: Tensor | None, splits: int | None, sizes: Sizes
) -> tuple[Tensor, Tensor, Tensor]:
    frames, num_tokens, _ = call.codes[0].shape
    layers, rows, device = len(call.codes), queries.shape[-2], queries.device
    varies = queries.dim() == 3
    operand = queries.float().contiguous()
    digits, worth, _ = split_digits(operand if varies else operand[None], call.dtype, layers)
    tiles, groups = triton.cdiv(num_tokens, sizes.tokens), triton.cdiv(rows, GROUP)
    if splits is None:
        splits = triton.cdiv(2 * call.num_multiprocessors, frames * groups)
    tiles_of_split = triton.cdiv(tiles, min(tiles, splits))
    splits = triton.cdiv(tiles, tiles_of_split)
    out = torch.empty(frames, splits, rows, layers * call.width, device=device)
    extremes = torch.empty(frames, splits, 2, rows, device=device)
    scores = torch.empty(frames, rows, num_tokens, device=device)
    lse = torch.empty(frames, rows, device=device)
    kernels.pool_kernel[(frames * groups, splits)](
        *call.pointers,
        worth if hidden is None else hidden.contiguous().view(torch.int8),
        digits,
        worth,
        out,
        extremes,
        scores,
        lse,
        num_tokens,
        rows,
        groups,
        splits,
        tiles_of_split,
        int(varies),
        LOW_WEIGHT.get(call.dtype, 1.0),
        HIDES=hidden is not None,
        WHOLE=splits == 1,
        **call.constants(sizes),
    )
    if splits == 1:
        return out[:, 0], scores, lse
    top, total = extremes.unbind(2)
    lse = torch.logsumexp(top + total.log(), dim=1)
    return (out * (top - lse[:, None]).exp()[..., None]).sum(1), scores, lse


def _pool_backward(
    call: _Call,
    gradient: Tensor,
    outputs: tuple[Tensor, Tensor, Tensor],
    shared: bool,
    programs: int | None,
    sizes: Sizes,
) -> Tensor:
    pooled, scores, lse = (part.contiguous() for part in outputs)
    frames, rows, width = gradient.shape
    num_tokens = scores.shape[-1]
    digits, worth, delta = split_digits(
        gradient.float().contiguous(), call.dtype, len(call.codes), pooled
    )
    tiles, groups = triton.cdiv(num_tokens, sizes.tokens), triton.cdiv(rows, GROUP)
    units = frames * tiles
    if shared:
        fill = triton.cdiv(call.num_multiprocessors * sizes.programs, groups)
        of_program = triton.cdiv(units, min(units, programs or fill))
    else:
        of_program = tiles
    count = triton.cdiv(units, of_program)
    out = torch.empty(count, rows, width, device=gradient.device)
    kernels.pool_backward_kernel[(count * groups,)](
        *call.pointers,
        digits,
        worth,
        scores,
        lse,
        delta,
        out,
        num_tokens,
        rows,
        groups,
        tiles,
        units,
        of_program,
        LOW_WEIGHT.get(call.dtype, 1.0),
        **call.constants(sizes),
    )
    return out.sum(0) if shared else out


def split_digits(
    rows: Tensor, dtype: torch.dtype, layers: int, pooled: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows as the matrix units take them, on a device of Triton or in its interpreter.

    The units take int8 or half precision; two digits of it, a high and a low one, are as good as
    float32, and the second costs nothing: it fills rows that would be padding.  One pass over the
    operand: gradients of a large batch are no small tensor, and a chain of tensor operations on
    them took as long as the pass over codes.

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
    kernels.split_kernel[(frames * count,)](
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
