"""Read the arrays of one clip: its metadata is checked once, its shards stay open for later reads.

Handles are shared by all clips of a store, and their number is bounded.
"""

import os
import resource
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import crc32c
import numpy as np

from tokenreel.cache.bucket.local_cache import local_cache
from tokenreel.cache.bucket.path import is_bucket
from tokenreel.cache.canonical import parse_json
from tokenreel.cache.codec import Codec
from tokenreel.cache.codec.base import Array
from tokenreel.cache.errors import Damaged, StoreError
from tokenreel.cache.files import again_if_stale, file_inside, unreadable
from tokenreel.cache.format.byte_arrays import (
    HEADER,
    BytesSpec,
    byte_arrays,
    read_index,
    read_strings,
)
from tokenreel.cache.format.clip import (
    ClipRecord,
    all_arrays,
    load_rows,
    load_sums,
)
from tokenreel.cache.format.identity import StoreIdentity
from tokenreel.cache.format.index import find_clip
from tokenreel.cache.format.layout import SEGMENT, ArraySpec
from tokenreel.cache.read.bucket_shard import BucketShard, BucketStrings
from tokenreel.cache.read.direct import Shard, aligned_empty

CLIPS = 256  # whose metadata is kept
SHARDS = 256  # kept open, two handles each
CHUNKS = 256  # of small arrays kept decoded, 200 KB each for 784 scales
_USED_IN: list[int] = []  # the process that tensorstore's threads live in


@dataclass(frozen=True)
class ReadPolicy:
    """How a store is read.

    Attributes:
        library: with tensorstore, the reference, instead of the direct reader.
        checks: "always", "once" or "never": which reads of a frame have their crc32c checked.
        direct: bypass the page cache.
    """

    library: bool
    checks: str
    direct: bool


@dataclass
class Kept:
    """What a store keeps open in one process; the oldest is dropped first."""

    clips: dict[Hashable, "OpenClip"] = field(default_factory=dict)
    shards: dict[Hashable, Shard | BucketShard | BucketStrings] = field(default_factory=dict)
    chunks: dict[Hashable, Array] = field(default_factory=dict)

    @staticmethod
    def add(cache: dict[Hashable, Any], key: Hashable, value: Any, *, limit: int) -> None:
        """Add to one of the three caches.  A dropped value lives on while a thread uses it."""
        cache[key] = value
        while len(cache) > limit:
            cache.pop(next(iter(list(cache))), None)


