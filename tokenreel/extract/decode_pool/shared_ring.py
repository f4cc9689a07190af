"""Unnamed shared memory of processes: it is freed with the last of them, even when it is killed.

Named shared memory outlives a job that a scheduler kills with all its processes, and fills the
memory of the machine kill by kill.
"""

import mmap
import os
import tempfile
from collections.abc import Callable
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SHARED_MEMORY = Path("/dev/shm")


class SharedRing:
    """Slots of bytes; passed to a process at its start, it is the same memory there.

    Args:
        shape: (slots, bytes of a slot).

    Attributes:
        slots: uint8 (slots, bytes of a slot).
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        folder = SHARED_MEMORY if SHARED_MEMORY.is_dir() else None
        with tempfile.TemporaryFile(dir=folder) as file:
            os.ftruncate(file.fileno(), shape[0] * shape[1])
            self._attach(os.dup(file.fileno()), shape)

    def __reduce__(self) -> tuple[Callable[..., "SharedRing"], tuple[Any, ...]]:
        return _in_child, (DupFd(self._handle), self.slots.shape)

    def close(self) -> None:
        """Release it in this process; arrays that still refer to it stay valid."""
        del self.slots
        os.close(self._handle)

    def _attach(self, handle: int, shape: tuple[int, int]) -> None:
        self._handle = handle
        self.slots: NDArray[np.uint8] = np.frombuffer(
            mmap.mmap(handle, shape[0] * shape[1]), np.uint8
        ).reshape(shape)


def _in_child(handle: Any, shape: tuple[int, int]) -> SharedRing:
    ring = SharedRing.__new__(SharedRing)
    ring._attach(handle.detach(), shape)
    return ring
