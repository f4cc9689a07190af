"""Notice the damage in a video that FFmpeg conceals or steps over without an error.

Three signs, with no false alarm on 88 sound clips: a frame marked corrupt, a packet that gave no
frame though a later one did, and a container whose reader complained and searched for the next
sound piece.  Entropy-coded data can also be changed into other valid data, in VP9 nearly always:
no decoder can tell, so the record of a clip keeps the SHA-256 of its file.
"""

from typing import Any

from tokenreel.extract.video import VideoError

__all__ = ["CODECS", "CONTAINERS", "DamageWatch", "is_paired"]

CONTAINERS = ("mp4", "matroska")  # with a time for every packet
CODECS = ("h264", "hevc", "vp9", "av1", "mjpeg")  # one packet is one frame; not so in VP8, MPEG-4


def is_paired(container: str, codec: str) -> bool:
    """Whether each packet of a stream gives one frame, with the time of the packet."""
    return codec in CODECS and any(name in container.split(",") for name in CONTAINERS)


class DamageWatch:
    """Sees every packet and every frame of a read, in order, and raises at the first sign.

    Args:
        container: of PyAV.
        stream: its video stream.
    """

    def __init__(self, container: Any, stream: Any) -> None:
        import av.logging

        self._last_error = av.logging.get_last_error
        if av.logging.get_level() is None:
            av.logging.set_level(av.logging.PANIC)  # prints nothing, but counts errors
        self._num_errors = self._last_error()[0]
        self._reader = container.format.name
        self._is_paired = is_paired(self._reader, stream.codec_context.codec.canonical_name)
        self._time_base = stream.time_base
        self._pending: set[int] = set()  # times of packets whose frames have not come
        self._first: int | None = None

    def sent(self, packet: Any) -> None:
        """A packet that goes to the decoder."""
        if packet.size and not packet.is_discard and packet.pts is not None:
            self._pending.add(packet.pts)

    def got(self, frame: Any, index: int) -> None:
        """A frame that the decoder gave.

        Raises:
            VideoError: final: another decoder would only hide it.
        """
        if frame.is_corrupt:
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
        """The end, after `index` frames and one.

        Raises:
            VideoError: as above.
        """
        self.check_container(index)
        lost = [pts for pts in self._pending if self._first is not None and pts > self._first]
        if self._is_paired and lost:
            raise self._lost(min(lost), index + 1)

    def check_container(self, index: int) -> None:
        """Raise VideoError where the reader of the container has complained since the last call."""
        count, last = self._last_error()
        if count == self._num_errors or last is None:
            return
        self._num_errors = count
        if last[1] == self._reader:
            reason = " ".join(last[2].split())[:90]
            near = max(index, 0)
            raise VideoError(f"the file is damaged near frame {near}: {reason}", frame=near)

    def _lost(self, pts: int, index: int) -> VideoError:
        seconds = float(pts * self._time_base)
        return VideoError(f"frame {index}, at {seconds:.3f} s, cannot be decoded", frame=index)
