"""Read chosen frames of a store straight into a buffer; damage is an error, never zeros."""

import hashlib
import logging
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from tokenreel.cache.bucket.objects import REQUESTS
from tokenreel.cache.bucket.path import is_bucket, store_path
from tokenreel.cache.canonical import canonical_json
from tokenreel.cache.codec import Codec, Encoded, codec_from_identity
from tokenreel.cache.codec.base import Array
from tokenreel.cache.errors import ClipNotFound, Damaged, UsageError
from tokenreel.cache.format.clip import (
    ClipRecord,
    clip_key,
    labels_hash,
)
from tokenreel.cache.format.identity import StoreIdentity
from tokenreel.cache.format.index import find_clip, is_committed, load_records
from tokenreel.cache.format.layout import default_stops
from tokenreel.cache.format.relabelled import load_relabelled
from tokenreel.cache.format.store_files import StoreFacts, load_arrays, load_identity
from tokenreel.cache.read.clip_reader import CLIPS, Kept, OpenClip, ReadPolicy

log = logging.getLogger(__name__)


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

    def encoded(self, block: int) -> Encoded:
        """Codes and scales of a block."""
        return Encoded(self.codes[block], self.scales.get(block))

    def decode(self, block: int) -> Array:
        """Tokens of a block, float32 (t, n, D)."""
        return self.codec.decode(self.encoded(block), block=block)


@dataclass(frozen=True, eq=False)
class Request:
    """One read of read_many: the arguments of Store.read."""

    clip_id: str
    frames: Any = None
    blocks: Sequence[int] | None = None
    view: int = 0
    out: Mapping[int, Array] | None = None


def open_store(
    path: str | Path,
    *,
    expect: StoreIdentity | None = None,
    backend: str = "auto",
    checks: str = "once",
    placement: str = "auto",
) -> "Store":
    """Open a store for reading.

    Args:
        path: its directory, or its URL on a bucket (s3://, gs://, az://).
        expect: the identity it must have.
        backend: "direct", "tensorstore" (the reference), or "auto", which is direct.
        checks: whose crc32c is checked: "once", a frame when this process first reads it (again
            when its shard had to be closed meanwhile); "always", every read; "never", which is
            "once" on a bucket, where the copies on this machine are checked.
        placement: "disk" reads past the page cache (O_DIRECT), "memory" through it; "auto" chooses
            "disk" when the tokens are more than half of the machine's memory, and logs it.

    Raises:
        StoreNotFound: no store at this path.
        WrongIdentity: its identity is not `expect`; the differing fields.
        Damaged: a file of the store that cannot be read.
    """
    return Store(store_path(path), expect, backend, checks, placement)


