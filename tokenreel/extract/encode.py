"""Backbone outputs -> what a store keeps.

Codecs run where the tokens are.  Those of numpy are the law, and the two give the same bytes; what
a float cannot hold is found on the host.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokenreel.cache.codec import Codec, Encoded
from tokenreel.cache.codec.fp16 import Float16
from tokenreel.cache.codec.int4 import Int4
from tokenreel.cache.codec.pca import Pca
from tokenreel.cache.codec.pool2 import Pool2
from tokenreel.cache.recipe import StoreRecipe
from tokenreel.extract.backbone import FrameTokens
from tokenreel.extract.quantise import int4, int8, pool2, project

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
        self._constants: dict[tuple[str, int], tuple[Tensor, ...]] = {}

    @torch.inference_mode()
    def on_device(self, found: FrameTokens) -> dict[str, Tensor]:
        """What is to be copied out, by name, frames first; nothing here waits for the device."""
        outputs = {f"cls/{block}": values for block, values in found.cls.items()}
        if found.cls_normed is not None:
            outputs["cls_normed"] = found.cls_normed
        for block, tokens in found.tokens.items():
            for step in self._codec.reducers:
                if isinstance(step, Pool2):  # a second one finds a smaller grid
                    tokens = pool2(tokens, self._grid_of(tokens))
                else:
                    assert isinstance(step, Pca)
                    names = ("pca", block)
                    parts = (step.standard_deviations(block), step.whole_basis(block))
                    tokens = project(tokens, *self._moved(names, parts))
            if isinstance(self._codec.terminal, Float16):
                outputs[f"codes/{block}"] = tokens.to(torch.float16)
                continue
            terminal = self._codec.terminal
            sides = self._moved(("channels", block), terminal.channels(block, tokens.shape[-1]))
            quantise = int4 if isinstance(terminal, Int4) else int8
            codes, scales = quantise(tokens, *sides)
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

    def _moved(self, name: tuple[str, int], parts: tuple[NDArray[Any], ...]) -> tuple[Tensor, ...]:
        """Constants of a codec, moved once."""
        if name not in self._constants:
            self._constants[name] = tuple(
                torch.from_numpy(np.array(part)).to(self._device) for part in parts
            )
        return self._constants[name]
