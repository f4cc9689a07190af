"""Writing with commit, against the same token bytes as plain files with fsync.

    python benchmarks/store_write.py [--quick]

The ratio is throughput: plain seconds / store seconds (at least 0.70 wanted).
"""

import itertools
import os
import tempfile
from pathlib import Path

from harness import make_row, measure, quick_flag, write_rows
from store_fixture import BLOCKS, empty_store, make_codes, write_clip

from tokenreel.cache.writer import StoreWriter


def main() -> None:
    """Measure and write the row."""
    grid, repeats = ((7, 7), 3) if quick_flag() else ((28, 28), 7)
    codes, names = make_codes(grid), itertools.count()
    with tempfile.TemporaryDirectory(dir=".") as folder:
        path = empty_store(Path(folder) / "s", grid=grid)
        with StoreWriter(path, writer_id="bench") as writer:

            def store() -> None:
                write_clip(writer, f"c{next(names)}", codes, 128)

            def plain() -> None:
                for _ in itertools.product(BLOCKS, range(2)):
                    with (Path(folder) / f"plain{next(names)}").open("wb", buffering=0) as file:
                        file.write(codes.data)
                        os.fsync(file.fileno())

            times = measure({"store": store, "plain": plain}, repeats=repeats)
        ratio = times["plain"].median / times["store"].median
        size = "x".join(map(str, (3, 128, *codes.shape[1:])))
        write_rows([make_row("store_write", "one clip with commit", times["store"], shape=size,
                             baseline="plain files with fsync", ratio=ratio)])  # fmt: skip


if __name__ == "__main__":
    main()
