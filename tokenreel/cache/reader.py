"""Reading a store: only the frames asked for, straight into a buffer, damage never as zeros."""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tokenreel.cache.blocks import Shard, aligned_empty, check_frames, runs
from tokenreel.cache.clipfiles import all_arrays, load_clip, load_rows, load_sums
from tokenreel.cache.codec import Codec, Encoded, codec_from_recipe
from tokenreel.cache.codec.base import Array
from tokenreel.cache.errors import ClipNotFound, Damaged
from tokenreel.cache.files import file_inside
from tokenreel.cache.frames import frame_numbers, read_with_tensorstore
from tokenreel.cache.index import load_records
from tokenreel.cache.layout import SEGMENT, ArraySpec, parse_json
from tokenreel.cache.recipe import StoreRecipe
from tokenreel.cache.records import ClipRecord, folder_of
from tokenreel.cache.store import load_arrays, load_recipe

__all__ = ["ClipRecord", "Request", "Store", "Tokens", "open_store"]

HANDLES = 256  # shards kept open; clips whose metadata is kept


@dataclass(frozen=True, eq=False)
class Tokens:
    """Frames of a clip as they are stored.

    Attributes:
        codes: block -> (t, n, d).
        scales: block -> (t, n), {} for a codec without.
        codec: of the store.
    """

    codes: dict[int, Array]
    scales: dict[int, Array]
    codec: Codec

    def decode(self, block: int) -> Array:
        """Tokens of a block, float32 (t, n, D)."""
        encoded = Encoded(self.codes[block], self.scales.get(block))
        return self.codec.decode(encoded, block=block)


@dataclass(frozen=True, eq=False)
class Request:
    """One read of read_many: the arguments of Store.read."""

    clip_id: str
    frames: Any = None
    layers: Sequence[int] | None = None
    view: int = 0
    out: Mapping[int, Array] | None = None


def open_store(
    path: str | Path, *, expect: StoreRecipe | None = None, backend: str = "auto",
    check_every: int = 1, placement: str = "auto",
) -> "Store":  # fmt: skip
    """Open a store for reading.

    Args:
        path: its directory.
        expect: the recipe it must have.
        backend: "direct", "tensorstore" (the reference), or "auto", which is direct.
        check_every: check the crc32c of every so many-th read; 1 checks all, 0 none.
        placement: "disk" reads past the page cache, "memory" through it, "auto" chooses "disk" when
            the tokens are more than half of the machine's memory.

    Raises:
        StoreNotFound, WrongRecipe, Damaged.
    """
    return Store(Path(path), expect, backend, check_every, placement)


