"""One clip on its way into a store: segments of 64 frames, then one commit."""

import errno
import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tokenreel.cache.codec import Encoded
from tokenreel.cache.codec.base import Array
from tokenreel.cache.errors import Damaged, StoreError
from tokenreel.cache.files import make_directory, sync_directory, sync_tree, write_new, write_synced
from tokenreel.cache.format.clip_files import (
    all_arrays,
    check_clip,
    frames_are_whole,
    groups_of,
    load_clip,
    read_bytes,
)
from tokenreel.cache.format.clip_record import ClipRecord, folder_of, seal
from tokenreel.cache.format.identity import canonical_json
from tokenreel.cache.format.layout import SEGMENT, clip_arrays, group_json
from tokenreel.cache.write.view_writer import Track

if TYPE_CHECKING:
    from tokenreel.cache.write.store_writer import StoreWriter

__all__ = ["ClipWriter"]

log = logging.getLogger(__name__)

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class ClipWriter:
    """One clip on its way into the store; StoreWriter.begin makes it.

    Attributes:
        resume_frames: frames of each view that a killed run left whole; append continues there.
    """

    def __init__(self, store: "StoreWriter", record: ClipRecord) -> None:
        self._store, self._record = store, record
        self._final = store.path / folder_of(record.key)
        self._folder = self._final.with_name(f".tmp-{record.key}-{store.name}")
        with self._disk_errors():
            make_directory(self._final.parent)
            done = self._take_over()
            self._tracks = [
                Track(self._folder, store.identity, store.codec, view=view, num_segments=done)
                for view in range(record.num_views)
            ]
        self.resume_frames = done * SEGMENT

    def _take_over(self) -> int:
        """Move what a dead writer left to a directory of our own; segments that are whole."""
        identity = canonical_json(seal({"record": self._record.to_dict()}))
        for left in sorted(self._final.parent.glob(f".tmp-{self._record.key}-*")):
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
        store, done = self._store, 0
        views = range(self._record.num_views)
        while all(
            frames_are_whole(self._folder, store.identity, store.codec, view, done)
            for view in views
        ):
            done += 1
        for file in [*self._folder.rglob("*/c/*")]:
            if file.name.isdecimal() and file.parent.name == "c" and int(file.name) >= done:
                shutil.rmtree(file) if file.is_dir() else file.unlink()
        for file in self._folder.rglob("zarr.json"):
            file.unlink()
        for spec in clip_arrays(1):
            shutil.rmtree(self._folder / spec.path, ignore_errors=True)
        return done

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
            StoreError: the disk is full, read-only or gone; the store keeps what it had.
        """
        with self._disk_errors():
            self._tracks[view].append(encoded, cls, cls_normed)

    def commit(self, pts: Array, frame_index: Array, labels: Array, flags: Array) -> ClipRecord:
        """Commit the clip: afterwards it is in the store whole, also after a power cut.

        Args:
            pts: (T,) ticks of time_base.
            frame_index: (T,) index in the decoded video.
            labels: (T,) phase, -1 unlabelled.
            flags: (T,) uint8 below 255.

        Returns:
            The record: the other writer's when it was faster.

        Raises:
            ValueError: views or arrays that do not have T frames.
            StoreError: the disk is full, read-only or gone; nothing is committed.
            Damaged: what was written does not read back.
        """
        arrays = {"pts": pts, "frame_index": frame_index, "labels": labels, "flags": flags}
        counts = {track.num_frames for track in self._tracks} | {len(a) for a in arrays.values()}
        if len(counts) != 1 or counts == {0}:
            raise ValueError(f"{self._record.clip_id}: views and arrays have {counts} frames")
        record = ClipRecord(
            **{
                **self._record.to_dict(),
                "num_frames": counts.pop(),
                "phases": self._record.phases,
                "time_base": self._record.time_base,
            }
        )
        with self._disk_errors():
            self._finish(record, arrays)
        problems = check_clip(
            self._folder, record.key, self._store.identity, self._store.codec, deep=True
        )
        if problems:
            raise Damaged(f"{record.clip_id}: written but not readable: {problems[0]}")
        with self._disk_errors():
            return self._publish(record)

    def _finish(self, record: ClipRecord, arrays: Mapping[str, Array]) -> None:
        seals: dict[str, list[int]] = {}
        for track in self._tracks:
            track.close()
            seals |= track.seals
        for spec in clip_arrays(record.num_frames):
            seals[spec.path] = []
            (self._folder / spec.path / "c").mkdir(parents=True)
            for number in range(spec.num_files):
                rows = arrays[spec.path][number * spec.rows : (number + 1) * spec.rows]
                data = spec.chunk_bytes(rows)
                seals[spec.path].append(int.from_bytes(data[-4:], "little"))
                write_new(self._folder / spec.chunk_file(number), data)
        specs = all_arrays(self._store.identity, self._store.codec, record)
        for spec in specs.values():
            data = canonical_json(spec.metadata())
            write_new(self._folder / spec.path / "zarr.json", data)
        for group in groups_of(specs):
            write_new(self._folder / group / "zarr.json", group_json())
        values: dict[str, Any] = {
            "record": record.to_dict(),
            "seals": seals,
            "fingerprint": self._store.identity.fingerprint,
        }
        write_new(self._folder / "zarr.json", group_json({"tokenreel": seal(values)}))
        (self._folder / "begin.json").unlink()
        sync_tree(self._folder)

    def _publish(self, record: ClipRecord) -> ClipRecord:
        try:
            self._folder.rename(self._final)
        except OSError as error:
            if not self._store.is_committed(record.clip_id):
                raise StoreError(f"{record.clip_id}: cannot commit: {error}") from error
            self.abort()
            return load_clip(self._final, record.key)[0]
        sync_directory(self._final.parent)
        self._store.log_commit(record)
        (self._store.path / "failed" / f"{record.key}.json").unlink(missing_ok=True)
        self._store.release(record.key)
        return record

    def abort(self) -> None:
        """Give the clip up and remove what was written of it."""
        for track in self._tracks:
            track.drop()
        shutil.rmtree(self._folder, ignore_errors=True)
        self._store.release(self._record.key)

    def suspend(self) -> None:
        """Give the clip up but leave its whole segments for whoever comes next (SIGTERM)."""
        for track in self._tracks:
            track.drop()
        self._store.release(self._record.key)

    @contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            advice = (
                "make room and run the same command again"
                if error.errno in FULL
                else ("see that the store is there and may be written")
            )
            raise StoreError(
                f"{self._record.clip_id}: cannot write {error.filename or self._store.path}: "
                f"{error.strerror or error}; {advice}; committed clips are whole"
            ) from error
