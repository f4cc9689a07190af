"""Videos whose frames carry their number, so that a neighbour's frame or a lost one is noticed."""

from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np

BITS = 10  # numbers up to 1023
MILLI = Fraction(1, 1000)


def barcode(number, height=48, width=80):
    """A frame with a bar for each bit of its number, in weak noise; RGB, uint8 (H, W, 3)."""
    bits = (number >> np.arange(BITS)) & 1
    row = 25 + 205 * bits[np.arange(width) * BITS // width]
    noise = np.random.default_rng(number).integers(-20, 21, (height, width, 3))
    return (row[None, :, None] + noise).astype(np.uint8)


def read_barcode(pixels):
    """The number that a frame carries."""
    edges = np.arange(BITS + 1) * pixels.shape[1] / BITS
    middle = pixels.shape[0] // 2
    on = [
        pixels[middle - 4 : middle + 4, int(a + 2) : int(b - 1)].mean() > 127
        for a, b in pairwise(edges)
    ]
    return int(sum(1 << bit for bit, is_on in enumerate(on) if is_on))


def write_barcodes(
    path,
    times,
    *,
    codec="libx264",
    options=None,
    size=(48, 80),
    pix_fmt="yuv420p",
    file_format=None,
    container_options=None,
    time_base=MILLI,
    sizes=None,
    first=0,
):
    """Encode one frame at each time, in milliseconds or ticks of time_base.

    Args:
        path: of the video; its suffix names the container unless file_format does.
        times: of the frames.
        codec: of FFmpeg.
        options: of the encoder; for x264 a quality that keeps the bars and two B-frames.
        size: height and width.
        pix_fmt: as FFmpeg names it.
        file_format: the container.
        container_options: of the muxer.
        time_base: seconds of a tick.
        sizes: height and width of each frame, to feed the encoder pictures of other sizes.
        first: number of the first frame.
    """
    options = {"crf": "12", "bf": "2", "g": "25"} if options is None else options
    if codec == "libx264":  # whose mbtree gives other bytes each time, with AVX-512
        options = {"mbtree": "0", **options}
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format=file_format, options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.height, stream.width = size
        stream.pix_fmt = pix_fmt
        stream.codec_context.time_base = time_base
        stream.time_base = time_base
        for number, time in enumerate(times):
            image = barcode(number + first, *(sizes[number] if sizes else size))
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = time, time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def every_40_ms(count, start=0):
    """Times of `count` frames at 25 a second, in milliseconds."""
    return [start + 40 * number for number in range(count)]
