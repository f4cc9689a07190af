"""The clips of a run: which are to be done, how far each is, how each ends."""

import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.errors import ClipFailed
from tokenreel.cache.manifest import Clip, Manifest
from tokenreel.cache.recipe import StoreRecipe
from tokenreel.cache.writer import (
    ClaimHeld,
    ClipWriter,
    SourceInfo,
    StoreWriter,
    record_failure,
)
from tokenreel.extract.config import ExtractConfig
from tokenreel.extract.encode import EncodedView
from tokenreel.extract.labels import check_reach, frame_labels
from tokenreel.extract.report import ExtractReport
from tokenreel.extract.sampling import job_for
from tokenreel.extract.sources import SourceFiles, decoder_version
from tokenreel.extract.supervisor import DecodedBatch
from tokenreel.extract.video import VideoError, VideoInfo
from tokenreel.extract.worker import ClipFailure, DecodeJob

__all__ = ["ClipBook", "Entry"]

log = logging.getLogger(__name__)


@dataclass
class Entry:
    """A clip on its way.  `writer` is None once it has ended."""

    clip: Clip
    source: SourceInfo
    info: VideoInfo
    writer: ClipWriter | None
    resume_frames: int
    attempt: int = 1
    failed: bool = False
    pts: list[NDArray[np.int64]] = field(default_factory=list)
    index: list[NDArray[np.int64]] = field(default_factory=list)

    @property
    def num_frames(self) -> int:
        """Frames heard of so far in this attempt."""
        return sum(len(part) for part in self.pts)


