"""Augmentation of cached tokens, for stores that hold one view.

Each window of each clip keeps a rectangle of the grid, loses some tokens and has the channels
scaled, the same way in all of its frames: what is hidden is a mask, so nothing is copied for it.

Shapes: F frames, H x W grid of N tokens, D channels, B clips, V windows, T frames of a window,
R frames that are distinct within their windows.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokenreel.fuse.config.augment import AugmentConfig
from tokenreel.fuse.kernels import CodedTokens, GainedTokens

ASPECT = 4 / 3  # a rectangle is at most this much longer than the grid's own shape


@dataclass(frozen=True, eq=False)
class WindowTokens:
    """What the windows of some clips see.

    Attributes:
        tokens: (F, N, D), as codes, floats, or what floats are made of; None where only CLS is
            used.
        cls: (F, D of CLS) or None.
        gather: int64 (B, V, T), which of the F frames each position is.
        hidden: bool (F, N), True where a token is not seen; None where all are.
    """

    tokens: CodedTokens | GainedTokens | Tensor | None
    cls: Tensor | None
    gather: Tensor
    hidden: Tensor | None = None


def augment_windows(
    seen: WindowTokens,
    config: AugmentConfig,
    *,
    grid: tuple[int, int],
    clip_ids: Sequence[str],
    seed: int,
    is_spatial: bool = False,
) -> WindowTokens:
    """Change what each window sees; frames that windows shared are apart afterwards.

    Args:
        seen: of the clips, nothing hidden.
        config: what is done.
        grid: rows H and columns W of the N tokens.
        clip_ids: the B clips.
        seed: of the run and step; with the clip and window it decides all that is drawn.
        is_spatial: whether what comes next tells the tokens of a grid apart, so that those of a
            mirrored window, floats, are mirrored too.
    """
    if not clip_ids:
        return seen
    rows, window, gather = _apart(seen.gather)
    rngs = [
        np.random.default_rng([seed, zlib.crc32(clip_id.encode()), number])
        for clip_id in clip_ids
        for number in range(gather.shape[1])
    ]
    tokens, cls, hidden = seen.tokens, seen.cls, None
    if tokens is not None:
        masks, mirrored = zip(*(hidden_tokens(grid, config, rng) for rng in rngs), strict=True)
        hidden = torch.from_numpy(np.stack(masks)).to(gather.device)[window]
        if isinstance(tokens, CodedTokens):
            gains = _gains(rngs, sum(tokens.dims), config.noise)
            if gains is None:
                tokens = _take(tokens, rows)
            else:
                tokens = GainedTokens(tokens, rows, gains.to(gather.device), window)
        else:
            assert isinstance(tokens, Tensor)  # nothing is augmented twice
            tokens = tokens[rows]
            if is_spatial:
                turned = tokens.unflatten(1, grid).flip(2).flatten(1, 2)
                which = torch.tensor(mirrored, device=gather.device)[window]
                tokens = torch.where(which[:, None, None], turned, tokens)
            gains = _gains(rngs, tokens.shape[-1], config.noise)
            if gains is not None:  # in place: a copy already
                tokens.mul_(gains.to(tokens)[window][:, None])
    if cls is not None:
        cls = cls[rows]
        gains = _gains(rngs, cls.shape[-1], config.noise)
        if gains is not None:
            cls = cls * gains.to(cls)[window]
    return WindowTokens(tokens, cls, gather, hidden)


def hidden_tokens(
    grid: tuple[int, int], config: AugmentConfig, rng: np.random.Generator
) -> tuple[NDArray[np.bool_], bool]:
    """Which tokens of a window are not seen, (N,), row by row; one is, whatever is drawn.

    Args:
        grid: rows and columns, at least 1 of each.
        config: the share of the rectangle, of dropout, and whether windows are mirrored.
        rng: where it is drawn from.

    Returns:
        The mask, and whether the window is mirrored: the mask is already.
    """
    hidden = np.ones(grid, dtype=bool)
    hidden[_rectangle(grid, config.crop, rng)] = False
    hidden |= rng.random(grid) < config.dropout
    if hidden.all():
        hidden[tuple(rng.integers(grid))] = False
    is_mirrored = config.flip and rng.random() < 0.5
    if is_mirrored:
        hidden = hidden[:, ::-1]  # without positions as good as turning every frame of tokens
    return hidden.reshape(-1), is_mirrored


def _rectangle(
    grid: tuple[int, int], least: float, rng: np.random.Generator
) -> tuple[slice, slice]:
    """Rows and columns of a rectangle of a share of the grid between `least` and 1."""
    share = rng.uniform(least, 1)
    stretch = np.exp(rng.uniform(-np.log(ASPECT), np.log(ASPECT)) / 2)
    sides = []
    for size, factor in zip(grid, (stretch, 1 / stretch), strict=True):
        length = int(np.clip(np.ceil(size * np.sqrt(share) * factor), 1, size))
        start = int(rng.integers(size - length + 1))
        sides.append(slice(start, start + length))
    return sides[0], sides[1]


def _apart(gather: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Distinct frames of each window: rows among all (R,), their window (R,), a new gather."""
    clips, windows, _ = gather.shape
    count = int(gather.max()) + 1
    number = torch.arange(clips * windows, device=gather.device).view(clips, windows, 1)
    distinct, inverse = torch.unique(gather + number * count, return_inverse=True)
    return distinct % count, distinct // count, inverse


def _take(tokens: CodedTokens, rows: Tensor) -> CodedTokens:
    return CodedTokens(
        tuple(codes[rows] for codes in tokens.codes),
        tuple(scales[rows] for scales in tokens.scales),
        tokens.foldings,
    )


def _gains(rngs: Sequence[np.random.Generator], channels: int, deviation: float) -> Tensor | None:
    """Float32 (B V, D), what the channels of each window are multiplied by; None without noise."""
    if not deviation:
        return None
    drawn = np.stack([1 + deviation * rng.standard_normal(channels) for rng in rngs])
    return torch.from_numpy(drawn).float()
