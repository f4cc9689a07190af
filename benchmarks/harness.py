"""What every benchmark shares: interleaved timing, rows, and where they go.

A benchmark measures its subject and its named baseline in the same run, in random order, and
writes one row for each case.  Ratios of medians are the claim; absolute times are context, and so
is the machine: each row names its processor, its frequency, its page size and how fast it copies.
"""

import argparse
import csv
import datetime
import functools
import os
import platform
import random
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TypeVar

import numpy as np

# run.py measures into a folder of its own, and keeps the rows when the script has ended.
RESULTS_VARIABLE = "TOKENREEL_BENCHMARK_RESULTS"
COMMITTED = Path(__file__).parent / "results"
RESULTS = Path(os.environ.get(RESULTS_VARIABLE) or COMMITTED)
COMMIT_VARIABLE = "TOKENREEL_BENCHMARK_COMMIT"
COPY_BYTES = 2**28
K = TypeVar("K", bound=Hashable)  # names of subjects


@dataclass(frozen=True)
class Timing:
    """Seconds of the repeats of one subject."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle repeat."""
        return statistics.median(self.seconds)

    @property
    def p20(self) -> float:
        """The repeat that a fifth of them beat."""
        return _quantile(self.seconds, 0.2)

    @property
    def p80(self) -> float:
        """The repeat that four fifths of them beat."""
        return _quantile(self.seconds, 0.8)


@dataclass(frozen=True)
class Row:
    """One row of a result file.

    Attributes:
        benchmark: name of the script.
        case: what was measured.
        shape: sizes, as text.
        device: processor or GPU name.
        median, p20, p80: of the repeats, in `unit`.
        baseline: what the ratio is against, in the same run.
        ratio: as the claim states it; what it divides is said in the case.
        commit: of the code, "-dirty" where it was changed.
        processor_mhz, page_bytes, copy_gb_per_s: of the machine; bytes copied are counted once.
    """

    benchmark: str
    case: str
    shape: str
    device: str
    median: float
    p20: float
    p80: float
    unit: str
    baseline: str
    ratio: float
    commit: str
    date: str
    versions: str
    processor_mhz: float
    page_bytes: int
    copy_gb_per_s: float

    @property
    def key(self) -> tuple[str, ...]:
        """What another measurement of the same thing on the same machine has too."""
        return key_of({name: str(value) for name, value in asdict(self).items()})


def key_of(row: Mapping[str, str]) -> tuple[str, ...]:
    """Case, sizes and machine of a row as it is in a file."""
    return tuple(row[name] for name in ("case", "shape", "device"))


def measure(
    subjects: dict[K, Callable[[], object]],
    *,
    repeats: int,
    warmups: int = 1,
    seed: int = 0,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[K, Timing]:
    """Time the subjects interleaved, in random order inside each repeat.

    With `clock=time.process_time` it counts the processor's seconds: for one thread on a machine
    that others use too.
    """
    order = random.Random(seed)
    for _ in range(warmups):
        for subject in subjects.values():
            subject()
    seconds: dict[K, list[float]] = {name: [] for name in subjects}
    for _ in range(repeats):
        names = list(subjects)
        order.shuffle(names)
        for name in names:
            start = clock()
            subjects[name]()
            seconds[name].append(clock() - start)
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


def make_row(
    benchmark: str,
    case: str,
    timing: Timing,
    *,
    shape: str,
    baseline: str,
    ratio: float,
    unit: str = "s",
    device: str = "",
) -> Row:
    """A row with the commit, the date, the device and the versions filled in."""
    return Row(
        benchmark=benchmark,
        case=case,
        shape=shape,
        device=device or cpu_name(),
        median=timing.median,
        p20=timing.p20,
        p80=timing.p80,
        unit=unit,
        baseline=baseline,
        ratio=ratio,
        commit=commit_name(),
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        versions=_versions(),
        processor_mhz=processor_mhz(),
        page_bytes=os.sysconf("SC_PAGE_SIZE"),
        copy_gb_per_s=copy_gb_per_s(),
    )


def write_rows(rows: Sequence[Row]) -> None:
    """Print the rows and put them into RESULTS/<benchmark>.csv, in place of those of their key.

    With --quick they are printed only, unless the folder of results is another one.
    """
    for row in rows:
        print(
            f"{row.benchmark}: {row.case} [{row.shape}] {row.median:.4g} {row.unit} "
            f"(p20 {row.p20:.4g}, p80 {row.p80:.4g}); ratio to {row.baseline}: {row.ratio:.3g}",
            flush=True,
        )
    if quick_flag() and RESULTS == COMMITTED:
        return
    for benchmark in dict.fromkeys(row.benchmark for row in rows):
        own = [row for row in rows if row.benchmark == benchmark]
        fresh = {row.key for row in own}
        path = RESULTS / f"{benchmark}.csv"
        kept = [row for row in read_rows(path) if key_of(row) not in fresh]
        save_rows(path, [*kept, *map(as_text, own)])


def as_text(row: Row) -> dict[str, str]:
    """The row as it is in a file: numbers with six digits."""
    return {k: f"{v:.6g}" if isinstance(v, float) else str(v) for k, v in asdict(row).items()}


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a file, none where there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def save_rows(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    """Write a file of rows; a column that one of them lacks stays empty."""
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="") as file:
        names = list(dict.fromkeys(name for row in rows for name in row))
        writer = csv.DictWriter(file, names, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def quick_flag() -> bool:
    """True when the script was called with --quick: small sizes, to see that it runs."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    return bool(parser.parse_known_args()[0].quick)


def cpu_name() -> str:
    """Processor name and number of usable cores."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        name = models[0].partition(":")[2].strip() if models else name
    return f"{name} x{len(models) if info.exists() else 1}"


def _quantile(values: tuple[float, ...], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]


def processor_mhz() -> float:
    """What the system says the first processor runs at, 0 where it says nothing."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    found = [line.partition(":")[2] for line in lines if line.startswith("cpu MHz")]
    return float(found[0]) if found else 0.0


@functools.cache
def copy_gb_per_s() -> float:
    """How fast this process copies 256 MiB of memory that it has touched, the best of five."""
    source = np.ones(COPY_BYTES, np.uint8)
    target = np.zeros_like(source)

    def copy() -> float:
        start = time.perf_counter()
        np.copyto(target, source)
        return time.perf_counter() - start

    return COPY_BYTES / 1e9 / min(copy() for _ in range(5))


def commit_name(top: Path = COMMITTED.parent) -> str:
    """The commit of the checkout, "-dirty" where anything but rows and pages is changed.

    A benchmark that writes its rows does not change the code of the next one.  A copy of a checkout
    without git has the name in TOKENREEL_BENCHMARK_COMMIT.
    """

    def git(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", *words], cwd=top, capture_output=True, text=True, check=False)

    name = git("rev-parse", "--short=12", "HEAD").stdout.strip() if shutil.which("git") else ""
    if not name:
        return os.environ.get(COMMIT_VARIABLE, "unknown")
    others = (":/", ":(top,exclude)benchmarks/results", ":(top,exclude,glob)**/*.md")
    changed = git("diff", "--quiet", "HEAD", "--", *others)
    return f"{name}-dirty" if changed.returncode else name


def _versions() -> str:
    names = ("numpy", "torch", "zarr")
    found = []
    for name in names:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return " ".join(["python", platform.python_version(), *found])
