"""Videos for the benchmarks of extraction: rendered, moving, with texture."""

from pathlib import Path

import av
import numpy as np


def render(path: Path, *, num_frames: int, width: int, height: int) -> Path:
    """H.264 at 25 frames a second: a picture that drifts, with noise that changes."""
    draw = np.random.default_rng(0)
    y, x = np.mgrid[: height + 64, : width + 64]
    picture = np.stack([(x * 3 + y) % 256, (x ^ y) % 256, (y * 2) % 256], -1).astype(np.int16)
    noise = draw.integers(-12, 13, (8, height, width, 1), np.int16)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(num_frames):
            shift = number % 64
            part = picture[shift : shift + height, shift : shift + width] + noise[number % 8]
            pixels = part.clip(0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path
