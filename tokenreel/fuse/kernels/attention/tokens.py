"""Tokens as the store holds them, on the device of the model: codes, scales, what a model folds.

Shapes: F frames, N spatial tokens, D channels of a token of one block, d its stored channels.
A token of a block is (code * scale * channel_scale + channel_offset) @ rotation.
"""

from dataclasses import dataclass
from itertools import zip_longest

import torch
from torch import Tensor

DTYPES = (torch.int8, torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True, eq=False)
class Folding:
    """What stored channels mean, the same for every token of a block.

    Attributes:
        channel_scale: (d,) float32.
        channel_offset: (d,) float32.
        rotation: (d, D) float32, None for the identity.
    """

    channel_scale: Tensor
    channel_offset: Tensor
    rotation: Tensor | None = None


@dataclass(frozen=True, eq=False)
class CodedTokens:
    """Frozen tokens of F frames, one array a block, never end to end.

    Attributes:
        codes: a block's (F, N, d): int8, float16, bfloat16, float32, float64 (no fused kernel), or
            uint8 (F, N, d/2) with two 4-bit codes a byte.
        scales: a block's (F, N) for int8, (F, N, groups) for uint8; () for floats.
        foldings: of a block, None where stored channels are the token's; () for none at all.
    """

    codes: tuple[Tensor, ...]
    scales: tuple[Tensor, ...] = ()
    foldings: tuple[Folding | None, ...] = ()

    @property
    def num_frames(self) -> int:
        """F."""
        return self.codes[0].shape[0]

    @property
    def num_tokens(self) -> int:
        """N."""
        return self.codes[0].shape[1]

    @property
    def device(self) -> torch.device:
        """Where the codes are."""
        return self.codes[0].device

    @property
    def widths(self) -> tuple[int, ...]:
        """Stored channels d of each block."""
        return tuple(width_of(codes) for codes in self.codes)

    @property
    def dims(self) -> tuple[int, ...]:
        """D of each block."""
        return tuple(
            width if folding is None or folding.rotation is None else folding.rotation.shape[1]
            for width, folding in zip(self.widths, self.folding_of_blocks, strict=True)
        )

    @property
    def folding_of_blocks(self) -> tuple[Folding | None, ...]:
        """`foldings`, with None for each block where there are none."""
        return self.foldings or (None,) * len(self.codes)

    def offset(self, like: Tensor) -> Tensor | None:
        """What decoding adds to every token, (D of all blocks,), in the dtype of `like`."""
        if not any(self.foldings):
            return None
        parts = []
        for dim, folding in zip(self.dims, self.folding_of_blocks, strict=True):
            if folding is None:
                parts.append(like.new_zeros(dim))
                continue
            offset = folding.channel_offset.to(like.dtype)
            turn = folding.rotation
            parts.append(offset if turn is None else offset @ turn.to(like.dtype))
        return torch.cat(parts)

    def frames(self, start: int, stop: int) -> "CodedTokens":
        """The frames [start, stop), without a copy."""
        return CodedTokens(
            tuple(codes[start:stop] for codes in self.codes),
            tuple(scales[start:stop] for scales in self.scales),
            self.foldings,
        )

    def decode(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The tokens, blocks end to end: (F, N, D of all blocks).  For what cannot take codes."""
        parts = []
        for codes, scales, folding in zip_longest(self.codes, self.scales, self.foldings):
            if codes.dtype == torch.uint8:
                part = unpack(codes, scales, dtype)
            else:
                part = codes.to(dtype, copy=folding is not None)  # the codes stay as they are
                if scales is not None:
                    part *= scales[..., None].to(dtype)
            if folding is not None:
                part *= folding.channel_scale.to(dtype)
                part += folding.channel_offset.to(dtype)
                if folding.rotation is not None:
                    part = part @ folding.rotation.to(dtype)
            parts.append(part)
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


@dataclass(frozen=True, eq=False)
class GainedTokens:
    """Frames of coded tokens whose channels are multiplied by those of a window.

    Shapes: W windows, R frames.

    Attributes:
        tokens: of F frames.
        rows: int64 (R,), which of the F frames, any of them several times.
        gains: float32 (W, D of all blocks).
        window: int64 (R,), whose gains a frame gets.
    """

    tokens: CodedTokens
    rows: Tensor
    gains: Tensor
    window: Tensor

    @property
    def num_frames(self) -> int:
        """R."""
        return len(self.rows)

    @property
    def num_tokens(self) -> int:
        """N."""
        return self.tokens.num_tokens

    @property
    def device(self) -> torch.device:
        """Where the codes are."""
        return self.tokens.device

    @property
    def dim(self) -> int:
        """D of all blocks."""
        return sum(self.tokens.dims)

    def frames(self, start: int, stop: int) -> "GainedTokens":
        """The frames [start, stop)."""
        at = slice(start, stop)
        return GainedTokens(self.tokens, self.rows[at], self.gains, self.window[at])

    def decode(self) -> Tensor:
        """The tokens, blocks end to end: float32 (R, N, D of all blocks)."""
        chosen = CodedTokens(
            tuple(codes[self.rows] for codes in self.tokens.codes),
            tuple(scales[self.rows] for scales in self.tokens.scales),
            self.tokens.foldings,
        )
        # In place: the floats of a batch are the most memory of a step, and are a copy already.
        return chosen.decode().mul_(self.gains[self.window][:, None])


def width_of(codes: Tensor) -> int:
    """Stored channels d of codes (F, N, d), or of packed ones (F, N, d/2)."""
    return codes.shape[-1] * (2 if codes.dtype == torch.uint8 else 1)


def unpack(codes: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """Floats (..., d) of two codes a byte, (..., d/2), each as q + 7, the first in the low bits.

    Each of the (..., groups) scales is of 64 channels, the last of what is left.
    """
    pairs = torch.stack([codes & 15, codes >> 4], dim=-1).flatten(-2)
    spread = scales.to(dtype).repeat_interleave(64, dim=-1)[..., : pairs.shape[-1]]
    return (pairs.to(dtype) - 7) * spread


def check_tokens(tokens: CodedTokens, hidden: Tensor | None) -> None:
    """Refuse what no implementation takes.

    Raises:
        TypeError: a dtype that is not one of the above, or that differs between blocks.
        ValueError: a shape, device, stride or gradient; what was given and what is wanted.
    """
    if not tokens.codes:
        raise ValueError("tokens of no block: give one (F, N, d) array a block")
    first = tokens.codes[0]
    dtypes = {codes.dtype for codes in tokens.codes}
    if len(dtypes) > 1 or first.dtype not in DTYPES:
        raise TypeError(
            f"tokens are {_words(dtypes)}: all blocks must be of one of {_words(DTYPES)}"
        )
    shapes = [tuple(codes.shape) for codes in tokens.codes]
    if any(len(shape) != 3 or shape[:2] != shapes[0][:2] for shape in shapes):
        raise ValueError(f"tokens are {shapes}: want (F, N, d) a block, with one F and one N")
    if 0 in (size for shape in shapes for size in shape):
        raise ValueError(f"tokens are {shapes}: there must be a frame, a token and a channel")
    for codes in tokens.codes:
        if not codes[0].is_contiguous():  # which ignores the stride of an axis of one
            raise ValueError(
                f"tokens {tuple(codes.shape)} have strides {codes.stride()}: the (N, d) part of a "
                "frame must lie end to end (frames may be apart); use .contiguous()"
            )
        if codes.requires_grad:
            raise ValueError(
                "tokens ask for a gradient: they are frozen here; detach() them, or train the "
                "backbone with attention of your own"
            )
    _check_scales(tokens)
    _check_foldings(tokens)
    if hidden is not None:
        check_hidden(hidden, first)
    side = (*tokens.codes, *tokens.scales, *(() if hidden is None else (hidden,)))
    devices = {tensor.device for tensor in side}
    if len(devices) > 1:
        raise ValueError(f"codes, scales and hidden are on {_words(devices)}: want one device")


def check_hidden(hidden: Tensor, tokens: Tensor) -> None:
    """Refuse a mask that does not fit tokens (F, N, ...).

    Raises:
        ValueError: what was given and what is wanted.
    """
    if hidden.shape != tokens.shape[:2] or hidden.dtype != torch.bool:
        raise ValueError(
            f"hidden is {hidden.dtype} {tuple(hidden.shape)}: want bool {tuple(tokens.shape[:2])}"
        )


def _check_scales(tokens: CodedTokens) -> None:
    first = tokens.codes[0]
    count = len(tokens.codes) if first.dtype in (torch.int8, torch.uint8) else 0
    shapes = [tuple(scales.shape) for scales in tokens.scales]
    if len(shapes) != count:
        raise ValueError(
            f"{len(shapes)} arrays of scales for {len(tokens.codes)} blocks of {first.dtype}: "
            f"want {count} (integer codes have scales, floats have none)"
        )
    for codes, scales in zip(tokens.codes, tokens.scales, strict=False):
        groups = (-(-width_of(codes) // 64),) if codes.dtype == torch.uint8 else ()
        if scales.shape != codes.shape[:2] + groups or not scales.is_floating_point():
            raise ValueError(
                f"scales are {scales.dtype} {tuple(scales.shape)}: "
                f"want floats {(*codes.shape[:2], *groups)}"
            )


def _check_foldings(tokens: CodedTokens) -> None:
    if len(tokens.foldings) not in (0, len(tokens.codes)):
        raise ValueError(f"{len(tokens.foldings)} foldings for {len(tokens.codes)} blocks")
    for width, folding in zip(tokens.widths, tokens.folding_of_blocks, strict=True):
        if folding is None:
            continue
        found = [tuple(folding.channel_scale.shape), tuple(folding.channel_offset.shape)]
        if folding.rotation is not None:
            found.append((folding.rotation.shape[0],))
        if any(shape != (width,) for shape in found):
            raise ValueError(f"a folding of {found} stored channels for codes of {width}")


def _words(values: object) -> str:
    return ", ".join(sorted(map(str, values)))  # type: ignore[call-overload]
