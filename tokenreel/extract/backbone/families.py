"""Backbones by name: NAME or timm:NAME is a model of timm, FAMILY:NAME one of another family.

A package adds a family by an entry point in the group `tokenreel.backbones`: a class without
arguments, see base.Family.  Names are checked here without torch.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from tokenreel.cache.plugins import Table

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from tokenreel.extract.backbone.base import (
        Backbone,
        BackboneShape,
        Blocks,
        Family,
        ImageSize,
    )

BACKBONES = Table(
    "backbone family",
    "tokenreel.backbones",
    {
        "timm": "tokenreel.extract.backbone.timm_backbone:TimmFamily",
        "torchvision": "tokenreel.extract.backbone.torchvision_backbone:TorchvisionFamily",
        "motion": "tokenreel.extract.backbone.motion_backbone:MotionFamily",
        "videomae": "tokenreel.extract.backbone.transformers_backbone:VideoMaeFamily",
        "xclip": "tokenreel.extract.backbone.transformers_backbone:XClipFamily",
    },
)


def split_backbone(backbone: str) -> tuple[str, str]:
    """The family of a backbone and its name there.

    >>> split_backbone("vit_tiny_patch16_224"), split_backbone("r2plus1d:18")
    (('timm', 'vit_tiny_patch16_224'), ('r2plus1d', '18'))
    """
    family, colon, name = backbone.partition(":")
    return (family, name) if colon else ("timm", backbone)


def check_family(backbone: str) -> None:
    """Raise UsageError where a backbone's family is unknown; its name is not checked."""
    family, _ = split_backbone(backbone)
    if family not in BACKBONES:
        BACKBONES.load(family)


def backbone_label(backbone: str) -> str:
    """A backbone's name as part of a file name.

    >>> backbone_label("r2plus1d:18")
    'r2plus1d-18'
    """
    return backbone.replace(":", "-").replace("/", "-")


def _family(backbone: str) -> "tuple[Family, str]":
    family, name = split_backbone(backbone)
    found: Family = BACKBONES.load(family)()
    return found, name


def backbone_shape(backbone: str, blocks: "Blocks", image_size: "ImageSize") -> "BackboneShape":
    """Shape of a backbone's output from its architecture alone: no weights are created or loaded.

    Args:
        backbone: NAME of timm, or FAMILY:NAME.
        blocks: 0-based, negative from the end.
        image_size: side of a square, or height and width; None: the backbone's own.

    Raises:
        UsageError: no such backbone, block or image size; the nearest name where there is one.
    """
    family, name = _family(backbone)
    return family.shape(name, blocks, image_size)


def load_weights(backbone: str, weights: str, key: str | None = None) -> "dict[str, Tensor]":
    """The tensors of a backbone by name; see weights.load_weights for those of timm.

    Raises:
        UsageError: no such backbone, word, file or download, or none that fits.
    """
    family, name = _family(backbone)
    return family.load_weights(name, weights, key)


def check_weights(backbone: str, weights: str, key: str | None = None) -> None:
    """Refuse weights that cannot be loaded, without a download.

    Raises:
        UsageError: as load_weights.
    """
    family, name = _family(backbone)
    family.check_weights(name, weights, key)


def pretrained_name(backbone: str) -> str:
    """The name that a library gives the weights of `pretrained`; "" where it is not known."""
    family, name = _family(backbone)
    named = getattr(family, "pretrained_name", None)  # which families of packages need not have
    return "" if named is None else str(named(name))


def build_backbone(
    backbone: str,
    state: "Mapping[str, Tensor]",
    shape: "BackboneShape",
    *,
    numeric: str = "float32",
    device: "torch.device | str" = "cpu",
) -> "Backbone":
    """Build the backbone and load its weights.

    A GPU becomes the current device of this thread, and TF32 is switched off in this process.

    Raises:
        UsageError: the weights do not fit the architecture; the message names tensors.
    """
    family, name = _family(backbone)
    return family.build(name, state, shape, numeric=numeric, device=device)
