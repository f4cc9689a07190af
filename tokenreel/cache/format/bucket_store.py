"""Store-wide files on a bucket, where no rename decides: a put under a condition does.

A store is there once its recipe.json is, a clip once the zarr.json of its group is; both are put
last, and only where there is none.
"""

import threading
import time
import uuid
from collections.abc import Mapping
from pathlib import Path

from tokenreel.cache.bucket.objects import in_parallel
from tokenreel.cache.bucket.path import object_state, put_new, put_object
from tokenreel.cache.canonical import canonical_json, seal
from tokenreel.cache.errors import StoreError
from tokenreel.cache.files import clock_of
from tokenreel.cache.format.clip import ClipRecord

CREATING = ".tmp-creating.json"  # of the writer that makes the store
CREATING_SECONDS = 120.0  # after which that writer is taken for dead
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
    while not _take(lock):
        if (path / "recipe.json").is_file():
            return
        if time.monotonic() - first > 2 * CREATING_SECONDS:
            raise StoreError(f"{path}: another writer makes this store; rerun when it has")
        time.sleep(0.5)
    try:
        if not (path / "recipe.json").is_file():  # else made just before the lock was ours
            names = [name for name in files if name != "recipe.json"]
            in_parallel(lambda name: put_object(path / name, files[name]), names)
            put_new(path / "recipe.json", files["recipe.json"])
    finally:
        lock.unlink()


def _take(lock: Path) -> bool:
    """Take the lock of a store in the making; that of a dead writer is taken over."""
    data = uuid.uuid4().hex.encode()
    if put_new(lock, data):
        return True
    try:
        state = object_state(lock)
        if clock_of(lock.parent) - state.modified < CREATING_SECONDS:
            return False
        put_object(lock, data, tag=state.tag)
    except (FileNotFoundError, FileExistsError):
        return False
    return True


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
