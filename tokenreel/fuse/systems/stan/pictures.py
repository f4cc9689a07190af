"""CNNs that are trained from the pictures of scenes, and how their pictures are cut in training.

Shapes: F scenes, K pictures of each, H x W of a picture as stored, S x S of one as a CNN sees it,
D channels of a vector.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tokenreel.cache.errors import UsageError
from tokenreel.fuse.systems.stan.cnn_library import (
    CLASSIFIER,
    SOURCES,
    make_cnn,
    pretrained_state,
)
from tokenreel.fuse.systems.stan.config import PRETRAINED, CnnConfig, PicturesConfig

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and std
KINETICS = ((0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989))
PLAIN = ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
COUNT = "num_batches_tracked"
SMALL_WIDTHS = (16, 32, 64)


@dataclass(frozen=True)
class _Known:
    """A CNN by name.

    Attributes:
        dim: channels D of its vector.
        size: side of its pictures; None: the smaller side of those that are stored.
        is_video: whether it sees the K pictures of a scene as one clip, or each alone.
        normal: mean and standard deviation of each channel.
        last: its submodule whose output is the map before pooling.
    """

    dim: int
    size: int | None
    is_video: bool
    normal: tuple[tuple[float, ...], tuple[float, ...]]
    last: str


KNOWN = {
    "resnet18": _Known(512, 224, False, IMAGENET, "layer4"),
    "seresnet50": _Known(2048, 224, False, IMAGENET, "layer4"),
    "r2plus1d_18": _Known(512, 112, True, KINETICS, "layer4"),
    "small": _Known(SMALL_WIDTHS[-1], None, True, PLAIN, "stages"),
}


@dataclass(frozen=True, eq=False)
class Crops:
    """Where a CNN looks in the pictures of each scene.

    Attributes:
        top: int64 (F,), first row.
        left: int64 (F,), first column.
        side: int64 (F,), rows and columns.
        mirrored: bool (F,).
    """

    top: NDArray[np.int64]
    left: NDArray[np.int64]
    side: NDArray[np.int64]
    mirrored: NDArray[np.bool_]

    def __getitem__(self, places: NDArray[np.int64]) -> "Crops":
        return Crops(self.top[places], self.left[places], self.side[places], self.mirrored[places])


def centre_crops(count: int, size: tuple[int, int], side: int) -> Crops:
    """The centre of each picture, of H x W `size`, as a model is evaluated."""
    full = np.full(count, side, np.int64)
    top, left = ((length - side) // 2 for length in size)
    return Crops(full * 0 + top, full * 0 + left, full, np.zeros(count, bool))


def draw_crops(
    rng: np.random.Generator, count: int, size: tuple[int, int], side: int, config: PicturesConfig
) -> Crops:
    """Random squares of a share of the area `side` x `side`, half of them mirrored.

    Args:
        rng: to draw from, as many numbers whatever they are.
        count: of scenes.
        size: H and W of the pictures.
        side: S, of a picture as the CNN sees it.
        config: the least share of the area, and whether to mirror.
    """
    share, row, column, flip = rng.random((4, count))
    area = config.least_area + (1 - config.least_area) * share
    sides = np.maximum(1, np.rint(side * np.sqrt(area))).astype(np.int64)
    top = np.floor(row * (size[0] - sides + 1)).astype(np.int64)
    left = np.floor(column * (size[1] - sides + 1)).astype(np.int64)
    return Crops(top, left, sides, (flip < 0.5) & config.flip)


class SmallCnn(nn.Module):
    """Three stages of a convolution in space and one in time; the mean of the last map.

    It tells motion apart after a few epochs on hundreds of clips of 32 pixels.
    """

    def __init__(self) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        for before, width in zip((3, *SMALL_WIDTHS), SMALL_WIDTHS, strict=False):
            stages += [
                nn.Conv3d(before, width, (1, 3, 3), (1, 2, 2), (0, 1, 1), bias=False),
                nn.BatchNorm3d(width),
                nn.ReLU(),
                nn.Conv3d(width, width, (3, 1, 1), padding=(1, 0, 0), bias=False),
                nn.BatchNorm3d(width),
                nn.ReLU(),
            ]
        self.stages = nn.Sequential(*stages)

    def forward(self, x: Tensor) -> Tensor:
        """(F, 3, K, S, S) -> (F, D)."""
        out: Tensor = self.stages(x).mean(dim=(2, 3, 4))
        return out


class SceneCnn(nn.Module):
    """A vector of each scene from its pictures; where the CNN sees one at a time, their mean.

    Attributes:
        net: the CNN without its classifier.
        channels: D.
        last_map: name of the submodule of `net` whose output is the map before pooling.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: CnnConfig) -> None:
        super().__init__()
        self.config, self._known = config, KNOWN[config.name]
        self.channels, self.last_map = self._known.dim, self._known.last
        self.net = _build(config)
        mean, std = (torch.tensor(values)[:, None, None] for values in self._known.normal)
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    def side(self, size: tuple[int, int]) -> int:
        """S of stored pictures of H x W."""
        return min(*size, self._known.size or min(size))

    def forward(self, pictures: Tensor, crops: Crops) -> Tensor:
        """uint8 (F, K, H, W, 3) -> float32 (F, D).

        Raises:
            UsageError: in training, a batch that has one value of each channel.
        """
        count, each = pictures.shape[:2]
        images = self._cut(pictures, crops)  # (F, K, 3, S, S)
        seen = images.transpose(1, 2) if self._known.is_video else images.flatten(0, 1)
        try:
            vectors: Tensor = self.net(seen).float()
        except ValueError as error:  # of a batch norm
            if "more than 1 value per channel" not in str(error):
                raise
            raise UsageError(
                f"{self.config.name} is trained on {count} scene(s) at once, of {each} picture(s) "
                f"of {images.shape[-1]} pixels, from which no mean and variance can be taken: set "
                "a larger data.batch_clips, or keep larger pictures (image_size=)"
            ) from error
        return vectors if self._known.is_video else vectors.unflatten(0, (count, each)).mean(dim=1)

    def _cut(self, pictures: Tensor, crops: Crops) -> Tensor:
        """The crops of pictures, of one size and normalised: float32 (F, K, 3, S, S)."""
        side = self.side((pictures.shape[2], pictures.shape[3]))
        cut = pictures.new_empty((*pictures.shape[:2], 3, side, side), dtype=torch.float32)
        for place, (top, left, own) in enumerate(
            zip(crops.top.tolist(), crops.left.tolist(), crops.side.tolist(), strict=True)
        ):
            part = pictures[place, :, top : top + own, left : left + own].permute(0, 3, 1, 2)
            if own != side:
                part = nn.functional.interpolate(
                    part.float(), (side, side), mode="bilinear", antialias=True
                )
            cut[place] = part.flip(-1) if crops.mirrored[place] else part
        found: Tensor = (cut / 255 - self.mean) / self.std
        return found


