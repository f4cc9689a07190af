"""What pytest leaves alone, and what it does not wait for.

It leaves alone the example package, and Triton's modules where there is no Triton.
"""

import gc
import importlib.util
import logging
import os
import sys

import pytest

collect_ignore_glob = ["tests/plugin/*"]  # installed by tests/test_plugins.py, one of it broken
if importlib.util.find_spec("triton") is None:
    collect_ignore = [f"tokenreel/fuse/kernels/triton/{name}.py" for name in ("launch", "kernel")]


def _flush_nothing(handle: int) -> None:
    """In the place of os.fsync, for whose milliseconds a process waits; a wrong handle raises.

    No test cuts the power but test_power_cut.py, which keeps its own account of what was flushed.
    Commands in processes of their own flush.
    """
    os.fstat(handle)


def pytest_configure():
    """Let the tests' own processes wait for no disk."""
    os.fsync = _flush_nothing


def pytest_collection_finish():
    """Leave modules and tests out of the collections of garbage to come: they stay to the end."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure():
    """Let an extension find nothing left over when the process ends."""
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _same_log_level():
    """A command that a test runs in its own process shows INFO lines; the next test does not."""
    ours = logging.getLogger("tokenreel")
    level = ours.level
    yield
    ours.setLevel(level)


@pytest.fixture(autouse=True)
def _same_random_numbers():
    """What a test draws without a seed does not depend on the tests before it in its process."""
    torch = sys.modules.get("torch")
    if hasattr(torch, "manual_seed"):
        torch.manual_seed(0)
