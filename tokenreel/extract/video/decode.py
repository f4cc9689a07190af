"""Decode a video in order of presentation time, at native size: whole frames or an error.

Nothing here resizes, repeats a frame or trusts a header's frame count: libraries were measured to
be silently wrong in each.  The duration in a header is only used to notice that a file ends early.
A clip that starts in the middle of a video is reached by a seek only in files where the seek was
seen to give the same frames: see `seeking`.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path

from tokenreel.extract.video.decoders import (
    end_of_whole,
    is_outlasted,
    probe,
    read_decord,
    read_pyav,
)
from tokenreel.extract.video.pictures import PICTURES, read_pictures
from tokenreel.extract.video.seeking import read_pyav_from
from tokenreel.extract.video.timeline import frames_in_time
from tokenreel.extract.video.types import DecodedFrame, VideoError, VideoInfo

TOLERATED_MISSING_FRAMES = 2
TOLERATED_MISSING_SECONDS = Fraction(1, 10)


def decode(
    path: Path,
    *,
    decoder: str = "pyav",
    from_seconds: float | None = None,
    until_seconds: float | None = None,
    pixel_aspect: str = "square",
    alive: Callable[[], None] = lambda: None,
    picture_fps: float | None = None,
    least_frames: int = 2,
    info: VideoInfo | None = None,
) -> Iterator[DecodedFrame]:
    """Yield the frames of a video in order of time.

    Args:
        path: the video, or a folder of numbered pictures.
        decoder: "pyav" or "decord".
        from_seconds: omit the frames before this time; pixels and indices of the others are
            those of a read from the first frame on.
        until_seconds: stop before the first frame at or after this time; None reads to the end,
            and only then compares the duration with the header.
        pixel_aspect: "square" makes pixels square, "ignore" leaves them as they are coded.
        alive: called regularly while no frame is yielded: before from_seconds.
        picture_fps: pictures a second of a folder, 25 when None.
        least_frames: 1 to take a video of one frame, where its header says how long it is: a scene
            may be one frame, and what ends there too early is damaged.
        info: the header, of `probe`; None reads it.

    Raises:
        VideoError: a damaged, truncated or unreadable file, a frame that the decoder marks as
            corrupt, a size that changes, time that runs backwards, or too few frames.
    """
    info = info or probe(path, picture_fps=picture_fps)
    if pixel_aspect == "ignore":
        info = replace(info, pixel_aspect=None)
    start = None if from_seconds is None else exact(from_seconds) / info.time_base
    if info.container == PICTURES and decoder == "pyav":
        frames = read_pictures(path, info)
    elif start and decoder == "pyav":
        frames = read_pyav_from(path, info, start, alive)
    else:
        frames = {"pyav": read_pyav, "decord": read_decord}[decoder](path, info)
    end = None if until_seconds is None else exact(until_seconds) / info.time_base
    size: tuple[int, int] | None = None
    timed = frames_in_time(
        frames, info, partial(_stream_end, path, info, least_frames), until_ticks=end
    )
    for frame in timed:
        size = size or frame.size
        if frame.size != size:
            raise VideoError(
                f"the size changes from {_size(size)} to {_size(frame.size)} at frame "
                f"{frame.index}",
                frame=frame.index,
            )
        if end is not None and frame.ticks >= end:
            return
        if start is None or frame.ticks >= start:
            yield frame
        else:
            alive()


def _stream_end(
    path: Path,
    info: VideoInfo,
    least_frames: int,
    first: DecodedFrame | None,
    last: DecodedFrame | None,
    last_step: int | None,
) -> tuple[int, bool]:
    """The tick at which the stream ends, and whether rules 1 find its end too.

    Raises:
        VideoError: the file ends before its header says, and is not known to be whole.
    """
    if first is None or last is None:
        raise VideoError("no frame could be decoded")
    if last.index + 1 < (least_frames if info.duration_seconds is not None else 2):
        raise VideoError("holds only one frame: a picture, or a damaged video", frame=0)
    mean = Fraction(last.ticks - first.ticks, max(last.index - first.index, 1))
    step = last_step or max(round(mean), 1)
    end = last.ticks + step if last.stop is None else last.stop
    is_old = True
    if info.duration_seconds is not None:
        header = round(exact(info.duration_seconds) / info.time_base)
        tolerated = max(TOLERATED_MISSING_FRAMES * mean, TOLERATED_MISSING_SECONDS / info.time_base)
        is_old = last.ticks + mean >= header - tolerated
        if end < header - tolerated and not is_old:
            least = float((header - tolerated) * info.time_base)
            if info.is_duration_shared:
                is_old = is_outlasted(path, info, least)
            if not is_old:
                whole = end_of_whole(path, info, num_frames=last.index + 1, end=end)
                if whole is None:
                    raise VideoError(
                        f"ends early: {last.index + 1} frames reach "
                        f"{float(end * info.time_base):.2f} s of {info.duration_seconds:.2f} s in "
                        "the header",
                        frame=last.index,
                    )
                end = whole
        elif last.ticks < header < end and not info.is_duration_shared:
            end = header
    if 2 * abs(end - last.ticks - step) <= step:
        end = last.ticks + step
    return end, is_old


def _size(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]}"


class FrameSelector:
    """Selects the frames of a clip: those in [start, stop), at most fps a second.

    With fps, time is divided into slots of 1 / fps seconds centred on multiples of 1 / fps since
    the clip's first frame; each slot keeps its first frame and no frame fills two slots, so a
    slower video keeps all its frames and nothing is repeated.
    """

    def __init__(
        self,
        time_base: Fraction,
        *,
        start_seconds: float | None = None,
        stop_seconds: float | None = None,
        fps: float | None = None,
    ) -> None:
        self._start = None if start_seconds is None else exact(start_seconds) / time_base
        self._stop = None if stop_seconds is None else exact(stop_seconds) / time_base
        per_second = None if fps is None else Fraction(fps).limit_denominator(10_000)
        self._slots_per_tick = None if per_second is None else per_second * time_base
        self._first_ticks: int | None = None
        self._last_slot = -1

    def keeps(self, ticks: int) -> bool:
        """Whether the clip keeps the frame at this time; call once for each frame, in order."""
        if self._stop is not None and ticks >= self._stop:
            return False
        if self._start is not None and ticks < self._start:
            return False
        if self._slots_per_tick is None:
            return True
        if self._first_ticks is None:
            self._first_ticks = ticks
        slot = math.floor((ticks - self._first_ticks) * self._slots_per_tick + Fraction(1, 2))
        if slot <= self._last_slot:
            return False
        self._last_slot = slot
        return True


def exact(seconds: float) -> Fraction:
    """The fraction that a decimal annotation stands for, to 10 microseconds.

    >>> exact(0.2), exact(2 / 3)
    (Fraction(1, 5), Fraction(2, 3))
    """
    return Fraction(seconds).limit_denominator(100_000)
