"""Memory that a piece of work takes, as the kernel counts it: that of libraries in C is in it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def require_memory(most_bytes: int) -> Iterator[None]:
    """Fail where the body takes more memory, at any moment, than this process has at its start."""
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted anew
    yield
    taken = _status("VmHWM") - before
    assert taken <= most_bytes, f"{taken / 1e6:.0f} MB were taken, {most_bytes / 1e6:.0f} may be"


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise KeyError(field)
