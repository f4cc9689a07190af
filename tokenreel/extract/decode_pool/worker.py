"""Body of a decode process: one clip -> chunks of pixels in slots of shared memory.

A decoder may hang or crash in native code, so it runs in a process that can be killed.  Pixels
travel through a ring of shared slots; the pipe carries only small messages.  A slow reader of the
ring stops the worker, which therefore holds one frame and never a video.
"""

import math
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tokenreel.cache.bucket.objects import signs_of_life
from tokenreel.cache.errors import limit_behind, machine_error
from tokenreel.extract.decode_pool.shared_ring import SharedRing
from tokenreel.extract.frame_policy import (
    missing_end,
    nearest_frames,
    scene_frames,
    uniform_frames,
)
from tokenreel.extract.images.augment import view_transform
from tokenreel.extract.images.resize import ResizePlan
from tokenreel.extract.images.transforms import apply_transform, image_sides, plan_on_device
from tokenreel.extract.signals import STOP_SIGNALS
from tokenreel.extract.video.decode import FrameSelector, decode, exact
from tokenreel.extract.video.decoders import probe
from tokenreel.extract.video.geometry import UPRIGHT, Orientation
from tokenreel.extract.video.types import DecodedFrame, VideoError

BEAT_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class DecodeJob:
    """One clip to decode.

    Attributes:
        path: the video, or a folder of pictures.
        start_seconds: start of the clip or None.
        stop_seconds: end of the clip, exclusive, or None.
        fps: most frames a second, or None for all frames.
        decoder: "pyav" or "decord".
        transform: parameters of the preset.
        views: parameters of each view, the clean one first.
        seed_text: the clip's id, which with a view's own parameters seeds its augmentation.
        chunk_frames: most frames of a slot.
        skip_frames: first frames of the clip that need no pixels: they are on disk already.
        on_device: whether the device resizes, where it gives the same bytes: a slot then holds
            the window of each frame that the image depends on.
        num_uniform: frames of the clip, one in the middle of each of as many equal parts; None for
            all or fps.
        times_seconds: of the frames, ascending; None for all or fps.
        scenes: start, stop and centre of each in seconds, in order of time, of which window_frames
            frames each are kept; None for all or fps.
        window_frames: frames of a window, of which the last is filled by repeats of the clip's
            last frame; chunk_frames and skip_frames are multiples of it.
        picture_fps: pictures a second of a folder, None for 25.
        pixel_aspect: "square" makes pixels square, "ignore" does not.
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
    on_device: bool = False
    num_uniform: int | None = None
    times_seconds: tuple[float, ...] | None = None
    scenes: tuple[tuple[float, float, float], ...] | None = None
    window_frames: int = 1
    picture_fps: float | None = None
    pixel_aspect: str = "square"

    @property
    def is_sampled(self) -> bool:
        """Whether the frames to keep are known only once the times of all are."""
        return any(x is not None for x in (self.num_uniform, self.times_seconds, self.scenes))


@dataclass(frozen=True, slots=True)
class Chunk:
    """Message: frames of a clip are in a slot.

    Attributes:
        slot: number of the slot.
        pts: ticks of each frame, int64 (t,).
        index: of each frame in the video, int64 (t,).
        skipped: leading frames without pixels; the slot begins with the next one.
        seconds: spent on decoding and resizing.
        frame_size: None where the slot holds images, (t - skipped, V, 3, H, W); else height and
            width of the frames of which it holds windows, (t - skipped, h, w, 3).
    """

    slot: int
    pts: NDArray[np.int64]
    index: NDArray[np.int64]
    skipped: int
    seconds: float
    frame_size: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class ClipFailure:
    """Message: the clip cannot be decoded; the fields are those of VideoError."""

    stage: str
    reason: str
    frame: int | None
    final: bool = True


@dataclass(frozen=True, slots=True)
class MachineFailure:
    """Message: a limit of the machine, and not the clip, ends the run; the reason as a sentence."""

    reason: str


@dataclass(frozen=True, slots=True)
class ClipFacts:
    """Message: the clip is decoded to its end.

    Attributes:
        shown_until: tick until which its last frame is shown, before the clip's stop is regarded;
            None where decoding ended before the clip.
        orientation: of its coded pictures.
        num_moved: frames whose time stamps repeated others'.
        rules: first version of the rules of time and geometry that gives these frames.
        units: start and stop in ticks of each scene that was kept; None where none are listed.
    """

    shown_until: int | None = None
    orientation: Orientation = UPRIGHT
    num_moved: int = 0
    rules: int = 1
    units: tuple[tuple[int, int], ...] | None = None

    def with_frame(self, frame: DecodedFrame) -> "ClipFacts":
        """The facts once the next frame of the clip is decoded."""
        return ClipFacts(
            frame.stop,
            frame.orientation,
            self.num_moved + frame.is_moved,
            max(self.rules, frame.rules),
        )


NO_FACTS = ClipFacts()


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Message: the worker is alive and decoding."""


