"""The frozen backbone: windows of frames -> spatial tokens and CLS of chosen blocks.

A window is F consecutive kept frames of a clip; it gives R rows of the store.  For an image model
both are 1.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from tokenreel.cache.errors import UsageError
from tokenreel.extract.backbone.weight_files import read_tensor_groups
from tokenreel.extract.backbone.weight_fit import default_group
from tokenreel.extract.backbone.weights import random_state, seed_of
from tokenreel.extract.images.transforms import IMAGENET_MEAN, IMAGENET_STD

Blocks = tuple[int, ...]
ImageSize = int | tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class BackboneShape:
    """Shape of a backbone's output, known without its weights.

    Attributes:
        blocks: 0-based kept blocks, sorted.
        grid: rows and columns of the patches.
        dim: channels of a token.
        image_size: height and width of the input.
        has_cls: whether there is a CLS token.
        mean: of each channel of the training images, in [0, 1].
        std: of each channel.
        frames_per_window: F, frames that it sees at once.
        rows_per_window: R, rows that it makes of them, evenly spaced in time.
        transform: preset that turns a frame into its image, unless the config names another.
    """

    blocks: tuple[int, ...]
    grid: tuple[int, int]
    dim: int
    image_size: tuple[int, int]
    has_cls: bool
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    frames_per_window: int = 1
    rows_per_window: int = 1
    transform: str = "dino-256-224"


@dataclass(frozen=True, slots=True)
class FrameTokens:
    """Output for B rows.

    Attributes:
        tokens: spatial tokens of each block, (B, N, D), rows of the grid first.
        cls: CLS of each block, (B, D); empty when the backbone has none.
        cls_normed: CLS after the final norm, (B, D), or None.
    """

    tokens: dict[int, Tensor]
    cls: dict[int, Tensor]
    cls_normed: Tensor | None


class Backbone(nn.Module):
    """A frozen model behind one call.

    Args:
        model: with its weights.
        shape: of its output.
        numeric: "float32" or "bfloat16": precision of the matrix products.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, shape: BackboneShape, *, numeric: str) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.shape = shape
        self.numeric = numeric
        self.register_buffer("mean", torch.tensor(shape.mean).reshape(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(shape.std).reshape(1, 3, 1, 1))

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.mean.device

    @torch.inference_mode()
    def forward(self, images: Tensor) -> FrameTokens:
        """Run images, uint8 (B, 3, H, W), B a multiple of F, through the blocks.

        Returns:
            Outputs of the B / F * R rows, float32.
        """
        scaled = (images.float() / 255 - self.mean) / self.std
        with torch.autocast(
            images.device.type, dtype=torch.bfloat16, enabled=self.numeric == "bfloat16"
        ):
            return self.run(scaled)

    def run(self, images: Tensor) -> FrameTokens:
        """As forward, for normalised images, float (B, 3, H, W)."""
        raise NotImplementedError


class Family(Protocol):
    """What a name before the colon of backbone=FAMILY:NAME stands for."""

    def shape(self, name: str, blocks: Blocks, image_size: ImageSize) -> BackboneShape:
        """Shape of the output, without weights.

        Raises:
            UsageError: no such name, block or image size.
        """

    def load_weights(self, name: str, weights: str, key: str | None = None) -> dict[str, Tensor]:
        """The tensors of `weights` by name.

        Raises:
            UsageError: weights that are unavailable or do not fit.
        """

    def check_weights(self, name: str, weights: str, key: str | None = None) -> None:
        """Refuse weights that cannot be loaded, without a download."""

    def build(
        self,
        name: str,
        state: Mapping[str, Tensor],
        shape: BackboneShape,
        *,
        numeric: str,
        device: torch.device | str,
    ) -> Backbone:
        """The backbone with its weights, on a device."""


class WindowFamily:
    """A family of one's own: inherit from it, and write `shape`, `model` and `run`.

    Weights are random:SEED, or a file whose tensors have the model's names and shapes.  Such a
    backbone gives tokens and no CLS vectors: its shape says `has_cls=False`.
    """

    def shape(self, name: str, blocks: Blocks, image_size: ImageSize) -> BackboneShape:
        """The shape of the output of a model of that name, without weights.

        Args:
            name: after the colon of backbone=FAMILY:NAME.
            blocks: of the command, sorted.
            image_size: of the command; None: the model's own.

        Raises:
            UsageError: no such name, block or image size.
        """
        raise NotImplementedError

    def model(self, name: str) -> nn.Module:
        """The model with any weights; it need not be one that can be called."""
        raise NotImplementedError

    def run(self, model: nn.Module, images: Tensor, shape: BackboneShape) -> Mapping[int, Tensor]:
        """Block -> (B, R, N, D) of normalised images (B, F, 3, H, W); no row depends on others."""
        raise NotImplementedError

    def load_weights(self, name: str, weights: str, key: str | None = None) -> dict[str, Tensor]:
        """The tensors of random:SEED, or of a file, by the names of the model.

        Raises:
            UsageError: weights that are unavailable or do not fit.
        """
        wanted = self.model(name).state_dict()
        if weights.startswith("random:"):
            return random_state(wanted, seed_of(weights))
        if weights == "pretrained":
            raise UsageError(
                f"weights=pretrained: backbone {name!r} has none; give weights=FILE, or "
                "weights=random:SEED for untrained weights"
            )
        groups = read_tensor_groups(Path(weights))
        group = default_group(groups) if key is None else key
        if group not in groups:
            raise UsageError(f"weights_key={key!r}: {weights} has {', '.join(sorted(groups))}")
        state = self.read_file(
            {part: value.clone() for part, value in sorted(groups[group].items())}
        )
        shapes = {part: tuple(value.shape) for part, value in state.items()}
        wrong = {part: tuple(v.shape) for part, v in wanted.items()}.items() ^ shapes.items()
        if wrong:
            raise UsageError(
                f"weights={weights!r} do not fit {name!r}: {min(wrong)[0]} is missing, unexpected "
                "or of another shape"
            )
        return state

    def read_file(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of the model among those of a file: all, unless a family leaves some out."""
        return dict(state)

    def check_weights(self, name: str, weights: str, key: str | None = None) -> None:
        """Refuse weights that cannot be loaded."""
        self.load_weights(name, weights, key)

    def pretrained_name(self, name: str) -> str:
        """The name that others give the weights of `pretrained`, "" where it is not known."""
        return ""

    def build(
        self,
        name: str,
        state: Mapping[str, Tensor],
        shape: BackboneShape,
        *,
        numeric: str,
        device: torch.device | str,
    ) -> Backbone:
        """The backbone with its weights, on a device.

        Raises:
            UsageError: a shape with CLS vectors, which such a family does not give.
        """
        if shape.has_cls:
            raise UsageError(
                f"{type(self).__name__}: the shape of {name!r} says has_cls=True, but a "
                "WindowFamily gives no CLS vectors: say has_cls=False"
            )
        use_exact_products(device)
        model = self.model(name)
        model.load_state_dict(dict(state))
        return _Windows(self, model, shape, numeric=numeric).to(device)


class _Windows(Backbone):
    """The backbone of a WindowFamily."""

    def __init__(
        self, family: WindowFamily, model: nn.Module, shape: BackboneShape, *, numeric: str
    ) -> None:
        super().__init__(model, shape, numeric=numeric)
        self._family = family

    def run(self, images: Tensor) -> FrameTokens:
        """As forward, for normalised images, float (B, 3, H, W), B a multiple of F.

        Raises:
            UsageError: the family gives another shape than it says.
        """
        shape = self.shape
        windows = images.unflatten(0, (-1, shape.frames_per_window))
        found = self._family.run(self.model, windows, shape)
        rows, columns = shape.grid
        wanted = len(windows), shape.rows_per_window, rows * columns, shape.dim
        for block in shape.blocks:
            given = tuple(found[block].shape) if block in found else None
            if given != wanted:
                raise UsageError(
                    f"{type(self._family).__name__}: block {block} is {given}, but its shape says "
                    f"{wanted}: (windows, rows a window, tokens, channels)"
                )
        tokens = {block: found[block].flatten(0, 1).float() for block in shape.blocks}
        return FrameTokens(tokens=tokens, cls={}, cls_normed=None)


def use_exact_products(device: torch.device | str) -> None:
    """Make a GPU the current device of this thread and switch TF32 off in this process."""
    if torch.device(device).type == "cuda":
        torch.cuda.set_device(torch.device(device).index or 0)
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
