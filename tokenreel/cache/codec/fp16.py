"""fp16: half precision.  A token within the range comes back within 1/2048 of each value's size."""

from typing import Any

import numpy as np

from tokenreel.cache.codec.base import (
    Array,
    Calibration,
    Encoded,
    Terminal,
    require_no_parameter,
)


class Float16(Terminal):
    """Rounds to float16 and refuses what does not fit.  No scales, no calibration."""

    dtype: np.dtype[Any] = np.dtype("<f2")
    fill_value: float | int = float("nan")

    def __init__(self, parameter: str = "", calibration: Calibration | None = None) -> None:
        require_no_parameter("fp16", parameter)

    def encode(self, tokens: Array, *, block: int) -> Encoded:
        """Round float32 (T, n, d) to float16.

        Raises:
            ValueError: a value that float16 cannot hold, with its place.
        """
        with np.errstate(over="ignore"):
            codes = tokens.astype(np.float16)
        wrong = ~np.isfinite(codes)
        if wrong.any():
            frame, token, channel = (int(i) for i in np.argwhere(wrong)[0])
            raise ValueError(
                f"block {block}, frame {frame}, token {token}, channel {channel}: "
                f"{tokens[frame, token, channel]} does not fit float16 (largest 65504)"
            )
        return Encoded(codes)

    def decode(self, encoded: Encoded, *, block: int) -> Array:
        """Codes as float32."""
        return encoded.codes.astype(np.float32)

    def channels(self, block: int, dim: int) -> tuple[Array, Array]:
        """Scale 1 and offset 0 of each channel."""
        return np.ones(dim, np.float32), np.zeros(dim, np.float32)
