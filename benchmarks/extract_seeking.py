"""Clips of one long source: each reached by a seek, against each read from the source's start.

    python benchmarks/extract_seeking.py [--quick]

The ratio is seconds from the start / seconds with seeks, of all clips of the source, pixels of the
clips made.  Both are one thread, and its seconds on the processor are counted.  Examining the
source (a scan of its packets, two groups of pictures decoded both ways) is in them.  Without seeks
the work grows with the square of the source's length: the ratio grows with it.
"""

import tempfile
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from harness import make_row, measure, quick_flag, write_rows

from tokenreel.extract.video import seeking
from tokenreel.extract.video.decode import decode

FPS, HEIGHT, WIDTH, CLIP_SECONDS = 25, 180, 320, 3.0
REPEATS = {60: 3, 240: 3, 600: 1}  # by seconds of the source: the last takes minutes


def render(path: Path, seconds: int) -> None:
    """A moving pattern with B-frames and a key frame every four seconds."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    with av.open(str(path), "w") as container:
        options = {"g": "100", "bf": "2", "preset": "ultrafast", "threads": "1"}
        stream = container.add_stream("libx264", rate=FPS, options=options)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        for number in range(seconds * FPS):
            image = np.stack([x + number, y + 2 * number, x + y - number], axis=-1).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def main() -> None:
    """Measure sources of several lengths, a clip of three seconds in every 15."""
    for seconds in (60,) if quick_flag() else REPEATS:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "source.mp4"
            render(path, seconds)
            starts = [float(start) for start in range(5, seconds - 5, 15)]

            wanted = len(starts) * CLIP_SECONDS * FPS

            def sought(path=path, starts=starts, wanted=wanted) -> None:
                seeking.examined.clear()
                count = 0
                for start in starts:
                    stop = start + CLIP_SECONDS
                    for frame in decode(path, from_seconds=start, until_seconds=stop):
                        count += frame.pixels.shape[2] == 3
                assert count == wanted

            def from_the_start(path=path, starts=starts, wanted=wanted) -> None:
                count = 0
                for start in starts:
                    for frame in decode(path, until_seconds=start + CLIP_SECONDS):
                        if frame.index >= start * FPS:
                            count += frame.pixels.shape[2] == 3
                assert count == wanted

            times = measure(
                {"seek": sought, "start": from_the_start},
                repeats=REPEATS[seconds],
                warmups=0,
                clock=time.process_time,
            )
            row = make_row(
                "extract_seeking",
                f"{len(starts)} clips of a source of {seconds} s",
                times["seek"],
                shape=f"{HEIGHT}x{WIDTH}",
                baseline="each read from the source's start",
                ratio=times["start"].median / times["seek"].median,
            )
            write_rows([row])


if __name__ == "__main__":
    main()
