"""What it costs to decode in a process of its own, its frames coming through shared memory.

    python benchmarks/extract_isolation.py [--quick]

Decode and resize here, against the same in a decode process whose chunks are taken and given back.
Processor time of all processes, and the clock's.  Starting the process is not counted: it has done
one clip before.  The claim is at most 1.15 times the bare decoder.
"""

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from extract_fixture import render
from harness import Timing, make_row, quick_flag, write_rows

from tokenreel.extract.decode_pool.pool import DecodedChunk, DecodePool
from tokenreel.extract.decode_pool.worker import DecodeJob
from tokenreel.extract.images.augment import view_parameters
from tokenreel.extract.images.transforms import apply_transform, transform_parameters
from tokenreel.extract.video.decode import decode

CHUNK = 16
TRANSFORM = transform_parameters("dino-256-224", 224)


def bare(path: Path) -> tuple[float, float]:
    """Clock's and processor's seconds of decoding here."""
    clock, cpu = time.perf_counter(), time.process_time()
    for frame in decode(path):
        apply_transform(frame.pixels, TRANSFORM)
    return time.perf_counter() - clock, time.process_time() - cpu


def isolated(path: Path) -> tuple[float, float]:
    """Clock's and processor's seconds of decoding in a process, after one clip."""
    job = DecodeJob(path, None, None, None, "pyav", TRANSFORM, view_parameters(0, 0), "c", CHUNK)
    marks: list[tuple[float, float]] = []

    def jobs() -> Iterator[DecodeJob]:
        yield job
        marks.append(now())
        yield job

    def now() -> tuple[float, float]:
        (worker,) = pool._workers
        fields = Path(f"/proc/{worker.process.pid}/stat").read_text().rpartition(")")[2].split()
        ticks = int(fields[11]) + int(fields[12])
        return time.perf_counter(), time.process_time() + ticks / os.sysconf("SC_CLK_TCK")

    with DecodePool(
        jobs(), slot_shape=(CHUNK, 1, 3, 224, 224), workers=1, timeout_seconds=60
    ) as pool:
        for chunk in pool:
            if isinstance(chunk, DecodedChunk):
                chunk.release()
            elif marks:
                marks.append(now())
    return marks[-1][0] - marks[0][0], marks[-1][1] - marks[0][1]


def main() -> None:
    """Interleaved repeats; a row for each clock."""
    torch.set_num_threads(1)  # as in a decode process
    quick = quick_flag()
    frames, repeats = (50, 1) if quick else (600, 9)
    with tempfile.TemporaryDirectory() as folder:
        path = render(Path(folder) / "a.mp4", num_frames=frames, width=640, height=360)
        bare(path)
        pairs = [(bare(path), isolated(path)) for _ in range(repeats)]
    rows = []
    for which, name in enumerate(("clock", "processor")):
        one = Timing(tuple(pair[0][which] for pair in pairs))
        other = Timing(tuple(pair[1][which] for pair in pairs))
        rows.append(
            make_row(
                "extract_isolation",
                f"{name}: decoding in a process over decoding here",
                other,
                shape=f"{frames} frames 640x360 to 224",
                ratio=other.median / one.median,
                baseline=f"bare decoder, {one.median:.3g} s",
            )
        )
    write_rows(rows)


if __name__ == "__main__":
    main()
