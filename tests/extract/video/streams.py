"""Random streams, and a slow reader of them written from the model of time and geometry alone."""

import itertools
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from tests.extract.barcodes import barcode

SLOT = Fraction(1, 25)
HEIGHT, WIDTH = 48, 80
CODECS = {
    "mp4": ("libx264", "mpeg4"),
    "mov": ("libx264", "mpeg4", "mjpeg"),
    "mkv": ("libx264", "mpeg4", "mjpeg"),
    "avi": ("mpeg4", "mjpeg", "libx264"),
}
ONE = 65536
# The eight matrices (a, b, c, d) with x' = a x + c y and y' = b x + d y.
EIGHT = [
    (a, b, c, d)
    for a, b, c, d in itertools.product((-1, 0, 1), repeat=4)
    if abs(a * d - b * c) == 1 and abs(a) + abs(b) == 1 and abs(c) + abs(d) == 1
]


@dataclass(frozen=True)
class Stream:
    """A stream that was written.

    Attributes:
        path: of the file.
        matrix: a, b, c, d of its display matrix; None without one.
        aspect: of its pixels.
        num_frames: that were encoded.
        repeats: whether time stamps repeat.
    """

    path: Path
    matrix: tuple[int, ...] | None
    aspect: Fraction
    num_frames: int
    repeats: bool


def write_stream(folder: Path, seed: int) -> Stream:
    """Write the stream of a seed: container, codec, times, matrix and aspect are all drawn."""
    draw = np.random.default_rng(seed)
    suffix = str(draw.choice(list(CODECS)))
    codec = str(draw.choice(CODECS[suffix]))
    is_avi = suffix == "avi"
    reorders = codec != "mjpeg" and draw.random() < 0.5
    height, width = (HEIGHT, WIDTH) if codec == "mpeg4" else (HEIGHT + 1, WIDTH + 1)
    height, width = height // 2 * 2 + (codec == "mjpeg"), width // 2 * 2
    num_frames = int(draw.integers(3, 13))
    steps = draw.choice([1, 1, 1, 2, 9] if is_avi else [20, 40, 40, 41, 700], num_frames)
    if draw.random() < 0.3:
        steps[:] = 1 if is_avi else 40
    times = np.cumsum(steps) - steps[0]
    if not is_avi:
        times += int(draw.choice([0, 0, 130, -80]))
    repeats = set()
    if suffix == "mkv" and not reorders and draw.random() < 0.5:
        repeats = set(draw.choice(np.arange(1, num_frames), draw.integers(1, 3)).tolist())
    last = int(draw.choice([40, 40, 3000]))
    matrix = None
    if not is_avi and draw.random() < 0.7:
        matrix = EIGHT[draw.integers(8)]
    aspect = Fraction(1)
    if draw.random() < 0.5:
        aspect = Fraction(*map(int, draw.integers(1, 12, 2)))
    options = {"libx264": {"preset": "ultrafast", "crf": "10"}, "mpeg4": {"qscale": "2"}}
    chosen = options.get(codec, {}) | ({"bf": "2" if reorders else "0"} if codec != "mjpeg" else {})
    base = SLOT if is_avi else Fraction(1, 1000)
    path = folder / f"{seed}.{suffix}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=chosen)
        stream.height, stream.width = height, width
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.time_base = stream.time_base = base
        stream.codec_context.sample_aspect_ratio = aspect
        if matrix is not None:
            a, b, c, d = (ONE * value for value in matrix)
            stream.set_display_matrix([a, b, 0, c, d, 0, 0, 0, 1 << 30])
        packets = []
        for number, time in enumerate(times.tolist()):
            frame = av.VideoFrame.from_ndarray(barcode(number, height, width), format="rgb24")
            frame.pts, frame.time_base = time, base
            packets += stream.encode(frame)
        packets += stream.encode(None)
        for place, packet in enumerate(packets):
            if place in repeats:
                packet.pts = packet.dts = packets[place - 1].pts
            if not is_avi:
                packet.duration = last if packet.pts == times[-1] else 0
            container.mux(packet)
    return Stream(path, matrix, aspect, num_frames, bool(repeats))


@dataclass(frozen=True)
class Shown:
    """A frame as the model shows it: seconds from and until, and pixels, uint8 (H, W, 3)."""

    start: Fraction
    stop: Fraction
    pixels: np.ndarray


