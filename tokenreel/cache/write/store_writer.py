"""Write a store: one writer a process, one clip at a time, each committed atomically.

    temporary directory -> segments of 64 frames -> flush every file and directory -> read back and
    check -> rename -> flush the parent -> one line in this writer's own log

A kill loses at most the open segment: the next writer of the clip takes over the directory and the
segments that are whole.  If two writers make one clip, the rename decides: the loser's is deleted.
"""

import logging
import re
import threading
import uuid
from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from tokenreel.cache.bucket.objects import in_parallel
from tokenreel.cache.bucket.path import bucket_path, is_bucket, store_path
from tokenreel.cache.canonical import canonical_json, read_json
from tokenreel.cache.codec import codec_from_identity
from tokenreel.cache.errors import StoreError, UsageError, machine_error
from tokenreel.cache.files import make_directory, names_in, sweep_temporary
from tokenreel.cache.format.bucket_store import BucketLog
from tokenreel.cache.format.byte_arrays import is_array_name
from tokenreel.cache.format.clip import (
    OF_MANIFEST,
    ClipRecord,
    SourceInfo,
    clip_key,
    folder_of,
    leaves_root,
    load_clip,
)
from tokenreel.cache.format.index import committed_keys, is_committed
from tokenreel.cache.format.store_files import (
    load_arrays,
    load_identity,
)
from tokenreel.cache.manifest import Clip
from tokenreel.cache.write.bucket_claims import BucketClaim, BucketClaims
from tokenreel.cache.write.bucket_writer import BucketClipWriter, scratch_of
from tokenreel.cache.write.claims import (
    EXPIRY_SECONDS,
    ClaimHeld,
    WriterClaims,
    is_in_work,
    is_live,
)
from tokenreel.cache.write.clip_writer import ClipWriter, WriteTarget, restore_replaced

log = logging.getLogger(__name__)

IS_FOLDER = re.compile("[0-9a-f]{2}")  # of clips


