"""Tables that people make in spreadsheets: CSV files, read strictly.

    encoding    UTF-8 with or without a byte order mark, or UTF-16 with one
    separator   comma, semicolon or tab: the one that parts the header into its columns
    lines       end in LF, CRLF or CR; a quoted cell may hold line ends
    cells       text without spaces around it, never changed: "=1+1" and "'a" stay as they are

What a spreadsheet adds is left out: a first line `sep=;`, rows without any text, and columns at the
end without a name and without text.  Everything else that is not as the header says is refused
with file, line, cell and what to do; no cell is guessed.
"""

import csv
import difflib
import io
import math
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from unicodedata import normalize

from tokenreel.cache.errors import UsageError, limit_behind
from tokenreel.cache.manifest import SPLITS
from tokenreel.cache.plugins import nearest

MOST_BYTES = 2**29
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
UTF8_MARK, UTF16_MARKS = b"\xef\xbb\xbf", (b"\xff\xfe", b"\xfe\xff")
LINE_END = re.compile(r"\r\n|\r|\n")
SEPARATOR_LINE = re.compile(r"sep=([,;\t])(?:\r\n|\r|\n)")
DECIMAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
MOST_SHOWN = 120  # characters of a line in a message


@dataclass(frozen=True)
class Line:
    """One line of a table.

    Attributes:
        where: file name and line number, "labels.csv:12".
        cells: column -> text, stripped.
    """

    where: str
    cells: dict[str, str]

    def seconds(self, column: str) -> float:
        """A column as a time in seconds, finite and not negative."""
        text = self.cells[column]
        value = float(text) if DECIMAL.fullmatch(text) else math.nan
        if not math.isfinite(value) or value < 0:
            hint = ": write a decimal point, 1.5 for 1,5" if "," in text else ""
            raise UsageError(
                f"{self.where}: {column} is {text!r}, not a time of 0 s or later{hint}"
            )
        return value

    def optional_seconds(self, column: str) -> float | None:
        """The same, None where the column is absent or empty."""
        return self.seconds(column) if self.cells.get(column) else None


@dataclass
class Comments:
    """Lines of a table that begin with #: those that look like rows are counted.

    Attributes:
        names: first cells that are names although they begin with #, in Unicode's form NFC.
        rows: file and line of each comment that has as many cells as the header.
    """

    names: Collection[str] = ()
    rows: list[str] = field(default_factory=list)

    def takes(self, cell: str, where: str) -> bool:
        """Whether a line is a comment.

        Args:
            cell: the first, which begins with #.
            where: file and line where the line could be a row, else "".

        Raises:
            UsageError: it may be either.
        """
        name = normalize("NFC", cell)
        if where and name in self.names:
            if name[1:].strip() not in self.names:
                return False
            raise UsageError(
                f"{where}: {cell!r} is a name, or {cell[1:].strip()!r} in a comment: write a "
                "comment with a space, or another word, after the #, or rename one of the two"
            )
        if where:
            self.rows.append(where)
        return True

    def notes(self) -> list[str]:
        """A sentence for the comments that look like rows; none without any."""
        if not self.rows:
            return []
        more = f", as {len(self.rows) - 1} more" if len(self.rows) > 1 else ""
        return [f"{self.rows[0]} begins with #{more}: a comment, no row is made of it"]


