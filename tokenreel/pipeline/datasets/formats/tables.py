"""Read the CSV files of a data set, with errors that name file, line and value."""

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenreel.cache.errors import UsageError
from tokenreel.pipeline.override import nearest

__all__ = ["Line", "read_lines", "read_rows", "read_table"]


@dataclass(frozen=True)
class Line:
    """One line of a table.

    Attributes:
        where: file name and line number, "labels.csv:12".
        cells: text of each column, stripped.
    """

    where: str
    cells: dict[str, str]

    def seconds(self, column: str) -> float:
        """A column as a time in seconds, finite and not negative."""
        text = self.cells[column]
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or value < 0:
            raise UsageError(f"{self.where}: {column} is {text!r}, not a time of 0 s or later")
        return value

    def optional_seconds(self, column: str) -> float | None:
        """The same, None where the column is absent or empty."""
        return self.seconds(column) if self.cells.get(column) else None


def read_lines(path: Path) -> list[str]:
    """Lines of a text file, without a byte order mark.

    Raises:
        UsageError: a file that cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UsageError(f"{path.name}: not UTF-8 text ({error.reason})") from None
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None


def read_rows(path: Path) -> list[list[str]]:
    """Cells of each line of a CSV file.

    Raises:
        UsageError: as read_lines, or a line that is not CSV.
    """
    try:
        return list(csv.reader(read_lines(path)))
    except csv.Error as error:
        raise UsageError(f"{path.name}: not CSV ({error})") from None


def read_table(
    path: Path, *, required: Sequence[str], optional: Sequence[str] = ()
) -> Iterator[Line]:
    """Lines of a CSV file with a header, comments (#) and empty lines left out.

    Raises:
        UsageError: a column that is missing or unknown, a line with too few or too many cells,
            or a file that is not UTF-8.
    """
    rows = read_rows(path)
    if not rows:
        raise UsageError(f"{path.name}: empty, its first line is {','.join(required)}")
    header = [cell.strip() for cell in rows[0]]
    known = [*required, *optional]
    for name in required:
        if name not in header:
            raise UsageError(f"{path.name}:1: no column {name}; the columns are {','.join(known)}")
    for name in header:
        if name not in known:
            raise UsageError(f"{path.name}:1: unknown column {name!r}{nearest(name, known)}")
    for number, row in enumerate(rows[1:], start=2):
        if not row or row[0].lstrip().startswith("#"):
            continue
        where = f"{path.name}:{number}"
        if len(row) != len(header):
            raise UsageError(f"{where}: {len(row)} cells where the header has {len(header)}: {row}")
        cells = (cell.strip() for cell in row)
        yield Line(where, dict(zip(header, cells, strict=True)))
