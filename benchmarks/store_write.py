"""Writing with commit, against the same token bytes as plain files with fsync.

    python benchmarks/store_write.py [--quick]

The ratio is throughput: plain seconds / store seconds (at least 0.70 wanted).  The second row is
the memory that writing and committing a clip adds to a process that holds its tokens and has
written a clip of one frame; its ratio is that memory / the bytes of one shard (at most 1 wanted).
"""

import itertools
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from harness import Timing, make_row, measure, quick_flag, write_rows
from store_fixture import BLOCKS, empty_store, make_codes, write_clip

from tokenreel.cache.write.store_writer import StoreWriter

MEMORY = """
import sys, threading
from pathlib import Path
from store_fixture import make_codes, write_clip
from tokenreel.cache.write.store_writer import StoreWriter

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6

seen, stop = [], threading.Event()

def watch():
    while not stop.wait(0.002):
        seen.append(resident())

codes = make_codes(tuple(map(int, sys.argv[2:4])))
with StoreWriter(sys.argv[1], writer_id="bench") as writer:
    write_clip(writer, "one", codes, 1)
    before = resident()
    watcher = threading.Thread(target=watch)
    watcher.start()
    write_clip(writer, "long", codes, 192)
    stop.set()
    watcher.join()
print(max(seen) - before)
"""


def extra_megabytes(path: Path, grid: tuple[int, int]) -> float:
    """Peak memory that a clip of three segments adds to a new process, in MB."""
    command = [sys.executable, "-c", MEMORY, str(path), *map(str, grid)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return float(done.stdout)


def main() -> None:
    """Measure and write the rows."""
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
        megabytes = [
            extra_megabytes(empty_store(Path(folder) / f"m{i}", grid=grid), grid) for i in range(3)
        ]
        memory = Timing(tuple(megabytes))
        write_rows(
            [
                make_row(
                    "store_write",
                    "one clip with commit",
                    times["store"],
                    shape=size,
                    baseline="plain files with fsync",
                    ratio=ratio,
                ),
                make_row(
                    "store_write",
                    "peak memory that a clip adds",
                    memory,
                    unit="MB",
                    shape="x".join(map(str, (3, 192, *codes.shape[1:]))),
                    baseline="one shard",
                    ratio=memory.median / (codes.nbytes / 1e6),
                ),
            ]
        )


if __name__ == "__main__":
    main()
