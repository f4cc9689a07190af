"""Geometry of a frame: one model, for every decoder.

1. The decoder gives the picture that the codec codes, without the edges that its own header crops.
2. Pixels are made square: where the header says that a pixel is wider than high, the picture is
   widened, else heightened, never reduced; an aspect within 1 % of square is square.
3. The picture is mirrored left to right, and turned clockwise, as the display matrix of the
   container says: one of eight orientations, exactly.  An angle within 2 degrees of a quarter turn
   is that turn; any other is logged, and the picture is left as it is.
"""

import logging
import math
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

log = logging.getLogger(__name__)

TOLERATED_DEGREES = 2.0
TOLERATED_ASPECT = Fraction(1, 100)  # from 1
MOST_ASPECT = 10  # a header that says more is wrong

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Orientation:
    """How a coded picture is turned for display.

    Attributes:
        is_mirrored: whether left and right are exchanged, before the turn.
        quarter_turns: clockwise, 0 to 3.
        other_degrees: the angle that the header says, where it is no orientation; else None.
    """

    is_mirrored: bool = False
    quarter_turns: int = 0
    other_degrees: float | None = None

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width after the turn."""
        return (width, height) if self.quarter_turns % 2 else (height, width)

    def apply(self, pixels: Pixels) -> Pixels:
        """Mirror and turn a picture, (H, W, 3)."""
        if self.is_mirrored:
            pixels = pixels[:, ::-1]
        turned: Pixels = np.rot90(pixels, -self.quarter_turns)
        return turned


UPRIGHT = Orientation()


@lru_cache(maxsize=256)
def orientation_of(matrix: bytes | None) -> Orientation:
    """The orientation that a display matrix says.

    Args:
        matrix: nine int32 in the order of FFmpeg, x' = a x + c y, y' = b x + d y with y downwards;
            None where the header has none.

    >>> turn = np.array([0, 1, 0, -1, 0, 0, 0, 0, 1], np.int32).tobytes()
    >>> orientation_of(turn).quarter_turns, orientation_of(None).quarter_turns
    (1, 0)
    """
    if matrix is None:
        return UPRIGHT
    a, b, _, c, d = map(float, np.frombuffer(matrix[:20], np.int32))
    determinant = a * d - b * c
    if determinant == 0:
        return Orientation(other_degrees=0.0)
    is_mirrored = determinant < 0
    if is_mirrored:
        a, b = -a, -b
    first, second = (math.degrees(math.atan2(*pair)) for pair in ((b, a), (-c, d)))
    turns = round(second / 90)
    apart = [abs((angle - 90 * turns + 180) % 360 - 180) for angle in (first, second)]
    if max(apart) > TOLERATED_DEGREES:
        return Orientation(other_degrees=(first if apart[0] > apart[1] else second) % 360)
    return Orientation(is_mirrored, turns % 4)


def square_size(height: int, width: int, aspect: Fraction | None) -> tuple[int, int]:
    """Height and width of a picture once its pixels are square.

    Args:
        height: of the coded picture.
        width: likewise.
        aspect: width over height of a pixel; None: square.

    >>> square_size(576, 720, Fraction(64, 45)), square_size(480, 720, Fraction(8, 9))
    ((576, 1024), (540, 720))
    >>> square_size(320, 426, Fraction(640, 639))
    (320, 426)
    """
    if aspect is None or not is_stretched(aspect):
        return height, width
    if aspect > 1:
        return height, round(width * aspect)
    return round(height / aspect), width


@lru_cache(maxsize=64)  # asked three times a frame: a few microseconds each
def is_stretched(aspect: Fraction | None) -> bool:
    """Whether pixels of an aspect are made square: neither square nor beyond belief."""
    if aspect is None or abs(aspect - 1) <= TOLERATED_ASPECT:
        return False
    return Fraction(1, MOST_ASPECT) <= aspect <= MOST_ASPECT


def make_square(pixels: Pixels, aspect: Fraction | None) -> Pixels:
    """The picture with square pixels, by antialiased bicubic interpolation; (H, W, 3)."""
    size = square_size(pixels.shape[0], pixels.shape[1], aspect)
    if size == pixels.shape[:2]:
        return pixels
    import torch
    from torch.nn import functional

    frame = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None]
    resized = functional.interpolate(frame, size=size, mode="bicubic", antialias=True)[0]
    found: Pixels = resized.permute(1, 2, 0).numpy()
    return found


@lru_cache(maxsize=1024)
def warn_of_geometry(name: str, orientation: Orientation, aspect: Fraction | None) -> None:
    """Log, once a file, what the header says that is not applied."""
    if orientation.other_degrees is not None:
        log.warning(
            "%s: its header turns or distorts pictures by %.1f degrees, which is no quarter turn: "
            "they are left as they are",
            name,
            orientation.other_degrees,
        )
    if aspect is not None and not is_stretched(aspect) and abs(aspect - 1) > TOLERATED_ASPECT:
        log.warning("%s: its header says pixels of %s, taken as square", name, aspect)
