"""The two decoders of `video.decode`: PyAV, and decord with guards against its known faults."""

import errno
import math
import re
from array import array
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from tokenreel.cache.bucket.local_cache import local_cache
from tokenreel.cache.bucket.objects import PART_BYTES
from tokenreel.cache.bucket.path import ObjectReader, bucket_path, is_bucket
from tokenreel.extract.video.damage import DamageWatch, errors_so_far
from tokenreel.extract.video.geometry import (
    Orientation,
    Pixels,
    is_stretched,
    make_square,
    orientation_of,
    square_size,
    warn_of_geometry,
)
from tokenreel.extract.video.pictures import probe_pictures
from tokenreel.extract.video.plane_means import mean_of_planes
from tokenreel.extract.video.rgb import rgb_of
from tokenreel.extract.video.types import (
    DecodedFrame,
    VideoError,
    VideoInfo,
    VideoReplaced,
    check_file,
)

DECORD_LIMIT_BYTES = 2**30  # decord reads ahead without bound, so a whole video must fit
DECORD_REFUSES = {"av1"}  # its FFmpeg 4.1 has no decoder for it
DECORD_REFUSES_CONTAINERS = {"mpegts"}  # hangs for ever on valid files
SLOTTED_CONTAINERS = {"avi"}
GREYING = {"mjpeg"}  # codecs in which FFmpeg fills a damaged frame and does not mark it
RGB = 3  # channels
MATRIX_FRAMES = 12  # fewest between two key frames whose display matrix is read
MOST_APART = 12.0  # levels of 255 between the pictures of two versions of FFmpeg, on average
REPEATS_TOLERATED = 1e-6  # decord raises at the first frame that it would replace by another


@contextmanager
def opened(path: Path, file: Any = None) -> Iterator[tuple[Any, Any]]:
    """Open a file; yields the container and its video stream, decoding in one thread.

    Args:
        path: of the file; one on a bucket is read by ranged requests.
        file: read in the place of the path.

    Raises:
        VideoError: stage "open": it cannot be opened, or has no video stream.
    """
    import av

    if file is None and is_bucket(path):
        file = ObjectReader(bucket_path(path))
    try:
        try:
            name = str(path.absolute()) if file is None else file  # a name may look like a protocol
            container = av.open(name)
        except (av.FFmpegError, UnicodeError) as error:
            raise VideoError(_reason(error), stage="open") from error
        with container:
            stream = _video_stream(container)
            stream.thread_type = "NONE"
            if stream.codec_context.name in GREYING:
                stream.codec_context.options = {"err_detect": "explode"}
            yield container, stream
    except Exception:
        _require_answers(file)
        raise
    _require_answers(file)


def _require_answers(file: Any) -> None:
    """Raise what came of a request: FFmpeg may take it for the end of the file, or for damage.

    Raises:
        VideoReplaced: another object took its place.
        OSError: any other failure.
    """
    error = file.failure if isinstance(file, ObjectReader) else None
    if error is not None and error.errno == errno.EBUSY:
        raise VideoReplaced(error.strerror or "") from error
    if error is not None:
        raise error


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
        base = _fine_base(stream.time_base, stream.average_rate)
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
            pixel_aspect=stream.sample_aspect_ratio,
        )


def read_pyav(path: Path, info: VideoInfo) -> Iterator[DecodedFrame]:
    """Yield the frames of a video with PyAV, one thread, memory of a few frames."""
    matrix = DisplayMatrix()
    for frame, index, ticks, is_timed in _frames_with_ticks(path, info):
        found = frame_of(frame, index, ticks, info, path, matrix.of(frame))
        yield found if is_timed else replace(found, is_moved=True)


