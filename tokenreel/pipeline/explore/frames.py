"""Frames of a store's clips as the backbone saw them, decoded from the videos and kept as JPEGs."""

import logging
import threading
from collections import OrderedDict
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
        self._lock = threading.Lock()  # of what is kept
        self._decoding = threading.Lock()  # one video at a time

    def jpeg(self, clip_id: str, frame: int, *, view: int = 0) -> bytes:
        """A frame as a JPEG.

        Raises:
            FramesUnseen: its video is out of reach; the reason.
            ClipNotFound, UsageError: no such clip, frame or view.
        """
        self._require(clip_id, [frame], view)
        key = (clip_id, view, frame)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        with self._decoding:
            with self._lock:  # another request may have decoded it meanwhile
                if key in self._kept:
                    return self._kept[key]
            first = frame // RUN * RUN
            last = min(first + RUN, self._store.record(clip_id).num_frames)
            wanted = np.arange(first, last)
            for number, image in self.read(clip_id, wanted.tolist(), view=view).items():
                self._keep((clip_id, view, number), jpeg_bytes(image, quality=90))
        with self._lock:
            return self._kept[key]

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
        return dict(zip(wanted.tolist(), images, strict=True))

    def _require(self, clip_id: str, frames: list[int], view: int) -> None:
        record = self._store.record(clip_id)
        wrong = [frame for frame in frames if not 0 <= frame < record.num_frames]
        if wrong:
            raise UsageError(f"{clip_id} has frames 0 to {record.num_frames - 1}, not {wrong[0]}")
        if not 0 <= view < record.num_views:
            raise UsageError(f"{clip_id} has views 0 to {record.num_views - 1}, not {view}")

    def _keep(self, key: tuple[str, int, int], data: bytes) -> None:
        with self._lock:
            self._num_bytes += len(data) - len(self._kept.pop(key, b""))
            self._kept[key] = data
            while self._num_bytes > KEPT_BYTES and len(self._kept) > RUN:
                self._num_bytes -= len(self._kept.popitem(last=False)[1])


def blank_frame(side: int, grid: tuple[int, int]) -> Image:
    """A grid of patches in the place of a frame that cannot be shown, uint8 (side, side, 3)."""
    picture: NDArray[Any] = np.full((side, side, 3), 236, np.uint8)
    for axis, count in enumerate(grid):
        lines = np.arange(1, count) * side // count
        picture[(lines,) if axis == 0 else (slice(None), lines)] = 205
    return picture
