"""Write a store: one writer a process, one clip at a time, each committed atomically.

    temporary directory -> segments of 64 frames -> flush every file and directory -> read back and
    check -> rename -> flush the parent -> one line in this writer's own log

A kill loses at most the open segment: the next writer of the clip takes over the directory and the
segments that are whole.  If two writers make one clip, the rename decides: the loser's is deleted.
"""

import errno
import logging
import re
import threading
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
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
)
from tokenreel.cache.format.index import (
    committed_keys,
    find_clip,
    folders_listed,
    groups_on_bucket,
    is_committed,
)
from tokenreel.cache.format.store_files import (
    load_arrays,
    load_identity,
)
from tokenreel.cache.manifest import Clip
from tokenreel.cache.write.bucket_claims import BucketClaim, BucketClaims, OnlyWriter
from tokenreel.cache.write.bucket_writer import BucketClipWriter, finish_replacing, scratch_of
from tokenreel.cache.write.claims import (
    EXPIRY_SECONDS,
    ClaimHeld,
    WriterClaims,
    is_in_work,
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
        self._only: OnlyWriter | None = None
        if is_bucket(self.path):
            if not _has_conditions(self.path):
                self._only = OnlyWriter(claims, owner=self.name, expiry_seconds=expiry_seconds)
            self._log = BucketLog(self.path, self.name, format_version=self.identity.format_version)
            here = _made(scratch_of(self.path))
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
        if is_bucket(self.path):
            self.seen = self._scan_bucket()
        else:
            self.seen = scan_clips(self.path, sweep_seconds=sweep_seconds, claims=claims)

    def _scan_bucket(self) -> frozenset[str]:
        """List the committed clips; finish what killed writers began of clips that lie beside."""
        found, beside = groups_on_bucket(self.path)
        for key, folder in beside.items():
            with suppress(ClaimHeld):  # its writer is at work
                claim = self._claims.take(key)
                if (folder / "zarr.json").is_file():
                    log.info("%s: finished what a killed writer began", key)
                    finish_replacing(self.path / folder_of(key))
                claim.release()
        return frozenset(found | beside)

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
        except OSError as lost:  # what made the run end, if anything, is raised
            log.warning("%s; clips that are in no log are read from their own records", lost)
        finally:
            self._claims.release_all()
            if self._only is not None:
                self._only.release()

    def _beat(self) -> None:
        while not self._stop.wait(self._expiry_seconds / 10):
            self._claims.beat()
            if self._only is not None:
                self._only.beat()

    def is_committed(self, clip_id: str) -> bool:
        """Whether the clip is in the store, whole."""
        return is_committed(self.path, clip_id)

    def claim_ahead(self, clip_ids: Sequence[str]) -> None:
        """Claim clips side by side that will be begun next, where a claim takes a while.

        On a disk nothing: there a clip is claimed when it is begun.
        """
        claims = self._claims
        if isinstance(claims, BucketClaims):
            wanted = {name: clip_key(name) for name in clip_ids if claims.is_new(clip_key(name))}

            def look(clip_id: str) -> None:
                self._looked_at[clip_id] = self.is_committed(clip_id)

            # Side by side: one that another writer commits between the look and the claim is
            # found committed when it is published.
            work = [partial(claims.take_one_ahead, key) for key in wanted.values()]
            in_parallel(lambda call: call(), [*work, *(partial(look, name) for name in wanted)])

    def is_free_ahead(self, clip_id: str, *, is_replaced: bool = False) -> bool | None:
        """Whether a clip that claim_ahead looked at may be begun; None where it did not.

        A claim on one that may not is given up.

        Args:
            clip_id: the clip.
            is_replaced: whether a committed one is to be made again.
        """
        claims, key = self._claims, clip_key(clip_id)
        if not isinstance(claims, BucketClaims) or claims.is_new(key):
            return None
        is_there = self._looked_at.get(clip_id, False)
        if claims.is_ahead(key) and (is_replaced or not is_there):
            return True
        self.drop_ahead(clip_id)
        return False

    def drop_ahead(self, clip_id: str) -> None:
        """Give up what claim_ahead found of a clip; a claim on it ends."""
        if isinstance(self._claims, BucketClaims):
            self._claims.drop_ahead(clip_key(clip_id))
            self._looked_at.pop(clip_id, None)

    def survey(self) -> tuple[set[str], set[str], set[str]]:
        """Keys of the clips that are committed, that are claimed, and, on a bucket, both or begun.

        On a bucket those that a dead writer left there without a claim count as committed: they are
        made by the writer whose share they are, or by the one who looks after all in the end.
        """
        claimed = {name.removesuffix(".json") for name in names_in(self.path / "claims")}
        if not is_bucket(self.path):
            return committed_keys(self.path), claimed, set()
        there = folders_listed(self.path)
        return {*self.seen, *(there - claimed)}, claimed - there, there & claimed

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
        if self._only is not None:
            self._only.require_own()
        is_there = self._looked_at.pop(record.clip_id, None)
        if is_there is None:  # else it was looked at beside this claim
            is_there = self.is_committed(record.clip_id)
        if is_there and (replaces is None or find_clip(self.path, record.key)[1] != replaces):
            raise ClaimHeld(f"{record.clip_id}: already committed")
        return BucketClipWriter(
            self._target,
            record,
            claim,
            store=self.path,
            log=log,
            replaces=replaces is not None,
        )


def _made(scratch: Path) -> Path:
    """The folder on this machine where clips of a store on a bucket are written first; made."""
    try:
        make_directory(scratch)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        cache = scratch.parent.parent
        raise UsageError(
            f"{cache}: {error.strerror}: clips of a store on a bucket are written in this folder "
            "first: name one that can be written by --cache-dir or TOKENREEL_CACHE_DIR"
        ) from error
    return scratch


def _has_conditions(path: Path) -> bool:
    """Whether a bucket has conditional puts; where it has none, one writer at a time may write."""
    probe = bucket_path(path) / f".tmp-probe-{uuid.uuid4().hex}"
    if probe.bucket.try_conditions(probe.key):
        return True
    log.warning(
        "%s: this bucket has no conditional puts, which keep writers apart: only one process at a "
        "time writes to it",
        path,
    )
    return False


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
