"""Finding scenes by the running mean, against decoding alone.

    python benchmarks/extract_scenes.py [--quick]

The ratio is seconds of decoding / seconds of `find_scenes`, one thread each, seconds on the
processor: 1 where the means of the planes cost nothing.  Both go through `decode`, and neither
converts a pixel.  The claim is 0.75 at least, at 360p and at 1080p.
"""

import tempfile
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from harness import make_row, measure, quick_flag, write_rows

from tokenreel.extract.scenes.config import ScenesConfig
from tokenreel.extract.scenes.methods import cutter_for
from tokenreel.extract.scenes.segment import find_scenes
from tokenreel.extract.video.decode import decode

SIZES = {"360p": (360, 640), "1080p": (1080, 1920)}
FPS, SCENE_FRAMES = 25, 50
TINTS = (
    (90, 30, 30),
    (30, 90, 30),
    (30, 30, 90),
)  # added to half of the texture: each cut is found


def render(path: Path, height: int, width: int, count: int) -> None:
    """A textured picture that moves, and another one of another colour every two seconds."""
    draw = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        options = {"preset": "veryfast", "crf": "23", "threads": "1"}
        stream = container.add_stream("libx264", rate=FPS, options=options)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for number in range(count):
            if number % SCENE_FRAMES == 0:
                coarse = draw.integers(0, 256, (height // 20 + 1, width // 20 + 1, 3), np.uint8)
                wide = coarse.repeat(20, axis=0).repeat(20, axis=1)[:height, :width]
                noise = draw.integers(-12, 13, wide.shape)
                tint = TINTS[number // SCENE_FRAMES % len(TINTS)]
                wide = (wide.astype(np.int16) // 2 + tint + noise).astype(np.uint8)
            pixels = np.roll(wide, (number, 2 * number), axis=(0, 1))
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def main() -> None:
    """Measure both sizes."""
    count, repeats = (50, 1) if quick_flag() else (500, 3)
    rows = []
    for name, (height, width) in SIZES.items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "film.mp4"
            render(path, height, width, count)

            def decoding(path=path) -> None:
                assert sum(1 for _ in decode(path)) == count

            def scenes(path=path) -> None:
                found = find_scenes(path, cutter_for(ScenesConfig()))
                assert len(found) == -(-count // SCENE_FRAMES)

            subjects = {"decode": decoding, "scenes": scenes}
            times = measure(subjects, repeats=repeats, clock=time.process_time)
        rows.append(
            make_row(
                "extract_scenes",
                f"running mean of {name}: seconds of decoding / seconds of scenes",
                times["scenes"],
                shape=f"{count} frames of {width}x{height}",
                baseline="decoding alone",
                ratio=times["decode"].median / times["scenes"].median,
            )
        )
    write_rows(rows)


if __name__ == "__main__":
    main()
