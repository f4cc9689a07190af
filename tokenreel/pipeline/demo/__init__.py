"""Demos: the ordinary commands from rendered videos to a page, without a network."""

from collections.abc import Sequence
from importlib import import_module

from tokenreel.cache.errors import UsageError
from tokenreel.cache.plugins import nearest

DEMOS = {  # name -> the module whose run_demo(words) runs it
    "ftp": "tokenreel.pipeline.demo.ftp",
    "sample": "tokenreel.pipeline.demo.sample",
    "stan": "tokenreel.pipeline.demo.stan",
}


def run_named(words: Sequence[str]) -> int:
    """Run the demo that the first word names, `sample` where it is none.

    Returns:
        The exit status.

    Raises:
        UsageError: an unknown name, with the nearest.
    """
    name, rest = "sample", list(words)
    if rest and "=" not in rest[0]:
        name, *rest = rest
    if name not in DEMOS:
        raise UsageError(f"no demo {name!r}{nearest(name, DEMOS)} (known: {', '.join(DEMOS)})")
    status: int = import_module(DEMOS[name]).run_demo(rest)
    return status