class Store:
    """A store, open for reading.  Picklable; handles are opened when needed, in each process."""

    def __init__(
        self, path: Path, expect: StoreRecipe | None, backend: str, check_every: int, placement: str
    ) -> None:
        if backend not in ("auto", "direct", "tensorstore"):
            raise ValueError(f"backend {backend!r}: auto, direct or tensorstore")
        if placement not in ("auto", "disk", "memory") or check_every < 0:
            raise ValueError(f"placement {placement!r}, check_every {check_every}")
        self.path = path
        self.recipe, attributes = load_recipe(path)
        if expect is not None:
            self.recipe.require(expect, path=path)
        self.made_with: dict[str, Any] = attributes["made_with"]
        self.fingerprint = self.recipe.fingerprint
        try:
            calibration = load_arrays(path / "calibration")
            self.codec = codec_from_recipe(self.recipe.codec, calibration)
        except (ValueError, KeyError) as error:
            raise Damaged(f"{path}: {error}") from error
        self.records = load_records(path)
        self._backend, self._check_every = backend, check_every
        self._disk = placement == "disk" or (placement == "auto" and self._exceeds_memory())
        self._forget()

    def _forget(self) -> None:
        self._clips: dict[str, tuple[dict[str, ArraySpec], dict[str, list[int]]]] = {}
        self._shards: dict[Path, Shard] = {}
        self._reads, self._pid = 0, os.getpid()
        self._pool: ThreadPoolExecutor | None = None

    def __getstate__(self) -> dict[str, Any]:
        hidden: dict[str, Any] = {"_clips": {}, "_shards": {}, "_pool": None, "_pid": -1}
        return {**self.__dict__, **hidden}

    def _exceeds_memory(self) -> bool:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return self.num_bytes > memory / 2

    @property
    def num_bytes(self) -> int:
        """Bytes of the tokens of all clips."""
        n, d = self.codec.stored_shape(self.recipe.num_tokens, self.recipe.dim, self.recipe.grid)
        frames = sum(record.num_frames * record.num_views for record in self.records.values())
        return frames * n * d * self.codec.dtype.itemsize * len(self.recipe.blocks)

    def select(self, split: str | None = None, action: str | None = None) -> list[ClipRecord]:
        """Records of a split and an action, None for any, sorted by clip_id."""
        return [
            record for record in self.records.values()
            if split in (None, record.split) and action in (None, record.action)
        ]  # fmt: skip

    def record(self, clip_id: str) -> ClipRecord:
        """The record of a clip.

        Raises:
            ClipNotFound: the store has no such clip.
        """
        if clip_id not in self.records:
            raise ClipNotFound(f"{self.path} has no clip {clip_id!r}; it has {len(self.records)}")
        return self.records[clip_id]

    def read(
        self, clip_id: str, frames: Any = None, *, layers: Sequence[int] | None = None,
        view: int = 0, out: Mapping[int, Array] | None = None,
    ) -> Tokens:  # fmt: skip
        """Read frames of a clip.

        Args:
            clip_id: the clip.
            frames: indices, in any order, repeats read once; a slice; None for all.
            layers: blocks, None for all of the store.
            view: 0 is clean.
            out: block -> contiguous (t, n, d) array of the codec's dtype to fill.

        Raises:
            ClipNotFound: no such clip, block, view or frame.
            Damaged: a missing or damaged file; never zeros instead.
        """
        record, blocks = (
            self.record(clip_id),
            tuple(self.recipe.blocks if layers is None else layers),
        )
        rows = frame_numbers(record, frames)
        if not set(blocks) <= set(self.recipe.blocks) or not 0 <= view < record.num_views:
            raise ClipNotFound(
                f"{clip_id}: no block {blocks} or view {view}; the store has blocks "
                f"{self.recipe.blocks} and {record.num_views} view(s)"
            )
        distinct, inverse = np.unique(rows, return_inverse=True)
        plain = len(distinct) == len(rows) and bool((distinct == rows).all())
        codes, scales = {}, {}
        for block in blocks:
            target = None if out is None else out[block]
            read = self._codes(record, f"views/{view}/tokens/{block}", distinct,
                               target if plain else None)  # fmt: skip
            codes[block] = read if plain else np.take(read, inverse, axis=0, out=target)
            if f"views/{view}/scale/{block}" in self._clip(record)[0]:
                scales[block] = self._rows(record, f"views/{view}/scale/{block}", rows)
        return Tokens(codes, scales, self.codec)

    def read_many(self, requests: Sequence[Request], *, threads: int = 16) -> list[Tokens]:
        """Several reads at once, in their order, by so many I/O threads."""
        self._fresh()
        if self._pool is None:
            self._pool = ThreadPoolExecutor(threads, thread_name_prefix="tokenreel-read")
        waiting = [
            self._pool.submit(
                self.read, r.clip_id, r.frames, layers=r.layers, view=r.view, out=r.out
            )
            for r in requests
        ]
        return [future.result() for future in waiting]

    def read_cls(
        self, clip_id: str, frames: Any = None, *, block: int | str = "normed", view: int = 0
    ) -> Array:
        """CLS of frames after a block, or "normed": the last, after the final norm; f32 (t, D)."""
        record = self.record(clip_id)
        name = "cls_normed" if block == "normed" else f"cls/{block}"
        path = f"views/{view}/{name}"
        if path not in self._clip(record)[0]:
            raise ClipNotFound(f"{clip_id}: no {path} in this store")
        return self._rows(record, path, frame_numbers(record, frames)).astype(np.float32)

    def labels(self, clip_id: str) -> Array:
        """Phase of each frame, int16 (T,), -1 unlabelled."""
        return self._all_rows(clip_id, "labels")

    def flags(self, clip_id: str) -> Array:
        """Flags of each frame, uint8 (T,)."""
        return self._all_rows(clip_id, "flags")

    def frame_index(self, clip_id: str) -> Array:
        """Index of each frame in the decoded video, int64 (T,)."""
        return self._all_rows(clip_id, "frame_index")

    def pts(self, clip_id: str) -> Array:
        """Presentation time of each frame in ticks of the record's time_base, int64 (T,)."""
        return self._all_rows(clip_id, "pts")

    def times_seconds(self, clip_id: str) -> Array:
        """Presentation time of each frame, float64 (T,)."""
        numerator, denominator = self.record(clip_id).time_base
        times: Array = self.pts(clip_id) * (numerator / denominator)
        return times

    def _fresh(self) -> None:
        if self._pid != os.getpid():
            self._forget()

    def _clip(self, record: ClipRecord) -> tuple[dict[str, ArraySpec], dict[str, list[int]]]:
        self._fresh()
        known = self._clips.get(record.key)
        if known is None:
            found, seals = load_clip(self._folder(record), record.key, fingerprint=self.fingerprint)
            if found != record:
                raise Damaged(f"{record.clip_id}: the clip is not what the log says; run verify")
            known = (all_arrays(self.recipe, self.codec, record), seals)
            _keep(self._clips, record.key, known)
        return known

    def _folder(self, record: ClipRecord) -> Path:
        return file_inside(self.path, folder_of(record.key))

    def _all_rows(self, clip_id: str, path: str) -> Array:
        record = self.record(clip_id)
        return self._rows(record, path, np.arange(record.num_frames))

    def _rows(self, record: ClipRecord, path: str, frames: Array) -> Array:
        specs, seals = self._clip(record)
        spec = specs[path]
        rows = np.empty((len(frames), *spec.shape[1:]), spec.dtype)
        numbers = frames // spec.rows
        for number in np.unique(numbers):
            chunk = load_rows(self._folder(record), spec, int(number), seals)
            here = numbers == number
            rows[here] = chunk[frames[here] - number * spec.rows]
        return rows

    def _codes(self, record: ClipRecord, path: str, frames: Array, out: Array | None) -> Array:
        specs, seals = self._clip(record)
        spec, shape = specs[path], (len(frames), *specs[path].shape[1:])
        dtype = np.dtype(spec.dtype)
        if out is None:
            out = aligned_empty(shape, dtype) if self._disk else np.empty(shape, dtype)
        if out.shape != shape or out.dtype != dtype or not out.flags.c_contiguous:
            raise ValueError(f"out is {out.dtype}{out.shape}, wanted contiguous {dtype}{shape}")
        folder = self._folder(record)
        if self._backend == "tensorstore":
            read_with_tensorstore(folder, spec, frames, out)
        for first, count, place in runs(frames):
            part = out[place : place + count]
            if self._backend != "tensorstore":
                self._shard(folder, spec, first // SEGMENT).read(first % SEGMENT, part)
            self._reads += 1
            if self._check_every and self._reads % self._check_every == 0:
                sums = load_sums(folder, spec, first // SEGMENT, seals)
                begin = first % SEGMENT
                check_frames(part, sums[begin : begin + count], where=folder / spec.path)
        return out

    def _shard(self, folder: Path, spec: ArraySpec, number: int) -> Shard:
        path = folder / spec.chunk_file(number)
        shard = self._shards.get(path)
        if shard is None:
            meta = folder / spec.path / "zarr.json"
            try:
                same = parse_json(meta.read_bytes(), where=meta) == spec.metadata()
            except OSError as error:
                raise Damaged(f"{meta}: {error.strerror}; run verify, then repair") from error
            if not same:
                raise Damaged(f"{meta}: not the metadata of version 1; use backend='tensorstore'")
            file_inside(folder, spec.chunk_file(number))
            shard = Shard(path, spec, number, direct=self._disk)
            _keep(self._shards, path, shard)
        return shard


def _keep(cache: dict[Any, Any], key: Any, value: Any) -> None:
    """Add to a cache; the oldest goes.  A thread that still uses it holds it."""
    cache[key] = value
    if len(cache) > HANDLES:
        cache.pop(next(iter(list(cache))), None)
