"""What the four commands share: running an app, printing, and ending with the right status."""

import errno
import logging
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

import typer

from tokenreel.cache.errors import TokenReelError, UsageError

__all__ = ["finish", "format_table", "run_app", "say"]

log = logging.getLogger(__name__)

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
CLOSED = (
    errno.EEXIST,
    errno.EISDIR,
    errno.ENOTDIR,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOENT,
    errno.ENAMETOOLONG,
    errno.ELOOP,
)
INTERRUPTED = 128 + signal.SIGINT


def say(text: str = "") -> None:
    """Print a line for the user on standard output."""
    typer.echo(text)


def format_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns as wide as their widest cell; numbers to the right.

    >>> print(format_table(["clip", "frames"], [["a/b", 12], ["c", 7]]))
    clip  frames
    a/b       12
    c          7
    """
    cells = [list(header), *[[_cell(value) for value in row] for row in rows]]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    right = [
        bool(rows) and all(isinstance(row[i], int | float) for row in rows)
        for i in range(len(header))
    ]
    lines = []
    for row in cells:
        parts = [
            cell.rjust(width) if is_right else cell.ljust(width)
            for cell, width, is_right in zip(row, widths, right, strict=True)
        ]
        lines.append("  ".join(parts).rstrip())
    return "\n".join(lines)


def finish(status: int) -> NoReturn:
    """End the command with an exit status."""
    raise typer.Exit(status)


def run_app(app: typer.Typer) -> NoReturn:
    """Run a command; print an error of ours as one message and end with its status."""
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("tokenreel").setLevel(logging.INFO)
    try:
        app()
    except TokenReelError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(error.exit_status)
    except OSError as error:
        if error.errno in FULL:
            kind, advice = TokenReelError, "make room, and run the same command to go on"
        elif error.errno in CLOSED:
            kind, advice = UsageError, "name another path, or make room for this one"
        else:
            raise
        typer.echo(f"error: {error}: {advice}", err=True)
        sys.exit(kind.exit_status)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "tokenreel":
            raise
        typer.echo(
            f"error: this command needs {error.name}, which is not installed: "
            "pip install 'tokenreel[all]' (or [evaluate] for phase 3 alone)",
            err=True,
        )
        sys.exit(2)
    except SystemExit as end:
        if end.code == INTERRUPTED:  # which typer makes of Ctrl-C, without a word
            typer.echo(
                "interrupted: what is committed stays, run the same command to go on", err=True
            )
        raise
    sys.exit(0)


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
