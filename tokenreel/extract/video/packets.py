"""The packets of a video, without decoding them: the time of every frame, hence its place."""

from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenreel.extract.video.damage import DamageWatch, errors_so_far
from tokenreel.extract.video.decode import VideoError
from tokenreel.extract.video.decoders import opened

__all__ = ["PacketIndex", "Untrusted", "scan_packets"]


class Untrusted(Exception):
    """A seek in this file is not to be believed; the text says why."""


@dataclass(frozen=True)
class PacketIndex:
    """The packets of a video stream, without their data.

    Attributes:
        pts: presentation time of each packet in the order of the file, int64 (P,).
        place: byte in the file of each, -1 where the container does not tell, int64 (P,).
        shown: times of the packets that are shown, in order of time, int64 (T,): frame i of the
            video has time shown[i].
        keys: packets at which decoding can start, rising.
        first_pts: time of each packet of keys.
    """

    pts: NDArray[np.int64]
    place: NDArray[np.int64]
    shown: NDArray[np.int64]
    keys: tuple[int, ...]
    first_pts: tuple[int, ...]

    def key_before(self, pts: float | Fraction) -> int:
        """Number, in keys, of the last key frame at or before a time; 0 where there is none."""
        return max(0, bisect_right(self.first_pts, pts) - 1)


def scan_packets(path: Path, alive: Callable[[], None] = lambda: None) -> PacketIndex:
    """Read the packets of the video stream, which decodes nothing.

    Raises:
        Untrusted: a packet without a time, or two of one time.
        VideoError: the file is damaged or cannot be read.
    """
    rows: list[tuple[int, int, bool, bool]] = []
    for packet in _packets(path):
        alive()
        if packet.size == 0 and packet.dts is None:
            continue  # the end
        if packet.pts is None:
            raise Untrusted(f"packet {len(rows)} has no time")
        place = -1 if packet.pos is None else packet.pos
        rows.append((packet.pts, place, packet.is_keyframe, packet.is_discard))
    if not rows:
        raise Untrusted("no packets")
    pts, places = (np.array([row[column] for row in rows], np.int64) for column in (0, 1))
    is_key, is_discarded = (np.array([row[column] for row in rows], bool) for column in (2, 3))
    shown = np.sort(pts[~is_discarded])
    if (np.diff(shown) <= 0).any():
        raise Untrusted("two packets have one time")
    before = np.concatenate([[np.iinfo(np.int64).min], np.maximum.accumulate(pts)[:-1]])
    keys = np.flatnonzero(is_key & ~is_discarded & (pts > before))
    return PacketIndex(pts, places, shown, tuple(keys.tolist()), tuple(pts[keys].tolist()))


def _packets(path: Path) -> Iterator[Any]:
    """Packets of the video stream; damage that its reader notices or steps over raises."""
    import av

    num_errors = errors_so_far()
    with opened(path) as (container, stream):
        watch = DamageWatch(container, stream, num_errors)
        try:
            for number, packet in enumerate(container.demux(stream)):
                if packet.is_corrupt:
                    raise VideoError(f"packet {number} is marked corrupt")
                watch.check_container(number)
                yield packet
        except av.FFmpegError as error:
            raise VideoError(str(error)) from error
