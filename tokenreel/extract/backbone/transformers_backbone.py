"""Video models of the library `transformers`: VideoMAE and the frames of X-CLIP, as maps of tokens.

VideoMAE (Tong et al., 2022) sees 16 frames at once and gives a row for each two of them, its
tubelets; X-CLIP (Ni et al., 2022) sees 8 frames, which exchange messages, and gives a row for each.
Tokens are those of the blocks, before a final norm.  A file of weights is the library's own, with
its heads or without.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from tokenreel.cache.errors import UsageError
from tokenreel.cache.plugins import nearest
from tokenreel.extract.backbone.base import BackboneShape, Blocks, ImageSize, WindowFamily

Sizes = Mapping[str, int]

TINY = {  # a size for tests
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
    "num_frames": 4,
}


def _vit(dim: int, blocks: int, heads: int, patch: int, frames: int) -> dict[str, int]:
    return {
        "hidden_size": dim,
        "num_hidden_layers": blocks,
        "num_attention_heads": heads,
        "intermediate_size": 4 * dim,
        "image_size": 224,
        "patch_size": patch,
        "num_frames": frames,
    }


class _TransformersFamily(WindowFamily):
    """A kind of models of the library.

    Attributes:
        family: before the colon of backbone=FAMILY:NAME.
        sizes: name -> sizes of its config.
        hub: where weights=pretrained of a name are.
        prefixes: of tensors of a file that are the model's, cut off.
        others: prefixes of tensors that are left out: heads, norms after the blocks, other models.
        renamed: parts of names of older files, and what they are now.
        classes: of config and model.
    """

    family: str
    sizes: ClassVar[Mapping[str, Sizes]]
    hub: str
    prefixes: tuple[str, ...]
    others: tuple[str, ...]
    renamed: ClassVar[Mapping[str, str]]
    classes: tuple[str, str]

    def shape(self, name: str, blocks: Blocks, image_size: ImageSize) -> BackboneShape:
        """See Family.

        Raises:
            UsageError: an unknown name, no such block, or an image that is not of whole patches.
        """
        sizes = self._known(name)
        count, patch = sizes["num_hidden_layers"], sizes["patch_size"]
        chosen = tuple(sorted(block + count if block < 0 else block for block in blocks))
        if chosen[0] < 0 or chosen[-1] >= count or len(set(chosen)) != len(chosen):
            raise UsageError(
                f"blocks={list(blocks)}: {self.family}:{name} has blocks 0 to {count - 1}"
            )
        size = image_size or sizes["image_size"]
        height, width = (size, size) if isinstance(size, int) else size
        if height % patch or width % patch:
            raise UsageError(
                f"image_size={image_size}: {height}x{width} does not divide into patches of "
                f"{patch}x{patch} pixels"
            )
        self._check_image(name, (height, width))
        return BackboneShape(
            blocks=chosen,
            grid=(height // patch, width // patch),
            dim=sizes["hidden_size"],
            image_size=(height, width),
            has_cls=False,
            frames_per_window=sizes["num_frames"],
            rows_per_window=self._rows(sizes["num_frames"]),
            transform="cover",
        )

    def model(self, name: str) -> nn.Module:
        """The model with random weights of torch.

        Raises:
            UsageError: transformers is not installed.
        """
        transformers, (config, model) = self._library(name), self.classes
        return getattr(transformers, model)(getattr(transformers, config)(**self._known(name)))

    def load_weights(self, name: str, weights: str, key: str | None = None) -> dict[str, Tensor]:
        """See WindowFamily; `pretrained` are those that were trained on Kinetics-400.

        Raises:
            UsageError: see Family.
        """
        if weights != "pretrained":
            return super().load_weights(name, weights, key)
        model = getattr(self._library(name), self.classes[1])
        try:
            state = model.from_pretrained(self.hub.format(name=name)).state_dict()
        except Exception as error:  # no network, a proxy, a full disk
            first = str(error).strip().splitlines()[:1]
            raise UsageError(
                f"weights=pretrained: {self.hub.format(name=name)} cannot be loaded "
                f"({type(error).__name__}: {' '.join(first)}); without a network give "
                "weights=FILE, its model.safetensors, or weights=random:SEED for untrained weights"
            ) from error
        return self.read_file(state)

    def check_weights(self, name: str, weights: str, key: str | None = None) -> None:
        """Refuse weights that cannot be loaded, without a download."""
        if weights != "pretrained":
            self.load_weights(name, weights, key)

    def pretrained_name(self, name: str) -> str:
        """The repository of the hub."""
        return self.hub.format(name=name)

    def read_file(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See WindowFamily."""
        found = {}
        for full, value in sorted(state.items()):
            name = full
            for prefix in self.prefixes:
                name = name.removeprefix(prefix)
            if name.startswith(self.others):
                continue
            for old, new in self.renamed.items():
                name = name.replace(old, new)
            found[name] = value
        return found

    def _rows(self, num_frames: int) -> int:
        """Rows of a window."""
        return num_frames

    def _check_image(self, name: str, size: tuple[int, int]) -> None:
        """Refuse an image size that the positions of a model do not have."""
        own = self._known(name)["image_size"]
        if size != (own, own):
            raise UsageError(
                f"image_size={size[0]},{size[1]}: {self.family}:{name} is for {own}x{own} pixels"
            )

    def _known(self, name: str) -> Sizes:
        if name not in self.sizes:
            raise UsageError(
                f"backbone='{self.family}:{name}'{nearest(name, self.sizes)} (known: "
                f"{', '.join(self.sizes)})"
            )
        return self.sizes[name]

    def _library(self, name: str) -> Any:
        try:
            import transformers
        except ImportError as error:
            raise UsageError(
                f"backbone={self.family}:{name} needs the library transformers ({error}): pip "
                "install 'tokenreel[video]'"
            ) from error
        transformers.utils.logging.disable_progress_bar()
        return transformers


