"""Writing a store: one writer a process, one clip at a time, committed whole.

    temporary directory -> segments of 64 frames -> flush every file and directory -> read back and
    check -> rename -> flush the parent -> one line in this writer's own log

A kill loses at most the open segment: the next writer of the clip takes over the directory and the
segments that are whole.  Two writers of one clip: the rename decides, the other discards its own.
"""

import logging
import os
import shutil
import threading
import uuid
from collections.abc import Mapping
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

from tokenreel.cache.claims import Claim, ClaimHeld, take_claim
from tokenreel.cache.clipfiles import (
    all_arrays,
    check_clip,
    frames_are_whole,
    groups_of,
    load_clip,
    read_bytes,
)
from tokenreel.cache.codec import Encoded, codec_from_recipe
from tokenreel.cache.codec.base import Array
from tokenreel.cache.errors import Damaged, StoreError
from tokenreel.cache.files import (
    make_directory,
    sweep_temporary,
    sync_directory,
    sync_tree,
    write_new,
    write_synced,
)
from tokenreel.cache.layout import SEGMENT, clip_arrays, group_json
from tokenreel.cache.manifest import Clip
from tokenreel.cache.recipe import canonical_json
from tokenreel.cache.records import ClipRecord, SourceInfo, clip_key, folder_of, seal
from tokenreel.cache.store import create_store, load_arrays, load_recipe, record_failure
from tokenreel.cache.tracks import Track

__all__ = ["ClaimHeld", "ClipWriter", "SourceInfo", "StoreWriter", "create_store", "record_failure"]

log = logging.getLogger(__name__)


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
        self, path: str | Path, *, writer_id: str, expiry_seconds: float = 300,
        sweep_seconds: float = 7 * 86400,
    ) -> None:  # fmt: skip
        if not writer_id.replace("-", "").replace("_", "").isalnum():
            raise ValueError(f"writer_id {writer_id!r}: letters, digits, '-' and '_' only")
        self.path = Path(path)
        self.recipe, _ = load_recipe(self.path)
        self.codec = codec_from_recipe(self.recipe.codec, load_arrays(self.path / "calibration"))
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
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
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
        self, clip: Clip, *, dataset: str, phases: tuple[str, ...], source: SourceInfo,
        time_base: Fraction,
    ) -> "ClipWriter":  # fmt: skip
        """Claim a clip and open it, on top of what a killed run left of it.

        Raises:
            ClaimHeld: another live writer works on it, or it is committed.
        """
        key = clip_key(clip.clip_id)
        claim = take_claim(
            self.path / "claims", key, owner=self.name, expiry_seconds=self._expiry_seconds
        )
        if self.is_committed(clip.clip_id):
            claim.release()
            raise ClaimHeld(f"{clip.clip_id}: already committed")
        self._claims[key] = claim
        record = ClipRecord(
            clip_id=clip.clip_id, key=key, dataset=dataset, video=clip.video, split=clip.split,
            action=clip.action, group=clip.group, phases=phases, num_frames=0,
            num_views=self.recipe.num_views, start_seconds=clip.start_seconds,
            stop_seconds=clip.stop_seconds, source=asdict(source),
            time_base=(time_base.numerator, time_base.denominator),
        )  # fmt: skip
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


class ClipWriter:
    """One clip on its way into the store.

    Attributes:
        resume_frames: frames of each view that a killed run left whole; append continues there.
    """

    def __init__(self, store: StoreWriter, record: ClipRecord) -> None:
        self._store, self._record = store, record
        self._final = store.path / folder_of(record.key)
        self._folder = self._final.with_name(f".tmp-{record.key}-{store.name}")
        make_directory(self._final.parent)
        done = self._take_over()
        self.resume_frames = done * SEGMENT
        self._tracks = [
            Track(self._folder, store.recipe, store.codec, view=view, num_segments=done)
            for view in range(record.num_views)
        ]

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
            frames_are_whole(self._folder, store.recipe, store.codec, view, done) for view in views
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
        self, view: int, encoded: Mapping[int, Encoded], cls: Mapping[int, Array],
        cls_normed: Array | None,
    ) -> None:  # fmt: skip
        """Append t >= 1 frames of a view, in frame order.

        Args:
            view: 0 is clean.
            encoded: block -> codes (t, n, d) and scales.
            cls: block -> (t, D) float; {} when the recipe keeps none.
            cls_normed: (t, D) float, None when the recipe keeps none.

        Raises:
            ValueError: shapes that are not the recipe's, or values that float16 cannot hold.
        """
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
            Damaged: what was written does not read back.
        """
        arrays = {"pts": pts, "frame_index": frame_index, "labels": labels, "flags": flags}
        counts = {track.num_frames for track in self._tracks} | {len(a) for a in arrays.values()}
        if len(counts) != 1 or counts == {0}:
            raise ValueError(f"{self._record.clip_id}: views and arrays have {counts} frames")
        record = ClipRecord(**{**self._record.to_dict(), "num_frames": counts.pop(),
                               "phases": self._record.phases,
                               "time_base": self._record.time_base})  # fmt: skip
        self._finish(record, arrays)
        problems = check_clip(
            self._folder, record.key, self._store.recipe, self._store.codec, deep=True
        )
        if problems:
            raise Damaged(f"{record.clip_id}: written but not readable: {problems[0]}")
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
        specs = all_arrays(self._store.recipe, self._store.codec, record)
        for spec in specs.values():
            data = canonical_json(spec.metadata())
            write_new(self._folder / spec.path / "zarr.json", data)
        for group in groups_of(specs):
            write_new(self._folder / group / "zarr.json", group_json())
        values: dict[str, Any] = {"record": record.to_dict(), "seals": seals}
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
