"""Write one clip to a store on a bucket: on a disk of this machine first, then object by object.

The clip is written and checked here as on any disk.  Then its objects are put, side by side, and
last of all the zarr.json of its group, where there is none: a clip is in the store once that is.
Each object is put whole by one request, so that a kill leaves no part of one behind.
"""

import hashlib
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tokenreel.cache.bucket.local_cache import local_cache
from tokenreel.cache.bucket.path import bucket_path, put_new, put_object
from tokenreel.cache.format.bucket_store import BucketLog
from tokenreel.cache.format.clip import ClipRecord, folder_of, load_clip
from tokenreel.cache.write.bucket_claims import BucketClaim
from tokenreel.cache.write.clip_writer import ClipWriter, WriteTarget

UPLOADS = 4  # at once, of a clip: each is in memory whole
GROUP = "zarr.json"


def scratch_of(store: Path) -> Path:
    """The folder on this machine where clips of a store on a bucket are written first.

    The next writer of this machine takes over there what a killed one left.
    """
    name = hashlib.sha256(str(store).encode()).hexdigest()[:16]
    return local_cache().folder / "writing" / name


class BucketClipWriter(ClipWriter):
    """Writer of one clip to a store on a bucket.

    Args:
        target: of the folder on this machine.
        record: of the clip.
        claim: on the clip.
        store: on the bucket.
        log: of the writer.
        replaces: whether a committed clip gives way to it: it is away from the store until this
            one is committed.
    """

    def __init__(
        self,
        target: WriteTarget,
        record: ClipRecord,
        claim: BucketClaim,
        *,
        store: Path,
        log: BucketLog,
        replaces: bool,
    ) -> None:
        super().__init__(target, record, claim)
        self._store, self._bucket_log, self._replaces = store, log, replaces
        self._on_bucket = claim

    def _publish(self, record: ClipRecord) -> ClipRecord:
        final = self._store / folder_of(record.key)
        self._on_bucket.require_own()  # who took the clip over is not written into
        names = [
            file.relative_to(self._folder).as_posix()
            for file in sorted(self._folder.rglob("*"))
            if file.is_file()
        ]
        if self._replaces:
            self._bucket_log.add(record)
            self._bucket_log.close()
            (final / GROUP).unlink()
        _clear(final, keep=names)
        with ThreadPoolExecutor(UPLOADS) as pool:
            inner = [name for name in names if name != GROUP]
            list(pool.map(lambda name: put_object(final / name, self._folder / name), inner))
        group = (self._folder / GROUP).read_bytes()
        is_ours = put_new(final / GROUP, group) is not None
        if is_ours and not self._replaces:
            self._bucket_log.add(record)
        (self._store / "failed" / f"{record.key}.json").unlink()
        self.abort()  # what is here, and the claim
        return record if is_ours else load_clip(final, record.key)[0]


def _clear(final: Path, *, keep: Sequence[str]) -> None:
    """Delete what another writer left of a clip that it never committed.

    Raises:
        FileExistsError: it is committed.
    """
    folder = bucket_path(final)
    found = [(path.relative_to(folder).as_posix(), state.key) for path, state in folder.objects()]
    folder.bucket.delete([key for name, key in found if name not in keep])


def drop_scratch(store: Path) -> None:
    """Remove what killed writers left on this machine of clips of a store."""
    shutil.rmtree(scratch_of(store), ignore_errors=True)
