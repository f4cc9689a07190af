"""int8, two-sided: x = mean_d + sd_d * scale_n * q, q in -127..127.

mean_d and sd_d are of a channel, calibrated once; scale_n is of a token.  After the channels are
standardised, each value comes back within 1/254 of the largest of its token.  In float32 and in
this order, so that the GPU's twin gives the same bytes:
    z = (x - mean) / sd;  peak = max |z|
    scale = peak / 127 (1 where peak is 0);  q = rint(z / scale)
"""

from typing import Any

import numpy as np

from tokenreel.cache.codec.base import (
    Array,
    Calibration,
    Encoded,
    Terminal,
    require_no_parameter,
)


class Int8(Terminal):
    """Two-sided int8.  Calibration: mean/<block> and sd/<block>, (d,) float32."""

    dtype: np.dtype[Any] = np.dtype("i1")
    fill_value: float | int = -128
    needs_calibration = True

    def __init__(self, parameter: str, calibration: Calibration) -> None:
        require_no_parameter("int8", parameter)
        self._calibration = calibration

    def fit(self, tokens: Array, *, block: int) -> dict[str, Array]:
        """Mean and standard deviation of each channel of (M, d) tokens."""
        return fit_channels(tokens, block=block)

    def scale_shape(self, num_tokens: int, dim: int) -> tuple[int, ...]:
        """(n,): one scale a token."""
        return (num_tokens,)

    def encode(self, tokens: Array, *, block: int) -> Encoded:
        """Quantise float32 (T, n, d).

        Raises:
            ValueError: NaN or infinity, with its place.
        """
        sd, mean = self.channels(block, tokens.shape[-1])
        standard = (tokens - mean) / sd
        peak = np.abs(standard).max(axis=-1)
        require_finite(peak, block)
        scale = np.where(peak == 0, np.float32(1), peak / np.float32(127))
        codes = np.rint(standard / scale[..., None]).clip(-127, 127).astype(np.int8)
        return Encoded(codes, scale.astype(np.float32))

    def decode(self, encoded: Encoded, *, block: int) -> Array:
        """Codes back to float32 (T, n, d)."""
        assert encoded.scales is not None
        sd, mean = self.channels(block, encoded.codes.shape[-1])
        return encoded.codes.astype(np.float32) * encoded.scales[..., None] * sd + mean

    def channels(self, block: int, dim: int) -> tuple[Array, Array]:
        """Scale and offset of each channel: sd and mean."""
        return self._calibration[f"sd/{block}"], self._calibration[f"mean/{block}"]


def fit_channels(tokens: Array, *, block: int) -> dict[str, Array]:
    """mean/<block> and sd/<block>, (d,) float32, of (M, d) tokens."""
    wide = tokens.astype(np.float64)
    deviation = np.maximum(wide.std(axis=0), 1e-6).astype(np.float32)
    return {f"mean/{block}": wide.mean(axis=0).astype(np.float32), f"sd/{block}": deviation}


def require_finite(peak: Array, block: int) -> None:
    """Raise ValueError where the largest value of a token, (T, n), is not finite."""
    wrong = np.argwhere(~np.isfinite(peak))
    if len(wrong):
        frame, token = (int(i) for i in wrong[0])
        raise ValueError(f"block {block}, frame {frame}, token {token}: NaN or infinity")
