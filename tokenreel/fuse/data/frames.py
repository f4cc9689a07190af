"""Frames as a model takes them: codes on a device, tokens on demand.

Codes of a codec that the kernels do not know are decoded in numpy, by the codec itself.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokenreel.cache.codec import Codec, Encoded
from tokenreel.fuse.kernels import CodedTokens, Folding

log = logging.getLogger(__name__)


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

    Tokens are decoded on first use, once for all runs that share the batch.

    Attributes:
        codes: block -> (F, n, d) in the codec's dtype; {} where only CLS is wanted.
        scales: block -> (F, n) or (F, n, groups); {} for a codec without.
        cls: float32 (F, D of CLS) after the final norm, or None.
        jpegs: the pictures of each unit, JPEGs end to end; always on the host, None where unread.
        pictures: uint8 (F, K, H, W, 3), the K pictures of each unit; None before
            :meth:`with_pictures`.
    """

    def __init__(
        self,
        codes: dict[int, Tensor],
        scales: dict[int, Tensor],
        cls: Tensor | None,
        foldings: "Foldings",
        *,
        jpegs: Sequence[bytes] | None = None,
        pictures: Tensor | None = None,
    ) -> None:
        self.codes, self.scales, self.cls = codes, scales, cls
        self.jpegs, self.pictures = jpegs, pictures
        self._foldings = foldings
        self._tokens: dict[tuple[int, ...], Tensor] = {}
        self._decoded: dict[int, Tensor] = {}

    @property
    def num_bytes(self) -> int:
        """Bytes of codes, scales, CLS vectors and pictures."""
        parts = [*self.codes.values(), *self.scales.values()]
        parts += [part for part in (self.cls, self.pictures) if part is not None]
        return sum(part.nbytes for part in parts) + sum(map(len, self.jpegs or ()))

    def tokens(self, blocks: Sequence[int] | None = None) -> Tensor:
        """Tokens of blocks, None for all, in order, end to end: float32 (F, n, D of them all)."""
        key = tuple(sorted(self.codes if blocks is None else blocks))
        if key not in self._tokens:
            self._tokens[key] = self.coded(key).decode()
        return self._tokens[key]

    @property
    def has_known_codes(self) -> bool:
        """Whether the kernels know the codes, so that a pass over them can be shared."""
        return bool(self.codes) and self._foldings.are_known(next(iter(self.codes)))

    def coded(self, blocks: Sequence[int] | None = None) -> CodedTokens:
        """Tokens of blocks, None for all, in order, as they are stored: no copy."""
        chosen = sorted(self.codes if blocks is None else blocks)
        if chosen and not self._foldings.are_known(chosen[0]):
            return CodedTokens(tuple(self._decode(block) for block in chosen))
        return CodedTokens(
            tuple(self.codes[block] for block in chosen),
            tuple(self.scales[block] for block in chosen) if self.scales else (),
            tuple(self._foldings(block, self.codes[block].device) for block in chosen),
        )

    def _decode(self, block: int) -> Tensor:
        """Tokens of a block by the codec in numpy, once: float32 (F, n, D) on the device."""
        if block not in self._decoded:
            self._decoded[block] = self._foldings.decode(
                block, self.codes[block], self.scales.get(block)
            )
        return self._decoded[block]

    def to(self, device: torch.device) -> "Frames":
        """The same frames on a device; the copy does not wait where memory is pinned."""
        return self.map(lambda part: part.to(device, non_blocking=True))

    def map(self, change: Callable[[Tensor], Tensor]) -> "Frames":
        """The frames with each of their arrays changed."""
        return Frames(
            {block: change(part) for block, part in self.codes.items()},
            {block: change(part) for block, part in self.scales.items()},
            None if self.cls is None else change(self.cls),
            self._foldings,
            jpegs=self.jpegs,
            pictures=None if self.pictures is None else change(self.pictures),
        )

    def with_pictures(self, pictures: Tensor) -> "Frames":
        """The same frames with their pictures decoded; the JPEGs are dropped."""
        return Frames(self.codes, self.scales, self.cls, self._foldings, pictures=pictures)


@dataclass
class Foldings:
    """What the codec of a store does to all tokens of a block alike, on each device once."""

    codec: Codec
    dim: int
    _made: dict[tuple[int, torch.device], Folding] = field(default_factory=dict)
    _are_known: bool | None = None

    def are_known(self, block: int) -> bool:
        """Whether the kernels know the codes of a store; a line is logged where they do not."""
        if self._are_known is None:
            self._are_known = _are_known(self.codec, block, self.dim)
            if not self._are_known:
                log.info(
                    "codec %s: the kernels do not know its codes, so tokens are decoded in numpy "
                    "and pooled as floats",
                    self.codec.name,
                )
        return self._are_known

    def decode(self, block: int, codes: Tensor, scales: Tensor | None) -> Tensor:
        """Tokens of codes of a block by the codec in numpy: float32 (F, n, D) on their device."""
        coded = Encoded(codes.cpu().numpy(), None if scales is None else scales.cpu().numpy())
        tokens = self.codec.decode(coded, block=block)
        return torch.from_numpy(np.ascontiguousarray(tokens, np.float32)).to(codes.device)

    def __call__(self, block: int, device: torch.device) -> Folding:
        """Of a block, on a device; only where codes are known."""
        key = (block, device)
        if key not in self._made:
            found = self.codec.fold(block, self.dim)
            assert found is not None
            rotation = found.rotation
            with torch.inference_mode(False):  # it stays, also for runs in training
                self._made[key] = Folding(
                    torch.tensor(found.channel_scale, device=device),
                    torch.tensor(found.channel_offset, device=device),
                    None if rotation is None else torch.tensor(rotation, device=device),
                )
        return self._made[key]


KNOWN_CODES = {  # packing, dtype, scales of a token of 128 channels
    ("", "|i1", (1,)),
    ("", "<f2", None),
    ("", "<f4", None),
    ("int4", "|u1", (1, 2)),
}


def _are_known(codec: Codec, block: int, dim: int) -> bool:
    """Whether codes are of a kind that CodedTokens has, and decoding folds into weights."""
    terminal = codec.terminal
    kind = (terminal.packing, terminal.dtype.str, terminal.scale_shape(1, 128))
    return kind in KNOWN_CODES and codec.fold(block, dim) is not None
