"""Quantise: backbone outputs -> codes and scales of a store.

Codecs run on the device of the tokens and give the same bytes as the numpy codecs, which define
the format.  Values that a codec cannot represent are detected on the host.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
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
from tokenreel.cache.format.identity import StoreIdentity
from tokenreel.extract.backbone.timm_backbone import FrameTokens
from tokenreel.extract.encode.torch_codecs import (
    INT4_STEPS,
    INT8_STEPS,
    half,
    int4,
    int8,
    pool2,
    project,
)

log = logging.getLogger(__name__)

SAME_BYTES: dict[str, Any] = {
    "eager_numerics.division_rounding": True
}  # Triton's own division is approximate

Coded = tuple[Tensor, Tensor | None]  # codes, scales
Constants = tuple[tuple[Tensor, ...], ...]  # of each step of a codec


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
    """Encodes the outputs of a backbone in two steps: on their device, then on the host.

    Args:
        codec: of the store.
        identity: of the store.
        device: of the outputs.
    """

    def __init__(self, codec: Codec, identity: StoreIdentity, device: torch.device) -> None:
        self._codec, self._identity, self._device = codec, identity, device
        self._encode = _encoder(codec, identity.grid)
        self._constants: dict[int, Constants] = {}

    @torch.inference_mode()
    def on_device(self, found: FrameTokens) -> dict[str, Tensor]:
        """Arrays to copy to the host, by name, frames first; does not wait for the device.

        All are contiguous, so that no view keeps the whole output of the backbone alive.
        """
        outputs = {f"cls/{block}": values.contiguous() for block, values in found.cls.items()}
        if found.cls_normed is not None:
            outputs["cls_normed"] = found.cls_normed.contiguous()
        for block, tokens in found.tokens.items():
            codes, scales = self._encode(tokens, self._constants_of(block))
            outputs[f"codes/{block}"] = codes.contiguous()
            if scales is not None:
                outputs[f"scales/{block}"] = scales
        return outputs

    def compile(self, found: FrameTokens) -> None:
        """Fuse the steps with torch.compile if that works and gives the same bytes.

        Otherwise a warning is logged.

        Args:
            found: a batch of the final size, for the comparison.
        """
        from torch._dynamo.exc import TorchDynamoException

        plain, wanted = self._encode, self.on_device(found)
        self._encode = torch.compile(plain, dynamic=False, options=SAME_BYTES)
        try:
            outputs = self.on_device(found)
            same = all(torch.equal(outputs[name], values) for name, values in wanted.items())
            reason = "" if same else "compiled, it gives other bytes"
        except TorchDynamoException as error:
            reason = str(error).splitlines()[0]
        if reason:
            self._encode = plain
            log.warning(
                "%s: %s runs uncompiled and slower: %s",
                self._device,
                self._codec.name,
                reason,
            )

    def on_host(
        self, outputs: Mapping[str, NDArray[Any]], rows: slice, *, first: int = 0
    ) -> EncodedView:
        """Finish some frames of the outputs of on_device.

        Args:
            outputs: by name, frames first.
            rows: of the frames.
            first: index of the first in its clip, for errors.

        Raises:
            ValueError: NaN, infinity or a value that the codec cannot represent.
        """
        encoded = {}
        for block in self._identity.blocks:
            codes = outputs[f"codes/{block}"][rows]
            scales = outputs.get(f"scales/{block}")
            scales = None if scales is None else scales[rows]
            finite = np.isfinite(codes if scales is None else scales)
            if not finite.all():
                frame, token = (int(i) for i in np.argwhere(~finite)[0][:2])
                raise ValueError(
                    f"block {block}, frame {first + frame}, token {token}: NaN, infinity or a "
                    f"value that {self._codec.name} cannot represent"
                )
            encoded[block] = Encoded(codes, scales)
        blocks = self._identity.blocks if self._identity.cls != "none" else ()
        normed = outputs.get("cls_normed")
        return EncodedView(
            encoded=encoded,
            cls={block: outputs[f"cls/{block}"][rows] for block in blocks},
            cls_normed=None if normed is None else normed[rows],
        )

    def _constants_of(self, block: int) -> Constants:
        """Constants of each step of the codec for a block, copied to the device once."""
        if block not in self._constants:
            self._constants[block] = tuple(
                tuple(torch.from_numpy(np.array(part)).to(self._device) for part in step)
                for step in _constants(self._codec, block)
            )
        return self._constants[block]


def _encoder(codec: Codec, grid: tuple[int, int]) -> Callable[[Tensor, Constants], Coded]:
    """The steps of a codec as one function; `_constants` has their constants."""
    reducers: list[Callable[..., Tensor]] = []
    for step in codec.reducers:
        is_pool = isinstance(step, Pool2)
        reducers.append(partial(pool2, grid=grid) if is_pool else project)
        grid = step.shape(0, 0, grid)[2] if is_pool else grid
    quantise: Callable[..., Coded] = int4 if isinstance(codec.terminal, Int4) else int8
    if isinstance(codec.terminal, Float16):
        quantise = half

    def encode(tokens: Tensor, constants: Constants) -> Coded:
        for reduce, own in zip(reducers, constants, strict=False):
            tokens = reduce(tokens, *own)
        return quantise(tokens, *constants[-1])

    return encode


def _constants(codec: Codec, block: int) -> list[tuple[NDArray[Any], ...]]:
    """Constants of each step of a codec for a block, the quantiser's last."""
    parts: list[tuple[NDArray[Any], ...]] = []
    for step in codec.reducers:
        if isinstance(step, Pca):
            parts.append((step.standard_deviations(block), step.whole_basis(block)))
        else:
            parts.append(())
    if isinstance(codec.terminal, Float16):
        return [*parts, ()]
    steps = INT4_STEPS if isinstance(codec.terminal, Int4) else INT8_STEPS
    return [*parts, (*codec.terminal.channels(block, 0), np.array([steps], np.float32))]
