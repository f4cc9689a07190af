"""Write one clip to a store on a bucket: on a disk of this machine first, then object by object.

The clip is written and checked here as on any disk.  Then its objects are put, side by side, and
last of all the zarr.json of its group, where there is none: a clip is in the store once that is.
Each object is put whole by one request, so that a kill leaves no part of one behind.

A clip that takes the place of another is first put beside it, whole; then the old group is deleted,
the objects are copied by the bucket, and the new group comes last.
"""

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

from tokenreel.cache.bucket.local_cache import local_cache
from tokenreel.cache.bucket.objects import in_parallel
from tokenreel.cache.bucket.path import (
    bucket_path,
    object_state,
    put_if_absent,
    put_new,
    put_object,
)
from tokenreel.cache.errors import StoreError
from tokenreel.cache.format.bucket_store import BucketLog
from tokenreel.cache.format.clip import ClipRecord, folder_of, load_clip
from tokenreel.cache.format.index import beside_of
from tokenreel.cache.write.bucket_claims import BucketClaim
from tokenreel.cache.write.clip_writer import ClipWriter, WriteTarget

UPLOADS = 4  # of large objects at once, of a clip: each is in memory whole
SMALL_BYTES = 2**20
GROUP = "zarr.json"
TRIES = 4  # to put an object that other writers put, too


class AlreadyCommitted(Exception):
    """Another writer has committed the clip."""


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
        replaces: whether a committed clip gives way to it.
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
        try:
            if self._replaces:
                self._upload(beside_of(final), record)
                self._on_bucket.renew()
                finish_replacing(final)
            else:
                self._upload(final, record)
                self._bucket_log.add(record)
        except AlreadyCommitted:
            self.abort()
            return load_clip(final, record.key)[0]
        (self._store / "failed" / f"{record.key}.json").unlink()
        self.abort()  # what is here, and the claim
        return record

    def _upload(self, folder: Path, record: ClipRecord) -> None:
        """Put the objects of the clip below a folder of the bucket, its group last.

        Each is put where there is none.  What a dead writer left gives way to it under this
        writer's claim, put again just then: a writer that lost its claim overwrites nothing.

        Raises:
            AlreadyCommitted: another writer has committed the clip.
            ClaimHeld: another writer has taken it over.
        """
        files = [file for file in sorted(self._folder.rglob("*")) if file.is_file()]
        names = [file.relative_to(self._folder).as_posix() for file in files]
        names.remove(GROUP)
        found = self._clear(folder, keep=names)
        small = [name for name in names if (self._folder / name).stat().st_size < SMALL_BYTES]
        put = partial(self._put, folder, found)
        in_parallel(put, small)
        with ThreadPoolExecutor(UPLOADS) as pool:
            list(pool.map(put, sorted({*names} - {*small})))
        group = (self._folder / GROUP).read_bytes()
        if self._replaces:  # before it counts: of two records in the logs the clip's own counts
            self._bucket_log.add(record)
            self._bucket_log.close()
        self._on_bucket.require_own()
        if put_new(folder / GROUP, group) is None:
            # That of a writer which lost its claim meanwhile, but whose objects all gave way.
            self._on_bucket.renew()
            self._clear(folder, keep=[*names, GROUP])
            put_object(folder / GROUP, group)

    def _clear(self, folder: Path, *, keep: Sequence[str]) -> dict[str, str]:
        """Delete what a dead writer left below a folder; tags of the objects that stay, by name.

        Raises:
            AlreadyCommitted: it is a clip of another writer.
            ClaimHeld: another writer has taken it over.
        """
        below = bucket_path(folder)
        objects = below.objects()
        found = {path.relative_to(below).as_posix(): state for path, state in objects}
        if GROUP in found and GROUP not in keep:
            self._require_uncommitted(folder)
        if found:
            self._on_bucket.renew()
        if GROUP in found and GROUP not in keep:  # first, so that what is left is no clip
            (folder / GROUP).unlink()
        below.bucket.delete([state.key for name, state in found.items() if name not in keep])
        return {name: state.tag for name, state in found.items() if name in keep}

    def _put(self, folder: Path, found: Mapping[str, str], name: str) -> None:
        """Put one object; see _upload.

        Args:
            folder: on the bucket.
            found: tags of the objects there that may give way.
            name: of the object.
        """
        tag, is_conditional = found.get(name), bucket_path(folder).bucket.is_conditional
        for _ in range(TRIES):
            try:
                if tag is None and is_conditional:
                    put_if_absent(folder / name, self._folder / name)
                else:
                    put_object(folder / name, self._folder / name, tag=tag)
            except (FileExistsError, FileNotFoundError):
                self._require_uncommitted(folder)
                tag = None
                with suppress(FileNotFoundError):
                    tag = object_state(folder / name).tag
                self._on_bucket.renew()  # after the look: who lost the claim overwrites nothing
            else:
                return
        raise StoreError(f"{folder / name}: other writers keep writing it; rerun")

    def _require_uncommitted(self, folder: Path) -> None:
        if not self._replaces and (folder / GROUP).is_file():
            raise AlreadyCommitted


def finish_replacing(final: Path) -> None:
    """Put a clip that lies whole beside its place into it: the old group goes, the new comes last.

    A kill at any time leaves the old clip or the new one, whole, at one of the two places.

    Args:
        final: where the clip belongs, under its claim.

    Raises:
        StoreError: the bucket did not copy all of it.
    """
    here, beside = bucket_path(final), bucket_path(beside_of(final))
    group = (beside / GROUP).read_bytes()
    if not is_same_object(final / GROUP, group):
        wanted = {path.relative_to(beside).as_posix(): s for path, s in beside.objects()}
        del wanted[GROUP]
        (final / GROUP).unlink()
        old = {path.relative_to(here).as_posix(): s.key for path, s in here.objects()}
        here.bucket.delete([key for name, key in old.items() if name not in wanted])
        in_parallel(
            lambda name: here.bucket.copy((beside / name).key, (here / name).key), [*wanted]
        )
        now = {path.relative_to(here).as_posix(): s.num_bytes for path, s in here.objects()}
        if now != {name: state.num_bytes for name, state in wanted.items()}:
            raise StoreError(f"{final}: the bucket has not copied all of the new clip; rerun")
        put_object(final / GROUP, group)
    (beside_of(final) / GROUP).unlink()
    beside.bucket.delete([state.key for _, state in beside.objects()])


def is_same_object(path: Path, data: bytes) -> bool:
    """Whether there is an object of these bytes."""
    with suppress(FileNotFoundError):
        return path.read_bytes() == data
    return False
