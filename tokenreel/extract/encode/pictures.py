"""Stores of pictures: JPEGs of the frames of each scene instead of tokens.

They take the way of tokens: where a backbone would run, images pass unchanged, and where tokens
would be quantised, they are encoded as JPEG.
"""

import hashlib
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from tokenreel.cache.codec import codec_identity
from tokenreel.cache.format.identity import RULES_VERSION, StoreIdentity
from tokenreel.cache.read.pictures import ARCHITECTURE, PIXELS
from tokenreel.extract.backbone.base import Backbone, BackboneShape, FrameTokens
from tokenreel.extract.config import ExtractConfig
from tokenreel.extract.encode.quantiser import EncodedView
from tokenreel.extract.frame_policy import frames_identity
from tokenreel.extract.images.transforms import transform_parameters

NO_WEIGHTS = hashlib.sha256().hexdigest()
SUBSAMPLING = "4:2:0"
FRAMES = {"centre": 1, "all": 12}  # of a scene
SIZES = {"centre": (224, 224), "all": (128, 171)}  # height and width
TRANSFORMS = {"centre": "dino-256-224", "all": "stretch"}


def picture_identity(config: ExtractConfig) -> StoreIdentity:
    """Identity of the store of a config with `pixels`.

    Raises:
        UsageError: see frame_policy.frames_identity.
    """
    assert config.pixels is not None
    size = config.image_size or SIZES[config.pixels]
    sides = (size, size) if isinstance(size, int) else size
    name = config.transform or TRANSFORMS[config.pixels]
    transform = transform_parameters(name, sides[0] if sides[0] == sides[1] else sides)
    for unused in ("mean", "std"):
        transform.pop(unused)
    jpeg = {"quality": config.jpeg_quality, "subsampling": SUBSAMPLING}
    return StoreIdentity(
        architecture=ARCHITECTURE + config.pixels,
        weights_sha256=NO_WEIGHTS,
        blocks=(),
        cls="none",
        grid=(1, 1),
        dim=1,
        image_size=sides,
        transform={**transform, "jpeg": jpeg},
        frames=frames_identity(config),
        codec=codec_identity("fp16"),
        unit="scene",
        frames_per_window=FRAMES[config.pixels],
        rules=RULES_VERSION,
        pixel_aspect=config.pixel_aspect,
    )


def arrays_of(identity: StoreIdentity) -> tuple[str, ...]:
    """Names of the arrays of bytes that an extraction into a store writes."""
    return (PIXELS,) if identity.architecture.startswith(ARCHITECTURE) else ()


class Pictures(FrameTokens):
    """Images that pass for the output of a backbone, uint8 (B, 3, H, W)."""

    __slots__ = ("images",)

    def __init__(self, images: Tensor) -> None:
        super().__init__(tokens={}, cls={}, cls_normed=None)
        object.__setattr__(self, "images", images)


class PassThrough(Backbone):
    """A backbone whose output is its input.

    Args:
        identity: of the store.
    """

    def __init__(self, identity: StoreIdentity) -> None:
        shape = BackboneShape(
            blocks=(),
            grid=(1, 1),
            dim=1,
            image_size=identity.image_size,
            has_cls=False,
            frames_per_window=identity.frames_per_window,
        )
        super().__init__(nn.Identity(), shape, numeric=identity.numeric)

    def forward(self, images: Tensor) -> FrameTokens:
        """Pass images, uint8 (B, 3, H, W); a copy, as their buffer is filled again."""
        return Pictures(images.clone())


class JpegEncoder:
    """Encodes pictures as a Quantiser encodes tokens.

    Args:
        identity: of the store.
    """

    def __init__(self, identity: StoreIdentity) -> None:
        self._frames = identity.frames_per_window
        self._quality = int(identity.transform["jpeg"]["quality"])

    def on_device(self, found: FrameTokens) -> dict[str, Tensor]:
        """See Quantiser."""
        assert isinstance(found, Pictures)
        images: Tensor = found.images  # type: ignore[attr-defined]
        return {PIXELS: images}

    def on_host(
        self, outputs: Mapping[str, NDArray[Any]], rows: slice, *, first: int = 0
    ) -> EncodedView:
        """The pictures of each row, end to end."""
        count = self._frames
        strings = [
            b"".join(self._jpeg(image) for image in outputs[PIXELS][row * count :][:count])
            for row in range(rows.start, rows.stop)
        ]
        return EncodedView(encoded={}, cls={}, cls_normed=None, strings={PIXELS: strings})

    def _jpeg(self, image: NDArray[np.uint8]) -> bytes:
        """The JPEG of an image, uint8 (3, H, W)."""
        from PIL import Image

        picture = Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
        data = io.BytesIO()
        picture.save(data, "JPEG", quality=self._quality, subsampling=SUBSAMPLING)
        return data.getvalue()
