"""SIGTERM and SIGINT: the run ends at the next segment, or when its grace is over."""

import logging
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Stopping", "stop_on_signals"]

log = logging.getLogger(__name__)

GRACE_SECONDS = 8.0  # to finish segments; a batch on a slow processor may take twice as long again


class Stopping:
    """Whether the run is to end, and whether its grace is over."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self._deadline = float("inf")

    def stop(self) -> None:
        """End the run."""
        if not self.event.is_set():
            self._deadline = time.monotonic() + GRACE_SECONDS
            self.event.set()

    @property
    def is_overdue(self) -> bool:
        """Whether what is not finished is to be dropped."""
        return time.monotonic() > self._deadline


@contextmanager
def stop_on_signals() -> Iterator[Stopping]:
    """Stop on SIGTERM or SIGINT; the same signal again ends the process at once."""
    stopping = Stopping()
    if threading.current_thread() is not threading.main_thread():
        yield stopping
        return

    def stop(number: int, _: object) -> None:
        log.warning(
            "signal %d: stopping at the end of the segment (%d again ends at once)", number, number
        )
        stopping.stop()
        signal.signal(number, signal.SIG_DFL)

    old = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stopping
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
