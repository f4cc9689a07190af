"""Frames as a model takes them: codes on a device, tokens on demand."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokenreel.cache.codec import Codec, Encoded
from tokenreel.fuse.config.run import FuseConfig
from tokenreel.fuse.data.requirements import uses_tokens
from tokenreel.fuse.kernels import CodedTokens, Folding

__all__ = ["Decoder", "Frames", "Piece"]


@dataclass(frozen=True, eq=False)
class Piece:
    """Frames wanted of one view of one clip.

    Attributes:
        clip_id: the clip.
        view: of the store; 0 is clean.
        frames: (t,) sorted and distinct.
    """

    clip_id: str
    view: int
    frames: NDArray[np.int64]


class Frames:
    """F distinct frames, end to end, on one device.

    Tokens are made from codes when asked for, once for all runs that share the batch.

    Attributes:
        codes: block -> (F, n, d) in the codec's dtype; {} where only CLS is wanted.
        scales: block -> (F, n) or (F, n, groups); {} for a codec without.
        cls: float32 (F, D of CLS) after the final norm, or None.
    """

    def __init__(
        self,
        codes: dict[int, Tensor],
        scales: dict[int, Tensor],
        cls: Tensor | None,
        decoder: "Decoder",
    ) -> None:
        self.codes, self.scales, self.cls = codes, scales, cls
        self._decoder = decoder
        self._tokens: dict[tuple[int, ...], Tensor] = {}

    @property
    def num_bytes(self) -> int:
        """Bytes of codes, scales and CLS vectors."""
        parts = [*self.codes.values(), *self.scales.values()]
        return sum(part.nbytes for part in (parts if self.cls is None else [*parts, self.cls]))

    def tokens(self, blocks: Sequence[int] | None = None) -> Tensor:
        """Tokens of blocks, None for all, in order, end to end: float32 (F, n, D of them all)."""
        key = tuple(sorted(self.codes if blocks is None else blocks))
        if key not in self._tokens:
            parts = [
                self._decoder(block, self.codes[block], self.scales.get(block)) for block in key
            ]
            self._tokens[key] = parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
        return self._tokens[key]

    def coded(self, blocks: Sequence[int] | None = None) -> CodedTokens:
        """Tokens of blocks, None for all, in order, as codes that a pooling takes: no copy."""
        chosen = sorted(self.codes if blocks is None else blocks)
        return CodedTokens(
            tuple(self.codes[block] for block in chosen),
            tuple(self.scales[block] for block in chosen) if self.scales else (),
            tuple(self._decoder.folding(block, self.codes[block].device) for block in chosen),
        )

    def tokens_for(self, config: FuseConfig) -> CodedTokens | Tensor | None:
        """What a model pools: codes, floats where its pooling has no weights, or no tokens."""
        if not uses_tokens(config):
            return None
        take = self.coded if config.pooling.kind == "lstp" else self.tokens
        return take(config.pooling.blocks)

    def to(self, device: torch.device) -> "Frames":
        """The same frames on a device; the copy does not wait where memory is pinned."""
        return self.map(lambda part: part.to(device, non_blocking=True))

    def map(self, change: Callable[[Tensor], Tensor]) -> "Frames":
        """The frames with each of their arrays changed."""
        return Frames(
            {block: change(part) for block, part in self.codes.items()},
            {block: change(part) for block, part in self.scales.items()},
            None if self.cls is None else change(self.cls),
            self._decoder,
        )


@dataclass
class Decoder:
    """Codes to tokens, on the device where the codes are."""

    codec: Codec
    dim: int
    _foldings: dict[tuple[int, torch.device], Folding] = field(default_factory=dict)

    def __call__(self, block: int, codes: Tensor, scales: Tensor | None) -> Tensor:
        """(F, n, d) codes -> (F, n, D) float32."""
        if codes.dtype == torch.uint8:  # two codes in a byte: the codec unpacks them
            plain = None if scales is None else scales.cpu().numpy()
            unpacked = self.codec.decode(Encoded(codes.cpu().numpy(), plain), block=block)
            return torch.from_numpy(unpacked).to(codes.device)
        folding = self.folding(block, codes.device)
        tokens = codes.float()
        if scales is not None:
            tokens *= scales[..., None].float()
        tokens = tokens.mul_(folding.channel_scale).add_(folding.channel_offset)
        return tokens if folding.rotation is None else tokens @ folding.rotation

    def folding(self, block: int, device: torch.device) -> Folding:
        """What the codec does to all tokens of a block alike."""
        key = (block, device)
        if key not in self._foldings:
            found = self.codec.fold(block, self.dim)
            rotation = found.rotation
            with torch.inference_mode(False):  # it stays, also for runs in training
                self._foldings[key] = Folding(
                    torch.tensor(found.channel_scale, device=device),
                    torch.tensor(found.channel_offset, device=device),
                    None if rotation is None else torch.tensor(rotation, device=device),
                )
        return self._foldings[key]
