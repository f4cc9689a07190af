"""Antialiased bicubic resizing of uint8, as in torch and Pillow, in integers on any device.

A pass along one axis is out = clip((sum_j w_ij x_j + 2^(p-1)) >> p): w are 16-bit integers and p
their fractional bits, chosen by the largest weight; the pass along the columns comes first and its
result is rounded to uint8.  Each w is split into 256 h + l, so that every sum of products is an
integer below 2^24, which float32 represents exactly in any order of addition: a matrix product on
the GPU gives the bytes of the CPU.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BITS = 15
MOST_BITS = 22
EXACT = 2**24
AXES_KEPT = 256  # of sizes of frames, and of their matrices on a device


@dataclass(frozen=True, slots=True, eq=False)
class Axis:
    """One axis: source pixels [start, stop) times weights (out, stop - start), p bits."""

    start: int
    stop: int
    weights: NDArray[np.int64] | None  # None: the pixels are unchanged
    bits: int


@dataclass(frozen=True, slots=True, eq=False)
class ResizePlan:
    """Resizing and cropping of frames of one size.

    Attributes:
        rows: along the height.
        columns: along the width.
    """

    rows: Axis
    columns: Axis

    @property
    def window(self) -> tuple[slice, slice]:
        """The part of a frame that the image depends on."""
        return slice(self.rows.start, self.rows.stop), slice(self.columns.start, self.columns.stop)

    @property
    def window_shape(self) -> tuple[int, int, int]:
        """Shape of the window's pixels, (h, w, 3)."""
        rows, columns = self.rows, self.columns
        return rows.stop - rows.start, columns.stop - columns.start, 3


def plan_resize(
    frame: tuple[int, int], resized: tuple[int, int], corner: tuple[int, int], size: tuple[int, int]
) -> ResizePlan:
    """Plan to resize a frame and crop it.

    Args:
        frame: height and width of the frame.
        resized: height and width after resizing.
        corner: top and left of the crop after resizing.
        size: height and width of the crop.

    Raises:
        ValueError: the reduction is too strong for exact sums: more than about 60.
    """
    return ResizePlan(
        _axis(frame[0], resized[0], corner[0], size[0]),
        _axis(frame[1], resized[1], corner[1], size[1]),
    )


@torch.inference_mode()
def resize_on_device(windows: Tensor, plan: ResizePlan) -> Tensor:
    """Resize on the device of the pixels.

    Args:
        windows: uint8 (t, h, w, 3), each plan.window of its frame.
        plan: of the frames.

    Returns:
        uint8 (t, 3, H, W), the bytes of `transforms.apply_transform`.
    """
    images = windows.permute(0, 3, 1, 2)
    images = _pass(images, plan.columns)
    images = _pass(images.transpose(-1, -2), plan.rows)
    return images.transpose(-1, -2).contiguous()


def _pass(images: Tensor, axis: Axis) -> Tensor:
    """One axis, the last: uint8 (..., in) to uint8 (..., out)."""
    if axis.weights is None:
        return images
    values = images.to(torch.float32, memory_format=torch.contiguous_format)
    high, low = _matrices(axis, images.device)
    total = (values @ high).to(torch.int32) * 256 + (values @ low).to(torch.int32)
    rounded = (total + (1 << (axis.bits - 1))) >> axis.bits
    return rounded.clamp_(0, 255).to(torch.uint8)


@lru_cache(maxsize=AXES_KEPT)
def _matrices(axis: Axis, device: torch.device) -> tuple[Tensor, Tensor]:
    """The two float32 (in, out) matrices of an axis on a device."""
    assert axis.weights is not None
    high, low = (
        torch.from_numpy(np.ascontiguousarray(part.T, np.float32))
        for part in (axis.weights >> 8, axis.weights & 255)
    )
    if device.type == "cuda":  # a copy from pageable memory would wait for the device
        high, low = high.pin_memory(), low.pin_memory()
    return high.to(device, non_blocking=True), low.to(device, non_blocking=True)


@lru_cache(maxsize=AXES_KEPT)
def _axis(size: int, resized: int, first: int, count: int) -> Axis:
    if size == resized:
        return Axis(first, first + count, None, 0)
    spans, largest = [], 0.0
    for place in range(resized):
        start, weights = _weights(size, resized, place)
        spans.append((start, weights))
        largest = max(largest, *weights)
    bits = next(
        (b for b in range(MOST_BITS) if int(0.5 + largest * 2 ** (b + 1)) >= 1 << BITS), MOST_BITS
    )
    chosen = spans[first : first + count]
    low = min(start for start, _ in chosen)
    high = max(start + len(weights) for start, weights in chosen)
    whole = np.zeros((count, high - low), np.int64)
    for row, (start, weights) in enumerate(chosen):
        for place, weight in enumerate(weights, start=start - low):
            whole[row, place] = int(weight * 2**bits + math.copysign(0.5, weight))
    if (np.maximum(np.abs(whole >> 8), whole & 255).sum(axis=1).max() * 255) >= EXACT:
        raise ValueError(f"{size} pixels to {resized}: the reduction is too strong")
    return Axis(low, high, whole, bits)


def _weights(size: int, resized: int, place: int) -> tuple[int, list[float]]:
    """First source pixel of an output pixel, and the weights from it on, which sum to 1."""
    scale = size / resized
    stretch = max(scale, 1.0)
    centre, support = scale * (place + 0.5), 2.0 * stretch
    start, stop = max(int(centre - support + 0.5), 0), min(int(centre + support + 0.5), size)
    raw = [_cubic((j - centre + 0.5) * (1.0 / stretch)) for j in range(start, stop)]
    total = sum(raw)
    return start, [value / total for value in raw]


def _cubic(x: float, a: float = -0.5) -> float:
    """Keys' cubic kernel, as in Pillow and in torch's antialiased resizing."""
    x = abs(x)
    if x < 1:
        return ((a + 2) * x - (a + 3)) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * a if x < 2 else 0.0