class StoreWriter:
    """One process that writes clips to a store.  Use as a context manager.

    Args:
        path: a store that create_store made.
        writer_id: a word for the log's file name: letters, digits, "-", "_".
        expiry_seconds: a claim of another host is dead after that long without a heartbeat (on the
            same host, as soon as its process has ended).
        sweep_seconds: temporary directories without a change for that long are removed, unless a
            live writer works in them.

    Attributes:
        seen: keys of the clips that were committed when the writer began.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        writer_id: str,
        expiry_seconds: float = EXPIRY_SECONDS,
        sweep_seconds: float = 7 * 86400,
    ) -> None:
        if not writer_id.replace("-", "").replace("_", "").isalnum():
            raise ValueError(f"writer_id {writer_id!r}: letters, digits, '-' and '_' only")
        self.path = store_path(path)
        self.identity, _ = load_identity(self.path)
        self.codec = codec_from_identity(
            self.identity.codec, load_arrays(self.path / "calibration")
        )
        self.name = f"{writer_id}-{uuid.uuid4().hex[:8]}"
        self._expiry_seconds = expiry_seconds
        claims, self._log = self.path / "claims", None
        if is_bucket(self.path):
            _try_conditions(self.path)
            self._log = BucketLog(self.path, self.name, format_version=self.identity.format_version)
            here = scratch_of(self.path)
            make_directory(here)
            scan_clips(here, sweep_seconds=sweep_seconds, claims=claims)
            self._target = WriteTarget(here, self.identity, self.codec, self.name)
            self._claims: WriterClaims = BucketClaims(
                claims, owner=self.name, expiry_seconds=expiry_seconds
            )
        else:
            self._target = WriteTarget(self.path, self.identity, self.codec, self.name)
            self._claims = WriterClaims(claims, owner=self.name, expiry_seconds=expiry_seconds)
        self._looked_at: dict[str, bool] = {}  # claimed ahead: whether it is committed
        self._stop = threading.Event()
        self._heart = threading.Thread(target=self._beat, daemon=True)
        self.seen = scan_clips(self.path, sweep_seconds=sweep_seconds, claims=claims)

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
        try:
            if self._log is not None:
                self._log.close()
        finally:
            self._claims.release_all()

    def _beat(self) -> None:
        while not self._stop.wait(self._expiry_seconds / 10):
            self._claims.beat()

    def is_committed(self, clip_id: str) -> bool:
        """Whether the clip is in the store, whole."""
        return is_committed(self.path, clip_id)

    def claim_ahead(self, clip_ids: Sequence[str]) -> None:
        """Claim clips side by side that will be begun next, where a claim takes a while.

        On a disk nothing: there a clip is claimed when it is begun.
        """
        if isinstance(self._claims, BucketClaims):
            self._claims.take_ahead([clip_key(clip_id) for clip_id in clip_ids])
            mine = [clip_id for clip_id in clip_ids if self.has_claimed(clip_id)]
            is_there = in_parallel(self.is_committed, mine)
            self._looked_at |= dict(zip(mine, is_there, strict=True))

    def has_claimed(self, clip_id: str) -> bool:
        """Whether claim_ahead has claimed a clip that is not begun yet."""
        claims = self._claims
        return isinstance(claims, BucketClaims) and claims.is_ahead(clip_key(clip_id))

    def begin(
        self,
        clip: Clip,
        *,
        dataset: str,
        phases: tuple[str, ...],
        source: SourceInfo,
        time_base: Fraction,
        byte_arrays: Sequence[str] = (),
        extra: Mapping[str, Any] | None = None,
        rules: int = 1,
        replaces: ClipRecord | None = None,
    ) -> ClipWriter:
        """Claim a clip and open it, resuming what a killed run left of it.

        Args:
            clip: of the manifest.
            dataset: name of the data set.
            phases: names of the phases of the clip's action.
            source: the video.
            time_base: seconds of a tick.
            byte_arrays: names of the arrays that append_bytes will fill.
            extra: fields of other programs, JSON values.
            rules: version of the frame and geometry rules that the tokens were made by.
            replaces: record of the committed clip that is replaced: it stays until this one is
                committed.  When the store holds another one by now, the clip counts as committed.

        Raises:
            ClaimHeld: another live writer works on it, or it is committed.
            UsageError: the video's path leaves the data set's root; a name that no array of bytes
                may have; tags, arrays of bytes, extra fields or later rules in a store of format 1.
            StoreError: the store cannot be written.
        """
        if leaves_root(clip.video):
            raise UsageError(
                f"{clip.clip_id}: video {clip.video!r} is not a path below the data set's root"
            )
        key, version = clip_key(clip.clip_id), self.identity.format_version
        record = ClipRecord(
            **{name: getattr(clip, name) for name in OF_MANIFEST},
            key=key,
            dataset=dataset,
            phases=phases,
            num_frames=0,
            num_views=self.identity.num_views,
            source=source.to_dict(format_version=version),
            time_base=(time_base.numerator, time_base.denominator),
            rules=rules,
            byte_arrays=tuple(sorted(set(byte_arrays))),
            extra=plain_json(extra or {}, clip.clip_id),
        )
        for name in byte_arrays:
            if not is_array_name(name):
                raise UsageError(f"array of bytes {name!r}: lower-case letters, digits, _ and -")
        record.require_fits(format_version=version)
        try:
            claim = self._claims.take(key)
        except OSError as error:
            what = f"{self.path}: cannot be written"
            raise machine_error(error, what) or StoreError(f"{what}: {error.strerror}") from error
        try:
            if self._log is not None and isinstance(claim, BucketClaim):
                return self._begin_on_bucket(record, claim, self._log, replaces)
            return ClipWriter(self._target, record, claim, replaces=replaces)
        except BaseException:
            claim.release()
            raise

    def _begin_on_bucket(
        self,
        record: ClipRecord,
        claim: BucketClaim,
        log: BucketLog,
        replaces: ClipRecord | None,
    ) -> ClipWriter:
        final = self.path / folder_of(record.key)
        is_there = self._looked_at.pop(record.clip_id, None)
        if is_there is None:  # else it was looked at under this claim
            is_there = self.is_committed(record.clip_id)
        if is_there and (replaces is None or load_clip(final, record.key)[0] != replaces):
            raise ClaimHeld(f"{record.clip_id}: already committed")
        return BucketClipWriter(
            self._target,
            record,
            claim,
            store=self.path,
            log=log,
            replaces=replaces is not None,
        )


def _try_conditions(path: Path) -> None:
    """Say where a bucket has no conditional puts; there one writer at a time may write.

    Raises:
        ClaimHeld: another writer is at work there.
    """
    probe = bucket_path(path) / f".tmp-probe-{uuid.uuid4().hex}"
    if probe.bucket.try_conditions(probe.key):
        return
    log.warning(
        "%s: this bucket has no conditional puts, which keep writers apart: let only one process "
        "write to it at a time",
        path,
    )
    for claim in sorted((path / "claims").glob("*.json")):
        if is_live(claim):
            raise ClaimHeld(
                f"{path}: another writer is at work on {claim.stem}, and this bucket has no "
                "conditional puts to keep two apart: rerun when it has ended"
            )


def scan_clips(path: Path, *, sweep_seconds: float, claims: Path | None = None) -> frozenset[str]:
    """List the committed clips, sweep what killed writers left, and bring back what they moved.

    One look at each folder of clips: a writer on a shared disk waits for every one.

    Args:
        path: the store.
        sweep_seconds: of StoreWriter.
        claims: folder of the claims; that of the store when None.

    Returns:
        Keys of the clips.
    """
    if is_bucket(path):
        return frozenset(committed_keys(path))
    keys: set[str] = set()
    claims, clips = claims or path / "claims", path / "clips"
    for folder in (clips / name for name in names_in(clips) if IS_FOLDER.fullmatch(name)):
        names = names_in(folder)
        if any(name.startswith(".tmp-") for name in names):
            restore_replaced(folder, claims)
            keep = partial(is_in_work, claims=claims)
            sweep_temporary(folder, older_than_seconds=sweep_seconds, keep=keep)
            names = names_in(folder)
        keys.update(name for name in names if not name.startswith("."))
    return frozenset(keys)


def plain_json(extra: Mapping[str, Any], clip_id: str) -> dict[str, Any]:
    """The extra fields of a clip as JSON gives them back; UsageError if they are none."""
    try:
        values: dict[str, Any] = read_json(canonical_json(dict(extra)))
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"the extra fields of {clip_id} are no JSON: {error}") from error
    return values