class VideoMaeFamily(_TransformersFamily):
    """`videomae:NAME`: 16 frames at once, a row for each two."""

    family = "videomae"
    sizes: ClassVar[Mapping[str, Sizes]] = {
        "small": _vit(384, 12, 6, 16, 16),
        "base": _vit(768, 12, 12, 16, 16),
        "large": _vit(1024, 24, 16, 16, 16),
        "huge": _vit(1280, 32, 16, 16, 16),
        "tiny": TINY,
    }
    hub = "MCG-NJU/videomae-{name}-finetuned-kinetics"
    prefixes = ("videomae.",)
    others = ("layernorm.", "fc_norm.", "classifier.", "decoder.", "encoder_to_decoder.", "mask_")
    renamed: ClassVar[Mapping[str, str]] = {
        "attention.attention.q_bias": "attention.attention.query.bias",
        "attention.attention.v_bias": "attention.attention.value.bias",
    }
    classes = ("VideoMAEConfig", "VideoMAEModel")

    def run(self, model: nn.Module, images: Tensor, shape: BackboneShape) -> Mapping[int, Tensor]:
        """See WindowFamily."""
        videomae: Any = model
        tokens = videomae.embeddings(images, None)
        layers = videomae.encoder.layer
        found = {}
        for block in range(shape.blocks[-1] + 1):
            tokens = layers[block](tokens)
            if block in shape.blocks:
                found[block] = tokens.unflatten(1, (shape.rows_per_window, -1))
        return found

    def _rows(self, num_frames: int) -> int:
        return num_frames // 2  # tubelet_size of every model


class XClipFamily(_TransformersFamily):
    """`xclip:NAME`: 8 frames at once, which exchange messages, a row for each."""

    family = "xclip"
    sizes: ClassVar[Mapping[str, Sizes]] = {
        "base-patch32": _vit(768, 12, 12, 32, 8),
        "base-patch16": _vit(768, 12, 12, 16, 8),
        "large-patch14": _vit(1024, 24, 16, 14, 8),
        "tiny": TINY,
    }
    hub = "microsoft/xclip-{name}"
    prefixes = ("vision_model.",)
    others = (
        "post_layernorm.",
        "text_",
        "visual_projection.",
        "prompts_",
        "mit.",
        "logit_scale",
        "embeddings.position_ids",
    )
    renamed: ClassVar[Mapping[str, str]] = {}
    classes = ("XCLIPVisionConfig", "XCLIPVisionModel")

    def model(self, name: str) -> nn.Module:
        """See WindowFamily; the norm after the blocks is left out."""
        model: Any = super().model(name)
        model.post_layernorm = nn.Identity()
        return model

    def run(self, model: nn.Module, images: Tensor, shape: BackboneShape) -> Mapping[int, Tensor]:
        """See WindowFamily."""
        xclip: Any = model
        frames = images.flatten(0, 1)
        tokens = xclip.pre_layernorm(xclip.embeddings(frames))
        found = {}
        for block in range(shape.blocks[-1] + 1):
            tokens = xclip.encoder.layers[block](tokens, None)
            if block in shape.blocks:  # without CLS
                found[block] = tokens[:, 1:].unflatten(0, (-1, shape.rows_per_window))
        return found
