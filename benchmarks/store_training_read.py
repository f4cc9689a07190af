"""The training read: 4 clips, two half-overlapping windows of T=80 each, int8, 3 layers.

    python benchmarks/store_training_read.py [--quick]

Every reader reads the 120 distinct frames of a clip, once, into the same page-aligned buffers.
Cold: the files' pages are dropped (posix_fadvise DONTNEED) before each repeat and every reader is
opened anew, so that every frame is checked by its crc32c.  Warm: the same readers, nothing dropped.
The ratio is GB/s against np.memmap of the same shard files in the same state, at least 1.2 wanted
cold; CPU seconds per GB are rows of their own, at most 0.15 wanted cold.
"""

import gc
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from harness import Timing, make_row, quick_flag, write_rows
from store_fixture import BLOCKS, make_store

from tokenreel.cache.format.clip import clip_key, folder_of
from tokenreel.cache.read.direct import aligned_empty, runs
from tokenreel.cache.read.store_reader import Request, Store, open_store

T, CLIPS, FRAMES = 80, 4, 256
DIRECT = "direct, past the page cache"
PAUSE_SECONDS = 2.0  # the disks of virtual machines have a budget for bursts
Read = Callable[[], object]


def drop_pages(path: Path) -> None:
    """Forget what the page cache holds of every file below."""
    for file in path.rglob("*"):
        if file.is_file():
            handle = os.open(file, os.O_RDONLY)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)


def main() -> None:
    """Measure and write the rows."""
    grid, repeats = ((7, 7), 2) if quick_flag() else ((28, 28), 7)
    shape = (T + T // 2, grid[0] * grid[1], 768)
    starts = np.random.default_rng(0).integers(0, FRAMES - shape[0], CLIPS)
    frames = {f"c{i}": np.arange(start, start + shape[0]) for i, start in enumerate(starts)}
    out = {c: {b: aligned_empty(shape, np.dtype(np.int8)) for b in BLOCKS} for c in frames}
    gigabytes = CLIPS * len(BLOCKS) * int(np.prod(shape)) / 1e9
    with tempfile.TemporaryDirectory(dir=".") as folder:
        path = make_store(Path(folder) / "s", grid=grid, clips=CLIPS, frames=FRAMES)

        def of_store(store: Store) -> Read:
            requests = [Request(name, rows, out=out[name]) for name, rows in frames.items()]
            return lambda: store.read_many(requests)

        def memmap() -> Read:
            shards = {
                (c, b, n): np.memmap(
                    path / folder_of(clip_key(c)) / f"views/0/tokens/{b}/c/{n}/0/0",
                    np.int8,
                    "r",
                    0,
                    (64, *shape[1:]),
                )
                for c in frames
                for b in BLOCKS
                for n in range(FRAMES // 64)
            }

            def read() -> None:
                for c, rows in frames.items():
                    for b in BLOCKS:
                        for first, count, place in runs(rows):
                            part = shards[c, b, first // 64]
                            start = first % 64
                            out[c][b][place : place + count] = part[start : start + count]

            return read

        makers: dict[str, Callable[[], Read]] = {
            "np.memmap": memmap,
            DIRECT: lambda: of_store(open_store(path, placement="disk")),
            "direct, page cache": lambda: of_store(open_store(path, placement="memory")),
            "tensorstore": lambda: of_store(open_store(path, backend="tensorstore")),
        }
        clock, cpu = measure_states(makers, path, repeats)
    text = "x".join(map(str, (CLIPS, len(BLOCKS), *shape)))
    rows = []
    for name, state in clock:
        seconds = clock[name, state]
        ratio = clock["np.memmap", state].median / seconds.median
        rows.append(
            make_row(
                "store_training_read",
                f"{name}, {state}",
                seconds,
                shape=text,
                baseline="np.memmap",
                ratio=ratio,
            )
        )
        per_gigabyte = Timing(tuple(value / gigabytes for value in cpu[name, state].seconds))
        rows.append(
            make_row(
                "store_training_read",
                f"{name}, {state}, CPU",
                per_gigabyte,
                shape=text,
                baseline="0.15 CPU-s/GB",
                unit="CPU-s/GB",
                ratio=per_gigabyte.median / 0.15,
            )
        )
    write_rows(rows)


def measure_states(
    makers: dict[str, Callable[[], Read]], path: Path, repeats: int
) -> tuple[dict[tuple[str, str], Timing], dict[tuple[str, str], Timing]]:
    """Clock and CPU seconds of every reader, cold and then warm, interleaved at random."""
    order = np.random.default_rng(1)
    clock: dict[tuple[str, str], list[float]] = {}
    cpu: dict[tuple[str, str], list[float]] = {}
    for _ in range(repeats):
        for name in order.permutation(list(makers)).tolist():
            read = None
            gc.collect()  # pages that somebody maps are not dropped
            drop_pages(path)
            read = makers[name]()
            time.sleep(PAUSE_SECONDS)
            for state in ("cold",) if DIRECT in name else ("cold", "first warm", "warm"):
                start, used = time.perf_counter(), time.process_time()
                read()
                clock.setdefault((name, state), []).append(time.perf_counter() - start)
                cpu.setdefault((name, state), []).append(time.process_time() - used)
    keep = [key for key in clock if key[1] != "first warm"]  # it maps pages, it is neither
    return ({k: Timing(tuple(clock[k])) for k in keep}, {k: Timing(tuple(cpu[k])) for k in keep})


if __name__ == "__main__":
    main()
