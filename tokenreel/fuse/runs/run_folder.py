"""The folder of a run: what the run is, who works in it, and whether it is done.

run.json         config, store, provenance: what the run is
lock.json        while a process works in it
tokens/          an empty store that takes the tokens of its store: what `fuse apply` extracts as;
                 of a run that reads several stores tokens/NAME of each
checkpoint.pt    weights, optimiser, position; written whole
metrics.jsonl    one line an epoch
tensorboard/     the same, as curves
embeddings.h5    written last: a run that has it is done
"""

import logging
import shutil
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenreel.cache.canonical import canonical_json, field_differences
from tokenreel.cache.embeddings import read_embeddings
from tokenreel.cache.errors import EmbeddingFileError, UsageError, WrongIdentity
from tokenreel.cache.files import make_directory, write_whole
from tokenreel.cache.format.store_files import create_twin
from tokenreel.cache.provenance import CHANGES, STORE_PATH, names_same_store, store_changes
from tokenreel.cache.write.claims import ClaimHeld, take_claim
from tokenreel.fuse.config.system import UNAVAILABLE
from tokenreel.fuse.runs.provenance import (
    read_provenance,
    require_init,
    stores_of,
    with_later_fields,
)

log = logging.getLogger(__name__)

FILES = (
    "run.json",
    "checkpoint.pt",
    "metrics.jsonl",
    "embeddings.h5",
)  # of the process that has the lock
IDENTITY = ("config", "store_fingerprint", "store_clips_sha256", "init_sha256")
FIRST_WEIGHTS = "first_weights_sha256"
LATER = (
    "labels_sha256",
    "texts_sha256",
    "first_weights",
    FIRST_WEIGHTS,
)  # part of it too, but earlier versions did not write it
TOKENS = "tokens"
MADE = ("checkpoint.pt", "metrics.jsonl", "embeddings.h5")  # by a run that began
BEAT_SECONDS = 30.0
STALE_SECONDS = 300.0  # a lock of another host, untouched for this long, is dead


class RunLocked(ClaimHeld):
    """Another process works in the folder of the run."""


