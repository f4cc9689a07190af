"""Seek in a video, in files where that is known to give the frames of a read from the start.

A source video of FineGym lasts hours and holds dozens of clips: reading each from the first frame
would decode the source dozens of times.  A seek is trusted only if all of these hold:

- the container is MP4 or Matroska, and one packet of the codec is one frame;
- a scan of the packets (without decoding) gives the times of all frames, hence their indices;
- decoding starts at a key frame that no packet with a later time precedes, and returns that frame
  first: FFmpeg drops the leading frames of an open group of pictures, as they need earlier ones;
- the frames around the second key frame, decoded from the start and after a seek, have the same
  pixels and times, one for each packet;
- every frame read has the time that the scan says is next.

Otherwise the video is read from its first frame, and a warning is logged.
"""

import hashlib
import logging
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.bucket.path import ObjectReader, bucket_path, is_bucket
from tokenreel.extract.video.damage import DamageWatch, errors_so_far, is_paired
from tokenreel.extract.video.decoders import (
    DisplayMatrix,
    frame_of,
    opened,
    packets_of,
    read_pyav,
    ticks_of,
)
from tokenreel.extract.video.types import DecodedFrame, VideoError, VideoInfo, VideoReplaced

log = logging.getLogger(__name__)

TRIAL_FRAMES = 16  # frames compared around the second key frame
REMEMBERED = 8  # files whose index is kept
TRIES = 3  # key frames to try, each before the last, when a seek lands after its target


class Untrusted(Exception):
    """Seeking in this file is not reliable; the text says why."""


@dataclass(frozen=True)
class PacketIndex:
    """The packets of a video stream, without their data.

    Attributes:
        pts: presentation time of each packet in the order of the file, int64 (P,).
        place: byte offset of each in the file, -1 where unknown, int64 (P,).
        shown: times of the displayed packets, ascending, int64 (T,): frame i has time shown[i].
        keys: packets at which decoding can start, ascending.
        first_pts: time of each packet of keys.
    """

    pts: NDArray[np.int64]
    place: NDArray[np.int64]
    shown: NDArray[np.int64]
    keys: tuple[int, ...]
    first_pts: tuple[int, ...]


_said_unlisted: set[str] = set()  # formats of videos on buckets
examined: "OrderedDict[tuple[object, ...], PacketIndex | str]" = OrderedDict()


def read_pyav_from(
    path: Path, info: VideoInfo, start_ticks: Fraction, alive: Callable[[], None]
) -> Iterator[DecodedFrame]:
    """Yield the frames of a video from a time on, with PyAV; frames before it may come first.

    Args:
        path: the video.
        info: its header.
        start_ticks: time of the first frame needed.
        alive: called regularly while the file is examined, which may take long.

    Yields:
        The frames of read_pyav, with the same pixels, times and indices, without the first ones.
    """
    yielded = -1
    try:
        index = trusted_index(path, info, alive)
        key = bisect_right(index.first_pts, start_ticks + info.start_ticks) - 1
        if key > 0:
            for frame in _read_from_key(path, info, index, key):
                yielded = frame.index
                yield frame
            return
    except Untrusted as reason:
        _warn_once(path, str(reason))
    for frame in read_pyav(path, info):
        if frame.index > yielded:
            yield frame


@lru_cache(maxsize=1024)
def _warn_once(path: Path, reason: str) -> None:
    log.warning("%s: %s; reading its clips from the first frame on", path.name, reason)


def trusted_index(path: Path, info: VideoInfo, alive: Callable[[], None]) -> PacketIndex:
    """The packets of a file that passed every test above; those of the last files are kept.

    Raises:
        Untrusted: a test failed.
    """
    status = path.stat()
    key = path, info, status.st_size, status.st_mtime_ns  # a replaced file is examined again
    found = examined.pop(key, None) or _examine(path, info, alive)
    examined[key] = found
    if len(examined) > REMEMBERED:
        examined.popitem(last=False)
    if isinstance(found, str):
        raise Untrusted(found)
    return found


def _examine(path: Path, info: VideoInfo, alive: Callable[[], None]) -> PacketIndex | str:
    """The packets, or the reason why seeking is not reliable."""
    try:
        if not is_paired(info.container, info.codec):
            raise Untrusted(f"no exact seeking in {info.codec} in {info.container}")
        index = scan_packets(path, alive)
        if len(index.keys) > 1:
            _try_out(path, info, index, alive)
    except Untrusted as reason:
        return str(reason)
    except VideoReplaced:
        raise
    except VideoError as error:
        return f"its packets cannot be read to the end: {error}"
    return index


def scan_packets(path: Path, alive: Callable[[], None] = lambda: None) -> PacketIndex:
    """Read the packets of the video stream without decoding.

    Raises:
        Untrusted: a packet has no time, or two packets have the same time.
        VideoError: the file is damaged or cannot be read.
    """
    rows: list[tuple[int, int, bool, bool]] = []
    for packet, starts in _packets(path):
        alive()
        if packet.size == 0 and packet.dts is None:
            continue  # end of the stream
        if packet.pts is None:
            raise Untrusted(f"packet {len(rows)} has no time")
        place = -1 if packet.pos is None else packet.pos
        rows.append((packet.pts, place, starts, packet.is_discard))
    if not rows:
        raise Untrusted("no packets")
    pts, places = (np.array([row[column] for row in rows], np.int64) for column in (0, 1))
    is_key, is_discarded = (np.array([row[column] for row in rows], bool) for column in (2, 3))
    shown = np.sort(pts[~is_discarded])
    if (np.diff(shown) <= 0).any():
        raise Untrusted("two packets have the same time")
    before = np.concatenate([[np.iinfo(np.int64).min], np.maximum.accumulate(pts)[:-1]])
    keys = np.flatnonzero(is_key & ~is_discarded & (pts > before))
    return PacketIndex(pts, places, shown, tuple(keys.tolist()), tuple(pts[keys].tolist()))


