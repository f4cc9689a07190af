"""Where the frames of a store come from: the disk, memory or the GPU."""

import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokenreel.cache.embeddings import tag_targets
from tokenreel.cache.errors import Damaged
from tokenreel.cache.format.clip import ClipRecord
from tokenreel.cache.read.pictures import PIXELS, decode_jpegs
from tokenreel.cache.read.store_reader import Request, Store
from tokenreel.fuse.data.frames import Foldings, Frames, Piece
from tokenreel.fuse.data.placement import (
    choose_placement,
    frame_bytes,
    jpeg_bytes,
    picture_bytes,
)
from tokenreel.fuse.data.requirements import class_offsets, grid_of

log = logging.getLogger(__name__)

FRAMES_AT_ONCE = 64  # of a clip that is embedded: their decoded tokens bound the memory
DECODERS = min(8, len(os.sched_getaffinity(0)))  # threads that decode the pictures of a batch


@dataclass(frozen=True)
class Wanted:
    """What some runs read of a store: what any of them wants.

    Attributes:
        blocks: of the tokens, sorted.
        cls: whether CLS vectors.
        every_view: whether views besides the clean one.
        actions: of the clips, None among them for every action.
        pictures: whether the pictures of the units, which a store of pixels has.
    """

    blocks: tuple[int, ...]
    cls: bool
    every_view: bool
    actions: frozenset[str | None]
    pictures: bool = False

    @classmethod
    def merged(cls, some: Sequence["Wanted"]) -> "Wanted":
        """What any of some runs wants."""
        return cls(
            tuple(sorted({block for wanted in some for block in wanted.blocks})),
            any(wanted.cls for wanted in some),
            any(wanted.every_view for wanted in some),
            frozenset(action for wanted in some for action in wanted.actions),
            any(wanted.pictures for wanted in some),
        )

    def includes(self, record: ClipRecord) -> bool:
        """Whether a clip is of one of the actions."""
        return None in self.actions or record.action in self.actions


