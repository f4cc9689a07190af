"""int4, grouped: channels standardised as in int8, one scale for each 64 of them, q in -7..7.

After standardising, a value comes back within 1/14 of the largest of its group.  Two codes a byte:
channel 2i in the low four bits, 2i + 1 in the high ones, each as q + 7; so 255 never occurs.
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
from tokenreel.cache.codec.int8 import fit_channels, require_finite

GROUP = 64


class Int4(Terminal):
    """Grouped int4.  Calibration as in int8.  d must be even."""

    dtype: np.dtype[Any] = np.dtype("u1")
    fill_value: float | int = 255
    needs_calibration = True
    packing = "int4"

    def __init__(self, parameter: str, calibration: Calibration) -> None:
        require_no_parameter("int4", parameter)
        self._calibration = calibration

    def fit(self, tokens: Array, *, block: int) -> dict[str, Array]:
        """As int8."""
        return fit_channels(tokens, block=block)

    def width(self, dim: int) -> int:
        """Stored bytes of a token of `dim` channels."""
        if dim % 2:
            raise ValueError(
                f"int4 packs channels in pairs, got {dim} channels: an even number is needed"
            )
        return dim // 2

    def scale_shape(self, num_tokens: int, dim: int) -> tuple[int, ...]:
        """(n, groups): a scale for each 64 channels of a token."""
        return num_tokens, -(-dim // GROUP)

    def channels(self, block: int, dim: int) -> tuple[Array, Array]:
        """Scale and offset of each channel."""
        return self._calibration[f"sd/{block}"], self._calibration[f"mean/{block}"]

    def encode(self, tokens: Array, *, block: int) -> Encoded:
        """Quantise float32 (T, n, d) to (T, n, d/2) bytes and (T, n, groups) scales."""
        sd, mean = self.channels(block, tokens.shape[-1])
        standard = (tokens - mean) / sd
        starts = np.arange(0, standard.shape[-1], GROUP)
        peak = np.maximum.reduceat(np.abs(standard), starts, axis=-1)
        require_finite(peak.max(axis=-1), block)
        scale = np.where(peak == 0, np.float32(1), peak / np.float32(7)).astype(np.float32)
        codes = np.rint(standard / spread(scale, standard.shape[-1])).clip(-7, 7).astype(np.int8)
        nibbles = (codes + 7).astype(np.uint8)
        return Encoded(nibbles[..., 0::2] | (nibbles[..., 1::2] << 4), scale)

    def decode(self, encoded: Encoded, *, block: int) -> Array:
        """Bytes back to float32 (T, n, d)."""
        assert encoded.scales is not None
        codes = unpack(encoded.codes)
        sd, mean = self.channels(block, codes.shape[-1])
        return codes * spread(encoded.scales, codes.shape[-1]) * sd + mean

    def unpack(self, codes: Array) -> Array:
        """The codes -7..7 of bytes."""
        return unpack(codes)


def unpack(packed: Array) -> Array:
    """The codes -7..7 of packed bytes: (..., d/2) uint8 to (..., d) int8."""
    codes = np.empty((*packed.shape[:-1], packed.shape[-1] * 2), np.int8)
    codes[..., 0::2] = packed & 15
    codes[..., 1::2] = packed >> 4
    codes -= 7
    return codes


def spread(scales: Array, dim: int) -> Array:
    """The scale of each channel: (..., groups) to (..., dim)."""
    return np.repeat(scales, GROUP, axis=-1)[..., :dim]
