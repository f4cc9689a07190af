"""Shared by the four programs: create an app, run it, report errors, set the exit status."""

import ctypes
import errno
import logging
import os
import re
import resource
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand

from tokenreel.cache.bucket.local_cache import BYTES, FOLDER, cache_folder
from tokenreel.cache.errors import (
    INTERRUPTED,
    MachineError,
    TokenReelError,
    UsageError,
    machine_error,
)
from tokenreel.cache.files import parse_bytes
from tokenreel.pipeline.text import whole_urls

log = logging.getLogger(__name__)

WRONG_PATHS = (
    errno.EEXIST,
    errno.EISDIR,
    errno.ENOTDIR,
    errno.ENOENT,
    errno.ENAMETOOLONG,
    errno.ELOOP,
)
EXTRAS = {"starlette": "explore", "uvicorn": "explore"}  # of packages that [all] lacks
CACHE_HELP = (
    "Of every command that reads a bucket (s3://, gs://, az://): --cache-dir FOLDER and "
    "--cache-bytes 200G, where and how much of it is kept on this machine."
)
CACHE_OPTIONS = {"--cache-dir": FOLDER, "--cache-bytes": BYTES}
NO_BUCKET = re.compile(r"(--\S+=)?(s3|gs|az):///")
FORWARDED = (*(signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2),)
PR_SET_PDEATHSIG = 1  # of prctl(2)
# of the engines that extract, or make tables, elsewhere
Cpus = Annotated[int | None, typer.Option(min=1, help="slurm, ray: cores of a job, worker or task")]
JobTime = Annotated[
    str | None, typer.Option(help="slurm: of a job, which resumes after it [4:00:00]")
]
Partition = Annotated[str | None, typer.Option(help="slurm: of the cluster")]
ArrayParallelism = Annotated[
    int | None, typer.Option(min=1, help="slurm: most jobs that run at once")
]
Sbatch = Annotated[list[str] | None, typer.Option(help="slurm: another option, KEY=VALUE; repeat")]
Address = Annotated[
    str | None, typer.Option(help="ray: auto or HOST:PORT of a running cluster [none: here]")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="slurm: print the scripts")]
FollowLinks = Annotated[
    bool, typer.Option(help="take links that leave the root, and enter links to folders")
]


def new_app(title: str) -> typer.Typer:
    """A group of commands whose --help is plain text: importing rich takes longer than the rest.

    Args:
        title: first lines of its --help.
    """
    return typer.Typer(
        epilog=CACHE_HELP,
        help=title,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
    )


def with_keys(command: str) -> type[TyperCommand]:
    """A command whose --help ends with its `key=value` keys, which are read only for the help.

    Args:
        command: "extract", "scenes", "text", "fuse" or "evaluate".
    """

    class WithKeys(TyperCommand):
        def get_help(self, ctx: Any) -> str:
            from tokenreel.pipeline.tools.keys import keys_help

            return f"{super().get_help(ctx)}\n\nKeys, as key=value [default]:\n{keys_help(command)}"

    return WithKeys


def take_cache_options(words: Sequence[str]) -> list[str]:
    """The words of a command without --cache-dir and --cache-bytes, which any command may have.

    They say where what is read from buckets is kept on this machine; processes of ours inherit it.

    Raises:
        UsageError: an option without its value, what is no size, no folder of a disk, or a URL
            without a bucket.
    """
    left, rest = [], iter(words)
    for word in rest:
        if NO_BUCKET.match(word):  # Path would make a bucket of the folder
            raise UsageError(f"{word}: the name of the bucket is missing: s3://BUCKET/PATH")
        name, equals, value = word.partition("=")
        if name not in CACHE_OPTIONS:
            left.append(word)
            continue
        given = value if equals else next(rest, "")
        if not given:
            raise UsageError(f"{name} needs a value: --cache-dir FOLDER, --cache-bytes 200G")
        if name == "--cache-bytes":
            parse_bytes(given, option=name, least=0)
        else:
            cache_folder(given, option=name)
        os.environ[CACHE_OPTIONS[name]] = given
    return left


