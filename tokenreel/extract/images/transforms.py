"""Frame -> image of the backbone, by named presets whose parameters are all recorded.

All resizing is antialiased bicubic on uint8 unless the preset says otherwise: at most two levels
from PIL, and the same bytes by torch in the decode process and in integers on the device
(`resize.resize_on_device`).  Only "mvformer-train" changes the aspect ratio.
"""

import math
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from tokenreel.extract.images.resize import ResizePlan, plan_resize
from tokenreel.extract.video.types import VideoError

Place = Literal["centre", "first", "last"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
IN_WHOLE_NUMBERS = ("bicubic-antialias-uint8", "none")
COVERING = {"dino-256-224": 256 / 224, "cover": 1.0}  # short side by that of the image
STRETCHED = {"torchvision-video": (128 / 112, 171 / 112), "stretch": (1.0, 1.0)}
ASPECT_LIMITS = (3 / 4, 4 / 3)  # of the crops that MV-Former trains on


def transform_parameters(
    name: str,
    image_size: int | tuple[int, int],
    *,
    mean: tuple[float, ...] = IMAGENET_MEAN,
    std: tuple[float, ...] = IMAGENET_STD,
) -> dict[str, Any]:
    """Every parameter of a preset, for the store's identity.

    Args:
        name: "dino-256-224" (short side to 8/7 of the square, bicubic, then its centre: the
            evaluation of DINO), "cover" (short side to that of the image, bicubic, then its centre:
            CLIP's and VideoMAE's), "mvformer-eval" (the centre square at native size: the released
            evaluation of CARL and MV-Former, 21.8 % of a 640x360 frame) or "mvformer-train" (the
            centre crop that the released training falls back to, stretched to the square),
            "torchvision-video" (stretched to 8/7 of the height and 171/112 of the width, then its
            centre: torchvision's for Kinetics-400) or "stretch" (to the image).
        image_size: side of the square in pixels, or height and width.
        mean: of each channel, subtracted before the backbone.
        std: of each channel, the divisor.

    >>> transform_parameters("dino-256-224", 224)["short_side"]
    256

    Raises:
        ValueError: an unknown name.
    """
    common: dict[str, Any] = {"name": name, "image_size": image_size, "mean": mean, "std": std}
    height, width = image_sides(common)
    if name in COVERING:
        rest: dict[str, Any] = {
            "short_side": round(min(height, width) * COVERING[name]),
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
    elif name in STRETCHED:
        resized = round(height * STRETCHED[name][0]), round(width * STRETCHED[name][1])
        rest = {
            "short_side": None,
            "resized": resized,
            "resize": "bilinear-float32",
            "crop": "centre",
            "smaller": "enlarged",
        }
    else:
        known = (*COVERING, "mvformer-eval", "mvformer-train", *STRETCHED)
        raise ValueError(f"no transform {name!r}: {', '.join(known)}")
    return {key: list(v) if isinstance(v, tuple) else v for key, v in (common | rest).items()}


def apply_transform(
    pixels: NDArray[np.uint8], parameters: dict[str, Any], *, place: Place = "centre"
) -> torch.Tensor:
    """Crop and resize one frame.

    Args:
        pixels: RGB, uint8 (H, W, 3).
        parameters: of transform_parameters.
        place: of the crop along the longer side of the frame; only for presets of COVERING.

    Returns:
        uint8 (3, H, W) of image_size.

    Raises:
        VideoError: the frame is smaller than the square and the preset refuses that; stage
            "transform".
    """
    size = image_sides(parameters)
    frame = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)
    height, width = frame.shape[1:]
    if parameters["crop"] == "centre-3:4-to-4:3":
        low, high = ASPECT_LIMITS
        crop = min(height, round(width / low)), min(width, round(height * high))
        top, left = _corner((height, width), crop, ceil=False)
        frame = frame[:, top : top + crop[0], left : left + crop[1]]
        return _resize(frame, size, parameters["resize"])
    resized, (top, left) = _layout((height, width), parameters, place)
    frame = _resize(frame, resized, parameters["resize"])
    return frame[:, top : top + size[0], left : left + size[1]]


def plan_on_device(frame: tuple[int, int], parameters: dict[str, Any]) -> ResizePlan | None:
    """Plan of resizing frames of a height and width on the device; None where only a CPU can.

    Raises:
        VideoError: as apply_transform.
    """
    if parameters["resize"] not in IN_WHOLE_NUMBERS:
        return None
    resized, corner = _layout(frame, parameters)
    try:
        return plan_resize(frame, resized, corner, image_sides(parameters))
    except ValueError:
        return None


def image_sides(parameters: dict[str, Any]) -> tuple[int, int]:
    """Height and width of a preset's image.

    >>> image_sides({"image_size": 224}), image_sides({"image_size": [112, 224]})
    ((224, 224), (112, 224))
    """
    size = parameters["image_size"]
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _layout(
    frame: tuple[int, int], parameters: dict[str, Any], place: Place = "centre"
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Height and width after resizing, and the top left corner of the crop."""
    size = image_sides(parameters)
    resized = frame
    if "resized" in parameters:
        resized = tuple(parameters["resized"])
    if parameters["short_side"] is not None:
        resized = _covering(frame, size, parameters["short_side"])
    if resized[0] < size[0] or resized[1] < size[1]:
        raise VideoError(
            f"frames of {frame[1]}x{frame[0]} are smaller than the {size[1]}x{size[0]} crop of "
            f"{parameters['name']}: use transform=dino-256-224",
            stage="transform",
        )
    top, left = _corner(resized, size, ceil=parameters["crop"] == "centre-ceil")
    if place != "centre" and resized[0] > resized[1]:
        top = 0 if place == "first" else resized[0] - size[0]
    elif place != "centre":
        left = 0 if place == "first" else resized[1] - size[1]
    return resized, (top, left)


def _covering(frame: tuple[int, int], size: tuple[int, int], side: int) -> tuple[int, int]:
    """Size of the resized frame: its short side is `side`, or larger where the image is long."""
    short = min(frame)
    height, width = frame[0] * side // short, frame[1] * side // short  # rounded down
    margin = side / min(size)
    wanted = (math.ceil(size[0] * margin), math.ceil(size[1] * margin))
    if size[0] == size[1] or (height >= wanted[0] and width >= wanted[1]):
        return height, width
    scale = max(wanted[0] / frame[0], wanted[1] / frame[1])
    return math.ceil(frame[0] * scale), math.ceil(frame[1] * scale)


def _corner(frame: tuple[int, int], window: tuple[int, int], *, ceil: bool) -> tuple[int, int]:
    """Top and left of the centre crop."""
    spare = (frame[0] - window[0], frame[1] - window[1])
    # MV-Former's uniform_crop rounds half up, torchvision's centre crop half to even.
    top, left = (math.ceil(s / 2) if ceil else round(s / 2) for s in spare)
    return top, left


def _resize(frame: torch.Tensor, size: tuple[int, int], how: str) -> torch.Tensor:
    if tuple(frame.shape[1:]) == size:
        return frame
    if how == "bicubic-antialias-uint8":
        return functional.interpolate(frame[None], size=size, mode="bicubic", antialias=True)[0]
    smooth = functional.interpolate(
        frame[None].float(), size=size, mode="bilinear", align_corners=False
    )
    return smooth[0].round().clamp(0, 255).to(torch.uint8)
