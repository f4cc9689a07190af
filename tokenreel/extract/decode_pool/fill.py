"""One clip -> chunks of pixels in slots of shared memory: the work of a decode process."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tokenreel.extract.video.decode import DecodedFrame, VideoError, decode, probe
from tokenreel.extract.video.frame_selection import FrameSelector

if TYPE_CHECKING:
    from tokenreel.extract.images.resize import ResizePlan

__all__ = ["ChunkFiller", "DecodeJob", "fill_chunks"]


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
        chunk_frames: frames in a slot, at most.
        skip_frames: first frames of the clip that need no pixels: they are on disk already.
        on_device: leave the resizing to the device where it gives the same bytes: slots then hold
            what of each frame it needs.
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


class ChunkFiller:
    """Fills slots with the frames of a clip.

    Args:
        job: the clip.
        take: called when a chunk begins; gives its slot, uint8 (bytes,).
    """

    def __init__(self, job: DecodeJob, take: Callable[[], NDArray[np.uint8]]) -> None:
        from tokenreel.extract.images.augment import ViewAugmenter

        self._job, self._take = job, take
        self._augment = [
            ViewAugmenter(view, job.seed_text, job.transform) for view in job.views[1:]
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

    def add(self, frame: DecodedFrame) -> bool:
        """Take a frame that the clip keeps; whether the chunk is full."""
        if not self.pts:
            self._slot = self._take()
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
        from tokenreel.extract.images.transforms import apply_transform

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
        from tokenreel.extract.images.transforms import image_sides, plan_on_device

        assert self._slot is not None
        shape: tuple[int, ...] = (1 + len(self._augment), 3, *image_sides(self._job.transform))
        self._plan, self.frame_size = None, None
        if self._job.on_device and not self._augment:
            plan = plan_on_device(frame.size, self._job.transform)
            if plan is not None and math.prod(plan.window_shape) <= len(self._slot):
                shape, self._plan, self.frame_size = plan.window_shape, plan, frame.size
        most = len(self._slot) // math.prod(shape)
        self._most = min(most, self._job.chunk_frames - self.skipped) + self.skipped
        count = self._most - self.skipped
        self._rows = self._slot[: count * math.prod(shape)].reshape(count, *shape)


def fill_chunks(job: DecodeJob, filler: ChunkFiller, alive: Callable[[], None]) -> Iterator[bool]:
    """Decode a clip.

    Args:
        job: the clip.
        filler: takes its frames.
        alive: called now and then while the way to the clip's start takes long.

    Yields:
        After each decoded frame: whether the filler's chunk is full, or is the clip's last.

    Raises:
        VideoError: see `video.decode`; or the video ends before the clip does.
    """
    select = FrameSelector(
        probe(job.path).time_base,
        start_seconds=job.start_seconds,
        stop_seconds=job.stop_seconds,
        fps=job.fps,
    )
    for frame in decode(
        job.path,
        decoder=job.decoder,
        from_seconds=job.start_seconds,
        until_seconds=job.stop_seconds,
        alive=alive,
    ):
        yield select.keeps(frame.ticks) and filler.add(frame)
    if filler.count == 0:
        raise VideoError(
            f"no frame between {job.start_seconds or 0:.3f} s and "
            f"{'the end' if job.stop_seconds is None else f'{job.stop_seconds:.3f} s'}"
        )
    if filler.pts:
        yield True
