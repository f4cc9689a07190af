"""Retrieval at the size of FineGym99: 367,069 labelled validation frames, 256-d, stride 5.

Claims: AP@5, 10 and 15 from embedding file to tables on 2 processors in at most 180 s and 2 GB at
its peak; linear in queries x gallery.  The search is exact, and its answer on some queries is that
of the baseline: scipy's cdist in float64 and a full stable sort of every row.  The baseline is
measured on those queries and scaled to all; the ratio is its time over ours.
"""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from harness import Timing, make_row, quick_flag, write_rows
from scipy.spatial.distance import cdist

from tokenreel.cache.embeddings import EmbeddedClip, write_embeddings
from tokenreel.evaluate.commands.suite import evaluate_files
from tokenreel.evaluate.methods.nearest import nearest_in_other_clips
from tokenreel.evaluate.protocol import EvaluateConfig

FRAMES, CLIPS, CHANNELS, STRIDE, CLASSES = 367_069, 1442, 256, 5, 99
QUERIES = 200


def make_clips(frames: int) -> list[EmbeddedClip]:
    """Clips of about 255 frames that move smoothly in 16 dimensions, unit length in 256."""
    rng = np.random.default_rng(0)
    count = max(4, round(CLIPS * frames / FRAMES))
    cuts = np.sort(rng.choice(np.arange(1, frames), count - 1, replace=False))
    basis = rng.standard_normal((16, CHANNELS)).astype(np.float32)
    clips = []
    for number, size in enumerate(np.diff([0, *cuts, frames])):
        steps = rng.standard_normal((size, 16)) * 0.1
        path = np.sin(np.cumsum(steps, axis=0) + rng.uniform(0, 6, 16)).astype(np.float32) @ basis
        path += 0.5 * rng.standard_normal((size, CHANNELS)).astype(np.float32)
        path /= np.linalg.norm(path, axis=1, keepdims=True)
        labels = np.repeat(rng.integers(0, CLASSES, size // 30 + 1), 30)[:size]
        clips.append(
            EmbeddedClip(
                f"val/{number}",
                "val",
                "gym99",
                "",
                path,
                labels.astype(np.int16),
                np.arange(size) / 25,
                tuple(f"class {i}" for i in range(CLASSES)),
            )
        )
    return clips


def evaluate(path: str, out: str) -> None:
    """What the measured process does; prints seconds, seconds of processor, peak bytes."""
    start = time.perf_counter()
    config = EvaluateConfig(tasks=("retrieval",), retrieval_stride=STRIDE)
    report = evaluate_files([Path(path)], config=config, out=Path(out), jobs=2, progress=False)
    assert report.exit_status == 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(time.perf_counter() - start, time.process_time(), peak)


def measure_ours(frames: int) -> tuple[float, float, float, list[EmbeddedClip]]:
    """Seconds, processor seconds and peak bytes of a process that evaluates so many frames."""
    clips = make_clips(frames)
    with tempfile.TemporaryDirectory() as folder:
        path = write_embeddings(Path(folder) / "embeddings.h5", clips, provenance={})
        command = [sys.executable, __file__, "--evaluate", str(path), str(Path(folder) / "out")]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    seconds, busy, peak = map(float, text.split())
    return seconds, busy, peak, clips


def measure_baseline(clips: list[EmbeddedClip]) -> float:
    """Seconds the full sort would take for all queries; its answers must be ours."""
    strided = [clip.embeddings[::STRIDE] for clip in clips]
    frames = np.concatenate(strided)
    clip_of = np.repeat(np.arange(len(strided)), [len(one) for one in strided])
    some = np.random.default_rng(1).choice(len(frames), QUERIES, replace=False)
    start = time.perf_counter()
    answers = np.empty((QUERIES, 15), np.int64)
    for row, query in enumerate(some):
        distances = cdist(frames[query : query + 1], frames, "sqeuclidean")[0]
        distances[clip_of == clip_of[query]] = np.inf
        answers[row] = np.argsort(distances, kind="stable")[:15]
    seconds = (time.perf_counter() - start) / QUERIES * len(frames)
    found = nearest_in_other_clips(strided, 15, threads=2)[some]
    np.testing.assert_array_equal(found, answers)
    return seconds


def main() -> None:
    """Measure the whole set and a half of it, check the answers, write the rows."""
    if "--evaluate" in sys.argv:
        evaluate(*sys.argv[-2:])
        return
    frames = 20_000 if quick_flag() else FRAMES
    half = measure_ours(frames // 2)[1]
    seconds, busy, peak, clips = measure_ours(frames)
    baseline = measure_baseline(clips)
    shape = f"{frames} frames of {len(clips)} clips, {CHANNELS}-d, stride {STRIDE}"
    about = {"shape": shape, "baseline": "cdist + full stable sort a query, scaled to all"}
    write_rows(
        [
            make_row(
                "evaluate_retrieval",
                "AP@5, 10, 15, file to tables, 2 processors; the ratio is "
                "the baseline's time over it",
                Timing((seconds,)),
                ratio=baseline / seconds,
                **about,
            ),
            make_row(
                "evaluate_retrieval",
                "peak memory of that process; limit 2 GB",
                Timing((peak / 1e9,)),
                unit="GB",
                ratio=peak / 2e9,
                shape=shape,
                baseline="2 GB",
            ),
            make_row(
                "evaluate_retrieval",
                "processor seconds of half of the frames; the ratio is "
                "the whole's over it, 4 where it is linear in queries x gallery",
                Timing((half,)),
                ratio=busy / half,
                shape=shape,
                baseline="half of the frames",
            ),
        ]
    )


if __name__ == "__main__":
    main()
