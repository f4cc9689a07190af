"""Views of a clip beside the clean one: crops of a test protocol, or random changes of the pixels.

CARL and MV-Former train on a random crop, flip, colour jitter, greyscale and blur of each video
(CARL, section 4.1).  A store keeps a few such views; each is drawn once for a clip from the
view's seed and the clip's id, hence independently of order, workers and restarts.  Tests of video
classification average three crops, the centre one and those at both ends of the longer side.
"""

import hashlib
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from tokenreel.extract.images.transforms import apply_transform, image_sides

GREY = (0.299, 0.587, 0.114)
CROP_ATTEMPTS = 10


def view_parameters(views: int, seed: int, crops: int = 1) -> tuple[dict[str, Any], ...]:
    """Parameters of the clean view 0 and of the other views, for the store's identity.

    Args:
        views: number of augmented views.
        seed: of the augmented views.
        crops: 1, or 3 for the crops at both ends of the longer side.
    """
    if crops == 3:
        return ({"name": "clean"}, {"name": "crop-first"}, {"name": "crop-last"})
    augmented = {
        "area": [0.8, 1.0],
        "aspect": [3 / 4, 4 / 3],
        "flip": 0.5,
        "jitter": 0.8,
        "brightness": 0.8,
        "contrast": 0.8,
        "saturation": 0.8,
        "hue": 0.2,
        "grey": 0.2,
        "blur": 0.5,
        "blur_sigma": [0.1, 2.0],
    }
    rest = tuple(
        {"name": f"augmented-{view}", "seed": seed, "view": view} | augmented
        for view in range(1, views + 1)
    )
    return ({"name": "clean"}, *rest)


def view_transform(
    view: dict[str, Any], seed_text: str, transform: dict[str, Any]
) -> Callable[[NDArray[np.uint8]], Tensor]:
    """How a view other than the clean one changes a frame, uint8 (H, W, 3), to (3, H, W).

    Args:
        view: of view_parameters.
        seed_text: the clip's id.
        transform: parameters of the preset.
    """
    if view["name"] == "crop-first":
        return partial(apply_transform, parameters=transform, place="first")
    if view["name"] == "crop-last":
        return partial(apply_transform, parameters=transform, place="last")
    return ViewAugmenter(view, seed_text, transform)


class ViewAugmenter:
    """One augmented view of one clip.

    Args:
        view: parameters of the view.
        seed_text: the clip's id.
        transform: parameters of the preset, for its image_size.
    """

    def __init__(self, view: dict[str, Any], seed_text: str, transform: dict[str, Any]) -> None:
        text = f"{view['seed']}|{view['view']}|{seed_text}".encode()
        draw = np.random.Generator(np.random.PCG64(list(hashlib.sha256(text).digest())))
        self._view = view
        self._size = image_sides(transform)
        self._crops = draw.uniform(size=(CROP_ATTEMPTS, 4))
        self._flip = draw.uniform() < view["flip"]
        jitters = draw.uniform() < view["jitter"]
        strengths = draw.uniform(-1, 1, size=4)
        self._order = draw.permutation(4) if jitters else np.array([], int)
        self._strengths = strengths
        self._grey = draw.uniform() < view["grey"]
        blurs = draw.uniform() < view["blur"]
        self._kernel = _gaussian(float(draw.uniform(*view["blur_sigma"]))) if blurs else None

    def __call__(self, pixels: NDArray[np.uint8]) -> Tensor:
        """Augment a frame, uint8 (H, W, 3), to uint8 (3, H, W) of the transform."""
        top, left, height, width = self._box(*pixels.shape[:2])
        window = np.ascontiguousarray(pixels[top : top + height, left : left + width])
        frame = torch.from_numpy(window).permute(2, 0, 1)[None]
        small = functional.interpolate(frame, size=self._size, mode="bicubic", antialias=True)[0]
        image: Tensor = small.float() / 255
        if self._flip:
            image = image.flip(2)
        for step in self._order:
            image = self._jitter(image, int(step))
        if self._grey:
            image = _grey(image).expand(3, -1, -1)
        if self._kernel is not None:
            image = _blur(image, self._kernel)
        return (image * 255).round().clamp(0, 255).to(torch.uint8)

    def _box(self, height: int, width: int) -> tuple[int, int, int, int]:
        """(top, left, height, width) of the first random crop that fits, else of a centre crop."""
        low, high = self._view["aspect"]
        for area, aspect, down, right in self._crops:
            share = self._view["area"][0] + area * (self._view["area"][1] - self._view["area"][0])
            ratio = math.exp(math.log(low) + aspect * (math.log(high) - math.log(low)))
            wide = round(math.sqrt(height * width * share * ratio))
            tall = round(math.sqrt(height * width * share / ratio))
            if 0 < wide <= width and 0 < tall <= height:
                top, left = int(down * (height - tall + 1)), int(right * (width - wide + 1))
                return top, left, tall, wide
        tall = min(height, round(width / low))
        wide = min(width, round(height * high))
        return (height - tall) // 2, (width - wide) // 2, tall, wide

    def _jitter(self, image: Tensor, step: int) -> Tensor:
        name = ("brightness", "contrast", "saturation", "hue")[step]
        strength = float(self._strengths[step]) * float(self._view[name])
        if name == "brightness":
            return (image * (1 + strength)).clamp(0, 1)
        if name == "hue":
            return _turn_hue(image, strength)
        centre = _grey(image).mean() if name == "contrast" else _grey(image)
        return (centre + (image - centre) * (1 + strength)).clamp(0, 1)


def _grey(image: Tensor) -> Tensor:
    return (image * torch.tensor(GREY).reshape(3, 1, 1)).sum(0, keepdim=True)


def _turn_hue(image: Tensor, turns: float) -> Tensor:
    """Rotate chroma in YIQ by a fraction of a full turn; luminance is unchanged."""
    to_yiq = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
    angle = 2 * math.pi * turns
    cos, sin = math.cos(angle), math.sin(angle)
    turn = torch.tensor([[1.0, 0.0, 0.0], [0.0, cos, -sin], [0.0, sin, cos]])
    mix = torch.linalg.inv(to_yiq) @ turn @ to_yiq
    return torch.einsum("ij,jhw->ihw", mix, image).clamp(0, 1)


def _gaussian(sigma: float) -> Tensor:
    radius = max(1, math.ceil(3 * sigma))
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    return kernel / kernel.sum()


def _blur(image: Tensor, kernel: Tensor) -> Tensor:
    radius = min(len(kernel) // 2, image.shape[1] - 1)
    middle = len(kernel) // 2
    kernel = kernel[middle - radius : middle + radius + 1]
    kernel = kernel / kernel.sum()
    rows, columns = kernel.reshape(1, 1, -1, 1), kernel.reshape(1, 1, 1, -1)
    padded = functional.pad(image[:, None], (radius, radius, radius, radius), mode="reflect")
    return functional.conv2d(functional.conv2d(padded, rows), columns)[:, 0]
