"""Ledger of attempts: clips that were in work when a worker died, as lines of a file in the store.

The driver alone writes it, so that a driver that is killed loses nothing.  A clip that was in work
when its worker died is tried alone; where it ends that worker too, without a new segment on the
disk, it goes into quarantine.
"""

import logging
import os
from collections.abc import Set
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tokenreel.cache.bucket.path import is_bucket
from tokenreel.cache.canonical import canonical_json, parse_object
from tokenreel.cache.errors import Damaged
from tokenreel.cache.files import make_directory, write_all
from tokenreel.cache.format.clip import folder_of
from tokenreel.cache.write.claims import read_claim, remove_writer_file

log = logging.getLogger(__name__)

LEDGER = Path("workers") / "attempts.jsonl"  # in the store; it may be deleted
MOST_DEATHS = 2  # of workers by one clip


@dataclass(frozen=True)
class Attempt:
    """What a clip has done to its workers.

    Attributes:
        deaths: of workers while it was in work, since its last progress.
        num_files: of its segments on the disk at the last one.
    """

    deaths: int
    num_files: int


class Attempts:
    """The attempts at clips of a store that ended with the death of a worker.

    Args:
        store: its directory.
    """

    def __init__(self, store: Path) -> None:
        self._store, self._file = store, store / LEDGER
        data = self._read()
        self.found = self._attempts_in(data)
        self._is_torn = bool(data) and not data.endswith(b"\n")

    def _read(self) -> bytes:
        with suppress(FileNotFoundError):
            return self._file.read_bytes()
        return b""

    def _attempts_in(self, data: bytes) -> dict[str, Attempt]:
        """The attempts of a ledger by key of the clip; a torn line is left out."""
        found = {}
        for line in data.splitlines():
            with suppress(Damaged, KeyError, TypeError, ValueError):
                values = parse_object(line, where=self._file)
                found[str(values["key"])] = Attempt(int(values["deaths"]), int(values["files"]))
        return found

    def note(self, key: str) -> Attempt:
        """Note that a worker died while a clip was in work."""
        before = self.found.get(key, Attempt(0, 0))
        files = self._num_files(key)
        deaths = 1 if files > before.num_files else before.deaths + 1
        self.found[key] = Attempt(deaths, files)
        if is_bucket(self._file):  # where nothing can be appended
            rows = [
                {"key": k, "deaths": a.deaths, "files": a.num_files} for k, a in self.found.items()
            ]
            self._file.write_bytes(b"".join(canonical_json(row) + b"\n" for row in rows))
            return self.found[key]
        make_directory(self._file.parent)
        line = canonical_json({"key": key, "deaths": deaths, "files": files}) + b"\n"
        if self._is_torn:  # the last line, by a driver that was killed: it must not tear this one
            line, self._is_torn = b"\n" + line, False
        handle = os.open(self._file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            write_all(handle, line)
        finally:
            os.close(handle)
        return self.found[key]

    def forget(self, ended: Set[str]) -> None:
        """Remove the ledger, unless it has clips of another command that have not ended.

        Args:
            ended: keys of the clips that are committed or in quarantine.
        """
        if not self._attempts_in(self._read()).keys() <= ended:
            return
        with suppress(OSError):
            self._file.unlink()
        with suppress(OSError):  # it holds the files of other workers
            self._file.parent.rmdir()

    def _num_files(self, key: str) -> int:
        """Files of the segments of a clip that is not committed."""
        final = self._store / folder_of(key)
        if is_bucket(final):  # they are on the disk of the worker
            return 0
        folders = final.parent.glob(f".tmp-{key}-*")
        return sum(len(files) for folder in folders for _, _, files in os.walk(folder))


def release_claims(store: Path, host: str, pid: int, started: str) -> list[str]:
    """Remove the claims of a process that has ended, and list their clips by key.

    Args:
        store: its directory.
        host: of the process.
        pid: of the process.
        started: of claims.start_of; hosts and containers may have equal names.
    """
    keys = []
    for path in sorted((store / "claims").glob("*.json")):
        with suppress(OSError, Damaged):
            holder = read_claim(path)
            if (holder.host, holder.pid, holder.started) == (host, pid, started):
                path.unlink()
                keys.append(path.stem)
                remove_writer_file(path.parent, holder)
    return keys
