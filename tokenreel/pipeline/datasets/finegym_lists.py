"""The annotation files of FineGym: element lists, times, names of classes."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenreel.cache.csv_tables import read_lines
from tokenreel.cache.errors import UsageError

__all__ = ["Element", "by_event", "read_list", "read_names", "read_times"]

ELEMENT = re.compile(r"((.+)_E_\d+_\d+)_(A_\d+_\d+) +(\d+)")
CATEGORY = re.compile(r"Clabel:\s*(\d+);.*?Glabel:\s*\d+;\s*(.+)")


@dataclass(frozen=True)
class Element:
    """A line of an element list: event, element, class and where it stands."""

    event: str
    youtube: str
    name: str
    label: int
    where: str


def read_list(path: Path, num_classes: int) -> Iterator[Element]:
    """Yield the lines of an element list.

    Raises:
        UsageError: a line that is not of the format, a class that is not there, or an element
            that stands there twice; named by file and line.
    """
    seen: dict[str, Element] = {}
    for number, text in enumerate(read_lines(path), start=1):
        where = f"{path.name}:{number}"
        if not text.strip():
            continue
        match = ELEMENT.fullmatch(text.strip())
        if match is None:
            raise UsageError(f"{where}: {text!r} is not `<id>_E_.._.._A_.._.. <class>`")
        element = Element(match[1], match[2], match[3], int(match[4]), where)
        if element.label >= num_classes:
            raise UsageError(f"{where}: class {element.label} of {num_classes}, counted from 0")
        key = f"{element.event}_{element.name}"
        if key in seen:
            raise UsageError(f"{where}: {key} stands at {seen[key].where} already")
        seen[key] = element
        yield element


def by_event(elements: Iterator[Element]) -> dict[str, list[Element]]:
    """The elements of each event, in the order of the list."""
    events: dict[str, list[Element]] = {}
    for element in elements:
        events.setdefault(element.event, []).append(element)
    return events


def read_times(path: Path) -> dict[str, dict[str, Any]]:
    """Times of events and elements: {youtube id: {event: {"timestamps": ..., "segments": ...}}}.

    Raises:
        UsageError: a file that is not of this form.
    """
    try:
        times = json.loads("\n".join(read_lines(path)))
    except ValueError as error:
        raise UsageError(f"{path.name}: not JSON: {error}") from None
    if not isinstance(times, dict) or not all(isinstance(v, dict) for v in times.values()):
        raise UsageError(f"{path.name}: expected {{youtube id: {{event: ...}}}}")
    return times


def read_names(root: Path, num_classes: int) -> tuple[str, ...]:
    """Names of the classes; a text that stands there twice gets its number (gym288 has three)."""
    names = [f"class {label}" for label in range(num_classes)]
    for path in (root / "annotations", root):
        file = path / f"gym{num_classes}_categories.txt"
        if file.is_file():
            for text in read_lines(file):
                match = CATEGORY.match(text)
                if match and int(match[1]) < num_classes:
                    names[int(match[1])] = match[2].strip()
            break
    return tuple(
        f"{name} [{label}]" if names.count(name) > 1 else name for label, name in enumerate(names)
    )
