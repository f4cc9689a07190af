"""Frame -> the square the backbone sees, as named presets whose every parameter is recorded.

All resizing is torch's on uint8, antialiased bicubic unless the preset says otherwise: at most
two levels from PIL, and the same bytes on every machine, because it always runs on the CPU in the
decoding process.  A preset never stretches a frame by accident.
"""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from tokenreel.extract.video import VideoError

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "apply_transform", "transform_parameters"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
ASPECT_LIMITS = (3 / 4, 4 / 3)  # of the crops that MV-Former trains on


def transform_parameters(name: str, image_size: int) -> dict[str, Any]:
    """Every parameter of a preset, as the store's recipe keeps it.

    Args:
        name: "dino-256-224" (short side to 8/7 of the square, bicubic, then its centre: the
            evaluation of DINO), "mvformer-eval" (the centre square at native size: the released
            evaluation of CARL and MV-Former, 21.8 % of a 640x360 frame) or "mvformer-train" (the
            centre crop that the released training falls back to, squashed to the square).
        image_size: side of the square in pixels.

    >>> transform_parameters("dino-256-224", 224)["short_side"]
    256

    Raises:
        ValueError: an unknown name.
    """
    common = {"name": name, "image_size": image_size, "mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    if name == "dino-256-224":
        rest: dict[str, Any] = {
            "short_side": round(image_size * 256 / 224),
            "resize": "bicubic-antialias-uint8",
            "crop": "centre",
            "smaller": "enlarged",
        }
    elif name == "mvformer-eval":
        rest = {"short_side": None, "resize": "none", "crop": "centre-ceil", "smaller": "refused"}
    elif name == "mvformer-train":
        rest = {
            "short_side": None,
            "resize": "bilinear-float32",
            "crop": "centre-3:4-to-4:3",
            "smaller": "enlarged",
        }
    else:
        raise ValueError(f"no transform {name!r}: dino-256-224, mvformer-eval or mvformer-train")
    return {key: list(v) if isinstance(v, tuple) else v for key, v in (common | rest).items()}


def apply_transform(pixels: NDArray[np.uint8], parameters: dict[str, Any]) -> torch.Tensor:
    """Cut and resize one frame.

    Args:
        pixels: RGB, uint8 (H, W, 3).
        parameters: what transform_parameters gave.

    Returns:
        uint8 (3, S, S), S the image_size.

    Raises:
        VideoError: the frame is smaller than the square and the preset refuses that; stage
            "transform".
    """
    size = parameters["image_size"]
    frame = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)
    height, width = frame.shape[1:]
    if parameters["crop"] == "centre-3:4-to-4:3":
        crop_height, crop_width = _limited(height, width)
        frame = _window(frame, crop_height, crop_width, ceil=False)
        return _resize(frame, (size, size), parameters["resize"])
    if parameters["short_side"] is not None:
        frame = _resize(
            frame, _short_side(height, width, parameters["short_side"]), parameters["resize"]
        )
    if min(frame.shape[1:]) < size:
        raise VideoError(
            f"frames of {width}x{height} are smaller than the {size}x{size} crop of "
            f"{parameters['name']}: use transform=dino-256-224",
            stage="transform",
        )
    return _window(frame, size, size, ceil=parameters["crop"] == "centre-ceil")


def _short_side(height: int, width: int, side: int) -> tuple[int, int]:
    """Size with the short side as asked and the long one in proportion, rounded down."""
    if height <= width:
        return side, side * width // height
    return side * height // width, side


def _limited(height: int, width: int) -> tuple[int, int]:
    """The largest centre window whose aspect lies within ASPECT_LIMITS."""
    low, high = ASPECT_LIMITS
    if width < low * height:
        return round(width / low), width
    if width > high * height:
        return height, round(height * high)
    return height, width


def _window(frame: torch.Tensor, height: int, width: int, *, ceil: bool) -> torch.Tensor:
    spare = (frame.shape[1] - height, frame.shape[2] - width)
    # MV-Former's uniform_crop rounds half up, torchvision's centre crop half to even.
    top, left = (math.ceil(s / 2) if ceil else round(s / 2) for s in spare)
    return frame[:, top : top + height, left : left + width]


def _resize(frame: torch.Tensor, size: tuple[int, int], how: str) -> torch.Tensor:
    if tuple(frame.shape[1:]) == size:
        return frame
    if how == "bicubic-antialias-uint8":
        return functional.interpolate(frame[None], size=size, mode="bicubic", antialias=True)[0]
    smooth = functional.interpolate(
        frame[None].float(), size=size, mode="bilinear", align_corners=False
    )
    return smooth[0].round().clamp(0, 255).to(torch.uint8)
