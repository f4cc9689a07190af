"""Read the pickles of CARL as data: nothing that a pickle names is looked up or called.

A pickle is a program.  `pickletools` of the standard library takes it apart into opcodes; those
that build plain containers, numbers and text are carried out here, and a short list of names stands
for functions of `pickled_arrays`.  Every other opcode and name is refused.  What a file asks for is
bounded by its size: parts that are shared count wherever they occur, so that a few bytes cannot
stand for millions of values, and parts may not hold themselves.
"""

import io
import pickletools
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from tokenreel.cache.errors import UsageError, limit_behind
from tokenreel.pipeline.datasets.formats.pickled_arrays import (
    NDARRAY,
    TORCH_STORAGES,
    Budget,
    Refused,
    Storage,
    Unbuilt,
    make_array,
    make_dtype,
    make_scalar,
    make_tensor,
    reconstruct_array,
)

MOST_BYTES = 2**28  # CARL's files have some megabytes
MOST_STEPS = 2**22  # opcodes, one or two a value
DEEPEST = 50  # containers in containers
LARGEST_WHOLE = 2**128  # torch's magic number has 77 bits
LARGEST_KEY = 2**64  # of larger numbers, any number can be chosen that have one hash
NEWEST_PROTOCOL = 5
TORCH_MAGIC = 0x1950A86A20F9469CFC6C
LONGEST_NAME = 60

Scalar = (str, bytes, bool, int, float, type(None))
Leaf = (*Scalar, bytearray, np.bool_, np.number, np.str_, np.bytes_)


def read_plain_pickle(path: Path) -> Any:
    """The content of a pickle of lists, tuples, dicts, sets, numbers, text, arrays and tensors.

    Tensors come back as NumPy arrays.  Text of Python 2 that is not ASCII comes back as bytes.

    Raises:
        UsageError: the file cannot be read, is no pickle, asks for anything else, or for more than
            its size allows.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        if limit := limit_behind(error):
            raise limit from error
        raise UsageError(f"{path}: {error.strerror}") from None
    if len(data) > MOST_BYTES:
        raise UsageError(f"{path.name}: has over {MOST_BYTES >> 20} MiB, too many for labels")
    budget = Budget(len(data), num_steps=MOST_STEPS)
    try:
        value = _Machine(io.BytesIO(data), _Names(budget), budget).run()
        _check_plain(value, budget.most_values)
    except Refused as error:
        raise UsageError(
            f"{path.name}: {error}; only plain containers, arrays and tensors are read, "
            "nothing is executed"
        ) from None
    except (ValueError, OverflowError, IndexError, KeyError) as error:
        reason = str(error)[:200] or type(error).__name__
        raise UsageError(f"{path.name}: not a pickle that can be read: {reason}") from None
    except MemoryError:
        raise UsageError(f"{path.name}: not enough memory for this pickle") from None
    return value


class _Names:
    """The names that a pickle may use, and what stands for them."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        functions: dict[str, Callable[[tuple[Any, ...]], Any]] = {
            "collections.OrderedDict": _ordered_dict,
            "_codecs.encode": self._encode,
            "__builtin__.bytes": _no_bytes,
            "builtins.bytes": _no_bytes,
            "numpy.dtype": make_dtype,
            "torch._utils._rebuild_tensor_v2": lambda words: make_tensor(words, budget),
            "torch.storage._load_from_bytes": self._storage,
        }
        for core in ("numpy.core", "numpy._core"):
            functions |= {
                f"{core}.multiarray._reconstruct": lambda words: reconstruct_array(words, budget),
                f"{core}.multiarray.scalar": lambda words: make_scalar(words, budget),
                f"{core}.numeric._frombuffer": lambda words: make_array(words, budget),
            }
        self._known: dict[str, Any] = {n: _Function(f) for n, f in functions.items()}
        self._known["numpy.ndarray"] = NDARRAY

    def find(self, name: str) -> Any:
        if name not in self._known:
            raise Refused(f"the pickle asks for {_shown(name)}")
        return self._known[name]

    def persistent(self, words: Any) -> Any:
        raise Refused("the pickle asks for data beside the file")

    def _encode(self, arguments: tuple[Any, ...]) -> bytes:
        """What protocol 2 writes for bytes."""
        match arguments:
            case (str(text), "latin1"):
                self._budget.take_bytes(len(text))
                return text.encode("latin1")
        raise Refused("the pickle encodes text, but not as latin1")

    def _storage(self, arguments: tuple[Any, ...]) -> Storage:
        """The numbers of a tensor, of what torch.save writes without a zip archive."""
        match arguments:
            case (bytes(data),):
                self._budget.take_nested(len(data))
                return _read_storage(data, self._budget)
        raise Refused("the pickle asks for a storage of what is not bytes")