class Store:
    """A store open for reading.  Picklable: each process opens the handles that it needs."""

    def __init__(
        self, path: Path, expect: StoreIdentity | None, backend: str, checks: str, placement: str
    ) -> None:
        for given, known in (
            (backend, ("auto", "direct", "tensorstore")),
            (placement, ("auto", "disk", "memory")),
            (checks, ("once", "always", "never")),
        ):
            if given not in known:
                raise ValueError(f"{given!r} is none of {', '.join(known)}")
        self.path, self._is_on_bucket = path, is_bucket(path)
        if self._is_on_bucket and backend == "tensorstore":
            raise UsageError(f"{path}: backend='tensorstore' reads disks alone: use 'auto'")
        self.identity, attributes = load_identity(path)
        if expect is not None:
            self.identity.require(expect, path=path)
        self.made_with: dict[str, Any] = attributes["made_with"]
        self.facts = StoreFacts.of(attributes)
        self.fingerprint = self.identity.fingerprint
        try:
            calibration = load_arrays(path / "calibration")
            self.codec = codec_from_identity(self.identity.codec, calibration)
        except (ValueError, KeyError) as error:
            raise Damaged(f"{path}: {error}") from error
        own = load_records(path)
        self._relabelled = load_relabelled(path, own)
        others = {name: clip.record for name, clip in self._relabelled.items()}
        self.records = {**own, **others}
        direct = placement == "disk" or (placement == "auto" and self._exceeds_memory())
        if self._is_on_bucket and checks == "never":  # what is on this machine is never trusted
            checks = "once"
        self._policy = ReadPolicy(backend == "tensorstore", checks, direct)
        self._forget()

    def _forget(self) -> None:
        self._kept, self._pid = Kept(), os.getpid()
        self._pool: ThreadPoolExecutor | None = None
        self._num_threads = 0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": Kept(), "_pool": None, "_pid": -1}

    def _exceeds_memory(self) -> bool:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        exceeds = self.num_bytes > memory / 2
        log.debug(
            "%s: %.1f GB of tokens, %.1f GB of memory: read %s the page cache",
            self.path,
            self.num_bytes / 1e9,
            memory / 1e9,
            "past" if exceeds else "through",
        )
        return exceeds

    @property
    def num_relabelled(self) -> int:
        """Clips whose labels were renewed by `store relabel`."""
        return len(self._relabelled)

    @cached_property
    def labels_sha256(self) -> str:
        """Hash of what belongs to the data set: splits, actions, groups, tags, phases, labels."""
        rows = [
            [r.clip_id, r.split, r.action, r.group, r.tags, r.phases, self._labels_hash(r)]
            for r in self.records.values()
        ]
        return hashlib.sha256(canonical_json(rows)).hexdigest()

    @property
    def clips_sha256(self) -> str:
        """Hash of which clips there are, of which videos; the fingerprint says how they were made.

        Splits and actions are part of it, as runs of earlier versions have recorded it.
        """
        rows = [
            [
                record.clip_id,
                record.split,
                record.action,
                record.num_frames,
                record.source["sha256"],
            ]
            for record in self.records.values()
        ]
        return hashlib.sha256(canonical_json(rows)).hexdigest()

    def _labels_hash(self, record: ClipRecord) -> str:
        return record.labels_sha256 or labels_hash(record.phases, self.labels(record.clip_id))

    @property
    def num_bytes(self) -> int:
        """Bytes of the tokens of all clips."""
        n, d = self.codec.stored_shape(
            self.identity.num_tokens, self.identity.dim, self.identity.grid
        )
        frames = sum(record.num_frames * record.num_views for record in self.records.values())
        return frames * n * d * self.codec.dtype.itemsize * len(self.identity.blocks)

    def select(self, split: str | None = None, action: str | None = None) -> list[ClipRecord]:
        """Records of a split and an action, None for any, sorted by clip_id."""
        return [
            record
            for record in self.records.values()
            if split in (None, record.split) and action in (None, record.action)
        ]

    def record(self, clip_id: str) -> ClipRecord:
        """The record of a clip.

        Raises:
            ClipNotFound: the store has no such clip.
        """
        if clip_id not in self.records:
            raise ClipNotFound(f"{self.path} has no clip {clip_id!r} among its {len(self.records)}")
        return self.records[clip_id]

    def newest_record(self, clip_id: str) -> ClipRecord:
        """The record of a clip as its files have it, also of one committed since this was opened.

        Raises:
            ClipNotFound: the store has no such clip.
            Damaged: its record cannot be read.
        """
        if not is_committed(self.path, clip_id):
            raise ClipNotFound(f"{self.path} has no clip {clip_id!r}")
        key = clip_key(clip_id)
        return find_clip(self.path, key)[1]

    def read(
        self,
        clip_id: str,
        frames: Any = None,
        *,
        blocks: Sequence[int] | None = None,
        view: int = 0,
        out: Mapping[int, Array] | None = None,
        layers: Sequence[int] | None = None,
    ) -> Tokens:
        """Read frames of a clip.

        Args:
            clip_id: the clip.
            frames: indices, in any order, repeats read once; a slice; None for all.
            blocks: those to read, None for all of the store.
            view: 0 is clean.
            out: block -> contiguous (t, n, d) array of the codec's dtype to fill.
            layers: the former name of `blocks`.

        Raises:
            ClipNotFound: no such clip, block, view or frame.
            Damaged: a missing or damaged file; never zeros instead.
        """
        if layers is not None:
            warnings.warn("Store.read(layers=) is now blocks=", FutureWarning, stacklevel=2)
            blocks = layers
        reading = Reading(self, Request(clip_id, frames, blocks, view, out))
        if self._is_on_bucket:
            run_pieces(reading.pieces, self._threads(8))
            return reading.result()
        for piece in reading.pieces:
            piece()
        return reading.result()

    def read_many(self, requests: Sequence[Request], *, threads: int = 8) -> list[Tokens]:
        """Several reads at once, on I/O threads; results in the order of the requests.

        Raises:
            ClipNotFound, Damaged: as read does, once no thread writes to a buffer any more.
        """
        readings = [Reading(self, request) for request in requests]
        pool = self._threads(threads)
        run_pieces([piece for reading in readings for piece in reading.pieces], pool)
        return [reading.result() for reading in readings]

    def _threads(self, threads: int) -> ThreadPoolExecutor:
        """Threads that read; more of them on a bucket, where each waits for an answer."""
        if self._pid != os.getpid():
            self._forget()
        threads = max(threads, REQUESTS) if self._is_on_bucket else threads
        if self._pool is None or self._num_threads != threads:
            self._pool = ThreadPoolExecutor(threads, thread_name_prefix="tokenreel-read")
            self._num_threads = threads
        return self._pool

    def release_pages(self) -> None:
        """Unmap the store's files from this process; they stay in the page cache."""
        for shard in list(self._kept.shards.values()):
            shard.release_pages()

    def read_cls(
        self, clip_id: str, frames: Any = None, *, block: int | str = "normed", view: int = 0
    ) -> Array:
        """CLS of frames after a block, or "normed": the last, after the final norm; f32 (t, D)."""
        record = self.record(clip_id)
        name = "cls_normed" if block == "normed" else f"cls/{block}"
        path = f"views/{view}/{name}"
        clip = self.open_clip(record)
        if not clip.has(path):
            raise ClipNotFound(f"{clip_id}: no {path} in this store")
        return clip.rows(path, frame_numbers(record, frames)).astype(np.float32)

    def labels(self, clip_id: str) -> Array:
        """Phase of each frame, int16 (T,), -1 unlabelled; as the data set has it now."""
        if clip_id in self._relabelled:
            return self._relabelled[clip_id].labels.copy()
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

    def stop_pts(self, clip_id: str) -> Array:
        """When each unit ends, in ticks of the record's time_base, int64 (T,).

        Format 1 does not record it: a frame lasts until the next one, see layout.default_stops.
        """
        if self.identity.format_version == 1:
            return default_stops(self.pts(clip_id))
        return self._all_rows(clip_id, "stop_pts")

    def units(self, clip_id: str) -> Array:
        """Start and stop of each unit in seconds, float64 (T, 2); the stop is not part of it."""
        numerator, denominator = self.record(clip_id).time_base
        ticks = np.stack([self.pts(clip_id), self.stop_pts(clip_id)], axis=1)
        seconds: Array = ticks * (numerator / denominator)
        return seconds

    def require_tokens(self) -> None:
        """Raise UsageError where no block is kept: a store of bytes alone, such as of pictures."""
        if not self.identity.blocks:
            names = {name for record in self.records.values() for name in record.byte_arrays}
            raise UsageError(
                f"{self.path} keeps no tokens, only bytes ({', '.join(sorted(names)) or 'none'}): "
                "name a store of tokens, which `extract run` without pixels= makes"
            )

    def read_bytes(self, clip_id: str, name: str, frames: Any = None) -> list[bytes]:
        """Bytes of units in an array of bytes, such as their JPEGs; each is checked.

        Args:
            clip_id: the clip.
            name: of the array, one of the record's byte_arrays.
            frames: as in read.

        Raises:
            ClipNotFound: no such clip, array or unit.
            Damaged: a missing or damaged file or string.
        """
        record = self.record(clip_id)
        if name not in record.byte_arrays:
            has = ", ".join(record.byte_arrays) or "none"
            raise ClipNotFound(f"{clip_id}: no array of bytes {name!r}; it has {has}")
        return self.open_clip(record).strings(name, frame_numbers(record, frames))

    def open_clip(self, record: ClipRecord) -> OpenClip:
        """A reader of one clip's arrays, kept open for the next read of the clip."""
        if self._pid != os.getpid():
            self._forget()
        clip = self._kept.clips.get(record.key)
        if clip is None:
            other = self._relabelled.get(record.clip_id)
            clip = OpenClip(
                self.path,
                record if other is None else other.own,
                identity=self.identity,
                codec=self.codec,
                policy=self._policy,
                kept=self._kept,
            )
            Kept.add(self._kept.clips, record.key, clip, limit=CLIPS)
        return clip

    def _all_rows(self, clip_id: str, path: str) -> Array:
        record = self.record(clip_id)
        return self.open_clip(record).rows(path, np.arange(record.num_frames))