class TokenSource:
    """Where the frames of some runs come from.  Picklable; opens its files in each process.

    Args:
        store: the store.
        wanted: what the runs that read it want of it.
        device: where the frames go.
        placement: "disk", "ram", "gpu" or "auto".
        memory_bytes: most that codes may take in memory, None for half of what is available.
        clips: that will be read; those wanted of the split train when None.
        frames_at_once: most frames of a batch or read; 0 where the caller counts them.
        name: of the store among those of the runs.
        taken_bytes: of memory, what the codes of other stores will take.

    Attributes:
        others: the sources of further stores of the same clips and units, by name.
        class_names: all tags of the store's clips, sorted.

    Raises:
        UsageError: the codes do not fit.
    """

    def __init__(
        self,
        store: Store,
        wanted: Wanted,
        device: torch.device,
        *,
        placement: str = "auto",
        memory_bytes: int | None = None,
        clips: Sequence[ClipRecord] | None = None,
        frames_at_once: int = 0,
        name: str = "tokens",
        taken_bytes: int = 0,
    ) -> None:
        self.name, self.others = name, dict[str, TokenSource]()
        self._every_view = wanted.every_view
        self.store, self.device, self.frames_at_once = store, device, frames_at_once
        self.blocks, self.uses_cls = wanted.blocks, wanted.cls
        self.uses_pictures = wanted.pictures
        self._first_class, self.num_classes = class_offsets(store)
        self.class_names, self._targets = tag_targets(
            {clip_id: record.tags for clip_id, record in store.records.items()}
        )
        self._foldings = Foldings(store.codec, store.identity.dim)
        if clips is None:
            clips = [clip for clip in store.select(split="train") if wanted.includes(clip)]
        views = [clip.num_views if wanted.every_view else 1 for clip in clips]
        frames = sum(clip.num_frames * count for clip, count in zip(clips, views, strict=True))
        each = frame_bytes(store, self.blocks, cls=self.uses_cls)
        stay_bytes = frames * each + (jpeg_bytes(store, clips) if self.uses_pictures else 0)
        each += picture_bytes(store) if self.uses_pictures else 0
        self.placement = choose_placement(
            placement,
            stay_bytes,
            device,
            on_gpu=not self.uses_pictures,
            memory_bytes=memory_bytes,
            batch_bytes=frames_at_once * each,
            taken_bytes=taken_bytes,
        )
        self.in_memory_bytes = self.placement.num_bytes + (frames_at_once * each)
        self._kept_ids = (
            {clip.clip_id for clip in clips} if self.placement.kind != "disk" else set()
        )
        self._kept: dict[tuple[str, int], Frames] = {}
        log.info(
            "tokens: %.2f GB of codes, placement %s: %s; up to %.2f GB at once, %d batches ahead",
            stay_bytes / 1e9,
            self.placement.kind,
            self.placement.reason,
            frames_at_once * each / 1e9,
            self.placement.ahead,
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": {}}

    @property
    def streams(self) -> "dict[str, TokenSource]":
        """This source and the others, by the names of their stores."""
        return {self.name: self, **self.others}

    @property
    def batches_ahead(self) -> int:
        """Batches that may wait while a step runs."""
        return min(source.placement.ahead for source in self.streams.values())

    @property
    def unread_bytes(self) -> int:
        """Bytes of the codes that will stay and are not there yet, of all stores."""
        kept = sum(frames.num_bytes for frames in self._kept.values())
        others = sum(source.unread_bytes for source in self.others.values())
        return max(0, self.placement.num_bytes - kept) + others

    def classes(self, record: ClipRecord) -> NDArray[np.int64]:
        """The class of each frame of a clip, -1 where it has none."""
        labels = self.store.labels(record.clip_id).astype(np.int64)
        return np.where(labels < 0, -1, labels + self._first_class[record.action])

    def targets(self, record: ClipRecord) -> NDArray[np.int64]:
        """Which of the tags a clip has, 0 or 1 for each of class_names."""
        return self._targets[record.clip_id]

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the tokens of a frame, as the codec stores them."""
        return grid_of(self.store)

    @property
    def cls_dim(self) -> int:
        """Channels of a CLS vector."""
        return self.store.identity.dim

    def read(self, pieces: Sequence[Piece]) -> Frames:
        """Frames in the order of the pieces, their pictures decoded.

        They are in memory, pinned where the model is on a GPU, unless they stay on the GPU; call
        :meth:`Frames.to` before use.

        Raises:
            Damaged: a missing or damaged file, or a picture that is none; the clip.
        """
        kept = [piece for piece in pieces if piece.clip_id in self._kept_ids]
        if kept and len(kept) == len(pieces):
            found = self._take([self._whole(piece) for piece in pieces], pieces)
        else:
            found = self._read(pieces)
        return found if found.jpegs is None else self._decoded(found, pieces)

    def read_others(self, pieces: Sequence[Piece]) -> dict[str, Frames]:
        """The same units of the further stores; the clean view where no other is wanted."""
        return {
            name: source.read(
                [piece if source._every_view else replace(piece, view=0) for piece in pieces]
            )
            for name, source in self.others.items()
        }

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

    def _take(self, wholes: Sequence[Frames], pieces: Sequence[Piece]) -> Frames:
        """From the clips that stay: every frame is copied once, into the buffer of the batch."""
        on_gpu = self.placement.kind == "gpu"
        pin = self.device.type == "cuda" and not on_gpu
        rows = [torch.from_numpy(piece.frames) for piece in pieces]
        if on_gpu:
            rows = [row.to(self.device) for row in rows]
        total = sum(map(len, rows))

        def gather(parts: Sequence[Tensor]) -> Tensor:
            first = parts[0]
            shape = (total, *first.shape[1:])
            out = torch.empty(shape, dtype=first.dtype, device=first.device, pin_memory=pin)
            start = 0
            for part, row in zip(parts, rows, strict=True):
                torch.index_select(part, 0, row, out=out[start : start + len(row)])
                start += len(row)
            return out

        cls = [whole.cls for whole in wholes if whole.cls is not None]
        jpegs = [
            whole.jpegs[place]
            for whole, piece in zip(wholes, pieces, strict=True)
            if whole.jpegs is not None
            for place in piece.frames.tolist()
        ]
        return Frames(
            {block: gather([clip.codes[block] for clip in wholes]) for block in wholes[0].codes},
            {block: gather([clip.scales[block] for clip in wholes]) for block in wholes[0].scales},
            gather(cls) if cls else None,
            self._foldings,
            jpegs=jpegs if self.uses_pictures else None,
        )

    def _read(self, pieces: Sequence[Piece], *, pin: bool = True) -> Frames:
        """From the store: every block of every piece at once, straight into one buffer a block."""
        recipe, codec = self.store.identity, self.store.codec
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
        self.store.release_pages()  # memory of this process is what the bound is of
        names = read[0].scales if read else {}
        scales = {b: torch.from_numpy(np.concatenate([r.scales[b] for r in read])) for b in names}
        jpegs = None
        if self.uses_pictures:
            jpegs = [
                jpeg
                for piece in pieces
                for jpeg in self.store.read_bytes(piece.clip_id, PIXELS, piece.frames)
            ]
        return Frames(codes, scales, self._read_cls(pieces), self._foldings, jpegs=jpegs)

    def _decoded(self, frames: Frames, pieces: Sequence[Piece]) -> Frames:
        """Frames with the pictures of their JPEGs, pinned where the model is on a GPU."""
        identity = self.store.identity
        shape = (identity.frames_per_window, *identity.image_size, 3)
        owners = [piece.clip_id for piece in pieces for _ in piece.frames]
        pictures = torch.empty(
            (len(owners), *shape), dtype=torch.uint8, pin_memory=self.device.type == "cuda"
        )
        plain = pictures.numpy()

        def decode(place: int, clip_id: str, data: bytes) -> None:
            try:
                found = decode_jpegs(data)
            except Damaged as error:
                raise Damaged(f"{self.store.path}: clip {clip_id!r}: {error}") from error
            if found.shape != shape:
                raise Damaged(
                    f"{self.store.path}: clip {clip_id!r} has pictures {found.shape}, the store is "
                    f"of {shape}: run verify"
                )
            plain[place] = found

        assert frames.jpegs is not None
        with ThreadPoolExecutor(DECODERS, thread_name_prefix="tokenreel-jpeg") as pool:
            list(pool.map(decode, range(len(owners)), owners, frames.jpegs))
        return frames.with_pictures(pictures)

    def _read_cls(self, pieces: Sequence[Piece]) -> Tensor | None:
        if not self.uses_cls:
            return None
        if not pieces:
            return torch.empty(0, self.cls_dim)
        parts = [self.store.read_cls(p.clip_id, p.frames, view=p.view) for p in pieces]
        return torch.from_numpy(np.concatenate(parts))
