"""Text of a user in each format of a table: names of clips, runs and actions can hold anything."""

import re
from collections.abc import Iterable

LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    **{mark: "\\" + mark for mark in "#$%&_{}"},
}
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")  # what a spreadsheet computes


def one_line(text: str) -> str:
    """Text without line breaks and other control characters, which would add rows.

    >>> one_line("a" + chr(10) + "b" + chr(0x85) + "c")
    'a b c'
    """
    return "".join(
        " " if ord(mark) < 32 or 127 <= ord(mark) < 160 or ord(mark) in (0x2028, 0x2029) else mark
        for mark in text
    )


def for_markdown(text: str) -> str:
    r"""Text of a cell in Markdown: no column, HTML, link, code or emphasis of its own.

    >>> print(for_markdown("a|b <i>*c*"))
    a\|b &lt;i&gt;\*c\*
    """
    text = one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*|\[\]])", r"\\\1", text)


def for_latex(text: str) -> str:
    r"""Text of a cell in LaTeX: no command, comment or column of its own.

    >>> print(for_latex("x_y & 50%"))
    x\_y \& 50\%
    """
    return "".join(LATEX.get(mark, mark) for mark in one_line(text))


def for_spreadsheet(cells: Iterable[object]) -> list[object]:
    """Cells of a CSV file that a spreadsheet opens: text that it would compute has an apostrophe.

    >>> for_spreadsheet(["=1+1", "squat", -0.5])
    ["'=1+1", 'squat', -0.5]
    """
    return [
        f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell for cell in cells
    ]
