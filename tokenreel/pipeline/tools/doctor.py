"""`tokenreel doctor`: what this machine has, and what will be slow on it."""

import importlib
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tokenreel.cache.errors import StoreError

SLOW_DISK_BYTES = 0.5e9  # of reads a second: below it, disk-resident training waits
LOW_SPACE_BYTES = 20e9
LOW_INODES = 100_000
DECODERS = {  # module -> name, and what is lost without it
    "av": ("PyAV", "videos cannot be decoded"),
    "decord": ("decord", "there is no second opinion on a video that fails"),
}
IMPORTS = {  # package -> why it may be there and not be imported, or what is lost
    "timm": "torch and torchvision are not a pair",
    "numba": "compiled loops are off: pooling on a CPU takes the plain torch path",
}
ABSENT = {  # package -> what is lost without it
    "triton": "fused kernels are off: pooling on a GPU takes the plain torch path",
    "numba": IMPORTS["numba"],
    **dict.fromkeys(
        ("torch", "torchvision", "timm"), "phases 1 and 2 need it: pip install 'tokenreel[all]'"
    ),
}


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        what: the subject.
        value: what was found.
        advice: what will be slow or not work, and what to do; "" when all is well.
    """

    what: str
    value: str
    advice: str = ""


def examine(folder: Path, *, measure: bool = True) -> list[Finding]:
    """Look at this machine.

    Args:
        folder: on the disk where stores are kept.
        measure: whether to write and read up to 2 GB there for its speed.

    Returns:
        Findings, those on the machine first, then packages, GPU, decoders and disk.
    """
    checks: list[Callable[[], Iterator[Finding]]] = [
        _machine,
        _packages,
        _gpu,
        _decoders,
        lambda: _disk(folder, measure=measure),
    ]
    return [finding for check in checks for finding in check()]


def report(findings: list[Finding]) -> str:
    """The findings as aligned lines, advice below each."""
    width = max(len(finding.what) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{finding.what.ljust(width)}  {finding.value}")
        if finding.advice:
            lines.append(f"{' ' * width}  ! {finding.advice}")
    return "\n".join(lines)


def _machine() -> Iterator[Finding]:
    yield Finding("python", f"{platform.python_version()} on {platform.platform()}")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding("cores", str(cores), "" if (cores or 1) > 1 else "one core: nothing overlaps")
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        yield Finding("memory", f"{memory / 1e9:.1f} GB")


def _packages() -> Iterator[Finding]:
    names = ("tokenreel", "torch", "torchvision", "timm", "triton", "numba", "zarr", "tensorstore")
    for name in names:
        advice = ""
        try:
            value = version(name)
        except PackageNotFoundError:
            value = "absent"
            advice = ABSENT.get(name, "needed: install TokenReel again")
        yield Finding(name, value, advice)
        if value != "absent" and name in IMPORTS:
            try:
                importlib.import_module(name)
            except (ImportError, RuntimeError) as error:
                yield Finding(f"import {name}", "fails", f"{error}: {IMPORTS[name]}")


def _gpu() -> Iterator[Finding]:
    try:
        import torch
    except ImportError:
        return
    if not torch.cuda.is_available():
        yield Finding(
            "gpu",
            "none that torch can use",
            "ViT-B/8 at 224 needs 156 GFLOP a frame: extract on a GPU node",
        )
        return
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        capability = f"sm_{facts.major}{facts.minor}"
        advice = "" if facts.major >= 8 else f"{capability} is too old for bfloat16 and the kernels"
        memory = f"{facts.total_memory / 1e9:.0f} GB"
        yield Finding(f"gpu {index}", f"{facts.name}, {capability}, {memory}", advice)
    yield Finding("cuda", f"torch was built for {torch.version.cuda}")


def _decoders() -> Iterator[Finding]:
    for module, (name, loss) in DECODERS.items():
        try:
            found = importlib.import_module(module)
        except ImportError as error:
            yield Finding(name, f"absent ({error})", loss)
        else:
            yield Finding(name, str(found.__version__))


def _disk(folder: Path, *, measure: bool) -> Iterator[Finding]:
    there = folder.absolute()
    while not there.is_dir():
        there = there.parent
    usage = shutil.disk_usage(there)
    yield Finding(
        "free space",
        f"{usage.free / 1e9:.1f} GB below {folder}",
        "" if usage.free > LOW_SPACE_BYTES else "`extract plan` says how much a store needs",
    )
    inodes = os.statvfs(there).f_favail
    if inodes:  # 0 where the file system does not count them
        low = "few: a clip takes some 30 files; `extract plan` counts them"
        yield Finding("free inodes", str(inodes), "" if inodes > LOW_INODES else low)
    if measure:
        from tokenreel.extract.preview.plan import disk_rates

        try:
            written, read = disk_rates(there, 4.0)
        except StoreError as error:
            yield Finding("disk", "not measured", f"{error}: no store can be made here")
            return
        slow = "slow: keep stores resident (placement=ram or gpu), or use a smaller codec"
        yield Finding(
            "disk",
            f"{written / 1e9:.2f} GB/s written and flushed, {read / 1e9:.2f} GB/s read",
            "" if read > SLOW_DISK_BYTES else slow,
        )
