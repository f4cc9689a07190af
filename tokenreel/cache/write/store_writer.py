"""Writing a store: one writer a process, one clip at a time, committed whole.

    temporary directory -> segments of 64 frames -> flush every file and directory -> read back and
    check -> rename -> flush the parent -> one line in this writer's own log

A kill loses at most the open segment: the next writer of the clip takes over the directory and the
segments that are whole.  Two writers of one clip: the rename decides, the other discards its own.
"""

import os
import threading
import uuid
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from types import TracebackType

from tokenreel.cache.canonical import canonical_json, seal
from tokenreel.cache.codec import codec_from_identity
from tokenreel.cache.errors import StoreError, UsageError
from tokenreel.cache.files import sweep_temporary, sync_directory
from tokenreel.cache.format.clip import ClipRecord, SourceInfo, clip_key, folder_of, leaves_root
from tokenreel.cache.format.store_files import (
    create_store,
    load_arrays,
    load_identity,
    record_failure,
)
from tokenreel.cache.manifest import Clip
from tokenreel.cache.write.claims import Claim, ClaimHeld, take_claim
from tokenreel.cache.write.clip_writer import ClipWriter

__all__ = ["ClaimHeld", "ClipWriter", "SourceInfo", "StoreWriter", "create_store", "record_failure"]


class StoreWriter:
    """One process that writes clips to a store.  Use as a context manager.

    Args:
        path: a store that create_store made.
        writer_id: a word for the log's file name: letters, digits, "-", "_".
        expiry_seconds: a claim without heartbeat for so long is dead (other hosts; on the same
            host a dead process is seen at once).
        sweep_seconds: temporary directories untouched for so long are removed.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        writer_id: str,
        expiry_seconds: float = 300,
        sweep_seconds: float = 7 * 86400,
    ) -> None:
        if not writer_id.replace("-", "").replace("_", "").isalnum():
            raise ValueError(f"writer_id {writer_id!r}: letters, digits, '-' and '_' only")
        self.path = Path(path)
        self.identity, _ = load_identity(self.path)
        self.codec = codec_from_identity(
            self.identity.codec, load_arrays(self.path / "calibration")
        )
        self.name = f"{writer_id}-{uuid.uuid4().hex[:8]}"
        self._expiry_seconds = expiry_seconds
        self._claims: dict[str, Claim] = {}
        self._stop = threading.Event()
        self._heart = threading.Thread(target=self._beat, daemon=True)
        for folder in (self.path / "clips").glob("[0-9a-f][0-9a-f]"):
            sweep_temporary(folder, older_than_seconds=sweep_seconds)

    def __enter__(self) -> "StoreWriter":
        self._heart.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._heart.join()
        for claim in list(self._claims.values()):
            claim.release()

    def _beat(self) -> None:
        while not self._stop.wait(self._expiry_seconds / 10):
            for claim in list(self._claims.values()):
                claim.beat()

    def is_committed(self, clip_id: str) -> bool:
        """Whether the clip is in the store, whole."""
        return (self.path / folder_of(clip_key(clip_id)) / "zarr.json").is_file()

    def begin(
        self,
        clip: Clip,
        *,
        dataset: str,
        phases: tuple[str, ...],
        source: SourceInfo,
        time_base: Fraction,
    ) -> "ClipWriter":
        """Claim a clip and open it, on top of what a killed run left of it.

        Raises:
            ClaimHeld: another live writer works on it, or it is committed.
            UsageError: the video's path leaves the data set's root.
            StoreError: the store cannot be written.
        """
        if leaves_root(clip.video):
            raise UsageError(
                f"{clip.clip_id}: video {clip.video!r} is not a path below the data set's root"
            )
        key = clip_key(clip.clip_id)
        try:
            claim = take_claim(
                self.path / "claims", key, owner=self.name, expiry_seconds=self._expiry_seconds
            )
        except OSError as error:
            raise StoreError(f"{self.path}: cannot be written: {error.strerror}") from error
        if self.is_committed(clip.clip_id):
            claim.release()
            raise ClaimHeld(f"{clip.clip_id}: already committed")
        self._claims[key] = claim
        record = ClipRecord(
            clip_id=clip.clip_id,
            key=key,
            dataset=dataset,
            video=clip.video,
            split=clip.split,
            action=clip.action,
            group=clip.group,
            phases=phases,
            num_frames=0,
            num_views=self.identity.num_views,
            start_seconds=clip.start_seconds,
            stop_seconds=clip.stop_seconds,
            source=asdict(source),
            time_base=(time_base.numerator, time_base.denominator),
        )
        try:
            return ClipWriter(self, record)
        except BaseException:
            self.release(key)
            raise

    def release(self, key: str) -> None:
        """Give up the claim on a clip."""
        claim = self._claims.pop(key, None)
        if claim is not None:
            claim.release()

    def log_commit(self, record: ClipRecord) -> None:
        """Append a line to this writer's log.  The directory is the truth, the log its index."""
        path = self.path / "manifest" / f"{self.name}.jsonl"
        new = not path.exists()
        line = canonical_json(seal({"record": record.to_dict()})) + b"\n"
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            os.write(handle, line)
            os.fsync(handle)
        finally:
            os.close(handle)
        if new:
            sync_directory(path.parent)