def frame_of(
    frame: Any,
    index: int,
    ticks: int,
    info: VideoInfo,
    path: Path,
    matrix: bytes | None,
    make_coded: Callable[[], Pixels] | None = None,
) -> DecodedFrame:
    """A frame of PyAV as the model of `geometry` shows it; pixels are converted on first use.

    Args:
        frame: of PyAV.
        index: in the video.
        ticks: of ticks_of.
        info: header of the video.
        path: of the video, for messages.
        matrix: display matrix of the frame.
        make_coded: gives the coded picture; None: PyAV does.
    """
    orientation, rules = _orientation(frame, matrix)
    aspect = info.pixel_aspect
    if orientation.other_degrees is not None or aspect is not None:
        warn_of_geometry(path.name, orientation, aspect)

    def pixels() -> Pixels:
        coded = rgb_of(frame) if make_coded is None else make_coded()
        return orientation.apply(make_square(coded, aspect))

    size = orientation.size(*square_size(frame.height, frame.width, aspect))
    is_in_slot = info.container in SLOTTED_CONTAINERS and bool(info.rate)
    if is_stretched(aspect) or (is_in_slot and ticks != _counted_ticks(index, info)):
        rules = 2
    is_timed = info.container in SLOTTED_CONTAINERS or not is_slotted(info.container)
    lasts = _rescale(frame.duration or 0, frame.time_base, info.time_base) if is_timed else 0
    stop = ticks + lasts if lasts > 0 else None
    mean = partial(mean_of_planes, frame)
    return DecodedFrame(pixels, size, index, ticks, stop, orientation, rules=rules, make_mean=mean)


class DisplayMatrix:
    """The display matrix of the frames of a stream, in order.

    A container's is that of every frame.  A codec's own is written once, or at some key frames,
    and holds until there is another.
    """

    def __init__(self) -> None:
        self._last: bytes | None = None
        self._rotation: int | None = None
        self._num_frames = 0  # since the last one that was read

    def of(self, frame: Any) -> bytes | None:
        """The matrix of the next frame of PyAV.

        PyAV's side data and its frame refer to each other, so that the frame stays in memory until
        the garbage collector comes by: it is read where the rotation changes, and at key frames
        that are some frames apart.
        """
        self._num_frames += 1
        is_due = frame.key_frame and self._num_frames >= MATRIX_FRAMES
        if is_due or frame.rotation != self._rotation:
            self._rotation, self._num_frames = frame.rotation, 0
            own = frame.side_data.get("DISPLAYMATRIX")
            if own is not None:
                self._last = bytes(own)
        return self._last


