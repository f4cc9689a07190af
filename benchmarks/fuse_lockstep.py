"""Lock-step: k runs on one stream against reading once and computing k times.

    python benchmarks/fuse_lockstep.py [--quick]

One epoch of MV-Former (three blocks of B/8's 28 x 28 x 768), checkpoint included, for k = 1, 4 and
15 runs that differ in their temperature, on a store of int8 and on one of fp16.  read: the stream
alone, from the disk's page cache.  compute: the epoch of one run whose codes stay in memory.  One
thread computes, another reads.  The ratio of k runs is seconds / (read + k compute), at most 1.15
wanted; it is below 1 because runs in lock-step pool in one pass over the codes.  Behind a link of
200 MB/s the ratio is 15 runs in lock-step / the 15 one after another, at most 0.25 wanted.  Peak
memory is that of a process that trains one epoch, Python and torch included.
"""

import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
from fuse_fixture import make_runs, make_store, small_config, throttled
from harness import Timing, make_row, measure, quick_flag, write_rows

from tokenreel.fuse.config import FuseConfig
from tokenreel.fuse.data.batches import stream_batches
from tokenreel.fuse.data.source import TokenSource
from tokenreel.fuse.train.lockstep import fit
from tokenreel.fuse.train.run import Run

KS = (1, 4, 15)
LINK = 200e6  # bytes a second


def epoch_of(runs: Sequence[Run], source: TokenSource) -> Callable[[], object]:
    """Train an epoch, from the first step again."""

    def train() -> None:
        for run in runs:
            run.position = (0, 0)
        assert not fit(runs, source, progress=False)

    return train


def peak_of(configs: Sequence[FuseConfig], store: Path, folder: Path) -> int:
    """The most memory of a process that trains an epoch, in bytes."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(train_epoch, configs, store, folder).result()


def train_epoch(configs: Sequence[FuseConfig], store: Path, folder: Path) -> int:
    """What the process of :func:`peak_of` does."""
    torch.set_num_threads(1)
    epoch_of(*make_runs(configs, store, folder, placement="disk"))()
    lines = Path("/proc/self/status").read_text().splitlines()
    [peak] = [line for line in lines if line.startswith("VmHWM")]  # of this program, not its parent
    return int(peak.split()[1]) * 1024


def main() -> None:
    """Measure and write the rows."""
    torch.set_num_threads(1)
    is_quick = quick_flag()
    grid, frames, clips = ((7, 7), 8, 4) if is_quick else ((28, 28), 16, 4)
    for codec in ("int8", "fp16"):
        shape = f"B=2 T={frames} L=3 {grid[0]}x{grid[1]}x768 {codec}, {clips // 2} steps"
        with tempfile.TemporaryDirectory(dir=".") as folder:
            store = make_store(Path(folder) / "s", codec, grid=grid, clips=clips, frames=64)
            measure_store(store, Path(folder), frames, shape, repeats=1 if is_quick else 3)


def measure_store(store: Path, folder: Path, frames: int, shape: str, *, repeats: int) -> None:
    """All rows of a store."""
    configs = [
        small_config(num_frames=frames, batch_clips=2, temperature=0.05 + 0.01 * n)
        for n in range(max(KS))
    ]
    peaks = {k: peak_of(configs[:k], store, folder / f"peak{k}") for k in KS}
    made = {k: make_runs(configs[:k], store, folder / f"k{k}", placement="disk") for k in KS}
    alone, resident = make_runs(configs[:1], store, folder / "a", placement="ram")
    records = resident.store.select(split="train")

    def read() -> None:
        for _ in stream_batches(made[1][1], records, made[1][0][0].sampling, epochs=1):
            pass

    subjects = {"read": read, "compute": epoch_of(alone, resident)}
    subjects |= {f"{k} run(s)": epoch_of(*made[k]) for k in KS}
    timings = measure(subjects, repeats=repeats)
    runs, source = made[max(KS)]
    with throttled(LINK):
        slow = measure(
            {
                "lock-step": epoch_of(runs, source),
                "one after another": lambda: [epoch_of([run], source)() for run in runs],
            },
            repeats=1,
            warmups=0,
        )
    write(timings, peaks, slow, shape)


def write(
    timings: dict[str, Timing], peaks: dict[int, int], slow: dict[str, Timing], shape: str
) -> None:
    """The rows."""
    read, compute = timings["read"].median, timings["compute"].median
    rows = [
        make_row("fuse_lockstep", name, timings[name], shape=shape, baseline="itself", ratio=1.0)
        for name in ("read", "compute")
    ]
    for k in KS:
        timing = timings[f"{k} run(s)"]
        ratio = timing.median / (read + k * compute)
        rows.append(
            make_row(
                "fuse_lockstep",
                f"{k} run(s) in lock-step",
                timing,
                shape=shape,
                baseline=f"read + {k} x compute",
                ratio=ratio,
            )
        )
        peak = Timing((peaks[k] / 1e9,))
        rows.append(
            make_row(
                "fuse_lockstep",
                f"{k} run(s), peak memory",
                peak,
                shape=shape,
                unit="GB",
                baseline="1 run",
                ratio=peaks[k] / peaks[1],
            )
        )
    each = slow["one after another"]
    for name, timing in slow.items():
        rows.append(
            make_row(
                "fuse_lockstep",
                f"15 runs {name}, 200 MB/s",
                timing,
                shape=shape,
                baseline="one after another",
                ratio=timing.median / each.median,
            )
        )
    write_rows(rows)


if __name__ == "__main__":
    main()