def _build(config: CnnConfig) -> nn.Module:
    """A CNN without its classifier; of random weights by torch's generator, or by `random:SEED`."""
    with torch.random.fork_rng(devices=[], enabled=config.random_seed is not None):
        if config.random_seed is not None:
            torch.manual_seed(config.random_seed)
        if config.name == "small":
            return SmallCnn()
        found = make_cnn(config.name, pretrained=False)
        found.fc = nn.Identity()
        net: nn.Module = found
        return net


def load_first_weights(cnn: SceneCnn) -> None:
    """Give a CNN its pre-trained weights, or those of a file; random ones stay.

    Raises:
        UsageError: weights that are unavailable, or a file that is not of this CNN.
    """
    config = cnn.config
    if config.random_seed is not None:
        return
    state = pretrained_state(config.name) if config.weights == PRETRAINED else _read_file(config)
    own = cnn.net.state_dict()
    counts = {name: value for name, value in own.items() if name.endswith(COUNT)}
    state = {name: value for name, value in state.items() if not name.startswith(CLASSIFIER)}
    state = {**counts, **state}  # which old files do not have
    wanted = {name: tuple(value.shape) for name, value in own.items()}
    found = {name: tuple(value.shape) for name, value in state.items()}
    wrong = sorted(
        name for name in wanted.keys() | found.keys() if found.get(name) != wanted.get(name)
    )
    if wrong:
        name = wrong[0]
        raise UsageError(
            f"weights={config.weights}: not of {config.name}: {len(wrong)} tensors differ, the "
            f"first is {name}, of {found.get(name, 'none')} in place of "
            f"{wanted.get(name, 'none')}: give a file of the weights of {config.name}, named "
            f"as in {SOURCES[config.name][0]}"
        )
    cnn.net.load_state_dict(state)


def _read_file(config: CnnConfig) -> Mapping[str, Tensor]:
    """The tensors of a file of torch or safetensors, read without running any code in it."""
    path = Path(config.weights)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever comes of reading what is none
        first = str(error).partition("\n")[0]
        raise UsageError(f"weights={path}: not a file of weights ({first})") from error
    if isinstance(found, Mapping) and isinstance(found.get("state_dict"), Mapping):
        found = found["state_dict"]
    tensors = found if isinstance(found, Mapping) else {}
    if not tensors or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise UsageError(f"weights={path}: not the tensors of a model by their names")
    return tensors
