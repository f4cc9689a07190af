"""What every benchmark shares: interleaved timing, rows, and where they go.

A benchmark measures its subject and its named baseline in the same run, in random order, and
writes one row for each case.  Ratios of medians are the claim; absolute times are context.
"""

import argparse
import csv
import datetime
import platform
import random
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Hashable
from dataclasses import asdict, dataclass, fields
from importlib import metadata
from pathlib import Path
from typing import TypeVar

RESULTS = Path(__file__).parent / "results"
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
    )


def write_rows(rows: list[Row]) -> None:
    """Append the rows to results/<benchmark>.csv and print them."""
    RESULTS.mkdir(exist_ok=True)
    for row in rows:
        path = RESULTS / f"{row.benchmark}.csv"
        is_new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(
                file, [field.name for field in fields(Row)], lineterminator="\n"
            )
            if is_new:
                writer.writeheader()
            writer.writerow(
                {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in asdict(row).items()}
            )
        print(
            f"{row.benchmark}: {row.case} [{row.shape}] {row.median:.4g} {row.unit} "
            f"(p20 {row.p20:.4g}, p80 {row.p80:.4g}); ratio to {row.baseline}: {row.ratio:.3g}"
        )


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


def commit_name() -> str:
    """The commit of the checkout, "-dirty" when changed."""
    if shutil.which("git") is None:
        return "unknown"
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    run = subprocess.run(command, cwd=RESULTS.parent, capture_output=True, text=True, check=False)
    return run.stdout.strip() or "unknown"


def _versions() -> str:
    names = ("numpy", "torch", "zarr")
    found = []
    for name in names:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return " ".join(["python", platform.python_version(), *found])
