"""Background threads behind bounded queues: stages overlap, and none runs far ahead."""

import queue
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Generic, TypeVar

T = TypeVar("T")
Task = tuple[Callable[[], None], Callable[[], None]]  # the work, and what follows it in any case

TICK_SECONDS = 0.5
WRITER_DEPTH = 4  # tasks that may wait for a thread: memory stays bounded when the disk is slow


class Stage(Generic[T]):
    """Process items in order in a thread; leaving the context waits for all of them.

    After an error no item is processed: items are discarded as they arrive, so that callers of
    put never block for ever, and put raises the error.

    Args:
        name: of the thread.
        work: called with each item.
        depth: items that may wait; put blocks beyond.
        discard: called instead of work after an error or `drop`.

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

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.finish()
        if error is None and self._error is not None:
            raise self._error

    def finish(self, tick: Callable[[], None] = lambda: None) -> None:
        """Wait until every item is processed; `tick` is called meanwhile."""
        if self._thread.is_alive():
            self._items.put(None)
        while self._thread.is_alive():
            self._thread.join(TICK_SECONDS)
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
        """Discard queued and later items; the current item is finished."""
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


class WriterThreads:
    """Threads that write; each clip is written by one of them, so that its frames stay in order.

    Leaving the context waits for all tasks.

    Args:
        count: threads.
    """

    def __init__(self, count: int) -> None:
        self._stages = [
            Stage[Task](
                f"write-{number}", _run_task, depth=WRITER_DEPTH, discard=lambda task: task[1]()
            )
            for number in range(count)
        ]
        self._stack = ExitStack()

    def __enter__(self) -> "WriterThreads":
        for stage in self._stages:
            self._stack.enter_context(stage)
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._stack.__exit__(kind, error, trace)  # type: ignore[arg-type]

    def finish(self, tick: Callable[[], None] = lambda: None) -> None:
        """Wait until every task is done; `tick` is called meanwhile."""
        for stage in self._stages:
            stage.finish(tick)

    @property
    def busy_seconds(self) -> float:
        """Mean over the threads of the time spent on tasks."""
        return sum(stage.busy_seconds for stage in self._stages) / len(self._stages)

    def put(
        self, position: int, work: Callable[[], None], done: Callable[[], None] = lambda: None
    ) -> None:
        """Queue a task of a clip; waits while the queue of its thread is full.

        Args:
            position: of the clip.
            work: the task.
            done: called after it, or instead of it when the run has failed.

        Raises:
            Exception: what an earlier task raised: a full disk, a damaged store.
        """
        self._stages[position % len(self._stages)].put((work, done))


def _run_task(task: Task) -> None:
    try:
        task[0]()
    finally:
        task[1]()