class Reading:
    """A request in progress.  Frames requested twice, as by two windows of a clip, are read once.

    Args:
        store: to read from.
        request: what to read.

    Attributes:
        pieces: independent calls; result() is complete after all of them.  None of them refers to
            the reading, so its buffers are freed as soon as their user drops them.

    Raises:
        ClipNotFound: no such clip, block, view or frame.
        ValueError: `out` of another shape, dtype or layout.
    """

    def __init__(self, store: Store, request: Request) -> None:
        record, identity = store.record(request.clip_id), store.identity
        clip = store.open_clip(record)
        self._blocks = tuple(identity.blocks if request.blocks is None else request.blocks)
        if (
            not set(self._blocks) <= set(identity.blocks)
            or not 0 <= request.view < record.num_views
        ):
            raise ClipNotFound(
                f"{record.clip_id}: no block {self._blocks} or view {request.view}; the store has "
                f"blocks {identity.blocks} and {record.num_views} view(s)"
            )
        rows = frame_numbers(record, request.frames)
        distinct, self._inverse = np.unique(rows, return_inverse=True)
        self._is_plain = np.array_equal(distinct, rows)
        self._out, self._codec = request.out, store.codec
        self._read: dict[int, Array] = {}
        self._scales: dict[int, Array] = {}
        self.pieces: list[Callable[[], None]] = []
        for block in self._blocks:
            path, scale = (f"views/{request.view}/{kind}/{block}" for kind in ("tokens", "scale"))
            target = self._given(block, clip.shape_of(path, len(rows)))
            if target is None or not self._is_plain:
                target = clip.empty(path, len(distinct))
            self._read[block] = target
            self.pieces += clip.pieces(path, distinct, target)
            if clip.has(scale):
                self.pieces.append(partial(_read_scales, self._scales, block, clip, scale, rows))

    def _given(self, block: int, shape: tuple[int, ...]) -> Array | None:
        if self._out is None:
            return None
        given, dtype = self._out.get(block), self._codec.dtype
        if given is None:
            raise ValueError(f"out has no array for block {block}, only for {sorted(self._out)}")
        if given.shape != shape or given.dtype != dtype or not given.flags.c_contiguous:
            raise ValueError(
                f"out[{block}] is {given.dtype}{given.shape}, wanted contiguous {dtype}{shape}"
            )
        return given

    def result(self) -> Tokens:
        """The tokens, once every piece has run."""
        codes = self._read
        if not self._is_plain:
            given = self._out or {}
            codes = {
                block: np.take(read, self._inverse, axis=0, out=given.get(block), mode="clip")
                for block, read in self._read.items()
            }
        scales = {block: self._scales[block] for block in self._blocks if block in self._scales}
        return Tokens(codes, scales, self._codec)


