"""The two decoders of `video.decode`: PyAV, and decord with guards against its known faults."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenreel.extract.video.damage import DamageWatch, errors_so_far
from tokenreel.extract.video.pictures import probe_pictures
from tokenreel.extract.video.types import DecodedFrame, VideoError, VideoInfo, check_file

DECORD_LIMIT_BYTES = 2**30  # decord reads ahead without bound, so a whole video must fit
DECORD_REFUSES = {"av1"}  # its FFmpeg 4.1 has no decoder for it
DECORD_REFUSES_CONTAINERS = {"mpegts"}  # hangs for ever on valid files
SLOTTED_CONTAINERS = {"avi"}
GREYING = {"mjpeg"}  # codecs in which FFmpeg fills a damaged frame and does not mark it
REPEATS_TOLERATED = 1e-6  # decord raises at the first frame that it would replace by another


@contextmanager
def opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """Open a file; yields the container and its video stream, decoding in one thread.

    Raises:
        VideoError: stage "open": it cannot be opened, or has no video stream.
    """
    import av

    try:
        container = av.open(str(path.absolute()))  # a name may look like a protocol
    except (av.FFmpegError, UnicodeError) as error:
        raise VideoError(_reason(error), stage="open") from error
    with container:
        stream = _video_stream(container)
        stream.thread_type = "NONE"
        if stream.codec_context.name in GREYING:
            stream.codec_context.options = {"err_detect": "explode"}
        yield container, stream


def packets_of(container: Any, *streams: Any) -> Iterator[Any]:
    """Packets of the streams that the header named, by default of all, in the order of the file.

    FLV and MPEG-TS may show another stream in mid-file.  PyAV knows none of its packets, but may
    flush it at the end, after the others, and then fails to look it up: that is no damage.
    """
    try:
        yield from container.demux(*streams)
    except IndexError:
        return


def probe(path: Path, *, picture_fps: float | None = None) -> VideoInfo:
    """Read the header, with PyAV.

    Args:
        path: the video, or a folder of numbered pictures.
        picture_fps: pictures a second of a folder, 25 when None.

    Raises:
        VideoError: the file cannot be opened or has no video stream; stage "open".
    """
    if path.is_dir():
        return probe_pictures(path, picture_fps)
    check_file(path)
    with opened(path) as (container, stream):
        base: Fraction = stream.time_base
        start = container.start_time
        start_ticks = 0 if start is None else _rescale(start, Fraction(1, 1_000_000), base)
        duration, is_files = _duration_seconds(container, stream)
        return VideoInfo(
            width=stream.codec_context.width,
            height=stream.codec_context.height,
            codec=stream.codec_context.codec.canonical_name,
            time_base=base,
            start_ticks=start_ticks,
            duration_seconds=duration,
            is_duration_shared=is_files and len(container.streams) > 1,
            rate=stream.average_rate,
            container=container.format.name,
            header_frames=stream.frames,
            pixel_aspect=stream.sample_aspect_ratio or None,
        )


def read_pyav(path: Path, info: VideoInfo) -> Iterator[DecodedFrame]:
    """Yield the frames of a video with PyAV, one thread, memory of a few frames."""
    for frame, index in _frames(path):
        yield frame_of(frame, index, ticks_of(frame, index, info))


def frame_of(frame: Any, index: int, ticks: int) -> DecodedFrame:
    """A frame of PyAV, rotated as the header says; its pixels are converted on first use."""
    turns = frame.rotation // 90

    def pixels() -> NDArray[np.uint8]:
        turned: NDArray[np.uint8] = np.rot90(frame.to_ndarray(format="rgb24"), k=turns)
        return turned

    size = (frame.height, frame.width) if turns % 2 == 0 else (frame.width, frame.height)
    return DecodedFrame(pixels, size, index, ticks)


def _frames(path: Path) -> Iterator[tuple[Any, int]]:
    """Decoded frames of PyAV with their indices; raises at a sign of damage."""
    import av

    index, num_errors = -1, errors_so_far()
    with opened(path) as (container, stream):
        watch = DamageWatch(container, stream, num_errors)
        try:
            for packet in packets_of(container, stream):
                watch.sent(packet, index)
                for frame in packet.decode():
                    index += 1
                    watch.got(frame, index)
                    yield frame, index
            watch.end(index)
        except (av.FFmpegError, UnicodeError) as error:
            raise VideoError(
                f"{_reason(error)} after {index + 1} frames", frame=index, final=False
            ) from error


def is_outlasted(path: Path, info: VideoInfo, seconds: float) -> bool:
    """Whether audio continues after the last video packet, at least up to this time.

    In a file that was cut short both end at the cut.
    """
    import av

    start_seconds = float(info.start_ticks * info.time_base)
    reached = False
    try:
        with opened(path) as (container, stream):
            for packet in packets_of(container):
                if packet.pts is None:
                    continue
                if packet.stream_index == stream.index:
                    reached = False
                else:
                    end = float((packet.pts + (packet.duration or 0)) * packet.time_base)
                    reached = reached or end - start_seconds >= seconds
    except av.FFmpegError:
        return False
    return reached


def read_decord(path: Path, info: VideoInfo) -> Iterator[DecodedFrame]:
    """Yield the frames of a video with decord, forwards only.

    PyAV decodes the video too, without converting pixels, for times and corrupt flags: decord has
    no flags, and with edit lists it repeats frames.

    Raises:
        VideoError: also where decord is known to hang, lacks the codec or needs more than 1 GiB
            of memory, and where it would repeat a frame instead of decoding it.
    """
    if path.is_dir():
        raise _refusal("does not read folders of pictures")
    if info.codec in DECORD_REFUSES or info.container in DECORD_REFUSES_CONTAINERS:
        raise _refusal(f"does not read {info.codec} in {info.container}")
    frame_bytes = info.width * info.height * 3
    _require_room(frame_bytes * (info.duration_seconds or 0.0) * float(info.rate or 0))
    try:
        import decord
    except ImportError as error:
        raise _refusal("is not installed") from error
    index = -1
    decord.logging.set_level(decord.logging.QUIET)
    try:
        reader = decord.VideoReader(
            str(path.absolute()), num_threads=1, fault_tol=REPEATS_TOLERATED
        )
        _require_room(len(reader) * frame_bytes)
        for timed, index in _frames(path):
            ticks = ticks_of(timed, index, info)
            frame = reader.next()
            yield DecodedFrame(frame.asnumpy, frame.shape[:2], index, ticks)
    except StopIteration as error:
        raise _refusal(f"ends after {index} frames") from error
    except (decord.DECORDError, decord.DECORDLimitReachedError, RuntimeError) as error:
        raise _refusal(f"fails after {max(index, 0)} frames: {_reason(error)}") from error


def _require_room(num_bytes: float) -> None:
    """Refuse a video that is too large, as decord holds all of its frames in memory."""
    if num_bytes > DECORD_LIMIT_BYTES:
        raise _refusal(f"would hold {num_bytes / 2**30:.1f} GiB of frames")


def _refusal(reason: str) -> VideoError:
    return VideoError(f"decord {reason}: use pyav", final=False)


def ticks_of(frame: Any, index: int, info: VideoInfo) -> int:
    """Time of a frame; from its index in AVI and in streams without a container.

    FFmpeg's times are wrong with B-frames in the first, and missing in the second.
    """
    if info.rate and is_slotted(info.container):
        return round(index / info.rate / info.time_base)
    if frame.pts is None:
        raise VideoError(f"frame {index} has no time", frame=index)
    return _rescale(frame.pts, frame.time_base, info.time_base) - info.start_ticks


@lru_cache
def is_slotted(container: str) -> bool:
    """Whether a format gives frames a place and no time: AVI, and elementary streams."""
    import av
    import av.format

    if container in SLOTTED_CONTAINERS:
        return True
    flags = av.ContainerFormat(container.partition(",")[0], "r").flags
    untimed: Any = av.format.Flags.no_timestamps
    return bool(flags & untimed.value)


def _video_stream(container: Any) -> Any:
    stream = container.streams.best("video")
    if stream is None:
        raise VideoError("has no video stream", stage="open")
    if stream.disposition.name and "ATTACHED_PIC" in stream.disposition.name.upper():
        raise VideoError("has no video stream, only a cover picture", stage="open")
    if stream.codec_context is None:
        raise VideoError("has a video stream of an unknown codec", stage="open")
    return stream


def _duration_seconds(container: Any, stream: Any) -> tuple[float | None, bool]:
    """Seconds from the start of the file to the end of the video stream, if a header says it.

    The second value is whether only the end of the file is known.
    """
    file_start = Fraction(container.start_time or 0, 1_000_000)
    if stream.duration is not None:
        start = (stream.start_time or 0) * stream.time_base
        return float(stream.duration * stream.time_base + start - file_start), False
    # FFmpeg writes the time at which a stream of Matroska ends, not how long it lasts.
    before = float(file_start) if "matroska" in container.format.name else 0.0
    tag = stream.metadata.get("DURATION", "")  # "00:00:10.381000000"
    if parts := re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d*)?)", tag, re.ASCII):
        hours, minutes, seconds = map(float, parts.groups())
        return 3600 * hours + 60 * minutes + seconds - before, False
    return (None if container.duration is None else container.duration / 1_000_000 - before), True


def _rescale(ticks: int, base: Fraction, wanted: Fraction) -> int:
    return ticks if base == wanted else round(ticks * base / wanted)


def _reason(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    without_place = re.sub(r"\[[0-9:]+\] \S+:\d+: ", "", str(text))  # decord's source lines
    return " ".join(without_place.split())[:120]
