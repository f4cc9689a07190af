"""One shard on a bucket: its rows by ranged requests, and from the local cache the next time."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import crc32c
import numpy as np

from tokenreel.cache.bucket.local_cache import LocalCache, RowFile
from tokenreel.cache.bucket.objects import spans
from tokenreel.cache.bucket.path import bucket_path
from tokenreel.cache.codec.base import Array
from tokenreel.cache.errors import Damaged
from tokenreel.cache.files import file_inside, unreadable
from tokenreel.cache.format.byte_arrays import HEADER, BytesSpec, parse_index
from tokenreel.cache.format.layout import INDEX_BYTES, SEGMENT, ArraySpec, shard_index
from tokenreel.cache.read.direct import Shard

GAP_BYTES = 2**19  # that are rather read than asked for apart: 5 ms at 100 MB/s


def fetch_rows(
    path: Path, rows: Sequence[int], starts: Sequence[int]
) -> list[tuple[range, memoryview]]:
    """Runs of rows of an object that hold some of its rows, each with its bytes.

    Args:
        path: of the object.
        rows: sorted and distinct.
        starts: byte at which each row of the object begins, and where the last one ends.

    Raises:
        Damaged: missing or too short.
        MachineError: the bucket cannot be read now.
    """
    runs = list(spans(rows, starts, GAP_BYTES))
    place = bucket_path(path)
    try:
        ranges = [(starts[run.start], starts[run.stop]) for run in runs]
        found = place.bucket.get_ranges(place.key, ranges)
    except OSError as error:
        raise unreadable(path, error) from None
    return list(zip(runs, found, strict=True))


class BucketShard:
    """A shard on a bucket, with the methods of `direct.Shard`.

    Args:
        path: of the object.
        spec: of its array.
        number: which shard of the array.
        sums: crc32c of its frames, (t,).
        checks: "always", or "once" for the first read of each frame.
        direct: read the local cache past the page cache.
        cache: of this machine.
        tag: names the bytes of the shard: another shard at the same path has another.
    """

    def __init__(
        self,
        path: Path,
        spec: ArraySpec,
        number: int,
        *,
        sums: Array,
        checks: str,
        direct: bool,
        cache: LocalCache,
        tag: str,
    ) -> None:
        self.path, self._spec, self._number = path, spec, number
        self._sums, self._checks, self._direct = sums, checks, direct
        self._cache, self._key = cache, f"{path} {tag}"
        count = min(SEGMENT, spec.shape[0] - number * SEGMENT)
        self._starts = range(0, (count + 1) * spec.row_bytes, spec.row_bytes)
        self._index = shard_index(count, spec.row_bytes)
        self._local: tuple[RowFile, Shard | None] | None = None

    def read(self, frames: Array, out: Array) -> None:
        """Fill `out`; see Shard.read."""
        file, shard = self._local or (self._open_file(), None)
        if file is not None and not file.use():
            self._cache.close_removed()  # and this one once it is read
        if file is not None and self._fill(file, frames):
            try:
                shard = shard or self._open(file)
                shard.read(frames, out)
                return
            except Damaged:
                if file.is_there():
                    self._cache.count_damage(str(self.path))
                    self._cache.remove(file)
                file = self._open_file()
        self._fetch(frames, out, file)

    def close_removed(self) -> None:
        """See User.close_removed."""
        local = self._local
        if local is not None and not local[0].is_there():
            self._local = None

    def release_pages(self) -> None:
        """See Shard.release_pages."""
        if self._local is not None and self._local[1] is not None:
            self._local[1].release_pages()

    def _open_file(self) -> RowFile | None:
        file = self._cache.open_rows(self._key, self._starts, self._index, user=self)
        self._local = None if file is None else (file, None)
        return file

    def _open(self, file: RowFile) -> Shard:
        """The reader of the cached shard.

        Raises:
            Damaged: it is no such shard, or another process has removed the file.
        """
        shard = Shard(
            file.path,
            self._spec,
            self._number,
            sums=self._sums,
            checks=self._checks,
            direct=self._direct,
        )
        if shard.inode != file.inode:  # another's, of which other frames are there
            raise Damaged(f"{file.path}: another file took its place")
        self._local = file, shard
        return shard

    def _fill(self, file: RowFile, frames: Array) -> bool:
        """Fetch what the cache lacks of some frames; False where it has no room for them."""
        missing = frames[file.have[frames] == 0]
        if not len(missing):
            return True
        for run, data in fetch_rows(self.path, missing.tolist(), self._starts):
            self._check(run, data)
            if not file.write(run, data):
                return False
        return True

    def _fetch(self, frames: Array, out: Array, file: RowFile | None) -> None:
        """Fill `out` from the bucket itself, and the cache where it has room."""
        rows = out.reshape(len(frames), -1).view(np.uint8)
        for run, data in fetch_rows(self.path, frames.tolist(), self._starts):
            self._check(run, data)
            here = (frames >= run.start) & (frames < run.stop)
            read = np.frombuffer(data, np.uint8).reshape(len(run), -1)
            rows[here] = read[frames[here] - run.start]
            if file is not None:
                file.write(run, data)

    def _check(self, run: range, data: memoryview) -> None:
        size = self._spec.row_bytes
        for place, frame in enumerate(run):
            if crc32c.crc32c(data[place * size : (place + 1) * size]) != self._sums[frame]:
                raise Damaged(
                    f"{self.path}: frame {self._number * SEGMENT + frame} of the clip is damaged "
                    "(crc32c); run verify, then repair"
                )


class BucketStrings:
    """A file of an array of bytes on a bucket.

    Args:
        folder: of the clip.
        spec: of the array.
        number: of the file.
        sums: crc32c of its strings, (t,).
        cache: of this machine.
        tag: names the bytes of the file: another file at the same path has another.

    Attributes:
        places: of read_index.

    Raises:
        Damaged: missing, torn, or not strings end to end.
        MachineError: the bucket cannot be read now.
    """

    def __init__(
        self,
        folder: Path,
        spec: BytesSpec,
        number: int,
        *,
        sums: Array,
        cache: LocalCache,
        tag: str,
    ) -> None:
        self.path = file_inside(folder, spec.chunk_file(number))
        self._first, self._sums, self._cache = number * SEGMENT, sums, cache
        self._key = f"{self.path} {tag}"
        parse = partial(self._parse, count=spec.units_of(number))
        try:
            self.places, self._index = cache.read(f"{self._key} index", self._fetch_index, parse)
        except OSError as error:
            raise unreadable(self.path, error) from error
        self._starts = [*self.places[:, 0].tolist(), int(self.places[-1].sum())]
        self._file: RowFile | None = None

    def read(self, rows: Sequence[int]) -> list[bytes]:
        """Strings of the file, each checked.

        Args:
            rows: which, counted from the start of the file; sorted and distinct.

        Raises:
            Damaged: missing, torn, or a string that does not match its checksum.
            MachineError: the bucket cannot be read now.
        """
        file = self._open_file()
        found = {} if file is None else self._cached(file, rows)
        missing = [row for row in rows if row not in found]
        for run, data in fetch_rows(self.path, missing, self._starts) if missing else []:
            first = self._starts[run.start]
            for row in run:
                start, stop = self._starts[row] - first, self._starts[row + 1] - first
                string = self._checked(row, bytes(data[start:stop]))
                if string is None:
                    raise Damaged(
                        f"{self.path}: the bytes of unit {self._first + row} are damaged; run "
                        "verify"
                    )
                found[row] = string
            if file is not None:
                file.write(run, data)
        return [found[row] for row in rows]

    def release_pages(self) -> None:
        """Nothing: no pages are mapped."""

    def close_removed(self) -> None:
        """See User.close_removed."""
        file = self._file
        if file is not None and not file.is_there():
            self._file = None

    def _open_file(self) -> RowFile | None:
        file = self._file or self._cache.open_rows(self._key, self._starts, self._index, user=self)
        self._file = file
        if file is not None and not file.use():
            self._cache.close_removed()  # and this one once it is read
        return file

    def _cached(self, file: RowFile, rows: Sequence[int]) -> dict[int, bytes]:
        """The strings that the cache has, whole."""
        found: dict[int, bytes] = {}
        for row in rows:
            if not file.have[row]:
                continue
            try:
                string = self._checked(row, file.read(row))
            except OSError as error:
                self._cache.give_up(error)
                continue
            if string is None:
                self._cache.count_damage(f"{self.path}, unit {self._first + row}")
                file.have[row] = 0
            else:
                found[row] = string
        return found

    def _checked(self, row: int, data: bytes) -> bytes | None:
        """The string of a row, from its bytes with the header; None where these are others."""
        string = data[HEADER.size :]
        is_whole = data[: HEADER.size] == HEADER.pack(1, len(string))
        return string if is_whole and crc32c.crc32c(string) == self._sums[row] else None

    def _fetch_index(self) -> bytes:
        """The size of the file in 8 bytes, and its index."""
        place = bucket_path(self.path)
        size = place.bucket.head(place.key).num_bytes
        if size < INDEX_BYTES:
            raise Damaged(f"{self.path}: {size} bytes, less than its index")
        index = place.bucket.get_ranges(place.key, [(size - INDEX_BYTES, size)])[0]
        return size.to_bytes(8) + bytes(index)

    def _parse(self, data: bytes, *, count: int) -> tuple[Array, bytes]:
        index = data[8:]
        return parse_index(index, count, int.from_bytes(data[:8]), path=self.path), index