@dataclass(frozen=True)
class _Function:
    """A name that may be called.

    Attributes:
        call: arguments -> value.
    """

    call: Callable[[tuple[Any, ...]], Any]


@dataclass(frozen=True)
class _StorageKind:
    """The name of a torch storage: dtype of its numbers."""

    dtype: str


@dataclass(frozen=True)
class _UnreadStorage:
    """A storage as its pickle tells it; the numbers follow."""

    key: str
    dtype: str
    count: int


class _StorageNames:
    """Names in a file of one torch storage."""

    def find(self, name: str) -> _StorageKind:
        module, _, kind = name.rpartition(".")
        if module != "torch" or kind not in TORCH_STORAGES:
            raise Refused(f"the pickle asks for {_shown(name)} in a tensor")
        return _StorageKind(TORCH_STORAGES[kind])

    def persistent(self, words: Any) -> _UnreadStorage:
        match words:
            case ("storage", _StorageKind(dtype), str(key), str(), int(count), None):
                return _UnreadStorage(key, dtype, count)
        raise Refused("the pickle asks for a tensor in an unknown form")


def _read_storage(data: bytes, budget: Budget) -> Storage:
    """The storage in torch's older format.

    Five pickles (magic number, version, description of the machine, the storage, its key), the
    number of values as 8 bytes, and the values, all little-endian.
    """
    file = io.BytesIO(data)
    parts = [_Machine(file, _StorageNames(), budget).run() for _ in range(5)]
    match parts:
        case [magic, 1001, {"little_endian": True}, _UnreadStorage(key, dtype, count), [listed]]:
            count_bytes = file.read(8)
            rest = data[file.tell() :]
            if (
                (magic, listed) == (TORCH_MAGIC, key)
                and int.from_bytes(count_bytes, "little") == count
                and len(rest) == count * np.dtype(dtype).itemsize
            ):
                return Storage(_numbers(rest, dtype))
    raise Refused("the pickle holds a tensor that is damaged, or in an unknown form")


def _numbers(data: bytes, dtype: str) -> Any:
    if not data:
        return np.zeros(0, dtype)
    if dtype == "b1":
        return np.frombuffer(data, np.uint8) != 0
    return np.frombuffer(data, np.dtype(dtype).newbyteorder("<"))


