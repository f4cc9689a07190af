"""Quantise: backbone outputs -> codes and scales of a store.

Codecs run on the device of the tokens and give the same bytes as the numpy codecs, which define
the format.  A codec that torch lacks runs in numpy on the host.  Values that a codec cannot
represent are detected on the host.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokenreel.cache.codec import Codec, Encoded
from tokenreel.cache.format.identity import StoreIdentity
from tokenreel.extract.backbone.base import FrameTokens
from tokenreel.extract.encode.torch_codecs import Coded, TorchStep, torch_steps

log = logging.getLogger(__name__)

# Triton's own division is approximate.
SAME_BYTES: dict[str, Any] = {"eager_numerics.division_rounding": True}

Constants = tuple[tuple[Tensor, ...], ...]  # of each step of a codec


@dataclass(frozen=True, slots=True)
class EncodedView:
    """t frames of one view.

    Attributes:
        encoded: block -> codes and scales, frames first.
        cls: block -> float32 (t, D); {} when the backbone has none.
        cls_normed: float32 (t, D) or None.
        strings: of each array of bytes, t strings; {} where the store keeps tokens.
    """

    encoded: dict[int, Encoded]
    cls: dict[int, NDArray[np.float32]]
    cls_normed: NDArray[np.float32] | None
    strings: dict[str, list[bytes]] = field(default_factory=dict)

    @property
    def num_bytes(self) -> int:
        """Bytes of the codes and scales, or of the strings."""
        if self.strings:
            return sum(len(string) for part in self.strings.values() for string in part)
        arrays = [a for e in self.encoded.values() for a in (e.codes, e.scales) if a is not None]
        return sum(array.nbytes for array in arrays)


class Encoder(Protocol):
    """What follows a backbone: its outputs -> what a store keeps of them."""

    def on_device(self, found: FrameTokens) -> dict[str, Tensor]:
        """Arrays to copy to the host, by name, frames first."""

    def on_host(
        self, outputs: Mapping[str, NDArray[Any]], rows: slice, *, first: int = 0
    ) -> EncodedView:
        """Finish some rows of the outputs of on_device."""


class Quantiser:
    """Encodes the outputs of a backbone in two steps: on their device, then on the host.

    Args:
        codec: of the store.
        identity: of the store.
        device: of the outputs.
    """

    def __init__(self, codec: Codec, identity: StoreIdentity, device: torch.device) -> None:
        self._codec, self._identity, self._device = codec, identity, device
        steps = torch_steps(codec)
        slow = [name for (name, _), step in zip(codec.steps, steps, strict=True) if step is None]
        self._steps = [step for step in steps if step is not None]
        self._in_numpy = bool(slow)
        if slow:
            log.info(
                "codec %s: %s has no torch implementation, so tokens are encoded in numpy",
                codec.name,
                slow[0],
            )
        else:
            self._encode = _encoder(codec, self._steps, identity)
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
            if self._in_numpy:
                outputs[f"tokens/{block}"] = tokens.contiguous()
                continue
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
        if self._in_numpy:
            return
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
                "%s: %s runs uncompiled and slower: %s", self._device, self._codec.name, reason
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
            if self._in_numpy:
                encoded[block] = self._encode_on_host(
                    outputs[f"tokens/{block}"][rows], block=block, first=first
                )
                codes, scales = encoded[block].codes, encoded[block].scales
            else:
                codes = outputs[f"codes/{block}"][rows]
                scales = outputs.get(f"scales/{block}")
                scales = None if scales is None else scales[rows]
            self._require_finite(codes if scales is None else scales, block=block, first=first)
            encoded[block] = Encoded(codes, scales)
        blocks = self._identity.blocks if self._identity.cls != "none" else ()
        normed = outputs.get("cls_normed")
        return EncodedView(
            encoded=encoded,
            cls={block: outputs[f"cls/{block}"][rows] for block in blocks},
            cls_normed=None if normed is None else normed[rows],
        )

    def _encode_on_host(self, tokens: NDArray[Any], *, block: int, first: int) -> Encoded:
        """Encode float32 (t, N, D) in numpy; `first` is the index of the first frame."""
        self._require_finite(tokens, block=block, first=first)
        try:
            return self._codec.encode(tokens, block=block, grid=self._identity.grid)
        except ValueError as error:
            raise ValueError(f"frames {first} to {first + len(tokens) - 1}: {error}") from error

    def _require_finite(self, values: NDArray[Any], *, block: int, first: int) -> None:
        """Raise ValueError, with its place, where (t, n, ...) codes, scales or tokens are not."""
        finite = np.isfinite(values)
        if not finite.all():
            frame, token = (int(i) for i in np.argwhere(~finite)[0][:2])
            raise ValueError(
                f"block {block}, frame {first + frame}, token {token}: NaN, infinity or a "
                f"value that {self._codec.name} cannot represent"
            )

    def _constants_of(self, block: int) -> Constants:
        """Constants of each step of the codec for a block, copied to the device once."""
        if block not in self._constants:
            self._constants[block] = tuple(
                tuple(torch.from_numpy(np.array(part)).to(self._device) for part in step)
                for step in self._constant_arrays(block)
            )
        return self._constants[block]

    def _constant_arrays(self, block: int) -> list[tuple[NDArray[Any], ...]]:
        """Constants of each step of the codec for a block, the quantiser's last."""
        pairs = zip(self._steps, self._codec.steps, strict=True)
        return [in_torch.constants(step, block) for in_torch, (_, step) in pairs]


def _encoder(
    codec: Codec, steps: Sequence[TorchStep], identity: StoreIdentity
) -> Callable[[Tensor, Constants], Coded]:
    """The steps of a codec as one function of tokens (T, N, D) and constants of each step."""
    shapes = [(identity.num_tokens, identity.dim, identity.grid)]
    for reducer in codec.reducers:
        shapes.append(reducer.shape(*shapes[-1]))
    *reducers, quantise = (
        partial(step.run, grid=grid) if step.takes_grid else step.run
        for step, (_, _, grid) in zip(steps, shapes, strict=True)
    )

    def encode(tokens: Tensor, constants: Constants) -> Coded:
        for reduce, own in zip(reducers, constants, strict=False):
            tokens = reduce(tokens, *own)
        coded: Coded = quantise(tokens, *constants[-1])
        return coded

    return encode
