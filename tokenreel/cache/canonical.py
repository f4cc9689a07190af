"""JSON in files: canonical bytes, one strict reading, checksums ("seals"), field-by-field diffs."""

import json
from collections.abc import Mapping
from typing import Any

import crc32c

from tokenreel.cache.errors import Damaged

DEEPEST = 64  # levels
MOST_DIGITS = 18  # of a whole number that is written as text
MOST_CHARACTERS = 20  # of a whole number in JSON: 64 bits, its sign with them


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys, no spaces, no NaN, UTF-8: equal values give equal bytes.

    >>> canonical_json({"b": 1, "a": [1.5, None]})
    b'{"a":[1.5,null],"b":1}'
    """
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode()


def read_json(data: bytes | str, *, allows_nan: bool = False) -> Any:
    """The value of a JSON text that somebody else may have written; the one reading of JSON here.

    Stricter than the standard library, so that what is read has one meaning and can be written
    again: UTF-8 without a mark, at most DEEPEST levels, each key once, no NaN or infinity, whole
    numbers of 64 bits, no half of a surrogate pair.

    Args:
        data: the text.
        allows_nan: take NaN, Infinity and -Infinity, which Python writes, for numbers.

    Raises:
        ValueError: anything else, in one sentence.

    >>> read_json(b'{"a": [1.5, null]}')
    {'a': [1.5, None]}
    """
    try:
        text = data if isinstance(data, str) else data.decode()
        value = (_LENIENT if allows_nan else _DECODER).decode(text)
    except RecursionError:
        raise ValueError(f"JSON of more than {DEEPEST} levels") from None
    except UnicodeDecodeError as error:
        raise ValueError(
            f"not UTF-8: byte {error.start} is {error.object[error.start]:#04x}"
        ) from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error}") from None
    if text.count("[") + text.count("{") > DEEPEST:
        _check_depth(value)
    if isinstance(data, str) or "\\u" in text:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            half = error.object[error.start]
            raise ValueError(f"half of a surrogate pair, {half!a}, which is no text") from None
    return value


def parse_json(data: bytes | str, *, where: object) -> Any:
    """Parse the JSON of a file of ours; `where` names it in the error.

    Raises:
        Damaged: see read_json.
    """
    try:
        return read_json(data)
    except ValueError as error:
        raise Damaged(f"{where}: {error}") from error


def parse_object(data: bytes | str, *, where: object) -> dict[str, Any]:
    """As parse_json, of a file that holds names and values.

    Raises:
        Damaged: see read_json; or another kind of value.
    """
    value = parse_json(data, where=where)
    if not isinstance(value, dict):
        raise Damaged(f"{where}: not an object of names and values but {value!r:.60}")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r:.60} is given twice")
    return values


def _whole(text: str) -> int:
    value = int(text) if len(text) <= MOST_CHARACTERS else 2**64
    if not -(2**63) <= value < 2**64:
        digits = len(text.removeprefix("-"))
        raise ValueError(f"a whole number of {digits} digits, beyond 64 bits: {text:.24}")
    return value


def _real(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{text:.24} is beyond a float64")
    return value


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is no JSON")


def _check_depth(value: Any) -> None:
    level, parts = 0, [value]
    while parts := [part for part in parts if isinstance(part, dict | list)]:
        level += 1
        if level > DEEPEST:
            raise ValueError(f"JSON of more than {DEEPEST} levels")
        parts = [
            inner for part in parts for inner in (part.values() if isinstance(part, dict) else part)
        ]


_LENIENT = json.JSONDecoder(object_pairs_hook=_unique, parse_int=_whole, parse_float=_real)
_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique, parse_int=_whole, parse_float=_real, parse_constant=_no_constant
)


def seal(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values plus "crc32c", the checksum of their canonical JSON."""
    return {**values, "crc32c": crc32c.crc32c(canonical_json(dict(values)))}


def open_seal(values: Any, *, where: object) -> dict[str, Any]:
    """The values of a sealed object, without the checksum.

    Raises:
        Damaged: no checksum, or not the one of these values.
    """
    if not isinstance(values, dict) or "crc32c" not in values:
        raise Damaged(f"{where}: no checksum")
    inner = {key: value for key, value in values.items() if key != "crc32c"}
    if crc32c.crc32c(canonical_json(inner)) != values["crc32c"]:
        raise Damaged(f"{where}: its contents do not match their checksum")
    return inner


def field_differences(here: Any, there: Any, prefix: str = "") -> list[tuple[str, Any, Any]]:
    """Fields in which two JSON values differ: (dotted name, value here, value there).

    >>> field_differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}})
    [('a.c', 2, 3)]
    """
    if isinstance(here, dict) and isinstance(there, dict):
        rows = []
        for key in sorted(here.keys() | there.keys()):
            name = f"{prefix}.{key}" if prefix else key
            rows += field_differences(here.get(key), there.get(key), name)
        return rows
    return [] if here == there else [(prefix, here, there)]


def is_whole_number(text: str) -> bool:
    """Whether a text is a whole number from 0, in at most 18 digits of ASCII, for `int`.

    >>> is_whole_number("007"), is_whole_number("\u00b2"), is_whole_number("9" * 5000)
    (True, False, False)
    """
    return text.isascii() and text.isdigit() and len(text) <= MOST_DIGITS