def _packets(path: Path) -> Iterator[tuple[Any, bool]]:
    """Packets of the video stream, and whether each is a key frame; raises at damage.

    Of a file on a bucket whose header lists every packet, the packets themselves are not fetched:
    those have no data, and the header says which are key frames.  Any other is read to its end.
    """
    import av

    num_errors = errors_so_far()
    file = ObjectReader(bucket_path(path)) if is_bucket(path) else None
    with opened(path, file) as (container, stream):
        watch = DamageWatch(container, stream, num_errors)
        listed: list[bool] | None = None
        if file is not None and _lists_all(container, stream):
            listed = [bool(entry.is_keyframe) for entry in stream.index_entries]
            file.fetches = False
        elif file is not None and container.format.name not in _said_unlisted:
            _said_unlisted.add(container.format.name)
            log.warning(
                "%s: no packets are listed in its header: to find a clip, its %.1f MB are read "
                "once by this process, and those of others like it",
                path,
                file.num_bytes / 1e6,
            )
        try:
            for number, packet in enumerate(packets_of(container, stream)):
                if packet.is_corrupt:
                    raise VideoError(f"packet {number} is marked corrupt")
                watch.check_container(number)
                is_listed = listed is not None and number < len(listed)
                yield packet, listed[number] if listed and is_listed else packet.is_keyframe
        except av.FFmpegError as error:
            raise VideoError(str(error)) from error


def _lists_all(container: Any, stream: Any) -> bool:
    """Whether the header of a file lists every packet, so that none has to be read for a scan."""
    names = container.format.name.split(",")
    return "mp4" in names and stream.frames == len(stream.index_entries) > 1


def _try_out(path: Path, info: VideoInfo, index: PacketIndex, alive: Callable[[], None]) -> None:
    """Decode the frames around the second key frame both ways and compare them."""
    first = int(np.searchsorted(index.shown, index.first_pts[1]))
    stop = min(first + TRIAL_FRAMES, len(index.shown))
    wanted = []
    for frame in islice(read_pyav(path, info), stop):
        alive()
        if frame.ticks + info.start_ticks != index.shown[frame.index]:
            raise Untrusted(f"frame {frame.index} is not at the time of its packet")
        if frame.index >= first:
            wanted.append((frame.ticks, _digest(frame)))
    after = islice(_read_from_key(path, info, index, 1, tries=1), stop - first)
    if [(frame.ticks, _digest(frame)) for frame in after] != wanted:
        raise Untrusted("frames after a seek are not those of a read from the start")


def _digest(frame: DecodedFrame) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(frame.pixels).data).digest()


def _read_from_key(
    path: Path, info: VideoInfo, index: PacketIndex, key: int, *, tries: int = TRIES
) -> Iterator[DecodedFrame]:
    """Frames from a key frame on, or from an earlier one if the seek lands there.

    Raises:
        Untrusted: the seek lands elsewhere, or a frame does not have the expected time.
    """
    import av

    try:
        with opened(path) as (container, stream):
            packets, landed = _land(container, stream, index, key, tries)
            number = int(np.searchsorted(index.shown, index.pts[landed]))
            matrix = DisplayMatrix()
            for packet in packets:
                for frame in packet.decode():
                    ticks = ticks_of(frame, number, info)
                    pts = ticks + info.start_ticks
                    if frame.is_corrupt:
                        raise Untrusted(f"frame {number} is marked corrupt")
                    if number >= len(index.shown) or pts != index.shown[number]:
                        raise Untrusted(f"frame {number} is not at the time of its packet")
                    yield frame_of(frame, number, ticks, info, path, matrix.of(frame))
                    number += 1
            if number != len(index.shown):
                raise Untrusted(f"{number} frames of {len(index.shown)} packets")
    except VideoReplaced:
        raise
    except (VideoError, av.FFmpegError, ValueError) as error:
        raise Untrusted(f"after a seek: {error}") from error


def _land(
    container: Any, stream: Any, index: PacketIndex, key: int, tries: int
) -> tuple[Iterator[Any], int]:
    """Seek; returns the packets from there on, and the index of the first one."""
    keys = dict(zip(index.first_pts, index.keys, strict=True))
    for number in range(key, max(key - tries, -1), -1):
        wanted = index.keys[number]
        container.seek(int(index.pts[wanted]), stream=stream, backward=True, any_frame=False)
        packets = packets_of(container, stream)
        head = next(packets, None)
        landed = None if head is None else keys.get(head.pts)
        place = -1 if head is None or head.pos is None else head.pos
        if landed is not None and landed <= index.keys[key] and place == index.place[landed]:
            return chain([head], packets), landed
    raise Untrusted("a seek does not land on its key frame")