def _delay(path: Path) -> int:
    """How many packets more than one a decoder takes before it gives the first frame."""
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        video.thread_type = "NONE"
        for count, packet in enumerate(container.demux(video)):
            if packet.decode():
                return (count - (not packet.size)) if video.codec_context.has_b_frames else 0
    return 0


def _slots(stored: list[int], delay: int) -> list[int]:
    """Slots of frames: of reordered ones, packets are stored ahead of the time by the delay."""
    found: list[int] = []
    for place in range(len(stored)):
        ahead = place + delay
        after = found[-1] + 1 if found else 0
        known = stored[ahead] - stored[delay] + stored[0] if ahead < len(stored) else after
        found.append(max(known, after))
    return found


def read_slowly(stream: Stream) -> list[Shown]:
    """The frames of a stream by the model: all packets for times, all frames for pictures.

    One frame or none is no video: the list is empty then.
    """
    with av.open(str(stream.path)) as container:
        video = container.streams.video[0]
        base, rate, origin = video.time_base, video.average_rate, container.start_time or 0
        header, listed = _header_end(container, video), video.frames
        packets = [packet for packet in container.demux(video) if packet.size]
        kept = [packet for packet in packets if not packet.is_discard]
        is_avi = container.format.name == "avi"
        rows = sorted((p.dts if is_avi else p.pts, p.duration or 0) for p in kept)
    if is_avi:
        slots = _slots([time for time, _ in rows], _delay(stream.path))
        rows = [(slot, duration) for slot, (_, duration) in zip(slots, rows, strict=True)]
    with av.open(str(stream.path)) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(pictures) == len(rows)
    if len(rows) < 2:
        return []
    start = Fraction(0) if is_avi else Fraction(origin, 1_000_000)
    raw = [time * base - start for time, _ in rows]
    raw = [round(time / base) * base for time in raw]
    times = []
    for time, group in itertools.groupby(raw):
        count = len(list(group))
        later = [other for other in raw if other > time]
        step = min(1 / rate, (later[0] - time) / count) if later else 1 / rate
        times += [time + round(step * place / base) * base for place in range(count)]
    step = times[-1] - times[-2]
    mean = (times[-1] - times[0]) / (len(times) - 1)
    end = times[-1] + rows[-1][1] * base
    if header is not None:
        tolerated = max(2 * mean, Fraction(1, 10))
        is_longer = max(end, times[-1] + mean) < header - tolerated
        is_cut = stream.path.suffix in (".mp4", ".mov") and len(kept) < listed
        if (is_longer and not is_cut) or times[-1] < header < end:
            end = header
    if abs(end - times[-1] - step) <= step / 2:
        end = times[-1] + step
    stops = [*times[1:], end]
    return [
        Shown(one, stop, _display(picture, stream))
        for one, stop, picture in zip(times, stops, pictures, strict=True)
    ]


def _header_end(container, video) -> Fraction | None:
    if video.duration is not None:
        start = (video.start_time or 0) * video.time_base
        return (
            video.duration * video.time_base
            + start
            - Fraction(container.start_time or 0, 1_000_000)
        )
    if "DURATION" in video.metadata:
        hours, minutes, seconds = video.metadata["DURATION"].split(":")
        whole = 3600 * int(hours) + 60 * int(minutes) + Fraction(seconds)
        return whole - Fraction(container.start_time or 0, 1_000_000)
    return None


def _display(picture: np.ndarray, stream: Stream) -> np.ndarray:
    """Square pixels, then each pixel where the matrix puts it."""
    import torch

    height, width = picture.shape[:2]
    aspect = stream.aspect
    if abs(aspect - 1) > Fraction(1, 100) and Fraction(1, 10) <= aspect <= 10:
        if aspect > 1:
            width = round(width * aspect)
        else:
            height = round(height / aspect)
        pixels = torch.from_numpy(picture).permute(2, 0, 1)[None]
        resize = torch.nn.functional.interpolate
        wide = resize(pixels, size=(height, width), mode="bicubic", antialias=True)
        picture = wide[0].permute(1, 2, 0).numpy()
    if stream.matrix is None:
        return picture
    a, b, c, d = stream.matrix
    y, x = np.mgrid[:height, :width]
    right, down = a * x + c * y, b * x + d * y
    right, down = right - right.min(), down - down.min()
    shown = np.zeros((down.max() + 1, right.max() + 1, 3), np.uint8)
    shown[down, right] = picture
    return shown
