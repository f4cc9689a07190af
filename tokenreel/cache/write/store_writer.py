"""Write a store: one writer a process, one clip at a time, each committed atomically.

    temporary directory -> segments of 64 frames -> flush every file and directory -> read back and
    check -> rename -> flush the parent -> one line in this writer's own log

A kill loses at most the open segment: the next writer of the clip takes over the directory and the
segments that are whole.  If two writers make one clip, the rename decides: the loser's is deleted.
"""

import re
import threading
import uuid
from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from tokenreel.cache.canonical import canonical_json, read_json
from tokenreel.cache.codec import codec_from_identity
from tokenreel.cache.errors import StoreError, UsageError, machine_error
from tokenreel.cache.files import names_in, sweep_temporary
from tokenreel.cache.format.byte_arrays import is_array_name
from tokenreel.cache.format.clip import (
    OF_MANIFEST,
    ClipRecord,
    SourceInfo,
    clip_key,
    leaves_root,
)
from tokenreel.cache.format.index import is_committed
from tokenreel.cache.format.store_files import (
    load_arrays,
    load_identity,
)
from tokenreel.cache.manifest import Clip
from tokenreel.cache.write.claims import EXPIRY_SECONDS, WriterClaims, is_in_work
from tokenreel.cache.write.clip_writer import ClipWriter, WriteTarget, restore_replaced

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
        self.path = Path(path)
        self.identity, _ = load_identity(self.path)
        self.codec = codec_from_identity(
            self.identity.codec, load_arrays(self.path / "calibration")
        )
        self.name = f"{writer_id}-{uuid.uuid4().hex[:8]}"
        self._target = WriteTarget(self.path, self.identity, self.codec, self.name)
        self._expiry_seconds = expiry_seconds
        self._claims = WriterClaims(
            self.path / "claims", owner=self.name, expiry_seconds=expiry_seconds
        )
        self._stop = threading.Event()
        self._heart = threading.Thread(target=self._beat, daemon=True)
        self.seen = scan_clips(self.path, sweep_seconds=sweep_seconds)

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
        self._claims.release_all()

    def _beat(self) -> None:
        while not self._stop.wait(self._expiry_seconds / 10):
            self._claims.beat()

    def is_committed(self, clip_id: str) -> bool:
        """Whether the clip is in the store, whole."""
        return is_committed(self.path, clip_id)

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
            return ClipWriter(self._target, record, claim, replaces=replaces)
        except BaseException:
            claim.release()
            raise


def scan_clips(path: Path, *, sweep_seconds: float) -> frozenset[str]:
    """List the committed clips, sweep what killed writers left, and bring back what they moved.

    One look at each folder of clips: a writer on a shared disk waits for every one.

    Args:
        path: the store.
        sweep_seconds: of StoreWriter.

    Returns:
        Keys of the clips.
    """
    keys: set[str] = set()
    claims, clips = path / "claims", path / "clips"
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
