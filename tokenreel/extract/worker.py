"""The decoding process: takes jobs, puts images into shared memory, says what it did.

A decoder may hang or crash in native code, so it runs where it can be killed.  Pixels travel
through a ring of shared slots; the pipe carries only small messages.  A slow reader of the ring
stops the worker, which therefore holds one frame and never a video.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from multiprocessing.connection import Connection
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenreel.extract.video import FrameSelector, VideoError, decode, probe

__all__ = ["Chunk", "ClipEnd", "ClipFailure", "DecodeJob", "Heartbeat", "clip_images", "serve"]

BEAT_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class DecodeJob:
    """One clip to decode.

    Attributes:
        path: the video.
        start_seconds: start of the clip or None.
        stop_seconds: end of the clip, exclusive, or None.
        fps: at most so many frames a second or None.
        decoder: "pyav" or "decord".
        transform: parameters of the preset.
        views: parameters of each view, the clean one first.
        seed_text: what, beside its own parameters, seeds an augmented view: the clip's id.
        chunk_frames: frames in a slot.
        skip_frames: first frames of the clip that need no pixels: they are on disk already.
    """

    path: Path
    start_seconds: float | None
    stop_seconds: float | None
    fps: float | None
    decoder: str
    transform: dict[str, Any]
    views: tuple[dict[str, Any], ...]
    seed_text: str
    chunk_frames: int
    skip_frames: int = 0


@dataclass(frozen=True, slots=True)
class Chunk:
    """Frames in a slot; pts in ticks and index in the video of each; seconds it took."""

    slot: int
    pts: NDArray[np.int64]
    index: NDArray[np.int64]
    seconds: float
    has_pixels: bool = True


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


def clip_images(
    job: DecodeJob, buffer: Callable[[], NDArray[np.uint8]]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]] | None]:
    """Decode a clip chunk by chunk.

    Args:
        job: the clip.
        buffer: called when a chunk begins; gives the uint8 (chunk_frames, V, 3, S, S) to fill.

    Yields:
        (pts, index) of the frames now in the last buffer, or None between chunks.

    Raises:
        VideoError: see `video.decode`; or the video ends before the clip does.
    """
    from tokenreel.extract.transforms import apply_transform
    from tokenreel.extract.views import ViewAugmenter

    info = probe(job.path)
    select = FrameSelector(
        info.time_base,
        start_seconds=job.start_seconds,
        stop_seconds=job.stop_seconds,
        fps=job.fps,
    )
    augment = [ViewAugmenter(view, job.seed_text, job.transform) for view in job.views[1:]]
    pts: list[int] = []
    index: list[int] = []
    count = 0
    for frame in decode(
        job.path,
        decoder=job.decoder,
        from_seconds=job.start_seconds,
        until_seconds=job.stop_seconds,
    ):
        if not select.keeps(frame.ticks):
            yield None
            continue
        row = len(pts)
        if row == 0:
            into = buffer()
        if count >= job.skip_frames:
            image = apply_transform(frame.pixels, job.transform)
            into[row, 0] = image.numpy()
            for view, augmenter in enumerate(augment, start=1):
                into[row, view] = augmenter(frame.pixels).numpy()
        count += 1
        pts.append(frame.ticks)
        index.append(frame.index)
        if len(pts) == job.chunk_frames:
            yield np.array(pts, np.int64), np.array(index, np.int64)
            pts, index = [], []
        else:
            yield None
    if count == 0:
        raise VideoError(
            f"no frame between {job.start_seconds or 0:.3f} s and "
            f"{'the end' if job.stop_seconds is None else f'{job.stop_seconds:.3f} s'}"
        )
    if pts:
        yield np.array(pts, np.int64), np.array(index, np.int64)


def serve(pipe: Connection, memory_name: str, shape: tuple[int, ...]) -> None:
    """Body of the process: take DecodeJob after DecodeJob until the pipe closes.

    Args:
        pipe: jobs and free slots come in; messages of this module go out.
        memory_name: the shared memory.
        shape: (slots, chunk_frames, V, 3, S, S) of the uint8 ring in it.
    """
    import signal

    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to stop
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)
    memory = SharedMemory(name=memory_name)
    ring: NDArray[np.uint8] = np.ndarray(shape, dtype=np.uint8, buffer=memory.buf)
    free = list(range(shape[0]))
    try:
        while True:
            message = pipe.recv()
            if isinstance(message, DecodeJob):
                _do(message, pipe, ring, free)
            else:
                free.append(message)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the parent has closed its end
    finally:
        del ring
        memory.close()


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

    done = 0
    try:
        for found in clip_images(job, buffer):
            now = time.monotonic()
            if found is None:
                if now - last_beat > BEAT_SECONDS:
                    pipe.send(Heartbeat())
                    last_beat = now
                continue
            done += len(found[0])
            pipe.send(Chunk(held.pop(), *found, now - started, done > job.skip_frames))
        answer: ClipEnd | ClipFailure = ClipEnd(probe(job.path).time_base)
    except VideoError as error:
        answer = ClipFailure(error.stage, str(error), error.frame, error.final)
    free.extend(held)
    pipe.send(answer)


def _take(pipe: Connection, free: list[int]) -> int:
    while not free:
        free.append(pipe.recv())
    return free.pop()
