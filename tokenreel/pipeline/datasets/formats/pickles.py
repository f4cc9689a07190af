"""Read the pickles of CARL without executing what is in them.

A pickle can call any function.  Here it can build plain containers, NumPy arrays and torch tensors
of numbers, and nothing else: every other name is refused before it is looked up.
"""

import io
import pickle
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tokenreel.cache.errors import UsageError

__all__ = ["read_plain_pickle"]


def read_plain_pickle(path: Path) -> Any:
    """The content of a pickle of lists, tuples, dicts, numbers, text, arrays and tensors.

    Tensors come back as NumPy arrays.

    Raises:
        UsageError: the file names anything else, or is no pickle.
    """
    try:
        with path.open("rb") as file:
            return _Plain(file, path).load()
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, KeyError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{path.name}: not a pickle that can be read: {error}") from None
    except (IndexError, AttributeError, ImportError, RuntimeError) as error:
        raise UsageError(f"{path.name}: a damaged pickle: {error}") from None


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """What protocol 2 writes for bytes."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes in {encoding!r}")
    return text.encode("latin1")


def _empty_array(kind: type, shape: tuple[int, ...], code: bytes) -> Any:
    """An array for the state that follows; the state sets shape and type."""
    if kind is not np.ndarray or shape != (0,):
        raise pickle.UnpicklingError(f"an array of {kind} {shape}")
    return np.ndarray.__new__(np.ndarray, (0,), "b")


def _scalar(dtype: "np.dtype[Any]", data: bytes) -> Any:
    return np.frombuffer(data, dtype, count=1)[0]


def _from_buffer(data: bytes, dtype: "np.dtype[Any]", shape: Any, order: Any) -> Any:
    """An array as protocol 5 writes it."""
    return np.frombuffer(data, dtype).reshape(shape, order=order).copy()


def _storage(data: bytes) -> Any:
    """The numbers of a tensor, through torch's own reader of weights only."""
    import torch

    return torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")


def _tensor(storage: Any, offset: int, size: Any, stride: Any, *_: Any) -> Any:
    import torch

    numbers = torch.tensor([], dtype=storage.dtype)
    with warnings.catch_warnings():  # typed storages are deprecated; CARL's files hold them
        warnings.simplefilter("ignore", UserWarning)
        untyped = storage.untyped()
    numbers.set_(untyped, offset, tuple(size), tuple(stride))
    return numbers.numpy().copy()


_ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _encode,
    ("numpy", "dtype"): np.dtype,
    ("numpy", "ndarray"): np.ndarray,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch.storage", "_load_from_bytes"): _storage,
}
for _core in ("numpy.core", "numpy._core"):
    _ALLOWED[f"{_core}.multiarray", "_reconstruct"] = _empty_array
    _ALLOWED[f"{_core}.multiarray", "scalar"] = _scalar
    _ALLOWED[f"{_core}.numeric", "_frombuffer"] = _from_buffer


class _Plain(pickle.Unpickler):
    def __init__(self, file: Any, path: Path) -> None:
        super().__init__(file)
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise UsageError(
                f"{self._path.name}: the pickle asks for {module}.{name}; only plain containers, "
                "arrays and tensors are read, nothing is executed"
            )
        return _ALLOWED[module, name]
