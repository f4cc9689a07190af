"""What `tokenreel demo` finds, as rows: every metric of every recipe, and the seconds it takes.

    python benchmarks/demo.py [--folder FOLDER | --results FOLDER]     (five minutes, two cores)

The demo runs in an empty folder, so the seconds are those of a first run, the rendering of the
sample included; --folder names it and keeps it, for `docs/make_pictures.py`.  With --results the
rows are those of a demo that has run: FOLDER is its `results/demo`, and the seconds stay as they
were.  `mean` and `2std` are over seeds, as in
summary.csv; classification and AP@K are from 0 to 1 there and here.
"""

import argparse
import csv
import datetime
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from harness import (
    COMMITTED,
    RESULTS,
    commit_name,
    cpu_name,
    key_of,
    quick_flag,
    read_rows,
    save_rows,
)

TASKS = ("classification", "progression", "tau", "ap@5", "ap@10", "ap@15")


def main() -> int:
    """Run the demo, or read what it has written, and write the rows; the status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--results", type=Path, help="results/demo of a demo that has run")
    parser.add_argument("--folder", type=Path, help="an empty folder, which is kept")
    parser.add_argument("--quick", action="store_true", help="do nothing: the demo has one size")
    words = parser.parse_args()
    if quick_flag():
        print("demo: it has one size; use --results")
        return 0
    if words.results:
        write(rows_of(words.results / "summary.csv"))
        return 0
    if words.folder:
        words.folder.mkdir(parents=True, exist_ok=True)
        if any(words.folder.iterdir()):
            parser.error(f"{words.folder} is not empty: what is there would not be made again")
        return measure_demo(words.folder)
    with tempfile.TemporaryDirectory() as folder:
        return measure_demo(Path(folder))


def measure_demo(folder: Path) -> int:
    """Run the demo in an empty folder and write its rows; its status."""
    program = Path(sys.executable).with_name("tokenreel")
    start = time.monotonic()
    done = subprocess.run([str(program), "demo"], cwd=folder, check=False)
    seconds = time.monotonic() - start
    if done.returncode == 0:
        found = rows_of(folder / "results/demo/summary.csv")
        write([*found, {**found[0], "case": "seconds", "mean": f"{seconds:.6g}", "2std": ""}])
    return done.returncode


def rows_of(summary: Path) -> list[dict[str, str]]:
    """The rows of a summary.csv: what was measured and the clock, not what was published."""
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    about = {"device": cpu_name(), "commit": commit_name(), "date": today}
    with summary.open(newline="") as file:
        lines = [row for row in csv.DictReader(file) if row["kind"] != "published"]
    return [
        {
            "case": f"{line['recipe']}, {task}",
            "shape": f"{line['dataset']}, {line['weights']}",
            "mean": f"{float(line[f'{task} mean']):.6g}",
            "2std": line[f"{task} 2std ddof=0"] if line["kind"] == "measured" else "",
            "seeds": line["seeds"],
            **about,
        }
        for line in lines
        for task in TASKS
        if line.get(f"{task} mean")
    ]


def write(rows: Sequence[dict[str, str]]) -> None:
    """Put the rows in the place of those of their key; of another data set none stays."""
    path, fresh = RESULTS / "demo.csv", {key_of(row) for row in rows}
    shapes = {row["shape"] for row in rows}
    kept = [r for r in read_rows(path) if key_of(r) not in fresh and r["shape"] in shapes]
    save_rows(path, [*kept, *rows])
    print(f"demo: {len(rows)} rows in {path}, {'kept' if RESULTS == COMMITTED else 'to be kept'}")


if __name__ == "__main__":
    sys.exit(main())