def finish(status: int) -> NoReturn:
    """End the command with an exit status."""
    raise typer.Exit(status)


def link_words(follow_links: bool) -> list[str]:
    """The words of a data set for the option --follow-links."""
    return ["data.follow_links=yes"] if follow_links else []


def run_app(app: typer.Typer) -> NoReturn:
    """Run a command; print an error of ours as one message and end with its status."""
    _use_utf8()
    _watch_limited_memory()
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("tokenreel").setLevel(logging.INFO)
    try:
        sys.argv[1:] = take_cache_options(sys.argv[1:])
        app()
    except TokenReelError as error:
        _end(error)
    except OSError as error:
        if found := machine_error(error):
            _end(found)
        if error.errno not in WRONG_PATHS:
            raise
        _end(UsageError(f"{error}: name another path, or make room for this one"))
    except (MemoryError, RuntimeError) as error:
        if reason := _lack_of(error):
            _end(MachineError(f"{reason}; what is written stays: rerun the same command to resume"))
        raise
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "tokenreel":
            raise
        typer.echo(
            f"error: this command needs {error.name}, which is not installed: "
            f"pip install 'tokenreel[{EXTRAS.get(error.name or '', 'all')}]'"
            + ("" if error.name in EXTRAS else " (or [evaluate] for phase 3 alone)"),
            err=True,
        )
        sys.exit(2)
    except ImportError as error:  # ModuleNotFoundError is handled above
        if "failed to map segment" not in str(error) and "allocate memory" not in str(error):
            raise
        typer.echo(
            f"error: not enough memory to load a library ({error}); see ulimit -v: free memory and "
            "rerun the same command",
            err=True,
        )
        sys.exit(6)
    except SystemExit as end:
        if end.code == INTERRUPTED:  # typer's status for Ctrl-C, which it does not explain
            typer.echo(
                "interrupted: what is committed stays; rerun the same command to resume", err=True
            )
        raise
    sys.exit(0)


def _use_utf8() -> None:
    """Start this program again in Python's UTF-8 mode where the locale has another encoding.

    Words, names of files and output are then the same bytes in every locale.
    """
    if sys.getfilesystemencoding() == "utf-8" or os.environ.get("PYTHONUTF8") == "1":
        return
    os.environ["PYTHONUTF8"] = "1"
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _watch_limited_memory() -> None:
    """Where memory is limited (ulimit -v), go on in a child process, and wait for its end here.

    C++ libraries abort the process when they are refused memory: only another process can say so.
    Signals are forwarded; the child ends with this process.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY or threading.active_count() > 1:
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)
    child = os.fork()
    if not child:
        os.setpgid(0, 0)  # Ctrl-C comes from the parent, once
        with suppress(AttributeError):  # not Linux
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
        return
    for number in FORWARDED:
        signal.signal(number, lambda received, _: os.kill(child, received))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if -status in FORWARDED:
        sys.exit(128 - status)
    if status < 0:
        name = signal.Signals(-status).name
        _end(
            MachineError(
                f"a library ended this command ({name}), perhaps for lack of memory: ulimit -v is "
                f"{limit >> 10}; allow more and rerun the same command to resume"
            )
        )
    sys.exit(status)


def _end(error: TokenReelError) -> NoReturn:
    typer.echo(f"error: {whole_urls(str(error))}", err=True)
    sys.exit(error.exit_status)


def _lack_of(error: Exception) -> str:
    """What the machine has too little of, in words of ours; "" for any other error."""
    if isinstance(error, MemoryError):
        return "not enough memory" + (f": {error}" if str(error) else "")
    words = str(error)
    if "out of memory" in words or "can't allocate memory" in words:  # torch, on GPU and CPU
        return f"not enough memory: {words.partition(chr(10))[0]}"
    if "can't start new thread" in words:
        return "too many threads or processes, or no memory for one (see ulimit -u and -v)"
    return ""