class OpenClip:
    """Reader of the arrays of one clip.

    Args:
        path: of the store.
        record: of the clip, as the store's index has it.
        identity: of the store.
        codec: of the store.
        policy: how to read.
        kept: of the store.

    Raises:
        Damaged: the record in the clip differs from the one in the log.
    """

    def __init__(
        self,
        path: Path,
        record: ClipRecord,
        *,
        identity: StoreIdentity,
        codec: Codec,
        policy: ReadPolicy,
        kept: Kept,
    ) -> None:
        self._folder, found, self._seals = find_clip(
            path, record.key, fingerprint=identity.fingerprint
        )
        if found != record:
            raise Damaged(f"{record.clip_id}: not the record that the log has; run verify")
        self._key, self._policy, self._kept = record.key, policy, kept
        self._specs = all_arrays(identity, codec, record)
        self._bytes = byte_arrays(record.byte_arrays, record.num_frames)
        self._known_arrays: set[str] = set()
        self._library: dict[str, Any] = {}  # tensorstore's handle of each array it has read

    def has(self, path: str) -> bool:
        """Whether the clip has an array of this path."""
        return path in self._specs

    def rows(self, path: str, frames: Array) -> Array:
        """Rows of a small array, (t, ...), in the order of `frames`."""
        spec = self._specs[path]
        numbers = frames // spec.rows
        if len(frames) and numbers[0] == numbers[-1] and (numbers == numbers[0]).all():
            chunk = self._chunk(spec, int(numbers[0]))
            taken: Array = chunk[frames - int(numbers[0]) * spec.rows]
            return taken
        rows = np.empty((len(frames), *spec.shape[1:]), spec.dtype)
        for number in np.unique(numbers).tolist():
            here = numbers == number
            rows[here] = self._chunk(spec, number)[frames[here] - number * spec.rows]
        return rows

    def strings(self, name: str, units: Array) -> list[bytes]:
        """Bytes of units in an array of bytes, each checked, in the order of `units`."""
        spec = self._bytes[f"bytes/{name}/items"]
        self._check_metadata(spec)
        is_there = is_bucket(self._folder)
        distinct, inverse = np.unique(units, return_inverse=True)
        found: list[bytes] = []
        for number in np.unique(distinct // SEGMENT).tolist():
            rows = distinct[distinct // SEGMENT == number] - number * SEGMENT
            if is_there:
                found += self._strings_of(spec, number).read(rows.tolist())
                continue
            places = self._places(spec, number)
            sums = self._chunk(spec.sums, number)
            found += read_strings(
                self._folder, spec, number, rows.tolist(), places=places, sums=sums
            )
        return [found[place] for place in inverse.tolist()]

    def _strings_of(self, spec: BytesSpec, number: int) -> BucketStrings:
        """The strings of a file on a bucket."""
        key = (self._key, spec.path, number)
        strings = self._kept.shards.get(key)
        if not isinstance(strings, BucketStrings):
            seal = self._seals[spec.sums.path][number]
            strings = BucketStrings(
                self._folder,
                spec,
                number,
                sums=self._chunk(spec.sums, number),
                cache=local_cache(),
                tag=f"{seal:08x}",
            )
            Kept.add(self._kept.shards, key, strings, limit=_num_shards())
        return strings

    def string_bytes(self, name: str) -> int:
        """Bytes of all strings of an array of bytes, by the index of each of its files."""
        spec = self._bytes[f"bytes/{name}/items"]
        self._check_metadata(spec)
        places = [self._places(spec, number)[:, 1] for number in range(spec.num_files)]
        return int(np.concatenate(places).sum()) - HEADER.size * spec.num_units

    def _places(self, spec: BytesSpec, number: int) -> Array:
        key = (self._key, spec.path, number)
        places = self._kept.chunks.get(key)
        if places is None:
            if is_bucket(self._folder):
                return self._strings_of(spec, number).places
            places = read_index(self._folder, spec, number)
            Kept.add(self._kept.chunks, key, places, limit=CHUNKS)
        return places

    def pieces(self, path: str, frames: Array, out: Array) -> Iterator[Callable[[], None]]:
        """Calls that fill `out` with frames of a tokens array, one for each shard.

        Args:
            path: of the array.
            frames: (t,) sorted and distinct.
            out: contiguous (t, n, d).
        """
        spec = self._specs[path]
        numbers = frames // SEGMENT
        cuts = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(frames)]
        for start, stop in pairwise(cuts):
            if start < stop:
                yield partial(
                    self._fill, spec, int(numbers[start]), frames[start:stop], out[start:stop]
                )

    def shape_of(self, path: str, count: int) -> tuple[int, ...]:
        """Shape of `count` frames of an array."""
        return (count, *self._specs[path].shape[1:])

    def empty(self, path: str, count: int) -> Array:
        """An uninitialised buffer for `count` frames of a tokens array."""
        make = aligned_empty if self._policy.direct else np.empty
        return make(self.shape_of(path, count), np.dtype(self._specs[path].dtype))

    def _fill(self, spec: ArraySpec, number: int, frames: Array, out: Array) -> None:
        within = frames - number * SEGMENT
        if not self._policy.library:
            self._shard(spec, number).read(within, out)
            return
        where = self._folder / spec.path
        if spec.path not in self._library:
            self._library[spec.path] = open_with_tensorstore(
                self._folder, spec, mapped=not self._policy.direct
            )
        read_with_tensorstore(self._library[spec.path], frames, out, where=where)
        if self._policy.checks != "never":
            sums = load_sums(self._folder, spec, number, self._seals)[within]
            if any(crc32c.crc32c(frame) != stored for frame, stored in zip(out, sums, strict=True)):
                raise Damaged(f"{where}: a frame is damaged (crc32c); run verify, then repair")

    def _chunk(self, spec: ArraySpec, number: int) -> Array:
        key = (self._key, spec.path, number)
        chunk = self._kept.chunks.get(key)
        if chunk is None:
            chunk = load_rows(self._folder, spec, number, self._seals)
            Kept.add(self._kept.chunks, key, chunk, limit=CHUNKS)
        return chunk

    def _shard(self, spec: ArraySpec, number: int) -> Shard | BucketShard:
        key = (self._key, spec.path, number)
        shard = self._kept.shards.get(key)
        if shard is None or isinstance(shard, BucketStrings):
            self._check_metadata(spec)
            path, policy = file_inside(self._folder, spec.chunk_file(number)), self._policy
            never = policy.checks == "never"
            sums = None if never else load_sums(self._folder, spec, number, self._seals)
            how: dict[str, Any] = {"checks": policy.checks, "direct": policy.direct}
            if is_bucket(path):
                assert sums is not None  # see Store
                seal = self._seals[spec.path.replace("/tokens/", "/crc32c/")][number]
                shard = BucketShard(
                    path, spec, number, sums=sums, cache=local_cache(), tag=f"{seal:08x}", **how
                )
            else:
                shard = Shard(path, spec, number, sums=sums, **how)
            Kept.add(self._kept.shards, key, shard, limit=_num_shards())
        return shard

    def _check_metadata(self, spec: ArraySpec | BytesSpec) -> None:
        if spec.path in self._known_arrays:
            return
        meta = self._folder / spec.path / "zarr.json"

        def check(data: bytes) -> None:
            if parse_json(data, where=meta) != spec.metadata():
                raise Damaged(f"{meta}: not the metadata of the format; use backend='tensorstore'")

        try:
            if is_bucket(meta):
                local_cache().read(str(meta), meta.read_bytes, check)
            else:
                check(again_if_stale(meta.read_bytes))
        except OSError as error:
            raise unreadable(meta, error) from error
        self._known_arrays.add(spec.path)


def _num_shards() -> int:
    """Shards kept open: at most a quarter of the handles that this process may open."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return SHARDS if allowed == resource.RLIM_INFINITY else max(1, min(SHARDS, allowed // 8))


def open_with_tensorstore(folder: Path, spec: ArraySpec, *, mapped: bool) -> Any:
    """The library's handle of an array, for read_with_tensorstore; not for a forked child.

    Args:
        folder: of the clip.
        spec: of the array.
        mapped: copy from the page cache, which is twice as fast when the frames are there.

    Raises:
        Damaged: the library cannot open it.
        StoreError: this process was forked after the library had been used.
    """
    import tensorstore

    _USED_IN[:] = _USED_IN or [os.getpid()]
    if os.getpid() not in _USED_IN:
        raise StoreError("tensorstore was used before the fork: spawn workers, or backend='direct'")
    kvstore = {
        "driver": "file",
        "path": f"{(folder / spec.path).resolve()}/",
        "file_io_mode": {"mode": "memmap" if mapped else "default"},
    }
    wanted = {"driver": "zarr3", "kvstore": kvstore, "fill_missing_data_reads": False}
    try:
        return tensorstore.open(wanted, read=True).result()
    except (ValueError, OSError) as error:
        raise Damaged(f"{folder / spec.path}: {error}") from error


def read_with_tensorstore(array: Any, frames: Array, out: Array, *, where: object) -> None:
    """The reference: the library's own reading of the array.

    Args:
        array: of open_with_tensorstore.
        frames: (t,) sorted.
        out: contiguous (t, n, d), which the library fills.
        where: the array, for the error.
    """
    import tensorstore

    try:
        tensorstore.array(out, copy=False).write(array[frames]).result()
    except (ValueError, OSError) as error:
        raise Damaged(f"{where}: {error}") from error
