"""Text for people: lines, tables, sizes and devices as they are typed."""

import re
from collections.abc import Sequence
from unicodedata import category

import typer

from tokenreel.cache.errors import UsageError

URL = re.compile(r"\b(s3|gs|az):/(?=[^/\s])")
DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")
NO_LETTERS = ("Cc", "Zl", "Zp", "Cs")  # control characters, ends of lines, half a character
GPUS = re.compile(r"all|0*[1-9]\d*|cpu(,cpu)*|\d*(,\d*)+")


def say(text: str = "") -> None:
    """Print a line for the user on standard output."""
    typer.echo(whole_urls(text))


def whole_urls(text: str) -> str:
    """Text with both slashes of its URLs: a path on a bucket that was given as Path has lost one.

    >>> whole_urls("store: s3:/bucket/store")
    'store: s3://bucket/store'
    """
    return URL.sub(r"\1://", text)


def on_one_line(text: str) -> str:
    r"""Text with its line ends, tabs and other control characters written as escapes.

    >>> print(on_one_line("a" + chr(10) + "b c" + chr(155)))
    a\nb c\x9b
    >>> on_one_line("caf\u00e9") == "caf\u00e9"
    True
    """
    return "".join(
        mark.encode("unicode_escape").decode("ascii") if category(mark) in NO_LETTERS else mark
        for mark in text
    )


def format_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns as wide as their widest cell; numbers to the right.

    >>> print(format_table(["clip", "frames"], [["a/b", 12], ["c", 7]]))
    clip  frames
    a/b       12
    c          7
    """
    cells = [
        list(header),
        *(
            [f"{v:.4g}" if isinstance(v, float) else on_one_line(str(v)) for v in row]
            for row in rows
        ),
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    right = [all(isinstance(row[i], int | float) for row in rows) for i in range(len(header))]
    lines = []
    for row in cells:
        parts = [
            cell.rjust(width) if is_right else cell.ljust(width)
            for cell, width, is_right in zip(row, widths, right, strict=True)
        ]
        lines.append("  ".join(parts).rstrip())
    return "\n".join(lines)


def require_device(word: str, *, option: str = "--device ") -> str:
    """The word, if it can be a device; whether this machine has it only torch knows.

    Raises:
        UsageError: a word that is no device anywhere.
    """
    if not DEVICE.fullmatch(word):
        raise UsageError(f"{option}{word!r} is none of auto, cpu, cuda or cuda:N")
    return word


def require_gpus(word: str) -> str:
    """The word of `--gpus`, if it can name GPUs; whether this machine has them only torch knows.

    Raises:
        UsageError: neither "all", nor how many, nor numbers with a comma.
    """
    if not GPUS.fullmatch(word):
        raise UsageError(f"--gpus is all, how many, or numbers such as 0,1; got {word!r}")
    return word