def _orientation(frame: Any, matrix: bytes | None) -> tuple[Orientation, int]:
    """The orientation of a frame of PyAV, and the first version of the rules that gives it."""
    found = orientation_of(matrix)
    if matrix is None:
        return found, 1
    is_old = found.quarter_turns == -(frame.rotation // 90) % 4  # never of a mirrored picture
    return found, 1 if is_old else 2


def _frames(path: Path) -> Iterator[tuple[Any, int, int | None]]:
    """Decoded frames of PyAV with their indices and slots; raises at a sign of damage."""
    import av

    index, num_errors = -1, errors_so_far()
    with opened(path) as (container, stream):
        watch = DamageWatch(container, stream, num_errors)
        slots = _Slots(stream) if container.format.name in SLOTTED_CONTAINERS else None
        try:
            for packet in packets_of(container, stream):
                watch.sent(packet, index)
                if slots is not None:
                    slots.sent(packet)
                for frame in packet.decode():
                    index += 1
                    watch.got(frame, index)
                    yield frame, index, None if slots is None else slots.of(frame)
            watch.end(index)
        except (av.FFmpegError, UnicodeError) as error:
            raise VideoError(
                f"{_reason(error)} after {index + 1} frames", frame=index, final=False
            ) from error


def _frames_with_ticks(path: Path, info: VideoInfo) -> Iterator[tuple[Any, int, int, bool]]:
    """As _frames, with ticks; False where a frame has no time, and therefore that of the last."""
    ticks: int | None = None
    for frame, index, slot in _frames(path):
        is_timed = frame.pts is not None or slot is not None or _is_counted(info)
        if is_timed or ticks is None:
            ticks = ticks_of(frame, index, info, slot)
        yield frame, index, ticks, is_timed


class _Slots:
    """Slots of the frames of a container without times.

    A decoder that does not reorder frames gives each the slot of its own packet.  Where frames are
    reordered, a packet is stored ahead of the time of its frame, by the number of frames that the
    decoder holds back: frame i is shown when packet i + delay is stored, less the time from the
    first packet to packet `delay`.  The last frames have no such packet,
    and follow each other.
    """

    def __init__(self, stream: Any) -> None:
        self._context = stream.codec_context
        self._sent = array("q")  # slots of all packets
        self._place = 0  # of the packet of the next frame
        self._next = 0
        self._delay: int | None = None

    def sent(self, packet: Any) -> None:
        if packet.dts is not None:
            packet.pts = packet.dts
            self._sent.append(packet.dts)

    def of(self, frame: Any) -> int:
        """The slot of the next frame."""
        sent, slot = self._sent, self._next
        if self._delay is None:  # this is the first frame
            self._delay = max(len(sent) - 1, 0) if self._context.has_b_frames else 0
        delay = self._delay
        if self._place + delay < len(sent):
            slot = sent[self._place + delay] - sent[delay] + sent[0]
        if not delay and frame.pts is not None and frame.pts >= self._next:
            while slot < frame.pts and self._place + 1 < len(sent):
                self._place += 1
                slot = sent[self._place]
        self._place += 1
        self._next = slot + 1
        return slot


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


def end_of_whole(path: Path, info: VideoInfo, *, num_frames: int, end: int) -> int | None:
    """The tick at which a file ends that is known to be whole, though its frames end early.

    MP4: all frames of its table were decoded; or, where an edit leaves some out, the boxes have
    their bytes, and the last frame says how long it lasts, as the header counts what is left out.
    Matroska: the segment says its size, and the file has it.  AVI: DamageWatch has compared it with
    its header and index.

    Args:
        path: the file, decoded without a sign of damage.
        info: its header.
        num_frames: that were decoded.
        end: tick at which the last of them ends by its own duration.

    Returns:
        None where the file is not known to be whole.
    """
    assert info.duration_seconds is not None
    header = round(Fraction(info.duration_seconds).limit_denominator(100_000) / info.time_base)
    names = info.container.split(",")
    if "mp4" in names:
        if num_frames == info.header_frames:
            return header
        return end if _boxes_are_whole(path) else None
    is_whole = _segment_is_whole(path) if "matroska" in names else info.container == "avi"
    return header if is_whole else None


def _boxes_are_whole(path: Path) -> bool:
    """Whether an MP4 file without fragments has all bytes that its boxes say."""
    size, place, kinds = path.stat().st_size, 0, set()
    with path.open("rb") as file:
        while place + 8 <= size:
            file.seek(place)
            head = file.read(16)
            length = int.from_bytes(head[:4])
            if length == 1:  # a longer size follows
                length = int.from_bytes(head[8:16])
            kinds.add(head[4:8])
            place += length or size - place
            if 0 < length < 8:
                return False
    return place == size and b"moov" in kinds and b"moof" not in kinds


def _segment_is_whole(path: Path) -> bool:
    """Whether a Matroska file is as long as its segment says."""
    with path.open("rb") as file:
        head = file.read(1024)
    place = end = 0
    for wanted in (b"\x1aE\xdf\xa3", b"\x18S\x80g"):  # the EBML header, the segment
        if head[place : place + 4] != wanted or len(head) < place + 12 or not head[place + 4]:
            return False
        length = 9 - head[place + 4].bit_length()  # bytes of the size
        unknown = (1 << 7 * length) - 1
        size = int.from_bytes(head[place + 4 : place + 4 + length]) & unknown
        if size == unknown:
            return False
        end = place + 4 + length + size
        place = end
    return path.stat().st_size >= end


def read_decord(path: Path, info: VideoInfo) -> Iterator[DecodedFrame]:
    """Yield the frames of a video with decord, forwards only.

    PyAV decodes the video too, without converting pixels, for times and corrupt flags: decord has
    no flags, and with edit lists it repeats frames.  A video on a bucket is copied to this machine
    while it is decoded.

    Raises:
        VideoError: also where decord is known to hang, lacks the codec or needs more than 1 GiB
            of memory, and where it would repeat a frame instead of decoding it.
    """
    if path.is_dir():
        raise _refusal("does not read folders of pictures")
    if info.codec in DECORD_REFUSES or info.container in DECORD_REFUSES_CONTAINERS:
        raise _refusal(f"does not read {info.codec} in {info.container}")
    _require_room(
        info.width * info.height * 3 * (info.duration_seconds or 0.0) * float(info.rate or 0)
    )
    try:
        import decord
    except ImportError as error:
        raise _refusal("is not installed") from error
    decord.logging.set_level(decord.logging.QUIET)
    if not is_bucket(path):
        yield from _read_decord(decord, path, path, info)
        return
    with _copy_of(path) as file:
        yield from _read_decord(decord, file, path, info)


@contextmanager
def _copy_of(path: Path) -> Iterator[Path]:
    """A video on a bucket as a file in the local cache.

    Raises:
        VideoError: the cache has no room for it.
    """
    place = bucket_path(path)
    state = place.bucket.head(place.key)

    def parts() -> Iterator[memoryview]:
        for start in range(0, state.num_bytes, PART_BYTES):
            ranges = [(start, min(start + PART_BYTES, state.num_bytes))]
            yield place.bucket.get_ranges(place.key, ranges, tag=state.tag)[0]

    with ExitStack() as stack:
        try:
            file = stack.enter_context(local_cache().copy(state.num_bytes, parts))
        except OSError as error:
            if error.errno == errno.EBUSY:
                raise VideoReplaced(error.strerror or "") from error
            if error.errno != errno.ENOSPC:
                raise
            raise _refusal(
                f"needs a copy of {state.num_bytes / 1e6:.0f} MB in {local_cache().folder}, which "
                "has no room for it (--cache-bytes)"
            ) from error
        yield file


def _read_decord(decord: Any, file: Path, path: Path, info: VideoInfo) -> Iterator[DecodedFrame]:
    """The frames of a file, which has the bytes of the video at `path`."""
    frame_bytes = info.width * info.height * 3
    index, matrix = -1, DisplayMatrix()
    try:
        reader = decord.VideoReader(
            str(file.absolute()), num_threads=1, fault_tol=REPEATS_TOLERATED
        )
        _require_room(len(reader) * frame_bytes)
        for timed, index, ticks, is_timed in _frames_with_ticks(file, info):
            found = matrix.of(timed)
            frame = reader.next()
            coded = frame.asnumpy if found is None else partial(_coded_picture, frame, timed, index)
            shown = frame_of(timed, index, ticks, info, path, found, coded)
            yield shown if is_timed else replace(shown, is_moved=True)
    except StopIteration as error:
        raise _refusal(f"ends after {index} frames") from error
    except (decord.DECORDError, decord.DECORDLimitReachedError, RuntimeError) as error:
        raise _refusal(f"fails after {max(index, 0)} frames: {_reason(error)}") from error


def _coded_picture(frame: Any, timed: Any, index: int) -> Pixels:
    """A frame of decord, of a video with a display matrix, as it is coded.

    decord turns pictures by itself, in some containers and by some angles, takes mirrored ones for
    turned ones, and may leave the padding of each row: PyAV's picture tells what it did.

    Raises:
        VideoError: it did something else.
    """
    pixels: Pixels = frame.asnumpy()
    height, width, channels = pixels.shape
    if channels != RGB:
        pixels = pixels.reshape(height, -1)[:, : width * RGB].reshape(height, width, RGB)
    coded = rgb_of(timed).astype(np.int16)
    turned = [np.rot90(pixels, turns) for turns in range(4)]
    fitting = [each for each in turned if each.shape == coded.shape]
    apart = [float(np.abs(coded - each).mean()) for each in fitting]
    if not apart or min(apart) > MOST_APART:
        raise VideoError(
            f"decord gives another picture than pyav for frame {index}: use pyav",
            frame=index,
            final=False,
        )
    return fitting[apart.index(min(apart))]


def _require_room(num_bytes: float) -> None:
    """Refuse a video that is too large, as decord holds all of its frames in memory."""
    if num_bytes > DECORD_LIMIT_BYTES:
        raise _refusal(f"would hold {num_bytes / 2**30:.1f} GiB of frames")


def _refusal(reason: str) -> VideoError:
    return VideoError(f"decord {reason}: use pyav", final=False)


def ticks_of(frame: Any, index: int, info: VideoInfo, slot: int | None = None) -> int:
    """Time of a frame; its slot in AVI, and from its index in streams without a container.

    FFmpeg's times are wrong with B-frames in the first, and missing in the second.
    """
    if slot is not None:
        return slot
    if _is_counted(info):
        return _counted_ticks(index, info)
    if frame.pts is None:
        raise VideoError(
            f"frame {index} has no time in its container ({info.container}): convert the video",
            frame=index,
        )
    return _rescale(frame.pts, frame.time_base, info.time_base) - info.start_ticks


def _is_counted(info: VideoInfo) -> bool:
    """Whether frames have their times by their numbers."""
    return bool(info.rate) and is_slotted(info.container)


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


def _counted_ticks(index: int, info: VideoInfo) -> int:
    """Time of a frame by its number; so in AVI by rules 1."""
    assert info.rate is not None
    return round(index / info.rate / info.time_base)


def _fine_base(base: Fraction, rate: Fraction | None) -> Fraction:
    """Seconds of a tick; finer than the container's where that is longer than a frame."""
    return base if not rate or rate * base <= 1 else base / math.ceil(2 * rate * base)


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
