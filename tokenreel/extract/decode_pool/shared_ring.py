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
        handle: of the memory of another process's ring, None for new memory.

    Attributes:
        slots: uint8 (slots, bytes of a slot).
    """

    def __init__(self, shape: tuple[int, int], handle: Any = None) -> None:
        if handle is None:
            folder = SHARED_MEMORY if SHARED_MEMORY.is_dir() else None
            with tempfile.TemporaryFile(dir=folder) as file:
                os.ftruncate(file.fileno(), shape[0] * shape[1])
                self._handle = os.dup(file.fileno())
        else:
            self._handle = handle.detach()
        memory = mmap.mmap(self._handle, shape[0] * shape[1])
        self.slots: NDArray[np.uint8] = np.frombuffer(memory, np.uint8).reshape(shape)

    def __reduce__(self) -> tuple[Callable[..., "SharedRing"], tuple[Any, ...]]:
        return SharedRing, (self.slots.shape, DupFd(self._handle))

    def close(self) -> None:
        """Release it in this process; arrays that still refer to it stay valid."""
        del self.slots
        os.close(self._handle)
