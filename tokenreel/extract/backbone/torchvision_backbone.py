"""Backbones of torchvision that give one vector for a scene: the pooled output of their last stage.

R(2+1)D-18 (Tran et al., 2018) sees 12 frames at 112, ResNet-18 one at 224.  A file of weights is
torchvision's own, with its classifier or without.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tokenreel.cache.errors import UsageError
from tokenreel.cache.plugins import nearest
from tokenreel.extract.backbone.base import BackboneShape, Blocks, ImageSize, WindowFamily
from tokenreel.extract.images.transforms import IMAGENET_MEAN, IMAGENET_STD

LAST = 3  # the stage that is pooled, counted from 0 as those of timm's ResNets
CLASSIFIER = "fc."


@dataclass(frozen=True, slots=True)
class _Model:
    """A model of torchvision.

    Attributes:
        module: of torchvision.models in which it is.
        frames: that it sees at once.
        image_size: side of its training images.
        transform: preset of its evaluation.
        mean, std: of each channel.
        weights: name of torchvision's weights.
    """

    module: str
    frames: int
    image_size: int
    transform: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    weights: str


MODELS = {
    "r2plus1d_18": _Model(
        "torchvision.models.video",
        12,
        112,
        "torchvision-video",
        (0.43216, 0.394666, 0.37645),
        (0.22803, 0.22145, 0.216989),
        "KINETICS400_V1",
    ),
    "resnet18": _Model(
        "torchvision.models",
        1,
        224,
        "dino-256-224",
        IMAGENET_MEAN,
        IMAGENET_STD,
        "IMAGENET1K_V1",
    ),
}
DIM = 512  # channels of the last stage of both


class TorchvisionFamily(WindowFamily):
    """torchvision as a family of backbones."""

    def shape(self, name: str, blocks: Blocks, image_size: ImageSize) -> BackboneShape:
        """See Family; the only block is 3, the last stage, pooled.

        Raises:
            UsageError: an unknown name, or another block.
        """
        known = _known(name)
        if tuple(blocks) not in ((LAST,), (-1,)):
            raise UsageError(
                f"blocks={list(blocks)}: torchvision:{name} gives the pooled output of its last "
                f"stage, blocks={LAST}"
            )
        size = image_size or known.image_size
        return BackboneShape(
            blocks=(LAST,),
            grid=(1, 1),
            dim=DIM,
            image_size=(size, size) if isinstance(size, int) else size,
            has_cls=False,
            mean=known.mean,
            std=known.std,
            frames_per_window=known.frames,
            transform=known.transform,
        )

    def model(self, name: str) -> nn.Module:
        """The model without its classifier, with random weights of torch."""
        model: Any = _function(name)(weights=None)
        model.fc = nn.Identity()
        return model

    def run(self, model: nn.Module, images: Tensor, shape: BackboneShape) -> Mapping[int, Tensor]:
        """Block 3 -> (B, 1, 1, 512) of normalised images (B, F, 3, H, W)."""
        seen = images[:, 0] if shape.frames_per_window == 1 else images.transpose(1, 2)
        return {LAST: model(seen)[:, None, None, :]}

    def load_weights(self, name: str, weights: str, key: str | None = None) -> dict[str, Tensor]:
        """The tensors of `weights` by torchvision's names, without those of the classifier.

        Raises:
            UsageError: see Family.
        """
        if weights != "pretrained":
            return super().load_weights(name, weights, key)
        known, function = _known(name), _function(name)
        try:
            state = function(weights=known.weights).state_dict()
        except Exception as error:  # no network, a proxy, a hash that differs, a full disk
            first = str(error).splitlines()[0] if str(error) else ""
            raise UsageError(
                f"weights=pretrained: torchvision could not load {name} ({type(error).__name__}: "
                f"{first}); without a network give weights=FILE, torchvision's own, or "
                "weights=random:SEED for untrained weights"
            ) from error
        return without_classifier(state)

    def check_weights(self, name: str, weights: str, key: str | None = None) -> None:
        """Refuse weights that cannot be loaded, without a download."""
        if weights != "pretrained":
            self.load_weights(name, weights, key)

    def pretrained_name(self, name: str) -> str:
        """Such as "ResNet18_Weights.IMAGENET1K_V1 (resnet18-f37072fd.pth)"."""
        from importlib import import_module

        models: Any = import_module("torchvision.models")
        entry = models.get_model_weights(name)[_known(name).weights]
        return f"{entry} ({entry.url.rpartition('/')[2]})"

    def read_file(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See WindowFamily."""
        return without_classifier(state)


def without_classifier(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a state but those of the classifier, in order of name."""
    return {n: v for n, v in sorted(state.items()) if not n.startswith(CLASSIFIER)}


def _known(name: str) -> _Model:
    if name not in MODELS:
        raise UsageError(
            f"backbone='torchvision:{name}'{nearest(name, MODELS)} (known: {', '.join(MODELS)})"
        )
    return MODELS[name]


def _function(name: str) -> Any:
    """The function of torchvision that builds a model.

    Raises:
        UsageError: torchvision is not installed, or not the one of this torch.
    """
    from importlib import import_module

    known = _known(name)
    try:
        return getattr(import_module(known.module), name)
    except (ImportError, RuntimeError) as error:  # RuntimeError: built for another torch
        raise UsageError(
            f"backbone=torchvision:{name}: torchvision cannot be imported beside torch "
            f"{torch.__version__} ({str(error).splitlines()[0]}): pip install torchvision"
        ) from error
