"""test_fused.py, in a process that Triton interprets in."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

triton = pytest.importorskip("triton")
ROOT = Path(__file__).parents[3]


def version_of(text):
    return tuple(int(part) for part in text.split(".")[:2])


pytestmark = pytest.mark.skipif(
    version_of(triton.__version__) < (3, 7) and version_of(np.__version__) >= (2, 4),
    reason="Triton 3.6 interprets no loop with numpy 2.4 (triton#9171): pin numpy<2.4 there",
)


def passed_in_the_interpreter(*options):
    """How many tests of test_fused.py pass; one that fails raises."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
    run = subprocess.run(
        [*command, str(Path(__file__).with_name("test_fused.py"))],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-2000:]
    return int(re.search(r"(\d+) passed", run.stdout)[1])


def test_the_fused_kernels_pass_their_tests_in_the_interpreter():
    assert passed_in_the_interpreter() >= 70


@pytest.mark.slow
def test_the_fused_kernels_pass_their_slow_tests_in_the_interpreter():
    assert passed_in_the_interpreter("-m", "slow") >= 16