@dataclass
class RunFolder:
    """A run's folder, locked while it is used as a context.

    Attributes:
        path: the folder.
        provenance: what the run is.
        stores: its stores by name; run.json keeps the path of the first for commands on this
            machine.
    """

    path: Path
    provenance: dict[str, Any]
    stores: Mapping[str, Path] = field(default_factory=dict)

    def __enter__(self) -> "RunFolder":
        """Lock the folder; a lock whose process is gone is broken, what it left half-written goes.

        Raises:
            UsageError: it is a file or a store, or `init` names no trained run.
            RunLocked: another process works in it.
            WrongIdentity: it holds another run, or `init` is one that read other tokens.
        """
        if self.path.exists() and not self.path.is_dir():
            raise UsageError(f"{self.path} is a file, a run is a folder: use another --out")
        if (self.path / "recipe.json").exists():
            raise UsageError(f"{self.path} is a store, a run is another folder: use another --out")
        require_init(self.provenance)
        make_directory(self.path)
        try:
            self._lock = take_claim(
                self.path, "lock", owner="a process", expiry_seconds=STALE_SECONDS
            )
        except ClaimHeld as error:
            raise RunLocked(
                f"{self.path} is in use ({error}): wait for it, or use another --out"
            ) from error
        for left in [left for name in FILES for left in self.path.glob(f".tmp-{name}-*")]:
            left.unlink()
        try:
            self._compare()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Unlock; a run that could not begin leaves nothing behind."""
        if self._is_new and not any((self.path / name).exists() for name in MADE):
            (self.path / "run.json").unlink(missing_ok=True)
            shutil.rmtree(self.path / TOKENS, ignore_errors=True)
        self._lock.release()
        if self._is_new:
            with suppress(OSError):  # something is in it
                self.path.rmdir()

    def beat(self) -> None:
        """Heartbeat of the process."""
        self._lock.beat()

    @property
    def embeddings(self) -> Path:
        """The embedding file."""
        return self.path / "embeddings.h5"

    def is_done(self) -> bool:
        """Whether the embedding file is there, whole, and of this run.

        Raises:
            WrongIdentity: it belongs to another run.
        """
        if not self.embeddings.exists():
            return False
        try:
            found = read_embeddings(self.embeddings).provenance
        except EmbeddingFileError as error:
            log.warning("%s: embedding again", error)
            return False
        self._require(found, self.embeddings)
        return True

    def _compare(self) -> None:
        path = self.path / "run.json"
        self._is_new = not path.exists()
        if not self._is_new:
            self._require(read_provenance(self.path), self.path)
        else:
            here = {}
            for first in list(self.stores.values())[:1]:
                here = {STORE_PATH: str(first.absolute())}
            for name, store in self.stores.items():
                create_twin(twin_of_store(self.path, name, self.stores), store)
            write_whole(path, canonical_json({**self.provenance, **here}))

    def _require(self, former: Mapping[str, Any], where: Path) -> None:
        keys = [*IDENTITY, *(key for key in LATER if key in former)]
        held = {key: former.get(key) for key in keys}
        if names_same_store(former, self.provenance):  # its former fingerprint, if it was migrated
            held["store_fingerprint"] = self.provenance["store_fingerprint"]
        held["config"] = with_later_fields(held["config"])
        asked = {key: self.provenance.get(key) for key in keys}
        asked = _with_unavailable(held, asked, where)
        held["stores"], asked["stores"] = _fingerprints(former, self.provenance)
        rows = field_differences(held, asked)
        if rows:
            table = "\n".join(
                f"  {name}: run has {here!r}, asked {there!r}" for name, here, there in rows
            )
            advice = "use another --out"
            if {name for name, _, _ in rows} <= {*CHANGES, "labels_sha256"}:
                what = "; ".join(store_changes(former, self.provenance)) or "other labels"
                advice = (
                    f"the store has since {what}: `fuse embed RUN --store STORE` embeds it with "
                    "the model as it is, another --out trains anew"
                )
            raise WrongIdentity(f"{where} holds another run:\n{table}\n{advice}")
        for what in store_changes(former, self.provenance):  # which it does not learn from
            log.warning(
                "%s: the store has since %s: `fuse embed RUN --store STORE` takes them over",
                where,
                what,
            )


def twin_of_store(run: Path, name: str, names: Collection[str]) -> Path:
    """Where the folder of a run keeps the empty twin of one of its stores."""
    return run / TOKENS if len(names) == 1 else run / TOKENS / name


@contextmanager
def heartbeat(folders: Sequence[RunFolder]) -> Iterator[None]:
    """Heartbeats of locked folders, in a thread, whatever their process waits for."""
    is_over = threading.Event()

    def beat() -> None:
        while not is_over.wait(BEAT_SECONDS):
            for folder in folders:
                folder.beat()

    thread = threading.Thread(target=beat, name="tokenreel-heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def _with_unavailable(
    held: Mapping[str, Any], asked: dict[str, Any], where: Path
) -> dict[str, Any]:
    """Fields of a configuration, with the run's own hashes of first weights that are unavailable.

    The run has them from its start.
    """
    hashes = asked.get(FIRST_WEIGHTS)
    if not isinstance(hashes, dict) or UNAVAILABLE not in hashes.values():
        return asked
    log.warning("%s: its first weights cannot be compared", where)
    former = held.get(FIRST_WEIGHTS) or {}
    known = {k: former.get(k, v) if v == UNAVAILABLE else v for k, v in hashes.items()}
    return asked | {FIRST_WEIGHTS: known}


def _fingerprints(
    former: Mapping[str, Any], provenance: Mapping[str, Any]
) -> tuple[dict[str, str], dict[str, str]]:
    """Those of several stores by name, of two runs; equal where they name one store."""
    held, asked = stores_of(former), stores_of(provenance)
    ours = {name: store["store_fingerprint"] for name, store in asked.items()}
    theirs = {
        name: ours[name]
        if name in asked and names_same_store(store, asked[name])
        else store["store_fingerprint"]
        for name, store in held.items()
    }
    return theirs, ours
