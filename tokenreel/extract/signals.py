"""Signals that stop a run: it ends after the current segment, or after a grace period."""

import logging
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker

from tokenreel.cache.errors import INTERRUPTED, TERMINATED

log = logging.getLogger(__name__)

STOP_SIGNALS = (  # USR1 and USR2 are how schedulers announce the end of a job
    *(signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2),
)
GRACE_SECONDS = 8.0  # to finish segments; a batch on a slow processor may take 16 s more


def status_of_signal(number: int) -> int:
    """The exit status of a run that a signal ended: 130 for Ctrl-C, 143 for every other."""
    return INTERRUPTED if number == signal.SIGINT else TERMINATED


def interruption(number: int) -> BaseException:
    """What a library call that a signal ended raises: after Ctrl-C a KeyboardInterrupt.

    >>> interruption(signal.SIGTERM)
    SystemExit(143)
    """
    status = status_of_signal(number)
    return KeyboardInterrupt() if status == INTERRUPTED else SystemExit(status)


class Stopping:
    """Whether the run is to end, and whether its grace period is over."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self._number = 0
        self._deadline = float("inf")

    @property
    def signal(self) -> int:
        """Number of the signal that ended the run, 0 for none."""
        return self._number or (int(signal.SIGTERM) if self.event.is_set() else 0)

    def stop(self, number: int) -> None:
        """End the run, because a signal of that number came."""
        if not self.event.is_set():
            self._number = number
            self._deadline = time.monotonic() + GRACE_SECONDS
            self.event.set()

    @property
    def is_overdue(self) -> bool:
        """Whether the grace period is over: unfinished work is to be dropped."""
        return time.monotonic() > self._deadline


@contextmanager
def stop_on_signals() -> Iterator[Stopping]:
    """Stop on a signal; Ctrl-C or SIGTERM again ends the process at once."""
    stopping = Stopping()
    if threading.current_thread() is not threading.main_thread():
        yield stopping
        return

    def stop(number: int, _: object) -> None:
        ends_at_once = number in (signal.SIGINT, signal.SIGTERM)
        log.warning(
            "received %s: stopping after the current segments%s",
            signal.Signals(number).name,
            "; send it again to end at once" if ends_at_once else "",
        )
        stopping.stop(number)
        if ends_at_once:
            signal.signal(number, signal.SIG_DFL)

    old = {number: signal.signal(number, stop) for number in STOP_SIGNALS}
    try:
        yield stopping
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


@contextmanager
def blocked_in_children(*signals: signal.Signals) -> Iterator[None]:
    """Block signals in the processes that are started inside, from their first instruction on.

    A terminal sends Ctrl-C, and a scheduler SIGTERM, to every process of a job at once.  Only the
    parent is to answer, after its children have started; they would die in the middle of an import.
    """
    resource_tracker.ensure_running()  # starting it later would unblock them
    received: list[int] = []
    is_main = threading.current_thread() is threading.main_thread()
    later = {
        number: signal.signal(number, lambda number, _: received.append(number))
        for number in (signals if is_main else ())
    }
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # which children inherit
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in later.items():
            signal.signal(number, handler)
        for first in received[:1]:
            signal.raise_signal(first)
