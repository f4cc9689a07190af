"""Backbone outputs -> what a store keeps.

int8 is done where the tokens are; its numpy twin is the law, and the two give the same bytes.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokenreel.cache.codec import Codec, Encoded
from tokenreel.cache.recipe import StoreRecipe
from tokenreel.extract.backbone import Backbone, FrameTokens

__all__ = ["EncodedView", "encode_batch", "encode_tokens"]


@dataclass(frozen=True, slots=True)
class EncodedView:
    """t frames of one view.

    Attributes:
        encoded: block -> codes and scales, frames first.
        cls: block -> float32 (t, D); {} when the backbone has none.
        cls_normed: float32 (t, D) or None.
    """

    encoded: dict[int, Encoded]
    cls: dict[int, NDArray[np.float32]]
    cls_normed: NDArray[np.float32] | None

    @property
    def num_bytes(self) -> int:
        """Bytes of the codes and scales."""
        arrays = [a for e in self.encoded.values() for a in (e.codes, e.scales) if a is not None]
        return sum(array.nbytes for array in arrays)

    def rows_from(self, first: int) -> "EncodedView":
        """The same without the first rows."""
        if first == 0:
            return self
        return EncodedView(
            encoded={
                block: Encoded(e.codes[first:], None if e.scales is None else e.scales[first:])
                for block, e in self.encoded.items()
            },
            cls={block: values[first:] for block, values in self.cls.items()},
            cls_normed=None if self.cls_normed is None else self.cls_normed[first:],
        )


def encode_batch(
    backbone: Backbone, codec: Codec, recipe: StoreRecipe, images: Tensor
) -> list[EncodedView]:
    """Run images, uint8 (t, V, 3, S, S), and encode each of the V views.

    Raises:
        ValueError: NaN, infinity or a value that the codec cannot hold.
    """
    views = []
    for view in range(images.shape[1]):
        found: FrameTokens = backbone(images[:, view])
        views.append(
            EncodedView(
                encoded={
                    block: encode_tokens(codec, tokens, block=block, grid=recipe.grid)
                    for block, tokens in found.tokens.items()
                },
                cls={block: _array(values) for block, values in found.cls.items()},
                cls_normed=None if found.cls_normed is None else _array(found.cls_normed),
            )
        )
    return views


def encode_tokens(codec: Codec, tokens: Tensor, *, block: int, grid: tuple[int, int]) -> Encoded:
    """Encode float32 (T, N, D) of a block on its device; the bytes of codec.encode."""
    if codec.name != "int8":
        return codec.encode(_array(tokens), block=block, grid=grid)
    folding = codec.fold(block, tokens.shape[-1])
    sd = torch.from_numpy(np.array(folding.channel_scale)).to(tokens.device)
    mean = torch.from_numpy(np.array(folding.channel_offset)).to(tokens.device)
    standard = (tokens - mean) / sd
    peak = standard.abs().amax(-1)
    if not bool(torch.isfinite(peak).all()):
        return codec.encode(_array(tokens), block=block, grid=grid)  # it names the place
    scale = torch.where(peak == 0, torch.ones_like(peak), peak / 127)
    codes = torch.round(standard / scale[..., None]).clamp(-127, 127).to(torch.int8)
    return Encoded(codes.cpu().numpy(), scale.cpu().numpy())


def _array(values: Tensor) -> NDArray[Any]:
    return values.cpu().numpy()
