"""Shared by the four programs: create an app, run it, report errors, set the exit status."""

import errno
import logging
import signal
import sys
from typing import NoReturn

import typer

from tokenreel.cache.errors import TokenReelError, UsageError

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
    """A group of commands whose --help is plain text: importing rich takes longer than the rest.

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
            kind, advice = TokenReelError, "make room, and rerun the same command to resume"
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
        if end.code == INTERRUPTED:  # typer's status for Ctrl-C, which it does not explain
            typer.echo(
                "interrupted: what is committed stays; rerun the same command to resume", err=True
            )
        raise
    sys.exit(0)
