"""One shard on a bucket: its frames by ranged requests, and from the local cache the next time."""

from pathlib import Path

import crc32c
import numpy as np

from tokenreel.cache.bucket.local_cache import FrameFile, LocalCache
from tokenreel.cache.bucket.objects import spans
from tokenreel.cache.bucket.path import bucket_path
from tokenreel.cache.codec.base import Array
from tokenreel.cache.errors import Damaged
from tokenreel.cache.files import unreadable
from tokenreel.cache.format.layout import INDEX_BYTES, SEGMENT, ArraySpec, shard_index
from tokenreel.cache.read.direct import Shard

GAP_BYTES = 2**19  # that are rather read than asked for apart: 5 ms at 100 MB/s


class BucketShard:
    """A shard on a bucket, with the methods of `direct.Shard`.

    Args:
        path: of the object.
        spec: of its array.
        number: which shard of the array.
        sums: crc32c of its frames, (t,); None checks nothing but the index.
        checks: "always", or "once" for the first read of each frame.
        direct: read the local cache past the page cache.
        cache: of this machine.
        tag: names the bytes of the shard: another shard at the same path has another.

    Raises:
        Damaged: without sums: missing, of another size, or not a dense shard.
    """

    def __init__(
        self,
        path: Path,
        spec: ArraySpec,
        number: int,
        *,
        sums: Array | None,
        checks: str,
        direct: bool,
        cache: LocalCache,
        tag: str,
    ) -> None:
        self.path, self._spec, self._number = path, spec, number
        self._object = bucket_path(path)
        self._sums, self._checks, self._direct = sums, checks, direct
        self._cache, self._key = cache, f"{path} {tag}"
        self._num_frames = min(SEGMENT, spec.shape[0] - number * SEGMENT)
        index = shard_index(self._num_frames, spec.row_bytes)
        if sums is None:
            self._check_index(index)
        self._file: FrameFile | None = cache.open_frames(
            self._key, self._num_frames, spec.row_bytes, index
        )
        self._local: Shard | None = None

    def read(self, frames: Array, out: Array) -> None:
        """Fill `out`; see Shard.read."""
        file = self._file
        if file is not None and self._fill(file, frames):
            try:
                self._open(file).read(frames, out)
                return
            except Damaged:
                self._cache.count_damage(str(self.path))
                file.have[frames] = 0
        self._fetch(frames, out, file)

    def release_pages(self) -> None:
        """See Shard.release_pages."""
        if self._local is not None:
            self._local.release_pages()

    def _open(self, file: FrameFile) -> Shard:
        """The reader of the cached shard.

        Raises:
            Damaged: another process has removed the file.
        """
        if self._local is None:
            local = Shard(
                file.path,
                self._spec,
                self._number,
                sums=self._sums,
                checks=self._checks,
                direct=self._direct,
            )
            if local.inode != file.inode:  # another's, of which other frames are there
                raise Damaged(f"{file.path}: another file took its place")
            self._local = local
        return self._local

    def _fill(self, file: FrameFile, frames: Array) -> bool:
        """Fetch what the cache lacks of some frames; False where it has no room for them."""
        missing = frames[file.have[frames] == 0]
        if not len(missing):
            return True
        for run, data in self._requests(missing):
            self._check(run, data)
            if not file.write(run.start, data):
                return False
        return True

    def _fetch(self, frames: Array, out: Array, file: FrameFile | None) -> None:
        """Fill `out` from the bucket itself, and the cache where it has room."""
        rows = out.reshape(len(frames), -1).view(np.uint8)
        for run, data in self._requests(frames):
            self._check(run, data)
            here = (frames >= run.start) & (frames < run.stop)
            read = np.frombuffer(data, np.uint8).reshape(len(run), -1)
            rows[here] = read[frames[here] - run.start]
            if file is not None:
                file.write(run.start, data)

    def _requests(self, frames: Array) -> list[tuple[range, memoryview]]:
        size = self._spec.row_bytes
        runs = list(spans(frames.tolist(), size, GAP_BYTES))
        ranges = [(run.start * size, run.stop * size) for run in runs]
        try:
            found = self._object.bucket.get_ranges(self._object.key, ranges)
        except OSError as error:
            raise unreadable(self.path, error) from None
        return list(zip(runs, found, strict=True))

    def _check(self, run: range, data: memoryview) -> None:
        if self._sums is None:
            return
        size = self._spec.row_bytes
        for place, frame in enumerate(run):
            if crc32c.crc32c(data[place * size : (place + 1) * size]) != self._sums[frame]:
                raise Damaged(
                    f"{self.path}: frame {self._number * SEGMENT + frame} of the clip is damaged "
                    "(crc32c); run verify, then repair"
                )

    def _check_index(self, index: bytes) -> None:
        start = self._num_frames * self._spec.row_bytes
        try:
            size = self.path.stat().st_size
            found = self._object.bucket.get_ranges(
                self._object.key, [(start, start + INDEX_BYTES)]
            )[0]
        except OSError as error:
            raise unreadable(self.path, error) from None
        if size != start + INDEX_BYTES or bytes(found) != index:
            raise Damaged(f"{self.path}: not a dense shard of {self._num_frames} frames")
