"""Backbone outputs -> what a store keeps.

What can be done where the tokens are is done there: pool2, int8, fp16.  The numpy codecs are the
law, and the two give the same bytes; the other steps run on the host.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from tokenreel.cache.codec import Codec, Encoded
from tokenreel.cache.codec.fp16 import Float16
from tokenreel.cache.codec.int8 import Int8
from tokenreel.cache.codec.pool2 import Pool2
from tokenreel.cache.recipe import StoreRecipe
from tokenreel.extract.backbone import FrameTokens

__all__ = ["EncodedView", "Quantiser"]


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


class Quantiser:
    """Encodes the outputs of a backbone, in two halves: on their device, then on the host.

    Args:
        codec: of the store.
        recipe: of the store.
        device: of the outputs.
    """

    def __init__(self, codec: Codec, recipe: StoreRecipe, device: torch.device) -> None:
        self._codec, self._recipe, self._device = codec, recipe, device
        on_device = all(isinstance(step, Pool2) for step in codec.reducers)
        self._on_device = on_device and isinstance(codec.terminal, Int8 | Float16)
        self._channels: dict[int, tuple[Tensor, Tensor]] = {}

    @torch.inference_mode()
    def on_device(self, found: FrameTokens) -> dict[str, Tensor]:
        """What is to be copied out, by name, frames first; nothing here waits for the device."""
        outputs = {f"cls/{block}": values for block, values in found.cls.items()}
        if found.cls_normed is not None:
            outputs["cls_normed"] = found.cls_normed
        for block, tokens in found.tokens.items():
            if not self._on_device:
                outputs[f"tokens/{block}"] = tokens
                continue
            for _ in self._codec.reducers:  # each is pool2, and the second finds a smaller grid
                tokens = _pool2(tokens, self._grid_of(tokens))
            if isinstance(self._codec.terminal, Float16):
                outputs[f"codes/{block}"] = tokens.to(torch.float16)
            else:
                codes, scales = self._int8(block, tokens)
                outputs |= {f"codes/{block}": codes, f"scales/{block}": scales}
        return outputs

    def on_host(
        self, outputs: Mapping[str, NDArray[Any]], rows: slice, *, first: int = 0
    ) -> EncodedView:
        """Finish some frames of what on_device gave.

        Args:
            outputs: by name, frames first.
            rows: of the frames.
            first: place of the first in its clip, for errors.

        Raises:
            ValueError: NaN, infinity or a value that the codec cannot hold.
        """
        encoded = {}
        for block in self._recipe.blocks:
            if f"tokens/{block}" in outputs:
                tokens = outputs[f"tokens/{block}"][rows]
                encoded[block] = self._codec.encode(tokens, block=block, grid=self._recipe.grid)
                continue
            codes = outputs[f"codes/{block}"][rows]
            scales = outputs.get(f"scales/{block}")
            scales = None if scales is None else scales[rows]
            finite = np.isfinite(codes if scales is None else scales)
            if not finite.all():
                frame, token = (int(i) for i in np.argwhere(~finite)[0][:2])
                raise ValueError(
                    f"block {block}, frame {first + frame}, token {token}: NaN, infinity or a "
                    f"value that {self._codec.name} cannot hold"
                )
            encoded[block] = Encoded(codes, scales)
        blocks = self._recipe.blocks if self._recipe.cls != "none" else ()
        normed = outputs.get("cls_normed")
        return EncodedView(
            encoded=encoded,
            cls={block: outputs[f"cls/{block}"][rows] for block in blocks},
            cls_normed=None if normed is None else normed[rows],
        )

    def _grid_of(self, tokens: Tensor) -> tuple[int, int]:
        rows, columns = self._recipe.grid
        while rows * columns != tokens.shape[1]:
            rows, columns = -(-rows // 2), -(-columns // 2)
        return rows, columns

    def _int8(self, block: int, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Codes (T, n, d) and scales (T, n), as cache.codec.int8."""
        if block not in self._channels:
            folding = self._codec.fold(block, tokens.shape[-1])
            both = (folding.channel_scale, folding.channel_offset)
            sd, mean = (torch.from_numpy(np.array(part)).to(self._device) for part in both)
            self._channels[block] = sd, mean
        sd, mean = self._channels[block]
        standard = tokens.sub(mean).div_(sd)
        peak = standard.abs().amax(-1)
        # a tensor of 127, because CUDA multiplies by the rounded reciprocal of a plain number
        scale = torch.where(peak == 0, 1.0, peak / torch.full_like(peak, 127))
        codes = standard.div_(scale[..., None]).round_().clamp_(-127, 127).to(torch.int8)
        return codes, scale


def _pool2(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Means of 2x2 squares, (T, N, d), added up in the order of cache.codec.pool2."""
    rows, columns = grid
    image = tokens.reshape(len(tokens), rows, columns, -1).permute(0, 3, 1, 2)
    image = functional.pad(image, (0, columns % 2, 0, rows % 2), mode="replicate")
    top, bottom = image[:, :, 0::2], image[:, :, 1::2]
    total = (top[..., 0::2] + top[..., 1::2]) + (bottom[..., 0::2] + bottom[..., 1::2])
    return (total * 0.25).flatten(2).transpose(1, 2).contiguous()