class _Machine:
    """Carries out the opcodes of one pickle."""

    def __init__(self, file: BinaryIO, names: Any, budget: Budget) -> None:
        self._file = file
        self._names = names
        self._budget = budget
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []  # stacks below each mark
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        for opcode, argument, _ in pickletools.genops(self._file):
            self._budget.take_step()
            if opcode.name in _VALUES:
                self._stack.append(_VALUES[opcode.name](argument))
            elif opcode.name in _STEPS:
                _STEPS[opcode.name](self, argument)
            elif opcode.name != "STOP":
                raise Refused(f"the pickle uses the opcode {opcode.name}")
        return self._pop()

    def _pop(self) -> Any:
        if not self._stack:
            raise ValueError("a value is missing")
        return self._stack.pop()

    def _top(self, *kinds: type) -> Any:
        if not self._stack or not isinstance(self._stack[-1], kinds):
            raise ValueError(f"a {kinds[0].__name__} is missing")
        return self._stack[-1]

    def pop_to_mark(self) -> list[Any]:
        if not self._below:
            raise ValueError("a mark is missing")
        items, self._stack = self._stack, self._below.pop()
        return items

    def mark(self, _: Any) -> None:
        self._below.append(self._stack)
        self._stack = []

    def pop(self, _: Any) -> None:
        if self._stack or not self._below:
            self._pop()
        else:
            self.pop_to_mark()

    def dup(self, _: Any) -> None:
        self._stack.append(self._top(object))

    def push_tuple(self, count: int) -> None:
        items = [self._pop() for _ in range(count)]
        self._stack.append(tuple(reversed(items)))

    def collect(self, make: Callable[[list[Any]], Any]) -> None:
        """Put what `make` makes of the values above the mark in their place."""
        made = make(self.pop_to_mark())
        self._stack.append(made)

    def append(self, _: Any) -> None:
        item = self._pop()
        self._top(list).append(item)

    def appends(self, _: Any) -> None:
        items = self.pop_to_mark()
        self._top(list).extend(items)

    def set_item(self, _: Any) -> None:
        value, key = self._pop(), self._pop()
        self._top(dict)[_checked_key(key)] = value

    def set_items(self, _: Any) -> None:
        items = self.pop_to_mark()
        self._top(dict).update(_pairs(items))

    def add_items(self, _: Any) -> None:
        items = self.pop_to_mark()
        self._top(set).update(map(_checked_key, items))

    def get(self, key: int) -> None:
        if key not in self.memo:
            raise ValueError(f"no value was kept as {key}")
        self._stack.append(self.memo[key])

    def put(self, key: int) -> None:
        value = self.memo[key] = self._top(object)
        if isinstance(value, Unbuilt):
            value.keys.append(key)

    def find_name(self, text: str) -> None:
        self._stack.append(self._names.find(text.replace(" ", ".", 1)))

    def find_name_on_stack(self, _: Any) -> None:
        name, module = self._pop(), self._pop()
        if not (isinstance(name, str) and isinstance(module, str)):
            raise Refused("the pickle asks for a name that is not text")
        self._stack.append(self._names.find(f"{module}.{name}"))

    def call(self, _: Any) -> None:
        arguments, function = self._pop(), self._pop()
        if not (isinstance(function, _Function) and isinstance(arguments, tuple)):
            raise Refused("the pickle calls what is not a function")
        self._stack.append(function.call(arguments))

    def build(self, _: Any) -> None:
        """Complete what is on the stack, and in the memo, by its state."""
        state = self._pop()
        unbuilt = self._top(object)
        if not isinstance(unbuilt, Unbuilt):
            raise Refused("the pickle sets the state of an object")
        value = self._stack[-1] = unbuilt.build(state)
        self.memo |= {key: value for key in unbuilt.keys if self.memo[key] is unbuilt}
        unbuilt.keys.clear()

    def find_persistent(self, _: Any) -> None:
        self._stack.append(self._names.persistent(self._pop()))

    def check_protocol(self, version: int) -> None:
        if version > NEWEST_PROTOCOL:
            raise ValueError(f"protocol {version}, known is up to {NEWEST_PROTOCOL}")


def _whole(value: int) -> int:
    if not -LARGEST_WHOLE < value < LARGEST_WHOLE:
        raise Refused("the pickle holds a number of more than 128 bits")
    return value


