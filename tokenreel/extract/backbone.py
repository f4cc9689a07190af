"""The frozen backbone: images -> spatial tokens and CLS of chosen blocks, before the final norm."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tokenreel.cache.errors import UsageError
from tokenreel.extract.transforms import IMAGENET_MEAN, IMAGENET_STD

__all__ = ["Backbone", "BackboneShape", "FrameTokens", "backbone_shape", "build_backbone"]


@dataclass(frozen=True, slots=True)
class BackboneShape:
    """What a backbone gives, known before its weights are there.

    Attributes:
        blocks: 0-based kept blocks, sorted.
        grid: rows and columns of the patches.
        dim: channels of a token.
        image_size: height and width of the input.
        has_cls: whether there is a CLS token.
    """

    blocks: tuple[int, ...]
    grid: tuple[int, int]
    dim: int
    image_size: tuple[int, int]
    has_cls: bool


@dataclass(frozen=True, slots=True)
class FrameTokens:
    """Output for B images.

    Attributes:
        tokens: spatial tokens of each block, (B, N, D), rows of the grid first.
        cls: CLS of each block, (B, D); empty when the backbone has none.
        cls_normed: CLS after the final norm, (B, D), or None.
    """

    tokens: dict[int, Tensor]
    cls: dict[int, Tensor]
    cls_normed: Tensor | None


class Backbone(nn.Module):
    """A frozen timm model behind one call.

    Args:
        model: the timm model, weights loaded.
        shape: what it gives.
        numeric: "float32" or "bfloat16": precision of the matrix products.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, shape: BackboneShape, *, numeric: str) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.shape = shape
        self.numeric = numeric
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).reshape(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET_STD).reshape(1, 3, 1, 1))

    @torch.inference_mode()
    def forward(self, images: Tensor) -> FrameTokens:
        """Run images, uint8 (B, 3, H, W), through the blocks; outputs are float32."""
        scaled = (images.float() / 255 - self.mean) / self.std
        with torch.autocast(
            images.device.type, dtype=torch.bfloat16, enabled=self.numeric == "bfloat16"
        ):
            return self.run(scaled)

    def run(self, images: Tensor) -> FrameTokens:
        """As forward, for images that are already normalised, float (B, 3, H, W)."""
        model: Any = self.model
        if not self.shape.has_cls:
            return self._run_map(images)
        final, kept = model.forward_intermediates(
            images,
            indices=list(self.shape.blocks),
            norm=False,
            output_fmt="NLC",
            return_prefix_tokens=True,
        )
        pairs = dict(zip(self.shape.blocks, kept, strict=True))
        return FrameTokens(
            tokens={block: spatial.float() for block, (spatial, _) in pairs.items()},
            cls={block: prefix[:, 0].float() for block, (_, prefix) in pairs.items()},
            cls_normed=final[:, 0].float(),
        )

    def _run_map(self, images: Tensor) -> FrameTokens:
        model: Any = self.model
        kept = model.forward_intermediates(
            images,
            indices=[b + _stem(model) for b in self.shape.blocks],
            norm=False,
            intermediates_only=True,
            output_fmt="NCHW",
        )
        maps = zip(self.shape.blocks, kept, strict=True)
        tokens = {block: m.flatten(2).transpose(1, 2).float() for block, m in maps}
        return FrameTokens(tokens=tokens, cls={}, cls_normed=None)


def backbone_shape(backbone: str, blocks: tuple[int, ...], image_size: int | None) -> BackboneShape:
    """What a backbone would give, from its architecture alone: no weights are made or loaded.

    Raises:
        UsageError: timm has no such model, the model has no such block, its kept blocks differ in
            shape, or the image does not divide into its patches.
    """
    with torch.device("meta"):
        model: Any = _create(backbone, image_size)
    size = _input_size(model, image_size)
    count = _num_blocks(model)
    chosen = tuple(sorted(block + count if block < 0 else block for block in blocks))
    if chosen[0] < 0 or chosen[-1] >= count or len(set(chosen)) != len(chosen):
        raise UsageError(f"blocks={list(blocks)}: {backbone} has blocks 0 to {count - 1}")
    if hasattr(model, "blocks"):
        grid = tuple(model.patch_embed.grid_size)
        has_cls = getattr(model, "cls_token", None) is not None
        if not has_cls:
            raise UsageError(
                f"backbone={backbone} has no CLS token: use a ViT with one, or a ResNet"
            )
        return BackboneShape(chosen, (grid[0], grid[1]), model.embed_dim, (size, size), True)
    stages = [model.feature_info[block + _stem(model)] for block in chosen]
    sides = {size // stage["reduction"] for stage in stages}
    widths = {stage["num_chs"] for stage in stages}
    if len(sides) > 1 or len(widths) > 1:
        raise UsageError(f"blocks={list(blocks)}: maps of {backbone} differ in shape; keep one")
    side = sides.pop()
    return BackboneShape(chosen, (side, side), widths.pop(), (size, size), False)


def build_backbone(
    backbone: str,
    state: Mapping[str, Tensor],
    shape: BackboneShape,
    *,
    numeric: str = "float32",
    device: torch.device | str = "cpu",
) -> Backbone:
    """Make the backbone and load its weights, position embeddings resampled to the image's size.

    Raises:
        UsageError: the weights are not those of the architecture; the message names tensors.
    """
    model: Any = _create(backbone, shape.image_size[0])
    tensors = dict(state)
    if hasattr(model, "blocks"):
        from timm.models.vision_transformer import checkpoint_filter_fn

        tensors = dict(checkpoint_filter_fn(tensors, model))
    try:
        answer = model.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        raise UsageError(f"the weights do not fit {backbone}: {error}") from error
    if answer.missing_keys or answer.unexpected_keys:
        raise UsageError(
            f"the weights do not fit {backbone}: missing {answer.missing_keys[:3]}, "
            f"not known {answer.unexpected_keys[:3]}"
        )
    return Backbone(model, shape, numeric=numeric).to(device)


def _create(backbone: str, image_size: int | None) -> Any:
    import timm

    options: dict[str, Any] = {"num_classes": 0}
    try:
        if image_size is not None and "vit" in backbone:
            options["img_size"] = image_size
        model = timm.create_model(backbone, pretrained=False, **options)
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:
        near = timm.list_models(f"*{backbone.split('.')[0][:12]}*")[:5]
        raise UsageError(f"backbone={backbone!r}: {error}; near names: {near}") from error
    if not hasattr(model, "blocks") and not backbone.startswith("resnet"):
        raise UsageError(f"backbone={backbone!r} is neither a ViT nor a ResNet of timm")
    return model


def _num_blocks(model: Any) -> int:
    return len(model.blocks) if hasattr(model, "blocks") else len(model.feature_info) - 1


def _stem(model: Any) -> int:
    """feature_info of a ResNet starts with its stem, which is not a block."""
    return 1


def _input_size(model: Any, image_size: int | None) -> int:
    size = image_size or model.pretrained_cfg["input_size"][-1]
    if hasattr(model, "blocks"):
        patch = model.patch_embed.patch_size[0]
        if size % patch:
            raise UsageError(f"image_size={size} does not divide into patches of {patch} pixels")
    return int(size)
