"""Types of every codec: encoded tokens, the folding, and the two kinds of steps."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

Array = np.ndarray[Any, Any]
Calibration = Mapping[str, Array]
Grid = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Encoded:
    """Codes of some frames of one block.

    Attributes:
        codes: (T, n, d) in the dtype of the codec; n and d may be smaller than N and D.
        scales: (T, n) or (T, n, groups) float32, None for a codec without scales.
    """

    codes: Array
    scales: Array | None = None


@dataclass(frozen=True, eq=False)
class Folding:
    """How a block's codes become tokens: (codes * scale_n * channel_scale + offset) @ rotation.

    A model folds these into its weights once, instead of decoding each token.

    Attributes:
        channel_scale: (d,) float32.
        channel_offset: (d,) float32.
        rotation: (d, D) float32, None for the identity.
    """

    channel_scale: Array
    channel_offset: Array
    rotation: Array | None = None


class Reducer(Protocol):
    """A step that makes tokens fewer or shorter before they are quantised."""

    def shape(self, num_tokens: int, dim: int, grid: Grid) -> tuple[int, int, Grid]:
        """Tokens, channels and grid that leave this step."""

    def apply(self, tokens: Array, *, block: int, grid: Grid) -> Array:
        """Reduce float32 (T, N, D) tokens of a block."""

    def rotation(self, block: int) -> Array | None:
        """(d, D) that takes the channels back, None when they are as they were."""


class Terminal(Protocol):
    """The last step: float32 (T, n, d) to codes and back."""

    dtype: np.dtype[Any]
    fill_value: float | int

    def width(self, dim: int) -> int:
        """Stored channels of a token of `dim` channels."""

    def scale_shape(self, num_tokens: int, dim: int) -> tuple[int, ...] | None:
        """Shape of the scales of a frame of (n, d) tokens, None without scales."""

    def encode(self, tokens: Array, *, block: int) -> Encoded:
        """Quantise float32 (T, n, d)."""

    def decode(self, encoded: Encoded, *, block: int) -> Array:
        """Codes back to float32 (T, n, d)."""

    def channels(self, block: int, dim: int) -> tuple[Array, Array]:
        """Scale and offset of each channel, (d,) float32."""
