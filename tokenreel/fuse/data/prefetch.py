"""A thread that runs ahead of whoever takes what it makes."""

import queue
import threading
from collections.abc import Iterator
from typing import Any

__all__ = ["Stream"]


class Stream:
    """An iterator that a thread runs a few items ahead of; an error in it is raised here.

    There are never more than `ahead` + 2 items, that of the caller and the one in the making among
    them: the stream holds none that it has handed over.

    Args:
        items: what to run ahead in.
        ahead: items that may wait, at least 1.
    """

    def __init__(self, items: Iterator[Any], *, ahead: int) -> None:
        self._items = items
        self._waiting: queue.Queue[tuple[str, Any]] = queue.Queue(ahead)
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tokenreel-ahead", daemon=True)

    def __enter__(self) -> "Stream":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        while self._thread.is_alive():
            while not self._waiting.empty():  # the thread may wait for a place
                self._waiting.get()
            self._thread.join(0.01)

    def __iter__(self) -> "Stream":
        return self

    def __next__(self) -> Any:
        kind, value = self._waiting.get()
        if kind == "item":
            return value
        self._waiting.put((kind, value))  # for whoever asks again
        raise value if kind == "error" else StopIteration

    def _run(self) -> None:
        try:
            for item in self._items:
                self._waiting.put(("item", item))
                del item
                if self._is_over.is_set():
                    return
            self._waiting.put(("end", None))
        except BaseException as error:  # handed to the thread that waits
            self._waiting.put(("error", error))
