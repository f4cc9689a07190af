"""mean: one token a row, the mean of all its tokens.

It is the spatial pooling of a map; what it leaves out, the mean over time of each place, needs the
whole map.
"""

import numpy as np

from tokenreel.cache.codec.base import Array, Calibration, Grid, Reducer, require_no_parameter


class Mean(Reducer):
    """The mean over the patch grid, summed in float64.  No calibration."""

    def __init__(self, parameter: str = "", calibration: Calibration | None = None) -> None:
        require_no_parameter("mean", parameter)

    def shape(self, num_tokens: int, dim: int, grid: Grid) -> tuple[int, int, Grid]:
        """Tokens, channels and grid that leave this step."""
        return 1, dim, (1, 1)

    def apply(self, tokens: Array, *, block: int, grid: Grid) -> Array:
        """Pool float32 (T, N, d) to (T, 1, d)."""
        pooled: Array = tokens.mean(axis=1, keepdims=True, dtype=np.float64).astype(np.float32)
        return pooled
