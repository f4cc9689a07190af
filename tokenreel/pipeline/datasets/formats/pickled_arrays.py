"""Make the arrays of a pickle from their bytes, never by calling what the pickle names.

NumPy's own constructors trust a pickle: a dtype of objects turns bytes of the file into addresses.
Here a dtype is a name of a short list, an array is `numpy.frombuffer` of bytes whose number is
checked, and a tensor is an array over the bytes of its storage, read without torch.

    dtype   numpy.dtype("f4", False, True), then the state (3, "<", None, None, None, -1, -1, 0)
    array   numpy.core.multiarray._reconstruct(ndarray, (0,), b"b"), then the state
            (1, shape, dtype, is Fortran, bytes); or numpy.core.numeric._frombuffer (protocol 5)
    scalar  numpy.core.multiarray.scalar(dtype, bytes)
    tensor  torch._utils._rebuild_tensor_v2(storage, offset, shape, strides, ...)
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
Dtype: TypeAlias = "np.dtype[Any]"

NUMBERS = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16")
TEXT = re.compile(r"[US](0|[1-9][0-9]{0,5})")
FLAGS = {"U": 8}  # by kind of dtype: new arrays are filled with zeros; of no consequence here
MOST_DIMENSIONS = 32
LONGEST = 2**31  # of a dimension
LAST_CHARACTER = 0x10FFFF
SURROGATES = (0xD800, 0xDFFF)

TORCH_STORAGES = {
    "BoolStorage": "b1",
    "ByteStorage": "u1",
    "CharStorage": "i1",
    "ShortStorage": "i2",
    "IntStorage": "i4",
    "LongStorage": "i8",
    "HalfStorage": "f2",
    "FloatStorage": "f4",
    "DoubleStorage": "f8",
}


class Refused(ValueError):
    """What a pickle asks for and may not have, as a sentence."""


class _Ndarray:
    """The name numpy.ndarray, which is an argument of `_reconstruct` and is never called."""


NDARRAY = _Ndarray()


class Budget:
    """Bytes and steps that one file may use, bounded by its size.

    Sharing of parts makes a small file ask for much: arrays that are views with stride 0, copies
    of one text.  Sound files need their own size, or a few times it.
    """

    def __init__(self, num_bytes: int, *, num_steps: int) -> None:
        self.most_values = 16 * num_bytes + 2**20
        self._bytes = 16 * num_bytes + 2**20
        self._nested = num_bytes
        self._steps = num_steps

    def take_bytes(self, count: int) -> None:
        """Account for an array or a copy, before it is made."""
        self._bytes -= count
        if self._bytes < 0:
            raise Refused("the pickle asks for arrays that are far larger than the file")

    def take_nested(self, count: int) -> None:
        """Account for bytes that are read as a pickle in the pickle."""
        self._nested -= count
        if self._nested < 0:
            raise Refused("the pickle reads the same bytes again and again")

    def take_step(self) -> None:
        """Account for one opcode."""
        self._steps -= 1
        if self._steps < 0:
            raise Refused("the pickle has too many values: keep labels in arrays, not in lists")


@dataclass
class Unbuilt:
    """What the state that follows completes.

    Attributes:
        build: state -> value.
        keys: of the memo that hold this, and shall hold the value.
    """

    build: Callable[[Any], Any]
    keys: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Storage:
    """The numbers of tensors: (N,), read only."""

    numbers: Array


def make_dtype(arguments: tuple[Any, ...]) -> Unbuilt:
    """A dtype by name; its state gives the byte order and may give nothing else."""
    match arguments:
        case (str(name), 0, 1) if name in NUMBERS or TEXT.fullmatch(name):
            dtype = np.dtype(name)
        case (str(name), *_):
            raise Refused(f"the pickle asks for arrays of {name[:20]!a}")
        case _:
            raise Refused("the pickle asks for arrays of an unknown type")

    def build(state: Any) -> Dtype:
        match state:
            case (3, "<" | ">" | "=" | "|" as order, None, None, None, int(size), int(), flags):
                is_known = size in (-1, dtype.itemsize) and flags == FLAGS.get(dtype.kind, 0)
                if is_known and (order != "|" or dtype.byteorder == "|"):
                    return dtype.newbyteorder(order)
        raise Refused(f"the pickle alters the type {name}")

    return Unbuilt(build)


def reconstruct_array(arguments: tuple[Any, ...], budget: Budget) -> Unbuilt:
    """An array whose state gives shape, dtype and bytes."""
    match arguments:
        case (kind, (0,), b"b" | "b") if kind is NDARRAY:
            return Unbuilt(lambda state: _array_of_state(state, budget))
    raise Refused("the pickle asks for an array that is no plain array")


def _array_of_state(state: Any, budget: Budget) -> Array:
    match state:
        case (1, tuple(shape), np.dtype() as dtype, bool() | 0 | 1 as is_fortran, data):
            return _array(_bytes_of(data), dtype, shape, "F" if is_fortran else "C", budget)
    raise Refused("the pickle fills an array with what is not shape, type and bytes")


def make_array(arguments: tuple[Any, ...], budget: Budget) -> Array:
    """An array as protocol 5 writes it: bytes, dtype, shape, order and order of the axes."""
    match arguments:
        case (data, np.dtype() as dtype, tuple(shape), "C" | "F" as order, *rest):
            if rest in ([], [None]):
                return _array(_bytes_of(data), dtype, shape, order, budget)
        case (data, np.dtype() as dtype, tuple(shape), "K", tuple(axes)):
            array = _array(_bytes_of(data), dtype, shape, "C", budget)
            if sorted(_whole(axes)) == list(range(array.ndim)):
                return array.transpose(axes)
    raise Refused("the pickle asks for an array of what is not bytes, type and shape")


def make_scalar(arguments: tuple[Any, ...], budget: Budget) -> Any:
    """A NumPy number or text of its bytes."""
    match arguments:
        case (np.dtype() as dtype, data):
            return _array(_bytes_of(data), dtype, (1,), "C", budget)[0]
    raise Refused("the pickle asks for a number of what is not type and bytes")


def make_tensor(arguments: tuple[Any, ...], budget: Budget) -> Array:
    """The numbers of a tensor, as an array that owns them."""
    match arguments:
        case (Storage(numbers), int(offset), tuple(shape), tuple(strides), *_):
            counts, steps = _shape_of(shape), _shape_of(strides)
        case _:
            raise Refused("the pickle asks for a tensor of what is not storage, shape and strides")
    size = numbers.itemsize
    budget.take_bytes(math.prod(counts) * size)
    if len(counts) != len(steps) or not 0 <= offset <= numbers.size:
        raise Refused("the pickle asks for a tensor that leaves its storage")
    last = offset + sum((count - 1) * step for count, step in zip(counts, steps, strict=True))
    if math.prod(counts) == 0:
        return np.zeros(counts, numbers.dtype)
    if last >= numbers.size:
        raise Refused("the pickle asks for a tensor that leaves its storage")
    strides = tuple(step * size for step in steps)
    view: Array = np.ndarray(counts, numbers.dtype, numbers, offset * size, strides)
    return view.copy()


def _array(data: bytes, dtype: Dtype, shape: tuple[Any, ...], order: Any, budget: Budget) -> Array:
    counts = _shape_of(shape)
    count = math.prod(counts)
    if count * dtype.itemsize != len(data):
        raise Refused(
            f"the pickle asks for {count} values of {dtype.itemsize} bytes and holds {len(data)}"
        )
    budget.take_bytes(max(count, len(data)))
    if not data:
        return np.zeros(counts, dtype)
    if dtype.kind == "U":
        points = np.frombuffer(data, np.dtype("u4").newbyteorder(dtype.byteorder))
        first, last = SURROGATES
        if ((points > LAST_CHARACTER) | ((points >= first) & (points <= last))).any():
            raise Refused("the pickle holds text of numbers that are no characters")
    if dtype.kind == "b":  # other bytes than 0 and 1 are no truth values
        truths: Array = np.frombuffer(data, np.uint8) != 0
        return truths.reshape(counts, order=order)
    return np.frombuffer(data, dtype).reshape(counts, order=order).copy()


def _bytes_of(data: Any) -> bytes:
    """Bytes, also those that Python 2 wrote as text."""
    if isinstance(data, bytes | bytearray):
        return bytes(data)
    if isinstance(data, str) and data.isascii():
        return data.encode()
    raise Refused("the pickle fills an array with what is not bytes")


def _shape_of(shape: tuple[Any, ...]) -> tuple[int, ...]:
    counts = _whole(shape)
    if len(counts) > MOST_DIMENSIONS or not all(0 <= count < LONGEST for count in counts):
        raise Refused("the pickle asks for an array of an impossible shape")
    return counts


def _whole(values: tuple[Any, ...]) -> tuple[int, ...]:
    if not all(type(value) is int for value in values):
        raise Refused("the pickle asks for an array of an impossible shape")
    return values
