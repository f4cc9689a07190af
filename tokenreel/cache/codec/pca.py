"""pca:K: the K directions that hold most of the variance of standardised tokens.

The mean of the tokens lies in their span, so tokens = codes @ rotation needs no offset of its own.
The relative error is what the left-out directions hold: measure it on real tokens, do not assume.
"""

import numpy as np

from tokenreel.cache.codec.base import Array, Calibration, Grid


class Pca:
    """Rotation to K channels.  Calibration: pca_basis/<block> (D, K), pca_sd/<block> (D,)."""

    def __init__(self, num_components: int, calibration: Calibration) -> None:
        self.num_components = num_components
        self._calibration = calibration

    def shape(self, num_tokens: int, dim: int, grid: Grid) -> tuple[int, int, Grid]:
        """Tokens, channels and grid that leave this step."""
        if not 0 < self.num_components <= dim:
            raise ValueError(f"pca:{self.num_components} of tokens with {dim} channels")
        return num_tokens, self.num_components, grid

    def apply(self, tokens: Array, *, block: int, grid: Grid) -> Array:
        """Project float32 (T, n, D) to (T, n, K)."""
        projected: Array = (tokens / self._calibration[f"pca_sd/{block}"]) @ self._calibration[
            f"pca_basis/{block}"
        ]
        return projected

    def rotation(self, block: int) -> Array | None:
        """(K, D): what takes the projected channels back."""
        back: Array = (
            self._calibration[f"pca_basis/{block}"].T * self._calibration[f"pca_sd/{block}"]
        )
        return back


def fit_pca(samples: Array, num_components: int) -> tuple[Array, Array]:
    """Basis (D, K) and standard deviations (D,), float32, of sample tokens (M, D)."""
    values = samples.astype(np.float64)
    sd = np.maximum(values.std(axis=0), 1e-6)
    mean = values.mean(axis=0) / sd
    standard = values / sd - mean
    _, vectors = np.linalg.eigh(standard.T @ standard / len(values))
    basis = vectors[:, ::-1][:, : num_components - 1]
    left = mean - basis @ (basis.T @ mean)
    length = np.linalg.norm(left)
    spare = vectors[:, -num_components]
    last = left / length if length > 1e-9 else spare
    return np.column_stack([basis, last]).astype(np.float32), sd.astype(np.float32)
