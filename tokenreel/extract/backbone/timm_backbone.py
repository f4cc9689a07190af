"""ViTs and ResNets of timm: spatial tokens and CLS of chosen blocks, before the final norm."""

import inspect
import logging
import sys
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from tokenreel.cache.errors import UsageError
from tokenreel.extract.backbone import weights as timm_weights
from tokenreel.extract.backbone.base import (
    Backbone,
    BackboneShape,
    Blocks,
    FrameTokens,
    ImageSize,
    use_exact_products,
)
from tokenreel.extract.backbone.weight_names import HEADS, NORM_EPS

log = logging.getLogger(__name__)

STEM = 1  # entries before the stages of a ResNet in timm's lists


class TimmBackbone(Backbone):
    """A frozen timm model: each image is a window of one frame that gives one row."""

    def run(self, images: Tensor) -> FrameTokens:
        """As forward, for normalised images, float (B, 3, H, W)."""
        model: Any = self.model
        if not _is_vit(model):
            maps = _maps(model, images, self.shape.blocks)
            tokens = {b: m.flatten(2).transpose(1, 2).float() for b, m in maps.items()}
            return FrameTokens(tokens=tokens, cls={}, cls_normed=None)
        final, kept = model.forward_intermediates(
            images,
            indices=list(self.shape.blocks),
            norm=False,
            output_fmt="NLC",
            stop_early=not self.shape.has_cls,  # the CLS after the final norm needs every block
            return_prefix_tokens=True,  # CLS and registers, apart from the spatial tokens
        )
        pairs = [pair if isinstance(pair, tuple) else (pair, None) for pair in kept]
        tokens = {b: pair[0].float() for b, pair in zip(self.shape.blocks, pairs, strict=True)}
        if not self.shape.has_cls:
            return FrameTokens(tokens=tokens, cls={}, cls_normed=None)
        cls = {b: pair[1][:, 0].float() for b, pair in zip(self.shape.blocks, pairs, strict=True)}
        return FrameTokens(tokens=tokens, cls=cls, cls_normed=final[:, 0].float())


@lru_cache(maxsize=64)
def backbone_shape(
    backbone: str, blocks: tuple[int, ...], image_size: int | tuple[int, int] | None
) -> BackboneShape:
    """Shape of a backbone's output from its architecture alone: no weights are created or loaded.

    Args:
        backbone: timm name of a ViT or ResNet.
        blocks: 0-based, negative from the end.  Those of a ResNet are its four stages: 3 is the
            last map, 2 the freeze point if the last stage is to be trained.
        image_size: side of a square, or height and width; None: that of the training images.

    Raises:
        UsageError: timm has no such model, the model has no such block, its kept blocks differ in
            shape, or the image does not divide into its patches.
    """
    with torch.device("meta"):
        model: Any = _create(backbone, image_size)
    size = _input_size(model, image_size)
    count = len(model.blocks) if _is_vit(model) else len(model.feature_info) - STEM
    chosen = tuple(sorted(block + count if block < 0 else block for block in blocks))
    if chosen[0] < 0 or chosen[-1] >= count or len(set(chosen)) != len(chosen):
        raise UsageError(f"blocks={list(blocks)}: {backbone} has blocks 0 to {count - 1}")
    if _is_vit(model):
        (rows, columns), dim = model.patch_embed.grid_size, model.embed_dim
    else:
        images = torch.zeros(1, 3, *size, device="meta")
        shapes = {tuple(m.shape[1:]) for m in _maps(model.eval(), images, chosen).values()}
        if len(shapes) > 1:
            raise UsageError(
                f"blocks={list(blocks)}: maps of {backbone} differ in shape; choose one"
            )
        dim, rows, columns = shapes.pop()
    return BackboneShape(
        chosen,
        (int(rows), int(columns)),
        dim,
        size,
        getattr(model, "cls_token", None) is not None,
        tuple(model.pretrained_cfg["mean"]),
        tuple(model.pretrained_cfg["std"]),
    )


def build_backbone(
    backbone: str,
    state: Mapping[str, Tensor],
    shape: BackboneShape,
    *,
    numeric: str = "float32",
    device: torch.device | str = "cpu",
) -> Backbone:
    """Build the backbone and load its weights, position embeddings resampled to the image's size.

    A GPU becomes the current device of this thread, and TF32 is switched off in this process: it
    keeps 10 of the 23 bits of a float32, by default in convolutions such as the patch embedding.

    Raises:
        UsageError: the weights do not fit the architecture; the message names tensors.
    """
    use_exact_products(device)
    model: Any = _create(backbone, shape.image_size)
    tensors = dict(state)
    if NORM_EPS in tensors:
        eps = float(tensors.pop(NORM_EPS))
        for norm in (module for module in model.modules() if isinstance(module, nn.LayerNorm)):
            norm.eps = eps
    resample = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    _log_interpolation(tensors, model)
    try:
        if _is_vit(model) and resample is not None:
            tensors = dict(resample(tensors, model))
        answer = model.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        raise UsageError(f"the weights do not fit {backbone}: {error}") from error
    missing = [name for name in answer.missing_keys if not name.startswith(HEADS)]
    if missing or answer.unexpected_keys:
        raise UsageError(
            f"the weights do not fit {backbone}: missing {missing[:3]}, "
            f"unexpected {answer.unexpected_keys[:3]}"
        )
    return TimmBackbone(model, shape, numeric=numeric).to(device)


