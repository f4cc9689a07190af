"""The real frames of the page: asked for by every part, decoded once a clip, embedded as JPEG."""

import hashlib
import logging
from collections.abc import Iterable

from tokenreel.cache.embeddings import EmbeddedClip
from tokenreel.evaluate.report.page.html import Html, tag
from tokenreel.evaluate.report.pictures.frames import (
    FrameSource,
    FramesUnreachable,
    Image,
    jpeg_bytes,
    sprite,
    thumbnails,
    to_uri,
)

__all__ = ["Pictures"]

log = logging.getLogger(__name__)


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
        """Say which frames of a clip will be shown."""
        self._wanted.setdefault(_identity(clip), (clip, set()))[1].update(map(int, positions))

    def fetch(self) -> None:
        """Decode what is wanted; a clip out of reach is written down with its reason."""
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
        return tag("p", f"Without the frames of {clip}: {reason}{more}", class_="absent")


def _identity(clip: EmbeddedClip) -> str:
    """The same for the same frames of the same video, whichever run embedded them."""
    digest = hashlib.sha256(f"{clip.clip_id}\0{clip.video}\0".encode())
    digest.update(clip.frame_index.tobytes() + clip.times_seconds.tobytes())
    return digest.hexdigest()