class Table:
    """A CSV file with a header.

    Attributes:
        header: names of the columns.
        where: file name and line number of the header.

    Args:
        path: of the file.
        columns: names that the header may have; the separator is the one that finds most of them.

    Raises:
        UsageError: a file that cannot be read, is not text or is empty, or two columns of a name.
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self._name = path.name
        self._text = _read_text(path)
        if not self._text.strip():
            raise UsageError(f"{path.name}: empty, its first line is {','.join(columns)}")
        start = SEPARATOR_LINE.match(self._text)
        self._first_line = 1 if start is None else 2
        self._text = self._text[start.end() if start else 0 :]
        separators = start[1] if start else SEPARATORS
        self._separator = max(separators, key=lambda one: self._fit(one, columns))
        self.where = f"{self._name}:{self._first_line}"
        _, header = next(self._rows(self._separator))
        self._width = len(header)  # with columns at the end that have no name
        while header and not header[-1]:
            header.pop()
        twice = [name for name in header if header.count(name) > 1]
        if twice and not set(header) & set(columns):
            raise UsageError(
                f"{self.where}: no header: the first line is {','.join(columns)}, here "
                f"{self._separator.join(header)[:MOST_SHOWN]!r}"
            )
        if twice:
            raise UsageError(f"{self.where}: the column {twice[0]!r} is listed twice")
        self.header = tuple(header)

    def _fit(self, separator: str, columns: Sequence[str]) -> tuple[int, int]:
        """How well a separator parts the header: known columns, then all."""
        try:
            _, header = next(self._rows(separator))
        except UsageError:
            return 0, 0
        return len(set(header) & set(columns)), len(header)

    def _rows(self, separator: str) -> Iterator[tuple[int, list[str]]]:
        """Line number and cells of each row, the header first."""
        text = io.StringIO(self._text, newline="")
        reader = csv.reader(text, delimiter=separator, strict=True)
        while True:
            number = self._first_line + reader.line_num
            try:
                row = next(reader, None)
            except csv.Error as error:
                raise UsageError(
                    f"{self._name}:{number}: not CSV ({error}): is a quote left open?"
                ) from None
            if row is None:
                return
            yield number, [cell.strip() for cell in row]

    def lines(self, *, comments: Comments | None = None) -> Iterator[Line]:
        """The lines below the header.

        Args:
            comments: where lines that begin with # are comments; they are left out and counted.

        Raises:
            UsageError: a line with fewer or more cells than the header, that is not CSV, or that
                may be a comment or not.
        """
        rows = self._rows(self._separator)
        next(rows)
        for number, row in rows:
            if not any(row):
                continue
            where = f"{self._name}:{number}"
            if len(row) == self._width and not any(row[len(self.header) :]):
                row = row[: len(self.header)]
            if comments is not None and row[0].startswith("#"):
                is_whole = len(row) == len(self.header)
                if comments.takes(row[0], where if is_whole else ""):
                    continue
            if len(row) != len(self.header):
                raise UsageError(f"{where}: {self._describe_ragged(row)}")
            yield Line(where, dict(zip(self.header, row, strict=True)))

    def _describe_ragged(self, row: Sequence[str]) -> str:
        parted = SEPARATORS[self._separator]
        shown = self._separator.join(row)[:MOST_SHOWN]
        count = f"{len(row)} cells where the header has {len(self.header)}"
        told = f"{count}, parted by {parted}: {shown!r}"
        if len(row) < len(self.header):
            return f"{told}; there is none for {self.header[len(row)]}"
        point = ", and a decimal point for a decimal comma" if self._separator == "," else ""
        return (
            f"{told}; cell {len(self.header) + 1} is {row[len(self.header)][:MOST_SHOWN]!r}: write "
            f'quotes around a cell that holds {parted}, "a{self._separator}b"{point}'
        )


def read_table(
    path: Path,
    *,
    required: Sequence[str],
    optional: Sequence[str] = (),
    comments: Comments | None = None,
) -> Iterator[Line]:
    """Lines of a CSV file with a header of known columns.

    Args:
        path: of the file.
        required: columns that it must have.
        optional: columns that it may have.
        comments: as Table.lines.

    Raises:
        UsageError: as Table, a column that is missing or unknown, or a line with fewer or more
            cells than the header.
    """
    known = [*required, *optional]
    table = Table(path, known)
    for name in required:
        if name not in table.header:
            raise UsageError(
                f"{table.where}: no column {name}; the columns are {','.join(known)}, parted by "
                f"commas, semicolons or tabs, here {','.join(table.header)[:MOST_SHOWN]!r}"
            )
    for name in table.header:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f", did you mean {close[0]}?" if close else ""
            raise UsageError(f"{table.where}: unknown column {name[:MOST_SHOWN]!r}{hint}")
    yield from table.lines(comments=comments)


def require_splits(lines: Sequence[Line]) -> None:
    """Raise UsageError for names that are no split, with how many lines have one."""
    wrong = [line for line in lines if line.cells.get("split") not in (None, "", *SPLITS)]
    if not wrong:
        return
    counts = Counter(line.cells["split"] for line in wrong)
    name = wrong[0].cells["split"]
    rest = f"; {len(wrong)} lines have such: " if len(wrong) > 1 else ""
    rest += ", ".join(f"{text!r} {count}" for text, count in counts.most_common(5)) if rest else ""
    raise UsageError(
        f"{wrong[0].where}: split is {name!r}, not one of {', '.join(SPLITS)}"
        f"{nearest(name, SPLITS)}{rest}"
    )


def read_lines(path: Path) -> list[str]:
    """Lines of a text file, without a byte order mark and line ends.

    Raises:
        UsageError: a file that cannot be read, or is not text in UTF-8 or UTF-16.
    """
    lines = LINE_END.split(_read_text(path))
    return lines if lines[-1] else lines[:-1]


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        if limit := limit_behind(error):
            raise limit from error
        raise UsageError(f"{path}: {error.strerror}") from None
    if len(data) > MOST_BYTES:
        raise UsageError(f"{path.name}: has over {MOST_BYTES >> 20} MiB: is it a table?")
    text = _decode(path.name, data)
    if "\0" in text:
        line, column = _place(text[: text.index("\0")])
        raise UsageError(
            f"{path.name}:{line}: character {column} of the line is NUL: not text, or UTF-16 "
            "without its mark; save it as UTF-8 (in a spreadsheet: CSV UTF-8)"
        )
    return text


def _decode(name: str, data: bytes) -> str:
    encoding, what = "utf-8", data.removeprefix(UTF8_MARK)
    if data.startswith(UTF16_MARKS):
        encoding, what = ("utf-16-le" if data.startswith(b"\xff") else "utf-16-be"), data[2:]
    try:
        return what.decode(encoding)
    except UnicodeDecodeError as error:
        before = what[: error.start].decode(encoding)
        line, column = _place(before)
        byte = len(before[len(before) - column + 1 :].encode(encoding)) + 1
        value = what[error.start]
        wanted = "UTF-8" if encoding == "utf-8" else "UTF-16"
        is_letter = encoding == "utf-8" and value >= 0xA0  # of Latin-1 and Windows-1252
        hint = f" ({chr(value)!r} in Latin-1)" if is_letter else ""
        raise UsageError(
            f"{name}:{line}: not {wanted} text: byte {byte} of the line is 0x{value:02X}{hint}; "
            "save it as UTF-8 (in a spreadsheet: CSV UTF-8)"
        ) from None


def _place(before: str) -> tuple[int, int]:
    """Line and column, both from 1, of what follows a text."""
    lines = LINE_END.split(before)
    return len(lines), len(lines[-1]) + 1
