"""A codec: a step that turns tokens into fewer numbers, and says their shape."""

from tokenreel.cache.codec.base import Array, Calibration, Grid, Reducer, require_no_parameter


class Average(Reducer):
    """The mean of all tokens of a frame: one token."""

    def __init__(self, parameter: str = "", calibration: Calibration | None = None) -> None:
        require_no_parameter("example-average", parameter)

    def shape(self, num_tokens: int, dim: int, grid: Grid) -> tuple[int, int, Grid]:
        """One token of as many channels."""
        return 1, dim, (1, 1)

    def apply(self, tokens: Array, *, block: int, grid: Grid) -> Array:
        """Average float32 (T, N, d) over N."""
        mean: Array = tokens.mean(axis=1, keepdims=True)
        return mean