def _log_interpolation(tensors: Mapping[str, Tensor], model: Any) -> None:
    """One line where position embeddings are of another number of patches than the image has."""
    given, wanted = tensors.get("pos_embed"), getattr(model, "pos_embed", None)
    if given is None or wanted is None or given.ndim != 3 or given.shape[1] == wanted.shape[1]:
        return
    grid = model.patch_embed.grid_size
    count = given.shape[1] - (wanted.shape[1] - grid[0] * grid[1])  # without CLS and registers
    log.info("position embeddings of %d patches are interpolated to %d x %d", count, *grid)


def _create(backbone: str, image_size: int | tuple[int, int] | None) -> Any:
    import timm

    options: dict[str, Any] = {"num_classes": 0}
    if image_size is not None and not backbone.startswith("resnet"):
        options["img_size"] = image_size
    try:
        model = timm.create_model(backbone, pretrained=False, **options)
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:
        near = timm.list_models(f"*{backbone.split('.')[0][:12]}*")[:5]
        raise UsageError(f"backbone={backbone!r}: {error}; near names: {near}") from error
    if not backbone.startswith("resnet") and not _gives_patch_tokens(model):
        raise UsageError(
            f"backbone={backbone!r} is neither a ResNet nor a ViT with patch tokens of timm"
        )
    return model


def _is_vit(model: nn.Module) -> bool:
    return hasattr(model, "blocks")


def _gives_patch_tokens(model: Any) -> bool:
    """Whether a model has blocks of tokens on a grid that timm separates from CLS and registers."""
    method = getattr(model, "forward_intermediates", None)
    return (
        hasattr(model, "blocks")
        and hasattr(getattr(model, "patch_embed", None), "grid_size")
        and method is not None
        and "return_prefix_tokens" in inspect.signature(method).parameters
    )


def _maps(model: Any, images: Tensor, blocks: tuple[int, ...]) -> dict[int, Tensor]:
    """Feature maps of stages of a ResNet, (B, D, rows, columns)."""
    kept = model.forward_intermediates(
        images,
        indices=[block + STEM for block in blocks],
        norm=False,
        intermediates_only=True,
        output_fmt="NCHW",
        stop_early=True,
    )
    return dict(zip(blocks, kept, strict=True))


def _input_size(model: Any, image_size: int | tuple[int, int] | None) -> tuple[int, int]:
    if image_size is None:
        size = tuple(model.pretrained_cfg["input_size"][-2:])
    else:
        size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    if _is_vit(model):
        patch = model.patch_embed.patch_size
        if size[0] % patch[0] or size[1] % patch[1]:
            raise UsageError(
                f"image_size={image_size}: {size[0]}x{size[1]} does not divide into patches of "
                f"{patch[0]}x{patch[1]} pixels"
            )
    return int(size[0]), int(size[1])


class TimmFamily:
    """timm as a family of backbones."""

    def shape(self, name: str, blocks: Blocks, image_size: ImageSize) -> BackboneShape:
        """See backbone_shape."""
        return backbone_shape(name, blocks, image_size)

    def load_weights(self, name: str, weights: str, key: str | None = None) -> dict[str, Tensor]:
        """See weights.load_weights."""
        return timm_weights.load_weights(name, weights, key)

    def check_weights(self, name: str, weights: str, key: str | None = None) -> None:
        """See weights.check_weights."""
        timm_weights.check_weights(name, weights, key)

    def pretrained_name(self, name: str) -> str:
        """With timm's tag and where they are, "resnet18.a1_in1k (timm/resnet18.a1_in1k)"."""
        import timm

        found: Any = timm.models.get_pretrained_cfg(name)
        where = found.hf_hub_id or found.url.rpartition("/")[2]
        return f"{found.architecture}.{found.tag} ({where})"

    def build(
        self,
        name: str,
        state: Mapping[str, Tensor],
        shape: BackboneShape,
        *,
        numeric: str,
        device: torch.device | str,
    ) -> Backbone:
        """See build_backbone."""
        return build_backbone(name, state, shape, numeric=numeric, device=device)
