"""Frames of a store's clips as the backbone saw them, decoded from the videos and kept as JPEGs."""

import logging
import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.errors import TokenReelError, UsageError
from tokenreel.cache.manifest import path_below
from tokenreel.cache.read.store_reader import Store
from tokenreel.evaluate.report.pictures.frames import jpeg_bytes
from tokenreel.extract.video.types import VideoError

log = logging.getLogger(__name__)

Image = NDArray[np.uint8]  # RGB, (H, W, 3)

RUN = 32  # frames decoded together: a decoder is slow to start, not to go on
RUNS_OF_CLIP = 64  # decoded while nobody asks: a jump within a clip then finds its frame there
KEPT_BYTES = 2**27  # of JPEGs


class FramesUnseen(TokenReelError):
    """The frames of a clip cannot be shown; the message is the reason."""


class ClipFrames:
    """Frames of the clips of a store.

    Args:
        store: the store.
        root: folder of its videos.
    """

    def __init__(self, store: Store, root: Path) -> None:
        self._store, self._root = store, root
        self._kept: OrderedDict[tuple[str, int, int], bytes] = OrderedDict()
        self._num_bytes = 0
        self._given: set[tuple[str, int]] = set()  # clips and views of which a frame was given
        self._begun: set[tuple[str, int, int]] = set()  # runs that are decoded ahead, or wait
        self._last: tuple[str, int, int] | None = None  # the clip, view and run asked for last
        self._runs_left = 0  # of its clip
        self._lock = threading.Lock()
        self._ahead = ThreadPoolExecutor(1, thread_name_prefix="tokenreel-frames")

    def jpeg(self, clip_id: str, frame: int, *, view: int = 0) -> bytes:
        """A frame as a JPEG; from the second of a clip on the others are decoded ahead.

        Raises:
            FramesUnseen: its video is out of reach; the reason.
            ClipNotFound, UsageError: no such clip, frame or view.
        """
        key = (clip_id, view, frame)
        with self._lock:
            data = self._kept.get(key)
            if data is not None:
                self._kept.move_to_end(key)
        if data is None:
            image = self.read(clip_id, [frame], view=view)[frame]
            data = self._keep(key, image)
        with self._lock:
            is_second = (clip_id, view) in self._given
            self._given.add((clip_id, view))
        if is_second:
            last = clip_id, view, frame // RUN
            with self._lock:
                if self._last is None or self._last[:2] != last[:2]:
                    self._runs_left = RUNS_OF_CLIP
                self._last = last
            for run in (frame // RUN, frame // RUN + 1):
                self._read_ahead(clip_id, view, run)
        return data

    def close(self) -> None:
        """Decode nothing ahead any more."""
        self._ahead.shutdown(cancel_futures=True)

    def _read_ahead(self, clip_id: str, view: int, run: int) -> None:
        key = clip_id, view, run
        with self._lock:
            missing = self._missing(key)
            if not missing or key in self._begun:
                return
            self._begun.add(key)

        def read() -> None:
            try:
                for number, image in self.read(clip_id, missing, view=view).items():
                    self._keep((clip_id, view, number), image)
            except TokenReelError as error:  # whoever asks for a frame gets it
                log.debug("%s: nothing decoded ahead: %s", clip_id, error)
                self._runs_left = 0
            finally:
                with self._lock:
                    self._begun.discard(key)
                    following = self._next_run()
                if following is not None:
                    self._read_ahead(*following)

        with suppress(RuntimeError):  # it is closed
            self._ahead.submit(read)

    def _missing(self, key: tuple[str, int, int]) -> list[int]:
        """Frames of a run that are not kept."""
        clip_id, view, run = key
        frames = range(run * RUN, min((run + 1) * RUN, self._store.record(clip_id).num_frames))
        return [frame for frame in frames if (clip_id, view, frame) not in self._kept]

    def _next_run(self) -> tuple[str, int, int] | None:
        """Once nothing waits: a run of the clip asked for last, those after the last run first."""
        if self._begun or self._last is None or not self._runs_left:
            return None
        clip_id, view, last = self._last
        count = -(-self._store.record(clip_id).num_frames // RUN)
        for run in (*range(last, count), *range(last)):
            if self._missing((clip_id, view, run)):
                self._runs_left -= 1
                return clip_id, view, run
        return None

    def read(self, clip_id: str, frames: list[int], *, view: int = 0) -> dict[int, Image]:
        """Frames by number, decoded.

        Raises:
            FramesUnseen, ClipNotFound, UsageError: as jpeg.
        """
        self._require(clip_id, frames, view)
        record = self._store.record(clip_id)
        from tokenreel.extract.preview.show import frames_as_seen

        path = path_below(self._root, record.video)
        wanted = np.unique(np.asarray(frames, np.int64))
        try:
            images = list(frames_as_seen(self._store, record, wanted, path, view=view))
        except VideoError as error:
            raise FramesUnseen(f"{path}: {error}") from error
        except KeyError as error:  # of features that another program made
            what = f"view {view}" if view else "the frames"
            raise FramesUnseen(
                f"{path}: the store does not say how {what} of its backbone are made (no {error})"
            ) from error
        return dict(zip(wanted.tolist(), images, strict=True))

    def _require(self, clip_id: str, frames: list[int], view: int) -> None:
        record = self._store.record(clip_id)
        wrong = [frame for frame in frames if not 0 <= frame < record.num_frames]
        if wrong:
            raise UsageError(f"{clip_id} has frames 0 to {record.num_frames - 1}, not {wrong[0]}")
        if not 0 <= view < record.num_views:
            raise UsageError(f"{clip_id} has views 0 to {record.num_views - 1}, not {view}")

    def _keep(self, key: tuple[str, int, int], image: Image) -> bytes:
        data = jpeg_bytes(image, quality=90)
        with self._lock:
            self._num_bytes += len(data) - len(self._kept.pop(key, b""))
            self._kept[key] = data
            while self._num_bytes > KEPT_BYTES and len(self._kept) > 2 * RUN:
                self._num_bytes -= len(self._kept.popitem(last=False)[1])
        return data


def blank_frame(side: int, grid: tuple[int, int]) -> Image:
    """A grid of patches in the place of a frame that cannot be shown, uint8 (side, side, 3)."""
    picture: NDArray[Any] = np.full((side, side, 3), 236, np.uint8)
    for axis, count in enumerate(grid):
        lines = np.arange(1, count) * side // count
        picture[(lines,) if axis == 0 else (slice(None), lines)] = 205
    return picture
