"""Products of codes with a vector: casts of small tiles, or compiled loops where Numba is there.

Compiled, codes become floats in registers, which is twice as fast; a process that searches often
compiles them once, beside its other work.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.codec.base import Array

_compiled: list[Callable[..., None]] = []  # one, once it is compiled


def compile_loops() -> bool:
    """Compile the loops for this process, a second; False where Numba is not installed."""
    if _compiled:
        return True
    try:
        import numba
    except ModuleNotFoundError:
        return False
    loop = numba.njit(nogil=True, fastmath={"reassoc", "nsz", "contract"})(_dot_rows)
    loop(np.zeros((1, 2), np.int8), np.zeros(2, np.float32), np.empty(1, np.float32))
    _compiled[:] = [loop]
    return True


def dot_codes(codes: Array, weights: NDArray[np.float32], *, tile: int) -> NDArray[np.float32]:
    """Products of each token's codes with a vector: (F, n, d), (d,) -> (F, n).

    Args:
        codes: numbers, contiguous.
        weights: the vector.
        tile: elements that are cast at a time.
    """
    rows = codes.reshape(-1, codes.shape[-1])
    products = np.empty(len(rows), np.float32)
    if _compiled and codes.dtype == np.int8:
        _compiled[0](rows, weights, products)
    else:
        step = max(1, tile // rows.shape[1])
        values = np.empty((step, rows.shape[1]), np.float32)
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            own = values[: len(part)]
            np.copyto(own, part)
            np.vecdot(own, weights, out=products[start : start + step])
    return products.reshape(codes.shape[:2])


def _dot_rows(codes: Any, weights: Any, products: Any) -> None:
    for row in range(codes.shape[0]):
        total = np.float32(0)
        for column in range(codes.shape[1]):
            total += np.float32(codes[row, column]) * weights[column]
        products[row] = total
