"""Check of the arrays that a metric is computed from."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def require_finite(name: str, frames: NDArray[np.generic] | Sequence[NDArray[np.generic]]) -> None:
    """Check that embeddings, or those of every clip, hold real and finite numbers.

    Args:
        name: of the argument, for the error.
        frames: (n, C), or one (T_i, C) a clip.

    Raises:
        ValueError: NaN or infinity, with the name of the argument and the first place.
        TypeError: complex numbers, text or objects.

    >>> require_finite("train", np.array([[1.0, np.nan]]))
    Traceback (most recent call last):
    ValueError: train holds 1 value(s) that are NaN or infinite, the first in row 0: leave them out
    """
    arrays = [frames] if isinstance(frames, np.ndarray) else frames
    for i, array in enumerate(arrays):
        where = name if isinstance(frames, np.ndarray) else f"{name}[{i}]"
        if array.dtype.kind not in "fiub":
            raise TypeError(f"{where} holds {array.dtype}, wanted real numbers")
        finite = np.isfinite(array)
        if not finite.all():
            row = int(np.argwhere(~finite)[0][0])
            raise ValueError(
                f"{where} holds {int((~finite).sum())} value(s) that are NaN or infinite, the "
                f"first in row {row}: leave them out"
            )