def serve(pipe: Connection, ring: SharedRing) -> None:
    """Take one DecodeJob after another until the pipe closes.

    Args:
        pipe: receives jobs and free slots; sends a Chunk for each filled slot, a Heartbeat now
            and then, and at the end of a clip ClipFacts, a ClipFailure or a MachineFailure.
        ring: shared with the parent.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # the parent decides when to stop
    torch.set_num_threads(1)
    free = list(range(len(ring.slots)))
    try:
        while True:
            message = pipe.recv()
            if isinstance(message, DecodeJob):
                _decode_clip(message, pipe, ring.slots, free)
            else:
                free.append(message)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the parent has closed its end


def _decode_clip(
    job: DecodeJob, pipe: Connection, ring: NDArray[np.uint8], free: list[int]
) -> None:
    """Decode one clip into slots; a slot belongs to the parent from its Chunk on."""
    held: list[int] = []
    started = last_beat = time.monotonic()

    def take_slot() -> NDArray[np.uint8]:
        nonlocal started, last_beat
        while not free:
            free.append(pipe.recv())
        held.append(free.pop())
        started = last_beat = time.monotonic()  # waiting for the parent is not decoding
        slot: NDArray[np.uint8] = ring[held[0]]
        return slot

    def beat() -> None:
        nonlocal last_beat
        if time.monotonic() - last_beat > BEAT_SECONDS:
            pipe.send(Heartbeat())
            last_beat = time.monotonic()

    filler = ChunkFiller(job, take_slot)
    failure: ClipFailure | MachineFailure | None = None
    try:
        with signs_of_life(beat):
            for is_full in fill_chunks(job, filler, beat):
                if is_full:
                    seconds = time.monotonic() - started
                    pipe.send(Chunk(held.pop(), *filler.empty(), seconds, filler.frame_size))
                else:
                    beat()
    except (VideoError, OSError, MemoryError) as error:
        if isinstance(error, BrokenPipeError | ConnectionResetError):
            raise  # of the pipe
        failure = failure_of(error)
    free.extend(held)
    pipe.send(failure or filler.facts)


def failure_of(error: VideoError | OSError | MemoryError) -> ClipFailure | MachineFailure:
    """The message for an error: of the machine where one of its limits is behind it."""
    limit = limit_behind(error) or (machine_error(error) if isinstance(error, OSError) else None)
    if limit is not None:
        return MachineFailure(str(limit))
    if isinstance(error, VideoError):
        return ClipFailure(error.stage, str(error), error.frame, error.final)
    if isinstance(error, MemoryError):
        return ClipFailure("decode", "not enough memory to decode it", None, final=False)
    return ClipFailure("decode", error.strerror or str(error), None, final=False)


class ChunkFiller:
    """Fills slots with the frames of a clip.

    Args:
        job: the clip.
        take_slot: called when a chunk begins; returns its slot, uint8 (bytes,).
    """

    def __init__(self, job: DecodeJob, take_slot: Callable[[], NDArray[np.uint8]]) -> None:
        self._job, self._take_slot = job, take_slot
        self._augment = [
            view_transform(view, job.seed_text, job.transform) for view in job.views[1:]
        ]
        self._slot: NDArray[np.uint8] | None = None
        self._rows: NDArray[np.uint8] | None = None
        self._most = job.chunk_frames
        self._plan: ResizePlan | None = None
        self.frame_size: tuple[int, int] | None = None
        self.pts: list[int] = []
        self.index: list[int] = []
        self.skipped = 0
        self.count = 0
        self.facts = ClipFacts()

    def add(self, frame: DecodedFrame) -> bool:
        """Add a frame that the clip keeps; returns whether the chunk is full."""
        if not self.pts:
            self._slot = self._take_slot()
        if self.count < self._job.skip_frames:
            self.skipped += 1
        else:
            self._put(frame)
        self.count += 1
        self.pts.append(frame.ticks)
        self.index.append(frame.index)
        return len(self.pts) == self._most

    def empty(self) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
        """(pts, index, skipped) of the chunk; the next frame begins another."""
        found = np.array(self.pts, np.int64), np.array(self.index, np.int64), self.skipped
        self.pts, self.index, self.skipped, self._slot, self._rows = [], [], 0, None, None
        return found

    def _put(self, frame: DecodedFrame) -> None:
        if self._rows is None:
            self._lay_out(frame)
        assert self._rows is not None
        row = len(self.pts) - self.skipped
        if self._plan is not None:
            self._rows[row] = frame.pixels[self._plan.window]
            return
        self._rows[row, 0] = apply_transform(frame.pixels, self._job.transform).numpy()
        for view, augmenter in enumerate(self._augment, start=1):
            self._rows[row, view] = augmenter(frame.pixels).numpy()

    def _lay_out(self, frame: DecodedFrame) -> None:
        """Decide what the slot holds, from the first frame with pixels."""
        assert self._slot is not None
        shape: tuple[int, ...] = (1 + len(self._augment), 3, *image_sides(self._job.transform))
        self._plan, self.frame_size = None, None
        if self._job.on_device and not self._augment:
            plan = plan_on_device(frame.size, self._job.transform)
            if plan is not None and self._window_bytes(plan) <= len(self._slot):
                shape, self._plan, self.frame_size = plan.window_shape, plan, frame.size
        count = min(len(self._slot) // math.prod(shape), self._job.chunk_frames - self.skipped)
        count -= count % self._job.window_frames
        self._most = count + self.skipped
        self._rows = self._slot[: count * math.prod(shape)].reshape(count, *shape)

    def _window_bytes(self, plan: ResizePlan) -> int:
        return math.prod(plan.window_shape) * self._job.window_frames


def fill_chunks(job: DecodeJob, filler: ChunkFiller, alive: Callable[[], None]) -> Iterator[bool]:
    """Decode a clip; twice where its frames are known only from the times of all, see `sample`.

    Args:
        job: the clip.
        filler: receives its frames.
        alive: called now and then while the frames before the clip's start are decoded.

    Yields:
        After each decoded frame: whether the filler's chunk is full, or is the clip's last.

    Raises:
        VideoError: see `video.decode`; or the video ends before the clip begins.
    """
    time_base = probe(job.path, picture_fps=job.picture_fps).time_base
    select = FrameSelector(
        time_base,
        start_seconds=job.start_seconds,
        stop_seconds=job.stop_seconds,
        fps=job.fps,
    )
    copies, sampled = sample(job, time_base, alive) if job.is_sampled else (None, filler.facts)
    last: DecodedFrame | None = None
    for frame in _frames_of(job, alive):
        filler.facts = filler.facts.with_frame(frame)
        if copies is None:
            is_kept = select.keeps(frame.ticks)
            last = frame if is_kept else last
            yield is_kept and filler.add(frame)
            continue
        yield False
        last = frame if frame.index in copies else last
        for _ in range(copies.pop(frame.index, 0)):
            yield filler.add(frame)
        if not copies:
            break
    if job.is_sampled:
        filler.facts = replace(
            filler.facts,
            shown_until=sampled.shown_until,
            rules=max(filler.facts.rules, sampled.rules),
            units=sampled.units,
        )
    if copies:
        raise VideoError(f"frame {min(copies)} is gone in a second read", frame=min(copies))
    if filler.count == 0:
        raise VideoError(
            f"no frame between {job.start_seconds or 0:.3f} s and "
            f"{'the end' if job.stop_seconds is None else f'{job.stop_seconds:.3f} s'}"
        )
    while last is not None and filler.count % job.window_frames:
        yield filler.add(last)
    if filler.pts:
        yield True


def sample(
    job: DecodeJob, time_base: Fraction, alive: Callable[[], None]
) -> tuple[Counter[int], ClipFacts]:
    """How often each frame of the video is kept, from the times of the frames of the clip.

    They are known once the clip is decoded, for headers and packets may lie; pixels are not
    converted.  For listed times decoding ends after the last of them.

    Args:
        job: with num_uniform, times_seconds or scenes.
        time_base: seconds of a tick.
        alive: called for each frame.

    Returns:
        Index in the video -> count >= 1; and the facts of the clip.

    Raises:
        VideoError: see `video.decode`; a listed time or scene outside the video, or a video that
            ends before the clip does.
    """
    times = [exact(time) / time_base for time in job.times_seconds or ()]
    ticks: list[int] = []
    index: list[int] = []
    facts, is_cut = ClipFacts(), False
    for frame in _frames_of(job, alive):
        alive()
        facts = facts.with_frame(frame)
        ticks.append(frame.ticks)
        index.append(frame.index)
        if times and frame.ticks > times[-1]:
            is_cut = True
            break
    if not ticks:
        return Counter(), facts
    end = facts.shown_until
    if job.scenes is not None:
        chosen, units = _frames_of_scenes(job, ticks, end, time_base)
        facts = replace(facts, units=units)
    elif job.num_uniform is None:
        try:
            chosen = nearest_frames(ticks, times, end)
        except ValueError as error:
            assert job.times_seconds is not None
            raise VideoError(
                f"{job.times_seconds[error.args[0]]:g} s is listed, but the frames of the clip are "
                f"from {float(ticks[0] * time_base):.3f} to {float(ticks[-1] * time_base):.3f} s"
            ) from None
    else:
        stop = None if job.stop_seconds is None else exact(job.stop_seconds) / time_base
        seconds = np.array(ticks) * float(time_base)
        _require_reach(job, seconds, None if end is None else float(end * time_base))
        chosen = uniform_frames(ticks, stop, job.num_uniform, end)
        is_old = missing_end(job.stop_seconds, seconds) is None
        if not is_old or chosen != uniform_frames(ticks, stop, job.num_uniform):
            facts = replace(facts, rules=2)
    if is_cut:
        facts = replace(facts, shown_until=None)
    return Counter(index[place] for place in chosen), facts


def _frames_of_scenes(
    job: DecodeJob, ticks: Sequence[int], end: int | None, time_base: Fraction
) -> tuple[list[int], tuple[tuple[int, int], ...]]:
    """Positions in `ticks` of the frames to keep, and start and stop of the scenes in ticks.

    A scene that reaches beyond the clip is cut at its ends; where no frame begins in what is left,
    it is left out.

    Raises:
        VideoError: a scene that is not in the video.
    """
    assert job.scenes is not None
    start, stop = (
        None if seconds is None else math.ceil(exact(seconds) / time_base)
        for seconds in (job.start_seconds, job.stop_seconds)
    )
    last = ticks[-1] + 1 if end is None else end
    chosen: list[int] = []
    units: list[tuple[int, int]] = []
    for scene in job.scenes:
        begins, ends, centre = (round(exact(seconds) / time_base) for seconds in scene)
        here = max(begins, start or begins), ends if stop is None else min(ends, stop)
        if not here[0] <= centre < here[1]:
            centre = (here[0] + here[1]) // 2
        found = scene_frames(ticks, (*here, centre), job.window_frames, end)
        is_beyond = here[1] > last and missing_end(
            float(here[1] * time_base),
            np.array(ticks) * float(time_base),
            float(last * time_base),
        )
        if is_beyond or (not found and here == (begins, ends)):
            raise VideoError(
                f"the list has a scene from {scene[0]:g} to {scene[1]:g} s, but the frames are "
                f"from {float(ticks[0] * time_base):.3f} to {float(last * time_base):.3f} s: is it "
                "of another video?"
            )
        if found:
            chosen += found
            units.append(here)
    return chosen, tuple(units)


def _require_reach(
    job: DecodeJob, times_seconds: NDArray[np.float64], shown_until: float | None
) -> None:
    """Raise VideoError unless frames at these times last until the clip's stop."""
    end = missing_end(job.stop_seconds, times_seconds, shown_until)
    if end is not None:
        raise VideoError(f"the clip stops at {job.stop_seconds:g} s, its frames end at {end:.3f} s")


def _frames_of(job: DecodeJob, alive: Callable[[], None]) -> Iterator[DecodedFrame]:
    """The frames of the video in the clip's [start, stop)."""
    return decode(
        job.path,
        decoder=job.decoder,
        from_seconds=job.start_seconds,
        until_seconds=job.stop_seconds,
        pixel_aspect=job.pixel_aspect,
        alive=alive,
        picture_fps=job.picture_fps,
        least_frames=2 if job.scenes is None else 1,
    )
