"""Real frames in pictures: what is asked of whoever can decode videos, and small copies of them.

Phase 3 decodes nothing itself: the pipeline hands it a `FrameSource`.  Where a video is out of
reach the pictures are left out and the reason is shown in their place.
"""

import base64
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.embeddings import EmbeddedClip
from tokenreel.cache.errors import TokenReelError

__all__ = [
    "FrameSource",
    "FramesUnreachable",
    "Image",
    "jpeg_bytes",
    "no_frames",
    "png_bytes",
    "resize",
    "sprite",
    "thumbnails",
    "to_uri",
]

Image = NDArray[np.uint8]  # RGB, (H, W, 3)

FrameSource = Callable[[EmbeddedClip, Sequence[int]], Iterator[Image]]
"""Frames of a clip at rising positions in it, decoded one after the other as they are asked for."""


class FramesUnreachable(TokenReelError):
    """The frames of a clip cannot be shown; the text is the reason for the user."""


def no_frames(clip: EmbeddedClip, positions: Sequence[int]) -> Iterator[Image]:
    """The source of whoever has no videos."""
    raise FramesUnreachable("no folder of videos was named (--root)")


def resize(image: Image, *, height: int) -> Image:
    """The whole picture at another height; its width is even and in proportion."""
    from PIL import Image as Pillow

    width = max(2, round(image.shape[1] * height / image.shape[0] / 2) * 2)
    small = Pillow.fromarray(image).resize((width, height), Pillow.Resampling.LANCZOS)
    return np.asarray(small)


def jpeg_bytes(image: Image, *, quality: int = 78) -> bytes:
    """A JPEG file; the same picture gives the same bytes."""
    return _encode(image, "JPEG", quality=quality, optimize=True)


def png_bytes(image: Image) -> bytes:
    """A PNG file, without loss."""
    return _encode(image, "PNG", optimize=True)


def to_uri(data: bytes, kind: str) -> str:
    """A file inside a page: "data:image/jpeg;base64,..."."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def thumbnails(
    source: FrameSource, clip: EmbeddedClip, positions: Iterable[int], *, height: int
) -> dict[int, Image]:
    """Small copies of frames of a clip, by position; each is decoded once.

    Raises:
        FramesUnreachable: from the source.
    """
    wanted = sorted(set(positions))
    images = source(clip, wanted)
    return {
        position: resize(image, height=height)
        for position, image in zip(wanted, images, strict=True)
    }


def sprite(images: Mapping[int, Image], *, columns: int) -> Image:
    """Pictures of one size in a grid, row by row in rising order of their key.

    Raises:
        ValueError: no picture.
    """
    if not images:
        raise ValueError("a sprite holds at least one picture, got none")
    ordered = [images[key] for key in sorted(images)]
    height, width, _ = ordered[0].shape
    rows = -(-len(ordered) // columns)
    sheet = np.zeros((rows * height, columns * width, 3), np.uint8)
    for place, image in enumerate(ordered):
        y, x = height * (place // columns), width * (place % columns)
        sheet[y : y + height, x : x + width] = image[:height, :width]
    return sheet


def _encode(image: Image, kind: str, **options: Any) -> bytes:
    from PIL import Image as Pillow

    data = io.BytesIO()
    Pillow.fromarray(image).save(data, format=kind, **options)
    return data.getvalue()
