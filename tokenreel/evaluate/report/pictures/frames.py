"""Frames of the videos in pictures: the source that decodes them, and small copies.

Phase 3 decodes nothing itself: the pipeline hands it a `FrameSource`.  Where a video is out of
reach the pictures are left out and the reason is shown in their place.
"""

import base64
import hashlib
import io
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.embeddings import EmbeddedClip
from tokenreel.cache.errors import TokenReelError
from tokenreel.evaluate.report.page.html import Html, absent, tag

log = logging.getLogger(__name__)

Image = NDArray[np.uint8]  # RGB, (H, W, 3)

FrameSource = Callable[[EmbeddedClip, Sequence[int]], Iterator[Image]]
"""Frames of a clip at rising positions, decoded lazily one after the other."""

ClipFrames = Callable[[EmbeddedClip], EmbeddedClip]
"""A clip whose file has one row of it, with the times of all frames of its store, where known."""


class FramesUnreachable(TokenReelError):
    """The frames of a clip cannot be shown; the message is the reason."""


def no_frames(clip: EmbeddedClip, positions: Sequence[int]) -> Iterator[Image]:
    """The source without videos."""
    raise FramesUnreachable("no folder of videos was named (--root)")


def frames_of_file(clip: EmbeddedClip) -> EmbeddedClip:
    """The clip itself: no store is known."""
    return clip


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


class Pictures:
    """Small copies of frames.

    Args:
        source: of the frames.
        height: of the copies, pixels.

    Attributes:
        reasons: clip -> why its frames cannot be shown.
    """

    def __init__(self, source: FrameSource, *, height: int) -> None:
        self._source, self._height = source, height
        self._wanted: dict[str, tuple[EmbeddedClip, set[int]]] = {}
        self._images: dict[str, dict[int, Image]] = {}
        self.reasons: dict[str, str] = {}

    def want(self, clip: EmbeddedClip, positions: Iterable[int]) -> None:
        """Register frames of a clip to be shown."""
        self._wanted.setdefault(_identity(clip), (clip, set()))[1].update(map(int, positions))

    def fetch(self) -> None:
        """Decode the registered frames; a clip out of reach is noted with its reason."""
        for name, (clip, positions) in self._wanted.items():
            try:
                self._images[name] = thumbnails(self._source, clip, positions, height=self._height)
            except FramesUnreachable as error:
                self.reasons[clip.clip_id] = str(error)
        self._wanted.clear()
        if self.reasons:
            log.warning(
                "no frames of %d clips, such as: %s",
                len(self.reasons),
                next(iter(self.reasons.values())),
            )

    def frame(self, clip: EmbeddedClip, position: int, *, words: str) -> Html | None:
        """The frame as an image; None where it is out of reach."""
        image = self._images.get(_identity(clip), {}).get(position)
        if image is None:
            return None
        height, width, _ = image.shape
        uri = to_uri(jpeg_bytes(image), "jpeg")
        return tag("img", src=uri, alt=words, width=width, height=height)

    def sheet(self, clip: EmbeddedClip, positions: list[int], *, columns: int) -> Html | None:
        """Frames in a grid for the slider; None where they are out of reach."""
        images = self._images.get(_identity(clip), {})
        if not positions or any(position not in images for position in positions):
            return None
        picture = sprite({position: images[position] for position in positions}, columns=columns)
        height, width, _ = picture.shape
        return tag(
            "img",
            src=to_uri(jpeg_bytes(picture), "jpeg"),
            alt="",
            class_="sheet",
            width=width,
            height=height,
        )

    def notice(self) -> Html | None:
        """Why frames are missing on the page, None where none are."""
        if not self.reasons:
            return None
        clip, reason = next(iter(self.reasons.items()))
        more = f" ({len(self.reasons)} clips are without frames)" if len(self.reasons) > 1 else ""
        return absent(f"Without the frames of {clip}: {reason}{more}")


def _identity(clip: EmbeddedClip) -> str:
    """The same for the same frames of the same video, whichever run embedded them."""
    digest = hashlib.sha256(f"{clip.clip_id}\0{clip.video}\0".encode())
    digest.update(clip.frame_index.tobytes() + clip.times_seconds.tobytes())
    return digest.hexdigest()


def _encode(image: Image, kind: str, **options: Any) -> bytes:
    from PIL import Image as Pillow

    data = io.BytesIO()
    Pillow.fromarray(image).save(data, format=kind, **options)
    return data.getvalue()
