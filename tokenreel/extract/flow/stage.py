"""A stage: a thread behind a short queue.  Stages in a row overlap, and none runs far ahead."""

import queue
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Generic, TypeVar

__all__ = ["Stage"]

T = TypeVar("T")


class Stage(Generic[T]):
    """Do the work of each item in order, in a thread; leaving the context waits for all of it.

    After an error nothing more is done: items are discarded as they come, so that whoever puts
    them never blocks for ever, and put raises the error.

    Args:
        name: of the thread.
        work: done for each item.
        depth: items that may wait; put blocks beyond.
        discard: done instead, after an error or `drop`.

    Attributes:
        busy_seconds: spent on work.
        idle_seconds: spent waiting for items, from the first one on.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[T], None],
        *,
        depth: int,
        discard: Callable[[T], None] = lambda _: None,
    ) -> None:
        self._work, self._discard = work, discard
        self._items: queue.Queue[T | None] = queue.Queue(depth)
        self._error: Exception | None = None
        self._dropping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.busy_seconds = 0.0
        self.idle_seconds = 0.0

    def __enter__(self) -> "Stage[T]":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.finish()
        if error is None and self._error is not None:
            raise self._error

    def finish(
        self, tick: Callable[[], None] = lambda: None, *, every_seconds: float = 0.5
    ) -> None:
        """Wait until every item is done; `tick` is called meanwhile."""
        if self._thread.is_alive():
            self._items.put(None)
        while self._thread.is_alive():
            self._thread.join(every_seconds)
            tick()

    def put(self, item: T) -> None:
        """Queue an item; waits while the queue is full.

        Raises:
            Exception: what an earlier item raised: a full disk, a GPU out of memory.
        """
        if self._error is not None:
            try:
                self._discard(item)
            except Exception as error:  # the first error is the cause of it
                raise self._error from error
            raise self._error
        self._items.put(item)

    def drop(self) -> None:
        """Discard what is queued and what will come; the item in work is finished."""
        self._dropping.set()

    def _run(self) -> None:
        is_first = True
        while True:
            start = time.monotonic()
            item = self._items.get()
            if item is None:
                return
            waited = time.monotonic() - start
            if not is_first:
                self.idle_seconds += waited
            is_first = False
            start = time.monotonic()
            try:
                (self._discard if self._dropping.is_set() else self._work)(item)
            except Exception as error:  # handed to the thread that puts, and to __exit__
                self._error = self._error or error
                self._dropping.set()
            self.busy_seconds += time.monotonic() - start
