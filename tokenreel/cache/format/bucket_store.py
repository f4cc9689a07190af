"""Store-wide files on a bucket, where no rename decides: a put under a condition does.

A store is there once its recipe.json is, a clip once the zarr.json of its group is; both are put
last, and only where there is none.
"""

import threading
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from tokenreel.cache.bucket.objects import in_parallel
from tokenreel.cache.bucket.path import bucket_path, object_state, put_new, put_object
from tokenreel.cache.canonical import canonical_json, seal
from tokenreel.cache.errors import StoreError
from tokenreel.cache.files import clock_of
from tokenreel.cache.format.clip import ClipRecord

CREATING = ".tmp-creating.json"  # of the writer that makes the store
CREATING_SECONDS = 120.0  # after which that writer is taken for dead
WAIT_SECONDS = 0.5  # between two looks at a store that another writer makes
LOG_LINES = 64  # of an object of the log


def create_on_bucket(path: Path, files: Mapping[str, bytes]) -> None:
    """Make a store of its files; where another writer makes it meanwhile, wait for that one.

    Args:
        path: of the store.
        files: by name; recipe.json is put last.

    Raises:
        StoreError: another writer makes it, and does not end.
    """
    lock, first = path / CREATING, time.monotonic()
    while not (path / "recipe.json").is_file():
        tag = _take(lock)
        try:
            if tag is not None and _make(path, files, lock, tag):
                return
        except BaseException:
            with suppress(OSError):
                lock.unlink()
            raise
        if time.monotonic() - first > 2 * CREATING_SECONDS:
            raise StoreError(f"{path}: another writer makes this store; rerun when it has")
        time.sleep(WAIT_SECONDS)


def _make(path: Path, files: Mapping[str, bytes], lock: Path, tag: str) -> bool:
    """Put the files of a store under its lock; False where another writer took the lock over."""
    if not (path / "recipe.json").is_file():  # else made just before the lock was ours
        names = [name for name in files if name != "recipe.json"]
        for folder in ("calibration", "canary"):  # of a writer that was killed, of another identity
            found = [entry for entry, _ in bucket_path(path / folder).objects()]
            wanted = {path / name for name in names}
            for entry in found:
                if entry not in wanted:
                    entry.unlink()
        in_parallel(lambda name: put_object(path / name, files[name]), names)
        try:
            put_object(lock, _new_lock(), tag=tag)
        except (FileNotFoundError, FileExistsError):
            return False  # this writer was away for so long that it was taken for dead
        put_new(path / "recipe.json", files["recipe.json"])
    lock.unlink()
    return True


def _take(lock: Path) -> str | None:
    """Take the lock of a store in the making, and give its tag; None where another writer has it.

    That of a dead writer is taken over.
    """
    data = _new_lock()
    if (tag := put_new(lock, data)) is not None:
        return tag
    try:
        state = object_state(lock)
        if clock_of(lock.parent) - state.modified < CREATING_SECONDS:
            return None
        return put_object(lock, data, tag=state.tag)
    except (FileNotFoundError, FileExistsError):
        return None


def _new_lock() -> bytes:
    return uuid.uuid4().hex.encode()


class BucketLog:
    """The log of a writer on a bucket: objects of some lines each, as nothing can be appended.

    What a kill leaves unwritten is read from the clips themselves.

    Args:
        path: of the store.
        writer_name: of the writer.
        format_version: of the store.
    """

    def __init__(self, path: Path, writer_name: str, *, format_version: int) -> None:
        self._folder, self._name = path / "manifest", writer_name
        self._version, self._number = format_version, 0
        self._lines: list[bytes] = []
        self._guard = threading.Lock()

    def add(self, record: ClipRecord) -> None:
        """Add the record of a committed clip."""
        values = record.to_dict(format_version=self._version)
        with self._guard:
            self._lines.append(canonical_json(seal({"record": values})) + b"\n")
            if len(self._lines) >= LOG_LINES:
                self._write()

    def close(self) -> None:
        """Write what is left."""
        with self._guard:
            self._write()

    def _write(self) -> None:
        if self._lines:
            file = self._folder / f"{self._name}-{self._number:06}.jsonl"
            put_object(file, b"".join(self._lines))
            self._lines, self._number = [], self._number + 1
