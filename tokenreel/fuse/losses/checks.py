"""Checks of the tensors that a loss is computed from, by the name of the argument.

Dtypes and shapes are looked at on every device, values on a CPU only: a look at a GPU's would make
it wait, and a loss that is not finite ends the run there.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

FLOATS = (torch.float32, torch.float64)
WHOLE = (torch.int32, torch.int64)


class NotFinite(ValueError):
    """An argument holds NaN or infinity."""


def require_floats(**arguments: Tensor) -> None:
    """Check that tensors are float32 or float64, and finite on a CPU.

    Raises:
        TypeError: another dtype; half precision lacks the range of costs and masks.
        NotFinite: NaN or infinity.
    """
    for name, values in arguments.items():
        if values.dtype not in FLOATS:
            raise TypeError(f"{name}: {values.dtype}, want float32 or float64: call .float()")
        _require_finite(name, values)


def require_times(**arguments: Tensor) -> None:
    """Check that tensors are numbers of frames, or times: int32, int64, or finite floats.

    Raises:
        TypeError: another dtype; differences of unsigned or short ones wrap around.
        NotFinite: NaN or infinity.
    """
    for name, values in arguments.items():
        if values.dtype not in (*WHOLE, *FLOATS):
            raise TypeError(f"{name}: {values.dtype}, want int64, or float32 of times: convert it")
        _require_finite(name, values)


def require_masks(**arguments: Tensor) -> None:
    """Check that tensors are bool.

    Raises:
        TypeError: another dtype.
    """
    for name, values in arguments.items():
        if values.dtype != torch.bool:
            raise TypeError(f"{name}: {values.dtype}, want bool: compare it first, as in x > 0")


def require_labels(name: str, labels: Tensor, num_classes: int | None = None) -> None:
    """Check that labels are whole numbers, and on a CPU from -1 to below the number of classes.

    Raises:
        TypeError: another dtype than int32 or int64.
        ValueError: a label out of range.
    """
    if labels.dtype not in WHOLE:
        raise TypeError(f"{name}: {labels.dtype}, want int64, -1 where a frame has none")
    if labels.device.type != "cpu" or not labels.numel():
        return
    values = labels.numpy()
    low, high = int(values.min()), int(values.max())
    if low < -1 or (num_classes is not None and high >= num_classes):
        most = "" if num_classes is None else f" to {num_classes - 1}"
        raise ValueError(f"{name}: from {low} to {high}, want -1{most or ' or more'}")


def require_shape(name: str, values: Tensor, wanted: Sequence[int | None]) -> None:
    """Check the shape of a tensor; None stands for any size.

    Raises:
        ValueError: another shape.
    """
    sizes = tuple(values.shape)
    if len(sizes) != len(wanted) or any(
        size is not None and found != size for found, size in zip(sizes, wanted, strict=True)
    ):
        words = ", ".join("any" if size is None else str(size) for size in wanted)
        raise ValueError(f"{name}: shape {sizes}, want ({words})")


def require_positive(**arguments: float) -> None:
    """Check that numbers are finite and above zero.

    Raises:
        ValueError: one is not.
    """
    for name, value in arguments.items():
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name}: {value}, want a finite number above 0")


def _require_finite(name: str, values: Tensor) -> None:
    if values.device.type != "cpu" or not values.is_floating_point():
        return
    is_finite = np.isfinite(values.detach().numpy())
    if not is_finite.all():
        place = tuple(int(i) for i in np.argwhere(~is_finite)[0])
        raise NotFinite(
            f"{name}: {int((~is_finite).sum())} of {values.numel()} values are NaN or infinite, "
            f"the first at {place}"
        )
