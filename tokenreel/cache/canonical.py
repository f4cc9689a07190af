"""JSON in the files of TokenReel: canonical bytes, checksums ("seals") and field-by-field diffs."""

import json
from collections.abc import Mapping
from typing import Any

import crc32c

from tokenreel.cache.errors import Damaged


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys, no spaces, no NaN, UTF-8: equal values give equal bytes.

    >>> canonical_json({"b": 1, "a": [1.5, None]})
    b'{"a":[1.5,null],"b":1}'
    """
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode()


def parse_json(data: bytes, *, where: object) -> Any:
    """Parse the JSON of a file; `where` names it in the error.

    Raises:
        Damaged: not JSON.
    """
    try:
        return json.loads(data)
    except ValueError as error:
        raise Damaged(f"{where}: not JSON: {error}") from error


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
