"""Colours of tokens: their first three principal components as red, green and blue."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class ColourAxes:
    """Three directions, and what of each is dark and bright; other tokens get fixed colours.

    Attributes:
        mean: (D,).
        directions: (D, 3).
        low, high: (3,), drawn as 0 and 1.
    """

    mean: Array
    directions: Array
    low: Array
    high: Array

    @classmethod
    def fit(cls, tokens: Array) -> "ColourAxes":
        """The principal directions of tokens (..., D), from their 1st to their 99th percentile."""
        flat = tokens.reshape(-1, tokens.shape[-1]).astype(np.float64)
        mean = flat.mean(axis=0)
        flat = flat - mean
        _, vectors = np.linalg.eigh(flat.T @ flat)
        directions = vectors[:, ::-1][:, :3]
        low, high = np.percentile(flat @ directions, [1, 99], axis=0)
        return cls(mean, directions, low, high)

    def colours(self, tokens: Array) -> NDArray[np.float32]:
        """Colours of tokens (..., D), float32 (..., 3) in [0, 1]."""
        values = (tokens.astype(np.float64) - self.mean) @ self.directions
        scaled = np.clip((values - self.low) / np.maximum(self.high - self.low, 1e-12), 0, 1)
        found: NDArray[np.float32] = scaled.astype(np.float32)
        return found
