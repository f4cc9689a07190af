"""pool2: the mean of each 2x2 square of the grid, a quarter of the tokens.

Exact where tokens do not differ within a square.  With an odd number of rows or columns the last
ones are means of what is there.
"""

import numpy as np

from tokenreel.cache.codec.base import Array, Calibration, Grid, Reducer, require_no_parameter


class Pool2(Reducer):
    """2x2 mean over the patch grid.  No calibration."""

    def __init__(self, parameter: str = "", calibration: Calibration | None = None) -> None:
        require_no_parameter("pool2", parameter)

    def shape(self, num_tokens: int, dim: int, grid: Grid) -> tuple[int, int, Grid]:
        """Tokens, channels and grid that leave this step."""
        rows, columns = -(-grid[0] // 2), -(-grid[1] // 2)
        return rows * columns, dim, (rows, columns)

    def apply(self, tokens: Array, *, block: int, grid: Grid) -> Array:
        """Pool float32 (T, rows * columns, d)."""
        rows, columns = grid
        image = tokens.reshape(len(tokens), rows, columns, -1)
        image = np.pad(image, ((0, 0), (0, rows % 2), (0, columns % 2), (0, 0)), mode="edge")
        top, bottom = image[:, 0::2], image[:, 1::2]
        total = (top[:, :, 0::2] + top[:, :, 1::2]) + (bottom[:, :, 0::2] + bottom[:, :, 1::2])
        pooled: Array = total * np.float32(0.25)
        return pooled.reshape(len(tokens), -1, tokens.shape[-1])
