"""What decoding works with: the header of a video, a decoded frame, the error of a bad file."""

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.errors import ServiceError
from tokenreel.extract.video.geometry import UPRIGHT, Orientation


class VideoError(Exception):
    """A video cannot be decoded completely; the text is the reason shown to the user.

    Attributes:
        stage: "open", "decode" or "transform".
        frame: index of a frame near the failure, None when unknown.
        final: whether a retry with another decoder is useless.
    """

    def __init__(
        self, reason: str, *, stage: str = "decode", frame: int | None = None, final: bool = True
    ) -> None:
        super().__init__(reason)
        self.stage = stage
        self.frame = frame
        self.final = final


class VideoReplaced(VideoError):
    """Another video took its place while it was read."""


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """The header of a video.

    Attributes:
        width: pixels of a row as stored, before rotation.
        height: rows as stored.
        codec: name of the codec.
        time_base: seconds of a tick of the video stream.
        start_ticks: tick that is time zero: the start of the file.
        duration_seconds: of the video stream, of the file where the stream has none, or None.
        is_duration_shared: whether it is the file's, whose end may belong to another stream.
        rate: mean frames a second, None when unknown.
        container: short name of the format.
        header_frames: frame count in the header, 0 when absent; recorded, never trusted.
        pixel_aspect: width over height of a pixel, None when the header does not say.
    """

    width: int
    height: int
    codec: str
    time_base: Fraction
    start_ticks: int
    duration_seconds: float | None
    is_duration_shared: bool
    rate: Fraction | None
    container: str
    header_frames: int
    pixel_aspect: Fraction | None = None


@dataclass(frozen=True)
class DecodedFrame:
    """One decoded frame.

    Attributes:
        make_pixels: converts the frame to RGB.
        size: height and width of the pixels.
        index: position in the decoded video, from 0.
        ticks: presentation time in ticks of time_base since the start of the file.
        stop: tick at which it stops being shown, see `timeline`; None when unknown.
        orientation: of the coded picture.
        is_moved: whether it has no time stamp, or one that repeated another frame's.
        rules: first version of the rules of time and geometry that gives this frame.
        make_mean: gives the mean R, G and B without converting a pixel, or None where the format
            does not allow it; None: the pixels are averaged.
    """

    make_pixels: Callable[[], NDArray[np.uint8]]
    size: tuple[int, int]
    index: int
    ticks: int
    stop: int | None = None
    orientation: Orientation = UPRIGHT
    is_moved: bool = False
    rules: int = 1
    make_mean: Callable[[], NDArray[np.float64] | None] | None = None

    def shown_until(self, stop: int) -> "DecodedFrame":
        """The frame with another stop; as dataclasses.replace, which takes ten times as long."""
        return DecodedFrame(
            self.make_pixels,
            self.size,
            self.index,
            self.ticks,
            stop,
            self.orientation,
            self.is_moved,
            self.rules,
            self.make_mean,
        )

    @property
    def mean_rgb(self) -> NDArray[np.float64]:
        """Mean R, G and B of the frame, float64 (3,) in [0, 255]."""
        mean = None if self.make_mean is None else self.make_mean()
        return self.pixels.mean(axis=(0, 1), dtype=np.float64) if mean is None else mean

    @cached_property
    def pixels(self) -> NDArray[np.uint8]:
        """RGB, uint8 (H, W, 3), as `geometry` says; converted on first use."""
        try:
            return self.make_pixels()
        except (ValueError, OSError) as error:
            raise VideoError(f"cannot be converted to RGB: {error}", frame=self.index) from error


def check_file(path: Path) -> None:
    """Raise VideoError unless the path is a readable file with bytes in it; never blocks.

    Raises:
        VideoError: it is none.
        ServiceError: an object store does not say.
    """
    try:
        status = path.stat()
    except ServiceError:  # no fault of the video
        raise
    except OSError as error:
        raise VideoError((error.strerror or str(error)).lower(), stage="open") from error
    if stat.S_ISDIR(status.st_mode):
        raise VideoError("is a directory", stage="open")
    if not stat.S_ISREG(status.st_mode):
        raise VideoError("is not a regular file", stage="open")
    if status.st_size == 0:
        raise VideoError("is empty (0 bytes)", stage="open")
    if isinstance(path, Path) and not os.access(path, os.R_OK):
        raise VideoError("no permission to read it", stage="open")
