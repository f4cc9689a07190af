"""Opening a store of many clips: seconds with the writers' log, and rebuilt without it.

    python benchmarks/store_open.py [--quick]

The ratio is seconds without the log / seconds with it; the wanted value is under 1 s with it.
"""

import shutil
import tempfile
from pathlib import Path

from harness import make_row, measure, quick_flag, write_rows
from store_fixture import make_many_clips

from tokenreel.cache.read.store_reader import open_store


def main() -> None:
    """Measure and write the row.  Clips are copies of one record: opening reads no tokens."""
    clips = 500 if quick_flag() else 10_000
    with tempfile.TemporaryDirectory(dir=".") as folder:
        path = make_many_clips(Path(folder) / "s", clips)
        bare = Path(folder) / "bare"
        shutil.copytree(path, bare)
        shutil.rmtree(bare / "manifest")
        times = measure(
            {"log": lambda: open_store(path), "bare": lambda: open_store(bare)}, repeats=5
        )
        ratio = times["bare"].median / times["log"].median
        write_rows(
            [
                make_row(
                    "store_open",
                    f"open {clips} clips",
                    times["log"],
                    shape=str(clips),
                    baseline="rebuilt without the log",
                    ratio=ratio,
                )
            ]
        )


if __name__ == "__main__":
    main()
