"""Opening a store of 5,000 clips in a process of its own: seconds and memory.

    python benchmarks/store_memory.py [--quick]

Wanted: under 1 s and under 200 MB.  Memory is the peak of the whole process, interpreter and
imports included.  Each ratio is the store's value / the baseline's: of memory, a process that
imports the reader and opens nothing; of seconds, parsing every clip's own group with json alone.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness import Timing, make_row, quick_flag, write_rows
from store_fixture import make_many_clips

OPEN = """
import sys, time, resource
from tokenreel.cache.read.store_reader import open_store
start = time.perf_counter()
if sys.argv[1]:
    store = open_store(sys.argv[1])
    assert len(store.records) == int(sys.argv[2])
seconds = time.perf_counter() - start
print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3)
"""


def run(path: str, clips: int) -> tuple[float, float]:
    """Seconds to open the store in a new process, and the process's peak memory in MB."""
    command = [sys.executable, "-c", OPEN, path, str(clips)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, megabytes = map(float, done.stdout.split())
    return seconds, megabytes


def parse_groups(path: Path) -> float:
    """Seconds to parse the group of every clip and check nothing."""
    start = time.perf_counter()
    for file in path.glob("clips/*/*/zarr.json"):
        json.loads(file.read_bytes())
    return time.perf_counter() - start


def main() -> None:
    """Measure and write the rows."""
    clips, repeats = (500, 2) if quick_flag() else (5000, 7)
    with tempfile.TemporaryDirectory(dir=".") as folder:
        path = make_many_clips(Path(folder) / "s", clips)
        parse_groups(path)
        opened, groups, empty = [], [], []
        for _ in range(repeats):
            opened.append(run(str(path), clips))
            empty.append(run("", 0))
            groups.append(parse_groups(path))
    seconds = Timing(tuple(pair[0] for pair in opened))
    memory = Timing(tuple(pair[1] for pair in opened))
    without = Timing(tuple(pair[1] for pair in empty))
    ratio = seconds.median / Timing(tuple(groups)).median
    write_rows(
        [
            make_row(
                "store_memory",
                f"open {clips} clips, new process",
                seconds,
                shape=str(clips),
                baseline="json of every group",
                ratio=ratio,
            ),
            make_row(
                "store_memory",
                f"peak memory, {clips} clips open",
                memory,
                shape=str(clips),
                unit="MB",
                baseline="imports alone",
                ratio=memory.median / without.median,
            ),
        ]
    )


if __name__ == "__main__":
    main()
