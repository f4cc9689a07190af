"""Write one clip into a store: segments of 64 frames, then one atomic commit."""

import errno
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import crc32c
import numpy as np

from tokenreel.cache.canonical import canonical_json, seal
from tokenreel.cache.codec import Codec, Encoded
from tokenreel.cache.codec.base import Array
from tokenreel.cache.errors import (
    Damaged,
    MachineError,
    StoreError,
    UsageError,
    machine_error,
)
from tokenreel.cache.files import (
    entries_of,
    exchange_folders,
    is_made_by_another,
    make_directory,
    names_in,
    sync_directory,
    sync_tree,
    write_all,
    write_new,
    write_synced,
)
from tokenreel.cache.format.byte_arrays import BytesSpec, byte_arrays
from tokenreel.cache.format.clip import (
    ClipRecord,
    SourceInfo,
    all_arrays,
    check_clip,
    check_strings,
    clip_group,
    folder_of,
    frames_are_whole,
    groups_of,
    labels_hash,
    load_clip,
    read_bytes,
)
from tokenreel.cache.format.identity import StoreIdentity
from tokenreel.cache.format.index import is_committed, log_commit
from tokenreel.cache.format.layout import (
    SEGMENT,
    ArraySpec,
    clip_arrays,
    default_stops,
    group_json,
    shard_index,
    view_arrays,
)
from tokenreel.cache.write.byte_track import ByteTrack, make_room
from tokenreel.cache.write.claims import Claim, ClaimHeld, is_live

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WriteTarget:
    """The store that clips are written to.

    Attributes:
        path: its directory.
        identity: of the store.
        codec: of the store.
        writer_name: name of this writer's log.
    """

    path: Path
    identity: StoreIdentity
    codec: Codec
    writer_name: str


def has_arrays(target: WriteTarget, view: int) -> bool:
    """Whether a view has arrays: a store of bytes alone keeps no block and no CLS."""
    return bool(view_arrays(target.identity, target.codec, view, SEGMENT))


