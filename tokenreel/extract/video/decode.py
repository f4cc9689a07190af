"""Decode a video: in order, by presentation time, at native size, whole frames or an error.

Nothing here resizes, repeats a frame or believes a header's frame count: libraries were measured
to be silently wrong in each.  What a header says about duration is only used to notice that a file
ends early.  A clip that starts in the middle of a video is reached by a seek only in files where
that was seen to give the same frames: see `seeking`.
"""

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tokenreel.extract.video.frame_selection import FrameSelector, exact

__all__ = [
    "DecodedFrame",
    "FrameSelector",
    "VideoError",
    "VideoInfo",
    "check_file",
    "decode",
    "exact",
    "probe",
]

LONE_FRAME = 1
TOLERATED_MISSING_FRAMES = 2
TOLERATED_MISSING_SECONDS = 0.1


class VideoError(Exception):
    """A video cannot be decoded to what it should hold; the text is the reason for the user.

    Attributes:
        stage: "open", "decode" or "transform".
        frame: near which it happened, None when unknown.
        final: whether another decoder's opinion would change nothing.
    """

    def __init__(
        self, reason: str, *, stage: str = "decode", frame: int | None = None, final: bool = True
    ) -> None:
        super().__init__(reason)
        self.stage = stage
        self.frame = frame
        self.final = final


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What the header says.

    Attributes:
        width: pixels of a row as stored, before rotation.
        height: rows as stored.
        codec: name of the codec.
        time_base: seconds of a tick of the video stream.
        start_ticks: tick that is time zero: the start of the file.
        duration_seconds: of the video stream, of the file where the stream has none, or None.
        is_duration_shared: whether it is the file's, of which another stream may fill the end.
        rate: mean frames a second, None when unknown.
        container: short name of the format.
        header_frames: count in the header, 0 when absent; never trusted, only recorded.
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


@dataclass(frozen=True)
class DecodedFrame:
    """One frame.

    Attributes:
        make_pixels: makes the pixels.
        size: height and width, turned as a player would.
        index: position in the decoded video, from 0.
        ticks: presentation time in ticks of time_base since the start of the file.
    """

    make_pixels: Callable[[], NDArray[np.uint8]]
    size: tuple[int, int]
    index: int
    ticks: int

    @cached_property
    def pixels(self) -> NDArray[np.uint8]:
        """RGB, uint8 (H, W, 3), turned as a player would; made when first asked for."""
        try:
            return self.make_pixels()
        except (ValueError, OSError) as error:
            raise VideoError(f"no RGB can be made: {error}", frame=self.index) from error


def check_file(path: Path) -> None:
    """Raise VideoError unless the path is a readable file with bytes in it; never blocks."""
    try:
        status = path.stat()
    except OSError as error:
        raise VideoError(_system_reason(error), stage="open") from error
    if stat.S_ISDIR(status.st_mode):
        raise VideoError("is a directory", stage="open")
    if not stat.S_ISREG(status.st_mode):
        raise VideoError("is not a regular file", stage="open")
    if status.st_size == 0:
        raise VideoError("is empty (0 bytes)", stage="open")
    if not os.access(path, os.R_OK):
        raise VideoError("no permission to read it", stage="open")


def probe(path: Path) -> VideoInfo:
    """Read the header.

    Raises:
        VideoError: the file cannot be opened or has no video stream; stage "open".
    """
    from tokenreel.extract.video.decoders import probe_pyav

    check_file(path)
    return probe_pyav(path)


def decode(
    path: Path,
    *,
    decoder: str = "pyav",
    from_seconds: float | None = None,
    until_seconds: float | None = None,
    alive: Callable[[], None] = lambda: None,
) -> Iterator[DecodedFrame]:
    """Yield every frame, in order of time.

    Args:
        path: the video.
        decoder: "pyav" or "decord".
        from_seconds: leave out the frames before this time; the others are, bit by bit and with
            their index, those of a read from the first frame on.
        until_seconds: stop before the first frame at or after this time; None reads to the end,
            and only then is the length of the file checked against its header.
        alive: called now and then where no frame is yielded for long: before from_seconds.

    Raises:
        VideoError: a damaged, truncated or unreadable file, a frame that the decoder marks as
            corrupt, a size that changes, time that stands still, or fewer than two frames.
    """
    from tokenreel.extract.video.decoders import read_decord, read_pyav
    from tokenreel.extract.video.seeking import read_pyav_from

    info = probe(path)
    start = None if from_seconds is None else exact(from_seconds) / info.time_base
    if start and decoder == "pyav":
        frames = read_pyav_from(path, info, start, alive)
    else:
        frames = {"pyav": read_pyav, "decord": read_decord}[decoder](path, info)
    end = None if until_seconds is None else exact(until_seconds) / info.time_base
    first: DecodedFrame | None = None
    previous: DecodedFrame | None = None
    for frame in frames:
        if previous is not None and frame.ticks <= previous.ticks:
            raise VideoError(
                f"time does not advance: frame {frame.index} is at "
                f"{float(frame.ticks * info.time_base):.3f} s as the one before it",
                frame=frame.index,
            )
        first = first or frame
        if frame.size != first.size:
            raise VideoError(
                f"the size changes from {_size(first)} to {_size(frame)} at frame {frame.index}",
                frame=frame.index,
            )
        previous = frame
        if end is not None and frame.ticks >= end:
            return
        if start is None or frame.ticks >= start:
            yield frame
        else:
            alive()
    _check_length(path, info, first, previous)


def _check_length(
    path: Path, info: VideoInfo, first: DecodedFrame | None, last: DecodedFrame | None
) -> None:
    from tokenreel.extract.video.decoders import is_outlasted

    if first is None or last is None:
        raise VideoError("no frame could be decoded")
    if last.index + 1 <= LONE_FRAME:
        raise VideoError("holds only one frame: a picture, or a damaged video", frame=0)
    if info.duration_seconds is None:
        return
    step = float((last.ticks - first.ticks) * info.time_base) / max(last.index - first.index, 1)
    end_seconds = float(last.ticks * info.time_base) + step
    tolerated = max(TOLERATED_MISSING_FRAMES * step, TOLERATED_MISSING_SECONDS)
    least_seconds = info.duration_seconds - tolerated
    if end_seconds >= least_seconds:
        return
    if not (info.is_duration_shared and is_outlasted(path, info, least_seconds)):
        raise VideoError(
            f"ends early: {last.index + 1} frames reach {end_seconds:.2f} s "
            f"of {info.duration_seconds:.2f} s in the header",
            frame=last.index,
        )


def _size(frame: DecodedFrame) -> str:
    return f"{frame.size[1]}x{frame.size[0]}"


def _system_reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
