"""Key frames of a clip side by side, as one picture for a vision-language model."""

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tokenreel.cache.manifest import Clip, path_below
from tokenreel.extract.decode_pool.worker import DecodeJob, sample
from tokenreel.extract.video.decode import decode
from tokenreel.extract.video.decoders import probe
from tokenreel.extract.video.types import VideoError

JPEG_QUALITY = 90


@dataclass(frozen=True, eq=False)
class KeyFrames:
    """Key frames of a clip.

    Attributes:
        pixels: uint8 (height, K * width, 3), the frames from left to right.
        times_seconds: of the frames, in the time of the video.
    """

    pixels: NDArray[np.uint8]
    times_seconds: tuple[float, ...]

    @property
    def sha256(self) -> str:
        """Of the pixels and their shape: it does not depend on who writes the JPEG."""
        return hashlib.sha256(repr(self.pixels.shape).encode() + self.pixels.tobytes()).hexdigest()

    def jpeg(self) -> bytes:
        """The picture as a JPEG file."""
        data = io.BytesIO()
        Image.fromarray(self.pixels).save(data, format="JPEG", quality=JPEG_QUALITY)
        return data.getvalue()


def key_frames(
    clip: Clip, root: Path, *, count: int, height: int, alive: Callable[[], None] = lambda: None
) -> KeyFrames:
    """The frames in the middle of equal parts of a clip, side by side.

    Args:
        clip: the clip.
        root: folder of the videos.
        count: number of frames, K.
        height: of the picture in pixels; the width follows the video's.
        alive: called for each frame that is decoded.

    Raises:
        VideoError: see `video.decode`, or a video that ends before the clip does.
    """
    path = path_below(root, clip.video)
    time_base = probe(path, picture_fps=clip.picture_fps).time_base
    job = DecodeJob(
        path,
        clip.start_seconds,
        clip.stop_seconds,
        fps=None,
        decoder="pyav",
        transform={},
        views=(),
        seed_text="",
        chunk_frames=1,
        num_uniform=count,
        picture_fps=clip.picture_fps,
    )
    copies, _ = sample(job, time_base, alive)
    if not copies:
        raise VideoError("no frame in the range of the clip")
    parts: list[NDArray[np.uint8]] = []
    times: list[float] = []
    frames = decode(
        path,
        from_seconds=clip.start_seconds,
        until_seconds=clip.stop_seconds,
        picture_fps=clip.picture_fps,
    )
    for frame in frames:
        alive()
        for _ in range(copies.get(frame.index, 0)):
            parts.append(_resize(frame.pixels, height))
            times.append(round(float(frame.ticks * time_base), 6))
        if len(parts) == count:
            return KeyFrames(np.concatenate(parts, axis=1), tuple(times))
    raise VideoError(f"{count - len(parts)} key frames are gone in a second read")


def _resize(pixels: NDArray[np.uint8], height: int) -> NDArray[np.uint8]:
    tall, wide = pixels.shape[:2]
    size = max(round(wide * height / tall), 1), height
    image = Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(image.resize(size, Image.Resampling.BICUBIC))
