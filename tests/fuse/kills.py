"""SIGKILL at what a process does to files, not at a time: a slow machine is killed where a fast is.

What a killed process did in memory is gone, so what it does to files is all there is to hit.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path


def fork(do: Callable[[], object], *, folder: str, moment: int | str | None = None) -> int:
    """Do something in a child, killed before a moment; returns what waitpid tells of its end.

    Args:
        do: in the child.
        folder: whose files count, as the child names it.
        moment: the n-th change of them, or the first rename to a name; None for no kill.
    """
    child = os.fork()
    if child == 0:
        _watch(folder, moment)
        do()
        os._exit(0)
    return os.waitpid(child, 0)[1]


def in_one_thread(do: Callable[[], object]) -> None:
    """Do something before forks: what it imports and compiles, no child has to.

    A child has none of its parent's threads, and may wait for ever for what one of them holds.
    """
    import torch
    from tqdm import tqdm

    torch.set_num_threads(1)
    tqdm.monitor_interval = 0
    do()
    for thread in threading.enumerate():
        if thread is not threading.current_thread():
            thread.join(60)
    assert threading.active_count() == 1, threading.enumerate()


def die(*_: object) -> None:
    """Be killed at once."""
    os.kill(os.getpid(), signal.SIGKILL)


def _watch(folder: str, moment: int | str | None) -> None:
    count = 0

    def look(event: str, about: tuple[object, ...]) -> None:
        nonlocal count
        if event == "open":
            is_change = (about[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        else:
            is_change = event in ("os.rename", "os.link", "os.mkdir", "os.remove")
        if not is_change or not str(about[0]).startswith(folder):
            return
        count += 1
        to = Path(str(about[1])).name if event == "os.rename" else None
        if moment is not None and moment in (count, to):
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(look)
