"""The four programs called in the tests' own process, which has imported torch already."""

import contextlib
import io
import logging
import signal
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from unittest.mock import patch


def call(name: str, *words: object, cwd: Path) -> tuple[int, str]:
    """Run a program as its console script does; returns its exit status and what it printed.

    Args:
        name: extract, fuse, evaluate or tokenreel.
        words: after its name.
        cwd: the current folder of the program.
    """
    main = import_module(f"tokenreel.pipeline.cli.{'main' if name == 'tokenreel' else name}").main
    arguments = patch.object(sys, "argv", [name, *map(str, words)])
    with _printed() as printed, contextlib.chdir(cwd), _same_signals(), arguments:
        try:
            main()
        except SystemExit as end:
            status = end.code
    return status, printed.getvalue()


@contextlib.contextmanager
def _printed() -> Iterator[io.StringIO]:
    """Collect both streams, and the log lines that a process would print."""
    printed = io.StringIO()
    handler = logging.StreamHandler(printed)
    ours = logging.getLogger("tokenreel")
    level = ours.level
    ours.addHandler(handler)
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            yield printed
    finally:
        ours.removeHandler(handler)
        ours.setLevel(level)


@contextlib.contextmanager
def _same_signals() -> Iterator[None]:
    numbers = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
    former = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
