"""Memory of a decode process: the same bytes on both sides, and nothing that a kill leaves."""

import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest

from tokenreel.extract.decode_pool.pool import DecodeProcess
from tokenreel.extract.decode_pool.shared_ring import SHARED_MEMORY, SharedRing


def answer(pipe, ring):
    ring.slots[1, 2] = ring.slots[0, 0] + 1
    pipe.send(ring.slots.shape)


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_process_reads_and_writes_the_same_bytes(method):
    ring = SharedRing((2, 5000))
    ring.slots[0, 0] = 41
    context = multiprocessing.get_context(method)
    ours, theirs = context.Pipe()
    child = context.Process(target=answer, args=(theirs, ring))
    child.start()
    theirs.close()  # a child that fails ends the wait for its answer
    assert ours.recv() == (2, 5000)
    child.join()
    assert ring.slots[1, 2] == 42
    ring.close()


def test_arrays_of_a_closed_ring_stay_valid():
    ring = SharedRing((1, 10))
    ring.slots[:] = 7
    rows = ring.slots[0, 3:]
    ring.close()
    np.testing.assert_array_equal(rows, np.full(7, 7, np.uint8))


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="no list of open files here")
def test_shared_memory_of_a_decode_process_has_no_name_that_a_kill_would_leave():
    worker = DecodeProcess(10_000)
    name = Path(f"/proc/self/fd/{worker.ring._handle}").readlink().name
    worker.close(kill=True)
    assert name.endswith("(deleted)")


@pytest.mark.skipif(not SHARED_MEMORY.is_dir(), reason="no folder of shared memory here")
def test_the_memory_of_a_ring_is_no_disk():
    ring = SharedRing((1, 10))
    assert Path(f"/proc/self/fd/{ring._handle}").readlink().is_relative_to(SHARED_MEMORY)
    ring.close()


def test_closed_ring_closes_its_file():
    ring = SharedRing((1, 10))
    number = ring._handle
    ring.close()
    assert not hasattr(ring, "slots")
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)
