"""The bound of memory that other tests use is one."""

import numpy as np
import pytest

from tests.memory import require_memory


def test_memory_that_was_taken_for_a_moment_counts():
    with require_memory(50_000_000):
        np.ones(4_000_000, np.uint8).sum()
    with (
        pytest.raises(AssertionError, match="MB were taken, 50 may be"),
        require_memory(50_000_000),
    ):
        np.ones(100_000_000, np.uint8).sum()
