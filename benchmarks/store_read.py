"""Warm reads: 120 sorted frames of a 180-frame window, int8, 3 layers, one core.

    python benchmarks/store_read.py [--quick]

Ratios are throughputs against the named baseline in the same run: the direct reader against
np.memmap of the same shard files (at least 0.75 wanted, with the default checks=once: each frame
was checked when it was first read), the library
backend against zarr-python's slices on the same store (at least 3 wanted).
"""

import os
import tempfile
from pathlib import Path

import numpy as np
import zarr
from harness import make_row, measure, quick_flag, write_rows
from store_fixture import BLOCKS, make_store

from tokenreel.cache.format.clip import clip_key, folder_of
from tokenreel.cache.read.direct import runs
from tokenreel.cache.read.store_reader import open_store


def main() -> None:
    """Measure and write the rows."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    grid, repeats = ((7, 7), 3) if quick_flag() else ((28, 28), 9)
    with tempfile.TemporaryDirectory(dir=".") as folder:
        path = make_store(Path(folder) / "s", grid=grid, clips=1, frames=192)
        frames = np.sort(np.random.default_rng(0).choice(180, 120, replace=False)) + 6
        clip = path / folder_of(clip_key("c0")) / "views/0/tokens"
        shape = (120, grid[0] * grid[1], 768)
        out = {block: np.zeros(shape, np.int8) for block in BLOCKS}
        readers = {
            "direct": open_store(path, placement="memory"),
            "direct, checks=always": open_store(path, checks="always", placement="memory"),
            "tensorstore": open_store(path, backend="tensorstore", checks="never"),
        }
        arrays = {block: zarr.open_array(clip / str(block), mode="r") for block in BLOCKS}

        maps = {
            (block, shard): np.memmap(
                clip / str(block) / "c" / str(shard) / "0/0", np.int8, "r", 0, (64, *shape[1:])
            )
            for block in BLOCKS
            for shard in range(3)
        }

        def mapped() -> None:
            for block in BLOCKS:
                for first, count, place in runs(frames):
                    shard, start = divmod(first, 64)
                    part = maps[block, shard][start : start + count]
                    out[block][place : place + count] = part

        def zarr_python() -> None:
            for block in BLOCKS:
                for first, count, place in runs(frames):
                    out[block][place : place + count] = arrays[block][first : first + count]

        subjects = {"np.memmap": mapped, "zarr-python": zarr_python}
        for name, reader in readers.items():
            subjects[name] = lambda reader=reader: reader.read("c0", frames, out=out)
        times = measure(subjects, repeats=repeats)
        size, rows = "x".join(map(str, (3, *shape))), []
        for name in readers:
            base = "zarr-python" if name == "tensorstore" else "np.memmap"
            ratio = times[base].median / times[name].median
            rows.append(
                make_row(
                    "store_read",
                    f"{name}, warm, one core",
                    times[name],
                    shape=size,
                    baseline=base,
                    ratio=ratio,
                )
            )
        write_rows(rows)


if __name__ == "__main__":
    main()
