"""The threads that write: each clip has one of them, so that its frames stay in order."""

from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType

from tokenreel.extract.flow.stage import Stage

__all__ = ["WriteLanes"]

DEPTH = 4  # pieces that may wait in a lane: memory stays bounded when the disk is slow

Task = tuple[Callable[[], None], Callable[[], None]]  # the work, and what follows it in any case


class WriteLanes:
    """Tasks in threads; those of one clip in order.  Leaving the context waits for all of them.

    Args:
        count: threads.
    """

    def __init__(self, count: int) -> None:
        self._lanes = [
            Stage[Task](f"write-{number}", _work, depth=DEPTH, discard=_discard)
            for number in range(count)
        ]
        self._stack = ExitStack()

    def __enter__(self) -> "WriteLanes":
        for lane in self._lanes:
            self._stack.enter_context(lane)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def finish(self, tick: Callable[[], None] = lambda: None) -> None:
        """Wait until every task is done; `tick` is called meanwhile."""
        for lane in self._lanes:
            lane.finish(tick)

    @property
    def busy_seconds(self) -> float:
        """Time that a thread worked, their mean."""
        return sum(lane.busy_seconds for lane in self._lanes) / len(self._lanes)

    def put(
        self, position: int, work: Callable[[], None], done: Callable[[], None] = lambda: None
    ) -> None:
        """Queue a task of a clip; waits while its lane is full.

        Args:
            position: of the clip.
            work: the task.
            done: called after it, or instead of it when the run has failed.

        Raises:
            Exception: what an earlier task raised: a full disk, a damaged store.
        """
        self._lanes[position % len(self._lanes)].put((work, done))


def _work(task: Task) -> None:
    try:
        task[0]()
    finally:
        task[1]()


def _discard(task: Task) -> None:
    task[1]()
