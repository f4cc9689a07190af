"""Motion without appearance: space-time gradients of grey, contrast-normalised frames.

A stand-in for a trained 3D CNN where none can be had: random 3D CNNs do not see motion (they tell
static from moving clips, not one motion from another), signed gradients do.  Of each window it
computes, in GRID x GRID cells and over all pairs of frames, the mean of

    It Ix, It Iy    which way and how fast the brightness moves
    Ix Ix, Iy Iy    contrast across and along, which scales the two
    Ix Iy           slant of the edges
    It It           change of any kind

where I is the grey frame, halved, minus its mean over its standard deviation: a colour cast, the
brightness and the contrast of a frame have no effect.  The six are standardised by MEAN and STD, as
the channels of a network are by its norms: without that they are small beside the positions that a
transformer adds.  There are no weights: `weights=random:N` is the same for every N.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d

from tokenreel.cache.errors import UsageError
from tokenreel.cache.plugins import nearest
from tokenreel.extract.backbone.base import BackboneShape, Blocks, ImageSize, WindowFamily

NAMES = ("gradients",)
FRAMES, SIZE = 12, 64
GRID, STATISTICS = 4, 6
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
MEAN = (0.0, 0.0, 0.45, 0.45, 0.0, 0.83)  # of the six, over scenes of rendered trailers
STD = (0.3, 0.3, 0.12, 0.12, 0.08, 0.54)
FLAT = 1e-3  # standard deviation, of levels from 0 to 1, below which a frame has no contrast


class MotionFamily(WindowFamily):
    """backbone=motion:gradients: one vector of 96 channels for 12 frames."""

    def shape(self, name: str, blocks: Blocks, image_size: ImageSize) -> BackboneShape:
        """See Family; the only block is 0.

        Raises:
            UsageError: an unknown name, another block, or an image of fewer than 16 pixels a side.
        """
        if name not in NAMES:
            raise UsageError(
                f"backbone='motion:{name}'{nearest(name, NAMES)} (known: {', '.join(NAMES)})"
            )
        if tuple(blocks) not in ((0,), (-1,)):
            raise UsageError(f"blocks={list(blocks)}: motion:{name} has one block, blocks=0")
        size = image_size or SIZE
        sides = (size, size) if isinstance(size, int) else size
        if min(sides) < 4 * GRID:
            raise UsageError(f"image_size={image_size}: motion:{name} takes {4 * GRID} and more")
        return BackboneShape(
            blocks=(0,),
            grid=(1, 1),
            dim=GRID * GRID * STATISTICS,
            image_size=sides,
            has_cls=False,
            mean=(0.0, 0.0, 0.0),
            std=(1.0, 1.0, 1.0),
            frames_per_window=FRAMES,
            transform="stretch",
        )

    def model(self, name: str) -> nn.Module:
        """A module without weights."""
        return nn.Identity()

    def run(self, model: nn.Module, images: Tensor, shape: BackboneShape) -> Mapping[int, Tensor]:
        """Block 0 -> (B, 1, 1, 96) of images (B, 12, 3, H, W), levels from 0 to 1."""
        return {0: gradient_statistics(images)[:, None, None]}


def gradient_statistics(images: Tensor) -> Tensor:
    """The statistics of windows, (B, 96): cells row by row, those of a cell side by side.

    Args:
        images: (B, F, 3, H, W), levels from 0 to 1.
    """
    weights = images.new_tensor(LUMA)[:, None, None]
    grey = avg_pool2d((images.float() * weights).sum(dim=2), 2)  # (B, F, H / 2, W / 2)
    deviation = grey.std(dim=(2, 3), keepdim=True, correction=0)
    grey = (grey - grey.mean(dim=(2, 3), keepdim=True)) / deviation.clamp(min=FLAT)
    between = (grey[:, 1:] + grey[:, :-1]) / 2
    across = (between[:, :, 1:-1, 2:] - between[:, :, 1:-1, :-2]) / 2
    along = (between[:, :, 2:, 1:-1] - between[:, :, :-2, 1:-1]) / 2
    change = (grey[:, 1:] - grey[:, :-1])[:, :, 1:-1, 1:-1]
    products = torch.stack(
        [
            change * across,
            change * along,
            across * across,
            along * along,
            across * along,
            change * change,
        ],
        dim=1,
    )
    means = adaptive_avg_pool2d(products.mean(dim=2), GRID)  # (B, 6, GRID, GRID)
    cells = means.flatten(2).transpose(1, 2)  # (B, GRID x GRID, 6)
    return ((cells - means.new_tensor(MEAN)) / means.new_tensor(STD)).flatten(1)
