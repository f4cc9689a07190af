"""What the four commands share: running an app, printing, and ending with the right status."""

import errno
import logging
import signal
import sys
from typing import NoReturn

import typer

from tokenreel.cache.errors import TokenReelError, UsageError

__all__ = ["finish", "new_app", "run_app"]

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


def new_app(title: str) -> typer.Typer:
    """A group of commands whose --help is plain text: rich would take longer to import than to run.

    Args:
        title: first lines of its --help.
    """
    return typer.Typer(
        help=title, no_args_is_help=True, add_completion=False, rich_markup_mode=None
    )


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
