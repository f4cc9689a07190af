"""Run the CPU benchmarks one after another, each in a process of its own, and keep their rows.

    python benchmarks/run.py [--list] [--quick] [NAME ...]     (make bench; half an hour)

NAME is a script without its ending; without names all run.  Measure on a machine that does nothing
else, from a commit: a changed checkout is refused, for its rows could not say what they are of.
When a script has ended, its rows take the place of all rows of its file that this machine measured,
and of those whose case it no longer has; rows of other machines stay.  A script that fails changes
nothing, the others run, and the status is 1.  At the end the pages are written anew (tables.py).

--list prints the seconds to expect and the commit of the rows there are.  --quick runs small sizes,
to see that scripts run, and keeps nothing.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from harness import COMMITTED, RESULTS_VARIABLE, commit_name, cpu_name, read_rows, save_rows

HERE = Path(__file__).parent
# Seconds to expect on two cores of 2.1 GHz.
SECONDS = {
    "evaluate_import": 30,
    "bucket_reader": 150,
    "evaluate_penn": 60,
    "evaluate_retrieval": 60,
    "explore": 90,
    "extract_isolation": 60,
    "extract_memory": 100,
    "extract_overlap": 90,
    "extract_rerun": 60,
    "extract_scenes": 130,
    "extract_seeking": 180,
    "ftp_costs": 220,
    "fuse_apply": 330,
    "fuse_dedup": 60,
    "fuse_lockstep": 180,
    "fuse_online": 90,
    "fuse_scl": 20,
    "fusion": 200,
    "pooling": 90,
    "ray_local": 260,
    "scale_simulation": 20,
    "scene_pixels": 90,
    "similar": 240,
    "stan_step": 900,
    "store_memory": 30,
    "store_open": 30,
    "store_read": 30,
    "store_training_read": 90,
    "store_write": 40,
    "token_dataset": 50,
    "clip_maps": 60,
    "demo": 270,
}
BUSY = 0.5
MORE_CALLS = {"fusion": ["--whole-step"]}  # a second call, whose rows are of the same file


def main() -> int:
    """Run, keep, say; the status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="scripts, all when left out")
    parser.add_argument("--list", action="store_true", help="what would run, and how long")
    parser.add_argument("--quick", action="store_true", help="small sizes; keep nothing")
    words = parser.parse_args()
    names = words.names or list(SECONDS)
    for name in names:
        if name not in SECONDS:
            parser.error(f"{name}: no such benchmark; there are {', '.join(SECONDS)}")
    if words.list:
        print("\n".join(expected(names)))
        return 0
    commit = commit_name()
    if commit.endswith("-dirty") and not words.quick:
        print(f"{commit}: commit first, so that rows say what they are of", file=sys.stderr)
        return 2
    if (load := os.getloadavg()[0]) > BUSY:
        print(f"{load:.1f} processes ran here in the last minute: rows want a machine at rest")
    failed = [name for name in names if not run(name, is_quick=words.quick)]
    print(f"failed: {', '.join(failed) or 'none'}")
    if not words.quick:
        subprocess.run([sys.executable, str(HERE / "tables.py")], check=False)
    return 1 if failed else 0


def expected(names: Sequence[str]) -> list[str]:
    """A line for each script: seconds, and the commits of its rows."""
    lines = []
    for name in names:
        commits = sorted({row["commit"] for row in read_rows(COMMITTED / f"{name}.csv")})
        lines.append(f"{name:22}{SECONDS[name]:5} s   rows of {', '.join(commits) or 'none'}")
    return [*lines, f"{'all':22}{sum(SECONDS[name] for name in names):5} s"]


def run(name: str, *, is_quick: bool) -> bool:
    """Run a script and keep its rows; whether it ended well."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        calls = (
            [["--quick"]] if is_quick else [[], *([MORE_CALLS[name]] if name in MORE_CALLS else [])]
        )
        for call in calls:
            print(f"== {name} {' '.join(call)}", flush=True)
            done = subprocess.run(
                [sys.executable, str(HERE / f"{name}.py"), *call],
                env=os.environ | {RESULTS_VARIABLE: folder},
                check=False,
            )
            if done.returncode:
                return False
        print(f"== {name}: {time.monotonic() - start:.0f} s", flush=True)
        if not is_quick:
            keep(Path(folder) / f"{name}.csv", COMMITTED / f"{name}.csv", device=cpu_name())
    return True


def keep(fresh: Path, committed: Path, *, device: str) -> None:
    """Put fresh rows in the place of this device's, and drop those whose case is no more."""
    rows = read_rows(fresh)
    cases = {row["case"] for row in rows}
    others = [
        row
        for row in read_rows(committed)
        if not row["device"].startswith(device) and row["case"] in cases
    ]
    save_rows(committed, [*others, *rows])


if __name__ == "__main__":
    sys.exit(main())
