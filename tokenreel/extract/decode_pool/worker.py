"""The decoding process: takes jobs, puts images into shared memory, says what it did.

A decoder may hang or crash in native code, so it runs where it can be killed.  Pixels travel
through a ring of shared slots; the pipe carries only small messages.  A slow reader of the ring
stops the worker, which therefore holds one frame and never a video.
"""

import time
from dataclasses import dataclass
from fractions import Fraction
from multiprocessing.connection import Connection

import numpy as np
from numpy.typing import NDArray

from tokenreel.extract.decode_pool.fill import ChunkFiller, DecodeJob, fill_chunks
from tokenreel.extract.decode_pool.shared_ring import SharedRing
from tokenreel.extract.video.decode import VideoError, probe

__all__ = ["Chunk", "ClipEnd", "ClipFailure", "DecodeJob", "Heartbeat", "serve"]

BEAT_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Chunk:
    """Frames of a clip, in a slot.

    Attributes:
        slot: which.
        pts: ticks of each frame, int64 (t,).
        index: of each in the video, int64 (t,).
        skipped: frames, the first ones, that have no pixels; the slot begins with the next.
        seconds: that it took.
        frame_size: None where the slot holds images, (t - skipped, V, 3, H, W); else the height
            and width of frames of which it holds the windows, (t - skipped, h, w, 3).
    """

    slot: int
    pts: NDArray[np.int64]
    index: NDArray[np.int64]
    skipped: int
    seconds: float
    frame_size: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class ClipEnd:
    """The clip is complete; the ticks of its pts last time_base seconds."""

    time_base: Fraction


@dataclass(frozen=True, slots=True)
class ClipFailure:
    """The clip cannot be decoded."""

    stage: str
    reason: str
    frame: int | None
    final: bool = True


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The worker is alive and decoding."""


def serve(pipe: Connection, ring: SharedRing) -> None:
    """Body of the process: take DecodeJob after DecodeJob until the pipe closes.

    Args:
        pipe: jobs and free slots come in; messages of this module go out.
        ring: shared with the parent.
    """
    import signal

    import torch

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the parent decides when to stop
    torch.set_num_threads(1)
    free = list(range(len(ring.slots)))
    try:
        while True:
            message = pipe.recv()
            if isinstance(message, DecodeJob):
                _do(message, pipe, ring.slots, free)
            else:
                free.append(message)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the parent has closed its end


def _do(job: DecodeJob, pipe: Connection, ring: NDArray[np.uint8], free: list[int]) -> None:
    """Decode one clip into slots; a slot belongs to the parent from its Chunk on."""
    held: list[int] = []
    started = last_beat = time.monotonic()

    def buffer() -> NDArray[np.uint8]:
        nonlocal started, last_beat
        held.append(_take(pipe, free))
        started = last_beat = time.monotonic()  # waiting for the parent is not decoding
        place: NDArray[np.uint8] = ring[held[0]]
        return place

    def beat() -> None:
        nonlocal last_beat
        if time.monotonic() - last_beat > BEAT_SECONDS:
            pipe.send(Heartbeat())
            last_beat = time.monotonic()

    filler = ChunkFiller(job, buffer)
    try:
        for is_full in fill_chunks(job, filler, beat):
            if is_full:
                seconds = time.monotonic() - started
                pipe.send(Chunk(held.pop(), *filler.empty(), seconds, filler.frame_size))
            else:
                beat()
        answer: ClipEnd | ClipFailure = ClipEnd(probe(job.path).time_base)
    except VideoError as error:
        answer = ClipFailure(error.stage, str(error), error.frame, error.final)
    free.extend(held)
    pipe.send(answer)


def _take(pipe: Connection, free: list[int]) -> int:
    while not free:
        free.append(pipe.recv())
    return free.pop()