def _read_scales(
    scales: dict[int, Array], block: int, clip: OpenClip, path: str, rows: Array
) -> None:
    scales[block] = clip.rows(path, rows)


def run_pieces(pieces: Sequence[Callable[[], None]], pool: Executor) -> None:
    """Run the pieces on threads; an error is raised once no thread writes to a buffer any more."""
    waiting = [pool.submit(piece) for piece in pieces]
    try:
        for future in waiting:
            future.result()
    finally:
        for future in waiting:
            future.cancel()
        wait(waiting)


def frame_numbers(record: ClipRecord, frames: Any) -> Array:
    """Frame indices, int64, of None, a slice or a list; ClipNotFound beyond the clip."""
    every = np.arange(record.num_frames)
    if frames is None:
        return every
    if isinstance(frames, slice):
        return every[frames]
    rows = np.asarray(frames)
    if rows.ndim != 1 or (rows.size and rows.dtype.kind not in "iu"):
        raise TypeError(f"frames: wanted a 1-d list of integers, got {rows.dtype}{rows.shape}")
    if rows.size and (rows.min() < 0 or rows.max() >= record.num_frames):
        raise ClipNotFound(
            f"{record.clip_id} has frames 0 to {record.num_frames - 1}, "
            f"not {rows.min()} to {rows.max()}"
        )
    return rows.astype(np.int64)