class ClipBook:
    """Opens clips as workers ask for them, and closes each by a commit or a quarantine record.

    Args:
        manifest: for the root and the phases.
        config: of the extraction.
        recipe: of the store.
        store: its directory.
        report: filled in.
        part: the clips of this shard.
    """

    def __init__(
        self,
        manifest: Manifest,
        config: ExtractConfig,
        recipe: StoreRecipe,
        store: Path,
        report: ExtractReport,
        *,
        part: Sequence[Clip],
    ) -> None:
        self._manifest, self._config, self._recipe = manifest, config, recipe
        self._store, self._report, self._part = store, report, part
        self._entries: list[Entry] = []
        self._sources = SourceFiles(manifest.root)
        self._writer = StoreWriter(store, writer_id=f"extract-{os.getpid()}")

    def __enter__(self) -> "ClipBook":
        self._writer.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        for entry in self._entries:
            if entry.writer is not None:
                entry.writer.suspend()
        self._writer.__exit__(None, None, None)

    def entry(self, position: int) -> Entry:
        """The clip of a job."""
        return self._entries[position]

    def jobs(self, stopping: threading.Event) -> Iterator[DecodeJob]:
        """Open clip after clip, the longest first, and yield what is left to decode of each."""
        for clip in sorted(self._part, key=self._length, reverse=True):
            if stopping.is_set():
                return
            if self._writer.is_committed(clip.clip_id):
                self._report.skipped.append(clip.clip_id)
                continue
            try:
                entry = self._open(clip)
            except VideoError as error:
                self._record(clip, error.stage, str(error), {"decoder": self._config.decoder})
            except ClaimHeld as held:
                log.info("%s", held)
                self._report.skipped.append(clip.clip_id)
            else:
                self._entries.append(entry)
                whole = entry.resume_frames // self._config.batch_frames
                skip = whole * self._config.batch_frames
                yield job_for(
                    clip, self._manifest.root, self._config, self._recipe, skip_frames=skip
                )

    def accepts(self, entry: Entry, batch: DecodedBatch) -> bool:
        """Take note of a batch's frames; whether they need the backbone."""
        if entry.failed:
            batch.release()
            return False
        if batch.attempt != entry.attempt:
            entry.attempt, entry.resume_frames, entry.pts, entry.index = batch.attempt, 0, [], []
        entry.pts.append(batch.pts)
        entry.index.append(batch.index)
        if batch.images is None or entry.num_frames <= entry.resume_frames:
            batch.release()
            return False
        return True

    def writing(
        self, entry: Entry, batch: DecodedBatch, views: Sequence[EncodedView]
    ) -> Callable[[], None]:
        """The task that appends a batch to the clip."""
        first = max(0, entry.resume_frames - (entry.num_frames - len(batch.pts)))
        decoder = batch.decoder

        def write() -> None:
            if entry.failed:
                return
            if decoder != entry.source.decoder:
                self._begin_again(entry, decoder)
            assert entry.writer is not None
            try:
                for number, view in enumerate(views):
                    part = view.rows_from(first)
                    entry.writer.append(number, part.encoded, part.cls, part.cls_normed)
                    self._report.num_bytes += part.num_bytes
            except ValueError as error:
                self.fail(entry, "write", str(error))

        return write

    def closing(self, entry: Entry, batch: DecodedBatch) -> Callable[[], None]:
        """The task that commits the clip, or records why not."""
        end = batch.end
        if isinstance(end, ClipFailure):
            details: dict[str, object] = {
                "decoder": batch.decoder,
                "frame": end.frame,
                "decode_attempts": list(batch.failures),
            }
            reason = "; ".join(batch.failures) or end.reason
            return lambda: self.fail(entry, end.stage, reason, details)
        return lambda: self._commit(entry)

    def fail(
        self, entry: Entry, stage: str, reason: str, details: dict[str, object] | None = None
    ) -> None:
        """Put a clip in quarantine; call in the writing thread."""
        if entry.failed:
            return
        entry.failed = True
        if entry.writer is not None:
            entry.writer.abort()
            entry.writer = None
        self._record(entry.clip, stage, reason, details or {"decoder": entry.source.decoder})

    def _commit(self, entry: Entry) -> None:
        if entry.failed or entry.writer is None:
            return
        pts, index = np.concatenate(entry.pts), np.concatenate(entry.index)
        times = pts.astype(np.float64) * float(entry.info.time_base)
        try:
            check_reach(entry.clip, times)
            labels = frame_labels(entry.clip, times)
        except ClipFailed as error:
            self.fail(entry, error.stage, error.reason)
            return
        entry.writer.commit(pts, index, labels, np.zeros(len(pts), np.uint8))
        entry.writer = None
        self._report.committed.append(entry.clip.clip_id)
        self._report.num_frames += len(pts)

    def _record(self, clip: Clip, stage: str, reason: str, details: dict[str, object]) -> None:
        log.warning("%s: %s: %s", clip.clip_id, stage, reason)
        self._report.failed.append(ClipFailed(clip.clip_id, stage=stage, reason=reason))
        record_failure(
            self._store,
            clip.clip_id,
            stage=stage,
            reason=reason,
            details=details | {"video": clip.video},
        )

    def _open(self, clip: Clip) -> Entry:
        source, info = self._sources.examine(clip.video, self._config.decoder)
        writer = self._begin(clip, source, info)
        return Entry(clip, source, info, writer, writer.resume_frames)

    def _begin(self, clip: Clip, source: SourceInfo, info: VideoInfo) -> ClipWriter:
        return self._writer.begin(
            clip,
            dataset=self._manifest.dataset,
            phases=tuple(self._manifest.phases.get(clip.action, ())),
            source=source,
            time_base=info.time_base,
        )

    def _begin_again(self, entry: Entry, decoder: str) -> None:
        """Start a clip anew for the second attempt: the record must name its decoder."""
        if entry.writer is not None:
            entry.writer.abort()
        entry.source = replace(
            entry.source, decoder=decoder, decoder_version=decoder_version(decoder)
        )
        entry.writer = self._begin(entry.clip, entry.source, entry.info)

    def _length(self, clip: Clip) -> float:
        """Bytes to read of a clip, about: known without opening it."""
        try:
            return float((self._manifest.root / clip.video).stat().st_size)
        except OSError:
            return 0.0