class ClipWriter:
    """Writer of one clip; StoreWriter.begin makes it.

    Args:
        target: the store.
        record: of the clip; num_frames and labels_sha256 are filled in when it is committed.
        claim: on the clip, released when the clip is committed, aborted or suspended.
        replaces: record of the committed clip whose place it takes, which stays until then.

    Raises:
        ClaimHeld: the clip is committed, and not the one that is replaced.

    Attributes:
        resume_frames: frames of each view, and units of each array of bytes, that a killed run left
            whole; append and append_bytes continue there.
    """

    def __init__(
        self,
        target: WriteTarget,
        record: ClipRecord,
        claim: Claim,
        *,
        replaces: ClipRecord | None = None,
    ) -> None:
        self._target, self._record, self._claim = target, record, claim
        self._replaces = replaces is not None
        self._final = target.path / folder_of(record.key)
        self._folder = self._final.with_name(f".tmp-{record.key}-{target.writer_name}")
        with self._disk_errors():
            names = names_in(self._final.parent)
            if not names:
                make_directory(self._final.parent)
            if record.key in names and self._is_committed_otherwise(replaces):
                raise ClaimHeld(f"{record.clip_id}: already committed")
            done = self._take_over(names)
            self._tracks = [
                Track(self._folder, target, view=view, num_segments=done)
                for view in range(record.num_views)
                if has_arrays(target, view)
            ]
            self._strings = {
                name: ByteTrack(self._folder, name, num_segments=done)
                for name in record.byte_arrays
            }
        self.resume_frames = done * SEGMENT

    def _is_committed_otherwise(self, replaces: ClipRecord | None) -> bool:
        """Whether the clip is committed, and not with the record that is to be replaced."""
        if not is_committed(self._target.path, self._record.clip_id):
            return False
        return replaces is None or load_clip(self._final, self._record.key)[0] != replaces

    def _take_over(self, names: Sequence[str]) -> int:
        """Take over the directory that a dead writer left; returns its number of whole segments.

        Args:
            names: of the entries of the folder.
        """
        version = self._target.identity.format_version
        values = self._record.to_dict(format_version=version)
        identity = canonical_json(seal({"record": values}))
        for name in names:
            if not name.startswith(f".tmp-{self._record.key}-"):
                continue
            left = self._final.with_name(name)
            try:
                left.rename(self._folder)
                if read_bytes(self._folder, "begin.json") == identity:
                    return self._keep_whole_segments()
            except (OSError, Damaged) as error:
                log.info("%s: nothing to resume: %s", self._record.clip_id, error)
            shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir()
        write_synced(self._folder / "begin.json", identity)
        return 0

    def _keep_whole_segments(self) -> int:
        done = 0
        while self._segment_is_whole(done):
            done += 1
        for file in [*self._folder.rglob("*/c/*")]:
            if file.name.isdecimal() and file.parent.name == "c" and int(file.name) >= done:
                shutil.rmtree(file) if file.is_dir() else file.unlink()
        for file in self._folder.rglob("zarr.json"):
            file.unlink()
        for spec in clip_arrays(1, format_version=self._target.identity.format_version):
            shutil.rmtree(self._folder / spec.path, ignore_errors=True)
        return done

    def _segment_is_whole(self, number: int) -> bool:
        """Whether a killed writer left a full segment of every view and array of bytes, intact."""
        identity, codec = self._target.identity, self._target.codec
        views = [view for view in range(self._record.num_views) if has_arrays(self._target, view)]
        strings = byte_arrays(self._record.byte_arrays, SEGMENT * (number + 1)).values()
        return bool(views or strings) and (
            all(frames_are_whole(self._folder, identity, codec, view, number) for view in views)
            and not any(
                check_strings(self._folder, spec, number, None, deep=True) for spec in strings
            )
        )

    def append(
        self,
        view: int,
        encoded: Mapping[int, Encoded],
        cls: Mapping[int, Array],
        cls_normed: Array | None,
    ) -> None:
        """Append t >= 1 frames of a view, in frame order.

        Args:
            view: 0 is clean.
            encoded: block -> codes (t, n, d) and scales.
            cls: block -> (t, D) float; {} when the identity keeps none.
            cls_normed: (t, D) float, None when the identity keeps none.

        Raises:
            ValueError: shapes that are not the identity's, or values that float16 cannot hold.
            ClaimHeld: another writer took the clip over, since this one gave no heartbeat for long.
            StoreError: the disk is full, read-only or gone; the store keeps what it had.
        """
        if not self._tracks:
            raise ValueError(f"{self._record.clip_id}: the store keeps neither blocks nor CLS")
        with self._disk_errors():
            self._tracks[view].append(encoded, cls, cls_normed)

    def append_bytes(self, name: str, strings: Sequence[bytes]) -> None:
        """Append the bytes of units to one of the arrays that the clip was begun with, in order.

        Raises:
            ValueError: the clip was begun without the array.
            StoreError: the disk is full, read-only or gone; the store keeps what it had.
        """
        if name not in self._strings:
            raise ValueError(
                f"{self._record.clip_id} was begun with arrays of bytes {sorted(self._strings)}, "
                f"not {name!r}: name it in begin(byte_arrays=...)"
            )
        with self._disk_errors():
            self._strings[name].append(strings)

    def commit(
        self,
        pts: Array,
        frame_index: Array,
        labels: Array,
        flags: Array,
        *,
        stop_pts: Array | None = None,
        source: SourceInfo | None = None,
        rules: int | None = None,
    ) -> ClipRecord:
        """Commit the clip; from then on the store holds all of it, even after a power cut.

        Args:
            pts: (T,) ticks of time_base.
            frame_index: (T,) index in the decoded video.
            labels: (T,) phase, -1 unlabelled.
            flags: (T,) uint8 below 255.
            stop_pts: (T,) ticks at which each unit ends, after its start; None for frames that last
                until the next one, see layout.default_stops.  A store of format 1 keeps none.
            source: the video, where more is known of it than when the clip was begun.
            rules: version of the rules of time and geometry, likewise.

        Returns:
            The record in the store: another writer's where that one committed first.

        Raises:
            ValueError: views or arrays that do not have T frames, or units that end before they
                begin.
            UsageError: a store of format 1 cannot keep the rules, or when units end.
            ClaimHeld: as append.
            StoreError: the disk is full, read-only or gone; nothing is committed.
            Damaged: the clip does not read back as it was written.
        """
        arrays = {"pts": pts, "frame_index": frame_index, "labels": labels, "flags": flags}
        is_first = self._target.identity.format_version == 1
        if stop_pts is not None and is_first and not np.array_equal(stop_pts, default_stops(pts)):
            raise UsageError(
                f"{self._record.clip_id}: a store of format 1 cannot keep when units end; make one "
                "of format 2 of it by `tokenreel store migrate STORE NEW --format 2`"
            )
        if not is_first:
            arrays["stop_pts"] = default_stops(pts) if stop_pts is None else stop_pts
        counts = {track.num_frames for track in self._tracks} | {len(a) for a in arrays.values()}
        counts |= {strings.num_units for strings in self._strings.values()}
        if len(counts) != 1 or counts == {0}:
            raise ValueError(
                f"{self._record.clip_id}: views and arrays differ in frames or have none: {counts}"
            )
        if stop_pts is not None and (np.asarray(stop_pts) <= np.asarray(pts)).any():
            unit = int(np.argmax(np.asarray(stop_pts) <= np.asarray(pts)))
            raise ValueError(f"{self._record.clip_id}: unit {unit} does not end after its start")
        digest = "" if is_first else labels_hash(self._record.phases, np.asarray(labels))
        record = replace(self._record, num_frames=counts.pop(), labels_sha256=digest)
        version = self._target.identity.format_version
        if source is not None:
            record = replace(record, source=source.to_dict(format_version=version))
        if rules is not None:
            record = replace(record, rules=rules)
        record.require_fits(format_version=version)
        with self._disk_errors():
            self._finish(record, arrays)
        identity, codec = self._target.identity, self._target.codec
        problems = check_clip(self._folder, record.key, identity, codec, deep=True)
        if problems:
            raise Damaged(f"{record.clip_id}: written, but reading it back failed: {problems[0]}")
        with self._disk_errors():
            return self._publish(record)

    def _finish(self, record: ClipRecord, arrays: Mapping[str, Array]) -> None:
        seals: dict[str, list[int]] = {}
        for track in self._tracks:
            track.close()
            seals |= track.seals
        for strings in self._strings.values():
            strings.close()
            seals[strings.spec.sums.path] = strings.seals
        identity = self._target.identity
        for spec in clip_arrays(record.num_frames, format_version=identity.format_version):
            seals[spec.path] = []
            (self._folder / spec.path / "c").mkdir(parents=True)
            for number in range(spec.num_files):
                rows = arrays[spec.path][number * spec.rows : (number + 1) * spec.rows]
                data = spec.chunk_bytes(rows)
                seals[spec.path].append(int.from_bytes(data[-4:], "little"))
                write_new(self._folder / spec.chunk_file(number), data)
        specs = all_arrays(identity, self._target.codec, record)
        byte_specs = byte_arrays(record.byte_arrays, record.num_frames)
        every: list[ArraySpec | BytesSpec] = [*specs.values(), *byte_specs.values()]
        for array in every:
            data = canonical_json(array.metadata())
            write_new(self._folder / array.path / "zarr.json", data)
        for group in groups_of([*specs, *byte_specs]):
            write_new(self._folder / group / "zarr.json", group_json())
        write_new(self._folder / "zarr.json", clip_group(record, seals, identity=identity))
        (self._folder / "begin.json").unlink()
        sync_tree(self._folder)

    def _publish(self, record: ClipRecord) -> ClipRecord:
        if self._replaces:
            self._log(record)  # first: of two records in the logs the clip's own counts
        try:
            if self._replaces:
                replace_clip(self._final, self._folder)
            else:
                self._folder.rename(self._final)
        except OSError as error:
            if self._replaces or not self._is_lost(error, record):
                self._require_own(error)
                what = f"{record.clip_id}: cannot commit"
                raise machine_error(error, what) or StoreError(f"{what}: {error}") from error
            self.abort()
            return load_clip(self._final, record.key)[0]
        sync_directory(self._final.parent)
        if not self._replaces:
            self._log(record)
        (self._target.path / "failed" / f"{record.key}.json").unlink(missing_ok=True)
        self._claim.release()
        return record

    def _is_lost(self, error: OSError, record: ClipRecord) -> bool:
        """Whether another writer committed the clip first."""
        return is_made_by_another(error, lambda: is_committed(self._target.path, record.clip_id))

    def _log(self, record: ClipRecord) -> None:
        log_commit(
            self._target.path,
            record,
            writer_name=self._target.writer_name,
            format_version=self._target.identity.format_version,
        )

    def abort(self) -> None:
        """Give the clip up and remove what was written of it."""
        self._drop_tracks()
        shutil.rmtree(self._folder, ignore_errors=True)
        self._claim.release()

    def suspend(self) -> None:
        """Give the clip up but leave its whole segments to the next writer (SIGTERM)."""
        self._drop_tracks()
        self._claim.release()

    def _drop_tracks(self) -> None:
        """Close what is open of the clip that is given up, whatever becomes of it."""
        for track in self._tracks:
            with suppress(OSError):
                track.drop()

    def _require_own(self, error: OSError) -> None:
        """Raise ClaimHeld where an error comes from another writer, who took the clip over."""
        if error.errno == errno.ENOENT and self._claim.is_taken_over:
            raise ClaimHeld(
                f"{self._record.clip_id}: another writer took it over, since this one gave no "
                "heartbeat for long"
            ) from error

    @contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._require_own(error)
            error.filename = error.filename or str(self._target.path)
            what = f"{self._record.clip_id}: cannot write {error.filename}"
            if found := machine_error(error, what):
                raise MachineError(f"{found}; committed clips are whole") from error
            raise StoreError(
                f"{what}: {error.strerror or error}; check that the store exists; committed clips "
                "are whole"
            ) from error


