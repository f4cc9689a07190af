"""Frames of a store as a model takes them: codes from disk, memory or the GPU, tokens on demand."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokenreel.cache.codec import Codec, Encoded
from tokenreel.cache.errors import UsageError
from tokenreel.cache.reader import ClipRecord, Request, Store
from tokenreel.fuse.config import FuseConfig
from tokenreel.fuse.placement import choose_placement, code_bytes

__all__ = [
    "Frames",
    "Piece",
    "TokenSource",
    "blocks_of",
    "require_store",
    "uses_cls",
    "uses_tokens",
]

log = logging.getLogger(__name__)


def blocks_of(config: FuseConfig, store: Store) -> tuple[int, ...]:
    """The blocks whose tokens a config uses, those of the store by default.

    Raises:
        UsageError: the store lacks one.
    """
    wanted = config.pooling.blocks or store.recipe.blocks
    missing = set(wanted) - set(store.recipe.blocks)
    if missing:
        raise UsageError(
            f"pooling.blocks wants {sorted(wanted)}, {store.path} holds "
            f"{list(store.recipe.blocks)}: `{_extract(store)} "
            f"blocks={','.join(map(str, sorted(set(wanted) | set(store.recipe.blocks))))} "
            "--out STORE` makes one that does, or set pooling.blocks"
        )
    return tuple(sorted(wanted))


def _extract(store: Store) -> str:
    """The command that makes a store of the same data set."""
    return f"extract run {store.made_with.get('dataset') or 'DATASET'}"


def uses_cls(config: FuseConfig) -> bool:
    """Whether a config pools CLS vectors."""
    return config.pooling.kind in ("cls", "fixed_width")


def uses_tokens(config: FuseConfig) -> bool:
    """Whether a config pools spatial tokens."""
    return config.pooling.kind not in ("cls", "fixed_width")


def require_store(config: FuseConfig, store: Store) -> None:
    """Refuse, before anything is trained, a store without what a config needs.

    Raises:
        UsageError: what is missing, and the command that would make it.
    """
    if uses_tokens(config):
        blocks_of(config, store)
    if uses_cls(config) and store.recipe.cls == "none":
        raise UsageError(
            f"{store.path} holds no CLS tokens, {store.recipe.architecture} has none: "
            f"`{_extract(store)} backbone=vit_small_patch16_224 --out STORE` makes one that does, "
            "or set pooling.kind"
        )
    if config.model != "frozen" and config.optim.epochs and not store.select(split="train"):
        raise UsageError(f"{store.path} has no clips of the split train: nothing to train on")


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

    def tokens(self, blocks: Sequence[int] | None = None) -> Tensor:
        """Tokens of blocks, None for all, in order, end to end: float32 (F, n, D of them all)."""
        key = tuple(sorted(self.codes if blocks is None else blocks))
        if key not in self._tokens:
            parts = [
                self._decoder(block, self.codes[block], self.scales.get(block)) for block in key
            ]
            self._tokens[key] = parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
        return self._tokens[key]

    def to(self, device: torch.device) -> "Frames":
        """The same frames on a device; the copy does not wait where memory is pinned."""

        def move(part: Tensor) -> Tensor:
            return part.to(device, non_blocking=True)

        return Frames(
            {block: move(part) for block, part in self.codes.items()},
            {block: move(part) for block, part in self.scales.items()},
            None if self.cls is None else move(self.cls),
            self._decoder,
        )


@dataclass
class Decoder:
    """Codes to tokens, on the device where the codes are."""

    codec: Codec
    dim: int
    _foldings: dict[tuple[int, torch.device], tuple[Tensor, Tensor, Tensor | None]] = field(
        default_factory=dict
    )

    def __call__(self, block: int, codes: Tensor, scales: Tensor | None) -> Tensor:
        """(F, n, d) codes -> (F, n, D) float32."""
        if codes.dtype == torch.uint8:  # two codes in a byte: the codec unpacks them
            plain = None if scales is None else scales.cpu().numpy()
            unpacked = self.codec.decode(Encoded(codes.cpu().numpy(), plain), block=block)
            return torch.from_numpy(unpacked).to(codes.device)
        scale, offset, rotation = self._folding(block, codes.device)
        tokens = codes.float()
        if scales is not None:
            tokens *= scales[..., None].float()
        tokens = tokens.mul_(scale).add_(offset)
        return tokens if rotation is None else tokens @ rotation

    def _folding(self, block: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor | None]:
        key = (block, device)
        if key not in self._foldings:
            found = self.codec.fold(block, self.dim)
            rotation = found.rotation
            self._foldings[key] = (
                torch.tensor(found.channel_scale, device=device),
                torch.tensor(found.channel_offset, device=device),
                None if rotation is None else torch.tensor(rotation, device=device),
            )
        return self._foldings[key]


class TokenSource:
    """Where the frames of some runs come from.  Picklable; opens its files in each process.

    Args:
        store: the store.
        configs: of the runs that read it: the blocks and CLS vectors that any of them wants.
        device: where the frames go.
        placement: "disk", "ram", "gpu" or "auto".
        memory_bytes: most that may stay resident in memory, None for half of what is available.
        clips: that will be read; those of the split train when None.

    Raises:
        UsageError: the store lacks what a config needs, or the placement does not fit.
    """

    def __init__(
        self,
        store: Store,
        configs: Sequence[FuseConfig],
        device: torch.device,
        *,
        placement: str = "auto",
        memory_bytes: int | None = None,
        clips: Sequence[ClipRecord] | None = None,
    ) -> None:
        for config in configs:
            require_store(config, store)
        self.store, self.device = store, device
        wanted = [blocks_of(config, store) for config in configs if uses_tokens(config)]
        self.blocks = tuple(sorted({block for blocks in wanted for block in blocks}))
        self.uses_cls = any(map(uses_cls, configs))
        self._decoder = Decoder(store.codec, store.recipe.dim)
        clips = store.select(split="train") if clips is None else clips
        size = code_bytes(store, clips, self.blocks)
        self.placement = choose_placement(placement, size, device, memory_bytes=memory_bytes)
        self._kept_ids = (
            {clip.clip_id for clip in clips} if self.placement.kind != "disk" else set()
        )
        self._kept: dict[tuple[str, int], Frames] = {}
        log.info(
            "tokens: %.2f GB of codes, placement %s: %s",
            size / 1e9, self.placement.kind, self.placement.reason,
        )  # fmt: skip

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": {}}

    def dim(self, config: FuseConfig) -> int:
        """Channels of the tokens of all blocks that a config uses, end to end."""
        return self.store.recipe.dim * len(blocks_of(config, self.store))

    @property
    def cls_dim(self) -> int:
        """Channels of a CLS vector."""
        return self.store.recipe.dim

    def read(self, pieces: Sequence[Piece]) -> Frames:
        """Frames in the order of the pieces.

        They are in memory, pinned where the model is on a GPU, unless they stay on the GPU; call
        :meth:`Frames.to` before use.
        """
        kept = [piece for piece in pieces if piece.clip_id in self._kept_ids]
        if len(kept) == len(pieces):
            return self._join([self._take(self._whole(piece), piece.frames) for piece in pieces])
        return self._read(pieces)

    def frames(self, clip_id: str, frames: NDArray[np.int64], *, view: int = 0) -> Frames:
        """Frames of one clip, on the device."""
        return self.read([Piece(clip_id, view, frames)]).to(self.device)

    def _whole(self, piece: Piece) -> Frames:
        key = (piece.clip_id, piece.view)
        if key not in self._kept:
            count = self.store.record(piece.clip_id).num_frames
            whole = self._read([Piece(piece.clip_id, piece.view, np.arange(count))], pin=False)
            self._kept[key] = whole.to(self.device) if self.placement.kind == "gpu" else whole
        return self._kept[key]

    def _take(self, whole: Frames, frames: NDArray[np.int64]) -> Frames:
        rows = torch.from_numpy(frames)
        if self.placement.kind == "gpu":
            rows = rows.to(self.device)
        return Frames(
            {block: part[rows] for block, part in whole.codes.items()},
            {block: part[rows] for block, part in whole.scales.items()},
            None if whole.cls is None else whole.cls[rows],
            self._decoder,
        )

    def _join(self, parts: Sequence[Frames]) -> Frames:
        pin = self.device.type == "cuda" and self.placement.kind == "ram"

        def join(tensors: list[Tensor]) -> Tensor:
            joined = tensors[0] if len(tensors) == 1 else torch.cat(tensors)
            return joined.pin_memory() if pin else joined

        first = parts[0]
        cls = [part.cls for part in parts if part.cls is not None]
        return Frames(
            {block: join([part.codes[block] for part in parts]) for block in first.codes},
            {block: join([part.scales[block] for part in parts]) for block in first.scales},
            join(cls) if cls else None,
            self._decoder,
        )

    def _read(self, pieces: Sequence[Piece], *, pin: bool = True) -> Frames:
        """From the store: every block of every piece at once, straight into one buffer a block."""
        recipe, codec = self.store.recipe, self.store.codec
        total = sum(len(piece.frames) for piece in pieces)
        shape = codec.stored_shape(recipe.num_tokens, recipe.dim, recipe.grid)
        pin = pin and self.device.type == "cuda"
        dtype = torch.from_numpy(np.empty(0, codec.dtype)).dtype
        codes = {b: torch.empty((total, *shape), dtype=dtype, pin_memory=pin) for b in self.blocks}
        plain = {block: part.numpy() for block, part in codes.items()}
        requests, start = [], 0
        for piece in pieces:
            stop = start + len(piece.frames)
            out = {block: part[start:stop] for block, part in plain.items()}
            requests.append(Request(piece.clip_id, piece.frames, self.blocks, piece.view, out))
            start = stop
        read = self.store.read_many(requests) if self.blocks else []
        names = read[0].scales if read else {}
        scales = {b: torch.from_numpy(np.concatenate([r.scales[b] for r in read])) for b in names}
        return Frames(codes, scales, self._read_cls(pieces), self._decoder)

    def _read_cls(self, pieces: Sequence[Piece]) -> Tensor | None:
        if not self.uses_cls:
            return None
        parts = [self.store.read_cls(p.clip_id, p.frames, view=p.view) for p in pieces]
        return torch.from_numpy(np.concatenate(parts))
