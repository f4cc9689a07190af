"""Read TFRecord files of SequenceExamples without TensorFlow.

A record is length (8 bytes), its masked CRC-32C (4), the data, its masked CRC-32C (4), all little
endian; the data is a protobuf message.  Only the fields of tf.train.SequenceExample are known.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import crc32c

from tokenreel.cache.errors import UsageError

Values = list[bytes] | list[float] | list[int]
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


class DamagedRecord(UsageError):
    """A record that is cut short, or whose checksum does not match."""


@dataclass(frozen=True)
class Example:
    """One SequenceExample.

    Attributes:
        where: file and number of the record, from 0: "pouring_val-0-of-1.tfrecord#3".
        context: values of the whole, by name.
        lists: for each name, the values of every step.
    """

    where: str
    context: dict[str, Values]
    lists: dict[str, list[Values]]


def read_examples(path: Path) -> Iterator[Example]:
    """Yield the records of a file, one in memory at a time.

    Raises:
        DamagedRecord: a record that is cut short or fails its checksum.
        UsageError: a record that is no SequenceExample.
    """
    with path.open("rb") as file:
        index = 0
        while head := file.read(12):
            where = f"{path.name}#{index}"
            length = struct.unpack("<Q", _checked(head, where)[:8])[0] if len(head) == 12 else -1
            left = path.stat().st_size - file.tell() - 4
            if not 0 <= length <= left:
                raise DamagedRecord(f"{where}: cut short: {length} bytes wanted, {left} there")
            try:
                yield _example(_checked(file.read(length + 4), where), where)
            except (IndexError, struct.error, UnicodeDecodeError) as error:
                raise UsageError(f"{where}: not a SequenceExample ({error})") from None
            index += 1


def _checked(data: bytes, where: str) -> bytes:
    """The data without the masked checksum at its end."""
    body = data[:-4]
    crc = crc32c.crc32c(body)
    masked = (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
    if masked != struct.unpack("<I", data[-4:])[0]:
        raise DamagedRecord(f"{where}: the checksum does not match, the file is damaged")
    return body


def _example(data: bytes, where: str) -> Example:
    context: dict[str, Values] = {}
    lists: dict[str, list[Values]] = {}
    for field, part in _fields(data):
        if field not in (1, 2) or not isinstance(part, bytes):
            continue
        for _, entry in _fields(part):
            key, value = _entry(entry)
            if field == 1:
                context[key] = _feature(value)
            else:
                lists[key] = [_feature(_bytes(step)) for _, step in _fields(value)]
    return Example(where, context, lists)


def _entry(data: bytes | int) -> tuple[str, bytes]:
    parts = dict(_fields(_bytes(data)))
    return _bytes(parts.get(1, b"")).decode(), _bytes(parts.get(2, b""))


def _feature(data: bytes) -> Values:
    for kind, part in _fields(data):
        values = list(_fields(_bytes(part)))
        if kind == 1:
            return [_bytes(value) for _, value in values]
        if kind == 2:
            return [number for _, value in values for number in _floats(value)]
        if kind == 3:
            return [number for _, value in values for number in _integers(value)]
    return []


def _floats(value: bytes | int) -> list[float]:
    data = value if isinstance(value, bytes) else struct.pack("<I", value)
    return list(struct.unpack(f"<{len(data) // 4}f", data))


def _integers(value: bytes | int) -> list[int]:
    if isinstance(value, int):
        return [_signed(value)]
    numbers, at = [], 0
    while at < len(value):
        number, at = _varint(value, at)
        numbers.append(_signed(number))
    return numbers


def _signed(number: int) -> int:
    return number - 2**64 if number >= 2**63 else number


def _bytes(value: bytes | int) -> bytes:
    if isinstance(value, int):
        raise IndexError("a number where bytes should be")
    return value


def _fields(data: bytes) -> Iterator[tuple[int, bytes | int]]:
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        wire = tag & 7
        if wire == VARINT:
            value, at = _varint(data, at)
            yield tag >> 3, value
            continue
        if wire == BYTES:
            length, at = _varint(data, at)
        elif wire in (FIXED32, FIXED64):
            length = 4 if wire == FIXED32 else 8
        else:
            raise IndexError(f"wire type {wire}")
        part = data[at : at + length]
        if len(part) < length:
            raise IndexError("a field is cut short")
        at += length
        yield tag >> 3, part if wire == BYTES else int.from_bytes(part, "little")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = data[at]
        at += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, at
        shift += 7
        if shift > 63:
            raise IndexError("a number is too long")
