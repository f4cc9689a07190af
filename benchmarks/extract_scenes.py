"""Finding scenes by the running mean, against decoding alone.

    python benchmarks/extract_scenes.py [--quick]

The claim is 0.75 at least, at 360p and at 1080p, of: processor seconds of decoding / processor
seconds of `find_scenes`.  It is 1 where the means of the planes cost nothing.  Both go through
`decode`: the same decoder with the same settings, one thread, the same frames, no pixel converted.
A second row of each size is against PyAV alone, a loop over `container.decode` with the same one
thread, which checks neither damage nor times.  Two more rows are the same ratios of seconds on the
clock, for a machine that does nothing else.

A round takes each subject twice, in an order and then in its reverse, so that a machine that grows
slower is slower for all.  A ratio is the median of the rounds' own ratios.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from harness import Row, Timing, make_row, quick_flag, write_rows

from tokenreel.extract.scenes.config import ScenesConfig
from tokenreel.extract.scenes.methods import cutter_for
from tokenreel.extract.scenes.segment import find_scenes
from tokenreel.extract.video.decode import decode

SIZES = {"360p": (360, 640), "1080p": (1080, 1920)}
FPS, SCENE_FRAMES = 25, 50
CLOCKS = {"processor": time.process_time, "wall": time.perf_counter}  # of all threads of a process
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


def decode_bare(path: Path) -> int:
    """The number of frames, by PyAV alone in one thread."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        return sum(1 for _ in container.decode(stream))


def measure_rounds(
    subjects: dict[str, Callable[[], object]], rounds: int
) -> dict[tuple[str, str], Timing]:
    """Seconds of each subject by each clock; a value is of both turns of a round."""
    seconds: dict[tuple[str, str], list[float]] = {
        (name, clock): [] for name in subjects for clock in CLOCKS
    }
    for subject in subjects.values():  # a warm-up
        subject()
    for _ in range(rounds):
        spent = dict.fromkeys(seconds, 0.0)
        for name in [*subjects, *reversed(subjects)]:
            before = [clock() for clock in CLOCKS.values()]
            subjects[name]()
            for kind, clock, start in zip(CLOCKS, CLOCKS.values(), before, strict=True):
                spent[name, kind] += clock() - start
        for key, value in spent.items():
            seconds[key].append(value / 2)
    return {key: Timing(tuple(values)) for key, values in seconds.items()}


def rows_of(name: str, shape: str, times: dict[tuple[str, str], Timing]) -> list[Row]:
    """The rows of one size."""
    rows = []
    for clock, words in ("processor", "seconds"), ("wall", "seconds on the clock"):
        scenes = times["scenes", clock]
        for base, against in ("decode", "decoding"), ("bare", "PyAV alone"):
            pairs = zip(times[base, clock].seconds, scenes.seconds, strict=True)
            row = make_row(
                "extract_scenes",
                f"running mean of {name}: {words} of {against} / {words} of scenes",
                scenes,
                shape=shape,
                baseline="decoding alone" if base == "decode" else against,
                ratio=statistics.median(one / other for one, other in pairs),
            )
            rows.append(row)
    return rows


def main() -> None:
    """Measure both sizes."""
    count, rounds = (50, 1) if quick_flag() else (500, 7)
    rows = []
    for name, (height, width) in SIZES.items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "film.mp4"
            render(path, height, width, count)

            def decoding(path=path) -> None:
                assert sum(1 for _ in decode(path)) == count

            def bare(path=path) -> None:
                assert decode_bare(path) == count

            def scenes(path=path) -> None:
                found = find_scenes(path, cutter_for(ScenesConfig()))
                assert len(found) == -(-count // SCENE_FRAMES)

            subjects = {"bare": bare, "decode": decoding, "scenes": scenes}
            times = measure_rounds(subjects, rounds)
        rows += rows_of(name, f"{count} frames of {width}x{height}", times)
    write_rows(rows)


if __name__ == "__main__":
    main()
