"""From a store to the batches of a step.

The order of the clips and the views of each are a pure function of seed, epoch and clip, so a run
that is resumed sees what it would have seen.  Both views of a clip are read once: the frames that
they share, and padding that repeats the last frame, are not read again.
"""

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tokenreel.cache.codec import Encoded
from tokenreel.cache.errors import UsageError
from tokenreel.cache.reader import ClipRecord, Store
from tokenreel.fuse.config import FuseConfig
from tokenreel.fuse.sampling import sample_views

__all__ = ["Batch", "TokenSource", "batches_of_epoch"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Batch:
    """One step.

    Attributes:
        clip_ids: the B clips.
        tokens: float32 (F, N, D) of the F distinct frames of all clips, or None.
        cls: float32 (F, D of CLS), or None.
        gather: int64 (B, 2, T): which distinct frame each position of a view is.
        steps: int64 (B, 2, T): the frame's number in its clip.
        valid: bool (B, 2, T), False at padding.
    """

    clip_ids: tuple[str, ...]
    tokens: Tensor | None
    cls: Tensor | None
    gather: Tensor
    steps: Tensor
    valid: Tensor


class TokenSource:
    """Frames of a store as the model takes them; kept in memory as codes when they fit.

    Args:
        store: the store.
        config: which blocks, and whether tokens or CLS.
        device: where the frames go.
    """

    def __init__(self, store: Store, config: FuseConfig, device: torch.device) -> None:
        wanted = config.pooling.blocks or store.recipe.blocks
        missing = set(wanted) - set(store.recipe.blocks)
        if missing:
            raise UsageError(
                f"pooling.blocks wants {sorted(wanted)}, {store.path} holds "
                f"{list(store.recipe.blocks)}: extract again with "
                f"blocks={','.join(map(str, sorted(set(wanted) | set(store.recipe.blocks))))}, "
                "or set pooling.blocks"
            )
        self.store = store
        self.blocks = tuple(sorted(wanted))
        self.uses_cls = config.pooling.kind in ("cls", "fixed_width")
        if self.uses_cls and store.recipe.cls == "none":
            raise UsageError(f"{store.path} holds no CLS tokens: extract again with them")
        self.device = device
        self._resident: dict[str, tuple[dict[int, np.ndarray], dict[int, np.ndarray]]] = {}
        self._foldings: dict[int, tuple[Tensor, Tensor, Tensor | None]] = {}
        share = len(self.blocks) / len(store.recipe.blocks)
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        self.is_resident = store.num_bytes * share < free / 2
        log.info(
            "tokens %s: %.2f GB of codes, %.1f GB of memory free",
            "stay in memory" if self.is_resident else "are read from the disk at each step",
            store.num_bytes * share / 1e9,
            free / 1e9,
        )

    @property
    def dim(self) -> int:
        """Channels of the tokens of all blocks used, end to end."""
        return self.store.recipe.dim * len(self.blocks)

    @property
    def cls_dim(self) -> int:
        """Channels of a CLS vector."""
        return self.store.recipe.dim

    def tokens(self, clip_id: str, frames: np.ndarray) -> Tensor:
        """Tokens of frames of a clip, float32 (t, N, D), the blocks end to end."""
        codes, scales = self._codes(clip_id, frames)
        parts = []
        for block in self.blocks:
            parts.append(self._decode(block, codes[block], scales.get(block)))
        return torch.cat(parts, dim=-1)

    def _decode(self, block: int, codes: np.ndarray, scales: np.ndarray | None) -> Tensor:
        """Codes to tokens; on the device, unless the codec packs two codes in a byte."""
        codec = self.store.codec
        if codes.dtype == np.uint8:
            return torch.from_numpy(codec.decode(Encoded(codes, scales), block=block)).to(
                self.device
            )
        scale, offset, rotation = self._folding(block)
        tokens = torch.from_numpy(codes).to(self.device).float()
        if scales is not None:
            tokens *= torch.from_numpy(scales).to(self.device)[..., None].float()
        tokens = tokens.mul_(scale).add_(offset)
        return tokens if rotation is None else tokens @ rotation

    def _folding(self, block: int) -> tuple[Tensor, Tensor, Tensor | None]:
        if block not in self._foldings:
            folding = self.store.codec.fold(block, self.store.recipe.dim)
            scale, offset, rotation = (
                None if part is None else torch.tensor(part, device=self.device)
                for part in (folding.channel_scale, folding.channel_offset, folding.rotation)
            )
            assert scale is not None
            assert offset is not None
            self._foldings[block] = (scale, offset, rotation)
        return self._foldings[block]

    def cls(self, clip_id: str, frames: np.ndarray) -> Tensor:
        """CLS after the final norm, float32 (t, D of CLS)."""
        return torch.from_numpy(self.store.read_cls(clip_id, frames)).to(self.device)

    def _codes(
        self, clip_id: str, frames: np.ndarray
    ) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]]:
        if not self.is_resident:
            read = self.store.read(clip_id, frames, layers=self.blocks)
            return read.codes, read.scales
        if clip_id not in self._resident:
            read = self.store.read(clip_id, layers=self.blocks)
            self._resident[clip_id] = (read.codes, read.scales)
        codes, scales = self._resident[clip_id]
        return (
            {block: part[frames] for block, part in codes.items()},
            {block: part[frames] for block, part in scales.items()},
        )


def batches_of_epoch(
    source: TokenSource, clips: list[ClipRecord], config: FuseConfig, epoch: int
) -> Iterator[Batch]:
    """The batches of one pass over the clips; the last may be smaller, never of one clip alone.

    Args:
        source: where tokens come from.
        clips: the training clips.
        config: seed and sizes.
        epoch: number of the pass, from 0.
    """
    order = np.random.default_rng([config.seed, epoch]).permutation(len(clips))
    size = config.data.batch_clips
    groups = [order[start : start + size] for start in range(0, len(order), size)]
    if len(groups) > 1 and len(groups[-1]) == 1:
        groups[-2:] = [np.concatenate(groups[-2:])]
    for group in groups:
        yield _make_batch(source, [(int(i), clips[i]) for i in group], config, epoch)


def _make_batch(
    source: TokenSource, clips: list[tuple[int, ClipRecord]], config: FuseConfig, epoch: int
) -> Batch:
    tokens, cls, gather, steps, valid = [], [], [], [], []
    offset = 0
    for number, record in clips:
        views = sample_views(
            record.num_frames,
            config.data.num_frames,
            alpha=config.data.alpha,
            beta=config.data.beta,
            rng=np.random.default_rng([config.seed, epoch, number]),
        )
        distinct, inverse = np.unique(views.frames, return_inverse=True)
        if source.uses_cls:
            cls.append(source.cls(record.clip_id, distinct))
        else:
            tokens.append(source.tokens(record.clip_id, distinct))
        gather.append(inverse.reshape(views.frames.shape) + offset)
        steps.append(views.frames)
        valid.append(views.valid)
        offset += len(distinct)

    def on_device(arrays: list[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.stack(arrays)).to(source.device)

    return Batch(
        clip_ids=tuple(record.clip_id for _, record in clips),
        tokens=torch.cat(tokens) if tokens else None,
        cls=torch.cat(cls) if cls else None,
        gather=on_device(gather),
        steps=on_device(steps),
        valid=on_device(valid),
    )