def replace_clip(final: Path, new: Path) -> None:
    """Put the directory of a written clip in the place of the committed one, and remove that.

    The two are exchanged at once.  Where the file system cannot do that, the old one is moved
    aside first; what a kill leaves aside then, restore_replaced brings back.
    """
    aside = set_aside_name(final)
    if not final.exists():
        new.rename(final)
    elif exchange_folders(new, final):
        aside = new
    else:
        final.rename(aside)
        new.rename(final)
    sync_directory(final.parent)
    shutil.rmtree(aside, ignore_errors=True)


def set_aside_name(final: Path) -> Path:
    """Where a clip is while another takes its place; no key of a clip begins with "+"."""
    return final.with_name(f".tmp-+{final.name}")


def restore_replaced(folder: Path, claims: Path) -> None:
    """Bring back the clips of a folder clips/<hh> that a kill left aside, or remove them."""
    for aside in entries_of(folder, ".tmp-+*"):
        final = aside.with_name(aside.name.removeprefix(".tmp-+"))
        if is_live(claims / f"{final.name}.json"):
            continue  # its writer is about to put the other clip in its place
        if final.exists():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            with suppress(OSError):  # another writer was faster
                aside.rename(final)
                sync_directory(folder)


class Track:
    """The frames of one view, segment by segment.

    Tokens are written to their shard at once; the small arrays, a few MB, when the segment is full.

    Attributes:
        num_frames: appended so far, including those of a resumed run.
        seals: array -> crc32c of each chunk file.
    """

    def __init__(self, folder: Path, target: WriteTarget, *, view: int, num_segments: int) -> None:
        self._folder, identity = folder, target.identity
        specs = view_arrays(identity, target.codec, view, SEGMENT)
        self._specs = {spec.path: spec for spec in specs}
        self._base = f"views/{view}"
        self._blocks, self._keeps_cls = identity.blocks, identity.cls != "none"
        self._rows: dict[str, list[Array]] = {}
        self._open: dict[str, int] = {}
        self.num_frames = num_segments * SEGMENT
        self.seals: dict[str, list[int]] = {
            path: [self._seal_of(spec, number) for number in range(num_segments)]
            for path, spec in self._specs.items()
            if not spec.sharded
        }

    def _seal_of(self, spec: ArraySpec, number: int) -> int:
        data = (self._folder / spec.chunk_file(number)).read_bytes()
        return int.from_bytes(data[-4:], "little")

    def append(
        self, encoded: Mapping[int, Encoded], cls: Mapping[int, Array], cls_normed: Array | None
    ) -> None:
        """Append frames; see ClipWriter.append."""
        arrays = self._arrays(encoded, cls, cls_normed)
        total = len(next(iter(arrays.values())))
        for path, array in arrays.items():
            spec = self._specs[path]
            if array.shape != (total, *spec.shape[1:]):
                raise ValueError(f"{path}: {array.shape}, wanted {(total, *spec.shape[1:])}")
            if spec.sharded and array.dtype != np.dtype(spec.dtype):
                raise ValueError(f"{path}: {array.dtype}, wanted {np.dtype(spec.dtype)}")
            if spec.dtype in ("<f2", "<f4") and not np.isfinite(array.astype(spec.dtype)).all():
                raise ValueError(f"{path}: a value that {np.dtype(spec.dtype)} cannot hold")
        start = 0
        while start < total:
            count = min(SEGMENT - self.num_frames % SEGMENT, total - start)
            for path, array in arrays.items():
                self._take(self._specs[path], array[start : start + count])
            start += count
            self.num_frames += count
            if self.num_frames % SEGMENT == 0:
                self._end_segment(SEGMENT)

    def _arrays(
        self, encoded: Mapping[int, Encoded], cls: Mapping[int, Array], cls_normed: Array | None
    ) -> dict[str, Array]:
        arrays: dict[str, Array] = {}
        for block, codes in encoded.items():
            arrays[f"{self._base}/tokens/{block}"] = codes.codes
            if codes.scales is not None:
                arrays[f"{self._base}/scale/{block}"] = codes.scales
        if self._keeps_cls:
            arrays |= {f"{self._base}/cls/{block}": rows for block, rows in cls.items()}
            if cls_normed is not None:
                arrays[f"{self._base}/cls_normed"] = cls_normed
        sums = {f"{self._base}/crc32c/{block}" for block in self._blocks}
        if set(arrays) | sums != set(self._specs):
            raise ValueError(f"given {sorted(arrays)}, wanted {sorted(set(self._specs) - sums)}")
        return arrays

    def _take(self, spec: ArraySpec, rows: Array) -> None:
        if not spec.sharded:
            self._rows.setdefault(spec.path, []).append(np.array(rows, spec.dtype))
            return
        rows = np.ascontiguousarray(rows)
        if spec.path not in self._open:
            path = self._folder / spec.chunk_file(self.num_frames // SEGMENT)
            make_room(self._folder, path)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._open[spec.path] = os.open(path, flags, 0o644)
        write_all(self._open[spec.path], rows.data.cast("B"))
        sums = np.array([crc32c.crc32c(row) for row in rows], "<u4")
        self._rows.setdefault(spec.path.replace("/tokens/", "/crc32c/"), []).append(sums)

    def _end_segment(self, num_frames: int) -> None:
        number = (self.num_frames - 1) // SEGMENT
        for path, handle in self._open.items():
            write_all(handle, memoryview(shard_index(num_frames, self._specs[path].row_bytes)))
        self.drop()
        for path, rows in self._rows.items():
            spec = self._specs[path]
            file = self._folder / spec.chunk_file(number)
            make_room(self._folder, file)
            data = spec.chunk_bytes(np.concatenate(rows))
            write_new(file, data)
            self.seals[path].append(int.from_bytes(data[-4:], "little"))
        self._rows = {}

    def close(self) -> None:
        """Write the last segment if it is partly filled."""
        if self.num_frames % SEGMENT:
            self._end_segment(self.num_frames % SEGMENT)

    def drop(self) -> None:
        """Close the open shards.

        Raises:
            OSError: what was written cannot be kept: a client of NFS may say so only now.
        """
        handles, self._open = list(self._open.values()), {}
        with ExitStack() as stack:
            for handle in handles:
                stack.callback(os.close, handle)
