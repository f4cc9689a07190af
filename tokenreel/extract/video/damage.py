"""Detect damage in a video that FFmpeg conceals or skips without an error.

The signs, with no false alarm on 88 intact clips: a frame or packet marked corrupt, a packet that
gave no frame though a later one did, a demuxer that reported an error and searched for the next
intact part, and an AVI with fewer packets than its index or fewer bytes than its header says.
Damage to entropy-coded data can also give other valid data, in VP9 nearly always: no decoder can
detect that, so the record of a clip keeps the SHA-256 of its file.
"""

import struct
from typing import Any

from tokenreel.cache.bucket.path import store_path
from tokenreel.extract.video.types import VideoError

CUT = "Truncating packet"  # FFmpeg's message for any file that ends within a packet
CONTAINERS = ("mp4", "matroska")  # with a time for every packet
CODECS = ("h264", "hevc", "vp9", "av1", "mjpeg")  # one packet is one frame; not so in VP8, MPEG-4


def is_paired(container: str, codec: str) -> bool:
    """Whether each packet of a stream gives one frame, with the time of the packet."""
    return codec in CODECS and any(name in container.split(",") for name in CONTAINERS)


def errors_so_far() -> int:
    """Number of errors that FFmpeg has logged in this process; call it before a file is opened.

    FFmpeg reads a small file to its end on opening, where a stream begins late.
    """
    import av.logging

    if av.logging.get_level() is None:
        av.logging.set_level(av.logging.PANIC)  # prints nothing, but counts errors
    return int(av.logging.get_last_error()[0])


class DamageWatch:
    """Checks every packet and frame of a read, in order; raises at the first sign of damage.

    Args:
        container: of PyAV.
        stream: its video stream.
        num_errors: `errors_so_far` before the file was opened.
    """

    def __init__(self, container: Any, stream: Any, num_errors: int) -> None:
        import av.logging

        self._last_error, self._num_errors = av.logging.get_last_error, num_errors
        self._file, self._num_packets = store_path(container.name), 0
        self._num_indexed = len(stream.index_entries)
        self._errors_at_mark: int | None = None  # num_errors when a packet was marked corrupt
        self._last_pts: int | None = None
        self._least_step: int | None = None
        self._reader = container.format.name
        self._is_paired = is_paired(self._reader, stream.codec_context.codec.canonical_name)
        self._time_base = stream.time_base
        self._pending: set[int] = set()  # times of packets whose frames have not come
        self._first: int | None = None

    def sent(self, packet: Any, index: int) -> None:
        """Check a packet before it is decoded, after frame `index`.

        Raises:
            VideoError: final, as another decoder would only conceal the damage.
        """
        self.check_container(index)
        if packet.is_corrupt and self._errors_at_mark is None:
            self._errors_at_mark = self._num_errors
        self._num_packets += packet.size > 0
        if packet.size and not packet.is_discard and packet.pts is not None:
            self._pending.add(packet.pts)

    def got(self, frame: Any, index: int) -> None:
        """Check a decoded frame.

        Raises:
            VideoError: as above.
        """
        if frame.is_corrupt or self._is_doubtful(frame.pts):
            raise VideoError(f"frame {index} is marked corrupt", frame=index)
        self.check_container(index)
        if not self._is_paired or frame.pts is None or frame.interlaced_frame:
            return
        if self._first is None:
            self._first = frame.pts
        before = {pts for pts in self._pending if pts <= frame.pts}
        self._is_paired = frame.pts in before
        self._pending -= before
        lost = [pts for pts in before if self._first < pts < frame.pts]
        if self._is_paired and lost:
            raise self._lost(min(lost), index)

    def end(self, index: int) -> None:
        """Check the end of the video, after frame `index`.

        Raises:
            VideoError: as above.
        """
        self.check_container(index)
        if self._reader == "avi":
            self._check_avi(index)
        lost = [pts for pts in self._pending if self._first is not None and pts > self._first]
        if self._is_paired and lost:
            raise self._lost(min(lost), index + 1)

    def check_container(self, index: int) -> None:
        """Raise VideoError where the demuxer has reported an error since the last call."""
        count, last = self._last_error()
        if count == self._num_errors or last is None:
            return
        self._num_errors = count
        if last[1] == self._reader or last[2].startswith(CUT):
            reason = " ".join(last[2].split())[:90]
            near = max(index, 0)
            raise VideoError(f"the file is damaged near frame {near}: {reason}", frame=near)

    def _is_doubtful(self, pts: int | None) -> bool:
        """Whether, after a packet was marked corrupt, the decoder failed or a frame is missing.

        The mark alone is not enough: in two intact MPEG-TS joined, the last packet has it.
        """
        last, self._last_pts = self._last_pts, pts
        step = 0 if last is None or pts is None else pts - last
        least = self._least_step or step
        if step > 0:
            self._least_step = min(step, least)
        if self._errors_at_mark is None:
            return False
        return step > 1.5 * least or self._last_error()[0] > self._errors_at_mark

    def _check_avi(self, index: int) -> None:
        """AVI has no times that would show a gap, and its demuxer skips damage silently."""
        with self._file.open("rb") as file:
            kind, size = struct.unpack("<4sI", file.read(8))
        missing = size + 8 - self._file.stat().st_size if kind == b"RIFF" else 0
        if missing > 0:
            raise VideoError(f"ends early: {missing} bytes are missing", frame=index)
        if 1 < self._num_indexed != self._num_packets:  # 1: no index in the file
            raise VideoError(
                f"holds {self._num_packets} frames, its index lists {self._num_indexed}",
                frame=index,
            )

    def _lost(self, pts: int, index: int) -> VideoError:
        seconds = float(pts * self._time_base)
        return VideoError(f"frame {index}, at {seconds:.3f} s, cannot be decoded", frame=index)
