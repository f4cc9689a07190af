"""Mean colour of a frame from the means of its planes: no pixel is converted.

Conversion from YUV to RGB is linear but for rounding and clipping, so the mean of the converted
pixels is, but for these, the converted mean of the planes.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

FULL_RANGE = 2  # of FFmpeg's color_range
FULL_RANGE_FORMATS = ("yuvj", "gray")
ROWS_AT_ONCE = 4  # NumPy sums long rows in less time, up to the 8,192 values that it casts at once
# Types of a value and of the sum of a column: the narrower the sum, the faster.
BYTES = np.dtype("<u1"), np.dtype("<u2")
WORDS = np.dtype("<u2"), np.dtype("<u4")
BT601 = (0.299, 0.114)
RED_AND_BLUE = {  # FFmpeg's number of a matrix -> shares of R and B in Y
    1: (0.2126, 0.0722),  # BT.709
    2: BT601,  # unspecified, as swscale takes it
    4: (0.30, 0.11),  # FCC
    5: BT601,
    6: BT601,
    7: (0.212, 0.087),  # SMPTE 240M
    9: (0.2627, 0.0593),  # BT.2020
    10: (0.2627, 0.0593),
}


@dataclass(frozen=True, slots=True)
class _Planes:
    """Layout of a format whose Y, U and V lie in planes of their own.

    Attributes:
        bits: of a value.
        numbers: planes of Y, U and V; of Y alone where the format is grey.
        is_full_range: whether the format is always full range.
    """

    bits: int
    numbers: tuple[int, ...]
    is_full_range: bool


def mean_of_planes(frame: Any) -> NDArray[np.float64] | None:
    """Mean R, G and B of a frame of PyAV, float64 (3,) in [0, 255].

    The matrix and the range are those of the stream; where it names no matrix, BT.601.

    Returns:
        None where the format does not keep Y, U and V in planes, or the matrix is another.
    """
    planes, shares = _planes_of(frame.format.name), RED_AND_BLUE.get(int(frame.colorspace))
    if planes is None or shares is None:
        return None
    depth = 2 ** (planes.bits - 8)
    parts = frame.planes
    means = [_mean(parts[number], planes.bits) / depth for number in planes.numbers]
    is_full = planes.is_full_range or int(frame.color_range) == FULL_RANGE
    luma = means[0] if is_full else (means[0] - 16) * 255 / 219
    blue, red = (
        (0.0, 0.0)
        if len(means) == 1
        else ((mean - 128) * (1.0 if is_full else 255 / 224) for mean in means[1:])
    )
    of_red, of_blue = shares
    r, b = luma + 2 * (1 - of_red) * red, luma + 2 * (1 - of_blue) * blue
    g = (luma - of_red * r - of_blue * b) / (1 - of_red - of_blue)
    return np.array([min(max(channel, 0.0), 255.0) for channel in (r, g, b)])


@lru_cache
def _planes_of(name: str) -> _Planes | None:
    """The layout of a pixel format; None where mean_of_planes cannot read it."""
    import av

    form = av.VideoFormat(name, 64, 64)
    parts = [part for part in form.components if not part.is_alpha]
    numbers = tuple(part.plane for part in parts)
    bits = {part.bits for part in parts}
    if not name.startswith(("yuv", "gray")) or form.is_big_endian or len(bits) != 1:
        return None
    if len(set(numbers)) != len(numbers) or len(numbers) not in (1, 3) or not 8 <= min(bits) <= 16:
        return None
    return _Planes(bits.pop(), numbers, name.startswith(FULL_RANGE_FORMATS))


def _mean(plane: Any, bits: int) -> float:
    """Mean of the values of a plane, without the padding of its rows; the sum is exact."""
    of_value, of_column = BYTES if bits == 8 else WORDS
    height, width = plane.height, plane.width
    steps = plane.line_size, of_value.itemsize
    values = np.ndarray((height, width), of_value, buffer=plane, strides=steps)
    if values.flags.c_contiguous:
        values = values.reshape(height // math.gcd(height, ROWS_AT_ONCE), -1)
    most = 2 ** (8 * (of_column.itemsize - of_value.itemsize))  # rows whose sums have room
    total = 0
    for first in range(0, len(values), most):
        columns = np.add.reduce(values[first : first + most], axis=0, dtype=of_column)
        total += int(np.add.reduce(columns, dtype=np.uint64))
    return total / (height * width)
