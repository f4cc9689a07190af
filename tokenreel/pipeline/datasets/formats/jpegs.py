"""Put JPEG pictures, one after the other, into a video file without encoding them again.

Data sets come as folders of JPEG frames, or as JPEG frames inside TFRecords.  As Motion JPEG in
Matroska the same bytes are one file that every decoder of videos reads.
"""

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av

from tokenreel.cache.errors import UsageError
from tokenreel.cache.files import whole_file

SCAN = 0xDA  # the marker SOS


def packed(path: Path, pictures: Iterable[bytes], *, fps: int, where: str) -> list[str]:
    """Pack pictures unless the video is there; as a note, why they cannot be.

    Without its video a clip fails alone when it is extracted, and the other clips go on.
    """
    if path.is_file():
        return []
    try:
        pack_jpegs(path, pictures, fps=fps, where=where)
    except UsageError as error:
        return [f"{error}: {path.name} is not made, and its clip will fail"]
    return []


def pack_jpegs(path: Path, pictures: Iterable[bytes], *, fps: int, where: str) -> int:
    """Write pictures as the frames of a video; the file is whole or absent.

    Args:
        path: the video, ".mkv".
        pictures: JPEG files as bytes, in order.
        fps: frames a second.
        where: what the pictures come from, for errors.

    Returns:
        The number of frames.

    Raises:
        UsageError: no picture, or one that is not a whole JPEG of the size of the first.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with whole_file(path) as partial, av.open(str(partial), "w", format="matroska") as container:
        stream = container.add_stream("mjpeg", rate=fps)
        size: tuple[int, int] | None = None
        for count, data in enumerate(pictures, start=1):
            found, is_whole = _size_of_jpeg(data, f"{where}, picture {count}")
            if not is_whole:  # decoders fill up with grey
                raise UsageError(f"{where}, picture {count}: a JPEG picture that is cut short")
            if size is None:
                size = stream.width, stream.height = found
                stream.pix_fmt = "yuvj420p"
            if found != size:
                raise UsageError(f"{where}, picture {count}: {found} pixels after {size}")
            packet = av.Packet(data)
            packet.stream, packet.time_base = stream, Fraction(1, fps)
            packet.pts = packet.dts = count - 1
            packet.duration = 1
            container.mux_one(packet)
        if not count:
            raise UsageError(f"{where}: no pictures")
    return count


def _size_of_jpeg(data: bytes, where: str) -> tuple[tuple[int, int], bool]:
    """Width and height from the frame header (SOF) of a JPEG, and whether it has its end (EOI).

    The end is looked for behind the last scan (SOS).  A thumbnail in the header ends in the same
    way, so that the segments are followed to the first scan.
    """
    at, size = 2, None
    while data[:2] == b"\xff\xd8" and at + 4 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == SCAN:
            break
        if marker == 0xFF:  # filling before a marker
            at += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and at + 9 <= len(data):
            height, width = data[at + 5 : at + 7], data[at + 7 : at + 9]
            size = int.from_bytes(width, "big"), int.from_bytes(height, "big")
        at += 2 + length
    if size is None:
        raise UsageError(f"{where}: not a JPEG picture")
    scans = data[at:]  # nothing where the header is cut short
    return size, scans.rfind(b"\xff\xd9") > scans.rfind(bytes([0xFF, SCAN]))
