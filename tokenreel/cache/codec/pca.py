"""pca:K: the K directions that hold most of the variance of standardised tokens.

The mean of the tokens lies in their span, so tokens = codes @ rotation needs no offset of its own.
The relative error is what the left-out directions hold: measure it on real tokens, do not assume.

The projection is of whole numbers, so that it has the same bits in any order of addition, on a
processor or a GPU: the standardised token as multiples of 2^-19 of the power of two below its
largest value, the basis as multiples of 2^-20.  Sums of fewer than 2^13 products of them are exact
in float64.  What that rounds away is 2^-20 of the token's largest value.
"""

import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.canonical import is_whole_number
from tokenreel.cache.codec.base import Array, Calibration, Grid, Reducer
from tokenreel.cache.errors import UsageError

TOKEN_STEPS = 2.0**19
BASIS_STEPS = 2.0**20
EXPONENT_BITS = 0x7F800000  # of a float32


class Pca(Reducer):
    """Rotation to K channels.  Calibration: pca_basis/<block> (D, K), pca_sd/<block> (D,)."""

    needs_calibration = True

    def __init__(self, parameter: str, calibration: Calibration) -> None:
        if not is_whole_number(parameter) or not int(parameter):
            raise UsageError(
                f"codec 'pca' has the number of components after a colon, as in pca:128; got "
                f"{parameter!r}"
            )
        self.num_components = int(parameter)
        self._calibration = calibration

    def fit(self, tokens: Array, *, block: int) -> dict[str, Array]:
        """Basis and standard deviations of (M, D) tokens."""
        basis, sd = fit_pca(tokens, self.num_components)
        return {f"pca_basis/{block}": basis, f"pca_sd/{block}": sd}

    def shape(self, num_tokens: int, dim: int, grid: Grid) -> tuple[int, int, Grid]:
        """Tokens, channels and grid that leave this step."""
        if not 0 < self.num_components <= dim:
            raise ValueError(
                f"pca:{self.num_components} of tokens with {dim} channels: pca:{dim} at most"
            )
        return num_tokens, self.num_components, grid

    def apply(self, tokens: Array, *, block: int, grid: Grid) -> Array:
        """Project float32 (T, n, D) to (T, n, K)."""
        standard = tokens / self._calibration[f"pca_sd/{block}"]
        unit = power_below(np.abs(standard).max(axis=-1, keepdims=True))
        with np.errstate(invalid="ignore"):  # infinity becomes NaN, which the next step refuses
            whole = np.rint(standard.astype(np.float64) / unit * TOKEN_STEPS)
            projected = whole @ self.whole_basis(block)
        scaled: Array = (projected * (unit / (TOKEN_STEPS * BASIS_STEPS))).astype(np.float32)
        return scaled

    def whole_basis(self, block: int) -> NDArray[np.float64]:
        """The basis (D, K) in multiples of 1 / BASIS_STEPS."""
        basis = self._calibration[f"pca_basis/{block}"].astype(np.float64)
        return np.rint(basis * BASIS_STEPS)

    def standard_deviations(self, block: int) -> Array:
        """(D,): what tokens are divided by first."""
        return self._calibration[f"pca_sd/{block}"]

    def rotation(self, block: int) -> Array | None:
        """(K, D): what takes the projected channels back."""
        back: Array = (
            self._calibration[f"pca_basis/{block}"].T * self._calibration[f"pca_sd/{block}"]
        )
        return back


def power_below(peak: Array) -> NDArray[np.float64]:
    """The power of two at or below each positive float32; 1 for 0, infinity for NaN.

    >>> power_below(np.float32([0, 0.75, 1, 5]))
    array([1. , 0.5, 1. , 4. ])
    """
    power = (peak.view(np.int32) & EXPONENT_BITS).view(np.float32).astype(np.float64)
    return np.where(power == 0, 1.0, power)


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