def _text(value: str) -> str:
    """Text, refused where it holds halves of characters: no file can hold it as UTF-8."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Refused("the pickle holds text that is not UTF-8") from None
    return value


def _old_text(value: str) -> str | bytes:
    """Text of Python 2; bytes where it is not ASCII."""
    return value if value.isascii() else value.encode("latin1")


def _same(value: Any) -> Any:
    return value


_VALUES: Mapping[str, Callable[[Any], Any]] = {  # opcodes that push a value
    "NONE": lambda _: None,
    "NEWTRUE": lambda _: True,
    "NEWFALSE": lambda _: False,
    **dict.fromkeys(("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"), _whole),
    **dict.fromkeys(("FLOAT", "BINFLOAT"), _same),
    **dict.fromkeys(("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"), _same),
    **dict.fromkeys(("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"), _text),
    **dict.fromkeys(("STRING", "BINSTRING", "SHORT_BINSTRING"), _old_text),
    "EMPTY_LIST": lambda _: [],
    "EMPTY_TUPLE": lambda _: (),
    "EMPTY_DICT": lambda _: {},
    "EMPTY_SET": lambda _: set(),
}

_STEPS: Mapping[str, Callable[[_Machine, Any], object]] = {  # the others that are carried out
    "PROTO": _Machine.check_protocol,
    "FRAME": lambda machine, length: None,
    "MARK": _Machine.mark,
    "POP": _Machine.pop,
    "POP_MARK": lambda machine, _: machine.pop_to_mark(),
    "DUP": _Machine.dup,
    "TUPLE": lambda machine, _: machine.collect(tuple),
    "TUPLE1": lambda machine, _: machine.push_tuple(1),
    "TUPLE2": lambda machine, _: machine.push_tuple(2),
    "TUPLE3": lambda machine, _: machine.push_tuple(3),
    "LIST": lambda machine, _: machine.collect(list),
    "DICT": lambda machine, _: machine.collect(lambda items: dict(_pairs(items))),
    "FROZENSET": lambda machine, _: machine.collect(lambda x: frozenset(map(_checked_key, x))),
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "ADDITEMS": _Machine.add_items,
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.get),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Machine.put),
    "MEMOIZE": lambda machine, _: machine.put(len(machine.memo)),
    "GLOBAL": _Machine.find_name,
    "STACK_GLOBAL": _Machine.find_name_on_stack,
    "REDUCE": _Machine.call,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.find_persistent,
}


def _ordered_dict(arguments: tuple[Any, ...]) -> OrderedDict[Any, Any]:
    match arguments:
        case ():
            return OrderedDict()
        case ([*pairs],) if all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
            return OrderedDict(_pairs([part for pair in pairs for part in pair]))
    raise Refused("the pickle fills a dictionary with what is not pairs")


def _no_bytes(arguments: tuple[Any, ...]) -> bytes:
    """What the first protocols write for bytes of length 0."""
    if arguments:
        raise Refused("the pickle makes bytes of something else")
    return b""


def _pairs(items: list[Any]) -> Iterator[tuple[Any, Any]]:
    if len(items) % 2:
        raise ValueError("a key without a value")
    return zip(map(_checked_key, items[::2]), items[1::2], strict=True)


def _checked_key(key: Any) -> Any:
    """A key of a dictionary or a part of a set: text or a number.

    Keys that are tuples can be chosen so that all have one hash, which takes hours, or be so deep
    that Python's own stack ends.
    """
    if type(key) not in Scalar:
        raise Refused("the pickle has a dictionary whose keys are not text and numbers")
    if type(key) is int and not -LARGEST_KEY < key < LARGEST_KEY:
        raise Refused("the pickle has a dictionary with a key of more than 64 bits")
    return key


def _check_plain(root: Any, most: int) -> None:
    """Refuse what is not data, holds itself, is nested too deep, or is `most` values or more.

    A part that is shared counts wherever it occurs.
    """
    known: dict[int, tuple[int, int]] = {}  # id of a container -> values in it, its depth
    path: list[_Visit] = [_Visit([root])]
    holders: set[int] = set()
    while True:
        visit = path[-1]
        value = next(visit.rest, path)  # the path itself: the end
        if value is path:
            path.pop()
            if not path:
                return
            holders.discard(id(visit.container))
            known[id(visit.container)] = visit.count, visit.depth
            path[-1].add(visit.count, visit.depth, most)
        elif isinstance(value, np.ndarray):
            visit.add(1 + value.size, 0, most)
        elif isinstance(value, Leaf):
            visit.add(1, 0, most)
        elif not isinstance(value, list | tuple | dict | set | frozenset):
            raise Refused("the pickle is not data")
        elif id(value) in holders:
            raise Refused("the pickle has a part that holds itself")
        elif id(value) in known:
            visit.add(*known[id(value)], most)
        else:
            holders.add(id(value))
            path.append(_Visit(value))
        if len(path) + path[-1].depth > DEEPEST:
            raise Refused("the pickle is nested too deep")


class _Visit:
    """A container on the way down: what is left of it, and what was counted."""

    def __init__(self, container: Any) -> None:
        self.container = container
        values = container.values() if isinstance(container, dict) else container
        self.rest = iter(values)
        self.count = 1 + (len(container) if isinstance(container, dict) else 0)
        self.depth = 1

    def add(self, count: int, depth: int, most: int) -> None:
        """Count a part."""
        self.count += count
        self.depth = max(self.depth, 1 + depth)
        if self.count > most:
            raise Refused("the pickle repeats its parts until they are too many")


def _shown(name: str) -> str:
    """A name for a message, short and printable."""
    short = name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}..."
    return short if short.isprintable() else ascii(short)
