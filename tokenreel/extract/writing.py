"""A thread that does the writing, in order, behind a short queue."""

import queue
import threading
import time
from collections.abc import Callable
from types import TracebackType

from tokenreel.extract.report import ExtractReport

__all__ = ["WriteQueue"]

DEPTH = 4  # batches that may wait: memory stays bounded when the disk is slow


class WriteQueue:
    """Run tasks one after the other in a thread; leaving the context waits for all of them.

    Args:
        report: its seconds["write"] grows.
    """

    def __init__(self, report: ExtractReport) -> None:
        self._report = report
        self._tasks: queue.Queue[Callable[[], None] | None] = queue.Queue(DEPTH)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="write", daemon=True)

    def __enter__(self) -> "WriteQueue":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._tasks.put(None)
        self._thread.join()
        if error is None and self._error is not None:
            raise self._error

    def put(self, task: Callable[[], None]) -> None:
        """Queue a task; waits while the queue is full.

        Raises:
            Exception: what an earlier task raised: a full disk, a damaged store.
        """
        if self._error is not None:
            raise self._error
        self._tasks.put(task)

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None:
            if self._error is not None:
                continue  # drain, so that put never blocks for ever
            start = time.monotonic()
            try:
                task()
            except Exception as error:  # handed to the main thread by put and __exit__
                self._error = error
            self._report.seconds["write"] += time.monotonic() - start
