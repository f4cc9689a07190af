"""Write a clip: append its frames in order, then commit it or record it in quarantine."""

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.errors import ClipFailed
from tokenreel.cache.format.clip import SourceInfo
from tokenreel.cache.format.store_files import record_failure
from tokenreel.cache.manifest import Clip, Manifest
from tokenreel.cache.write.claims import ClaimHeld
from tokenreel.cache.write.clip_writer import ClipWriter
from tokenreel.cache.write.store_writer import StoreWriter
from tokenreel.extract.decode_pool.pool import Attempt
from tokenreel.extract.encode.quantiser import EncodedView
from tokenreel.extract.flow.labels import check_reach, frame_labels
from tokenreel.extract.flow.windows import Windows
from tokenreel.extract.report import ExtractReport
from tokenreel.extract.video.source import decoder_version
from tokenreel.extract.video.types import VideoInfo

log = logging.getLogger(__name__)

WINDOWS_OF_FRAMES = Windows()

Frames = tuple[NDArray[np.int64], NDArray[np.int64]]  # pts and index


@dataclass
class OpenClip:
    """A clip that is claimed and being extracted.

    Attributes:
        clip: of the manifest.
        source: the video, as the clip's record describes it.
        info: header of the video.
        writer: None once the clip has ended.
        resume_frames: frames that an earlier, killed run has left on disk in whole segments.
        attempt: number of the decode attempt of the last chunk received.
        pts, index: of the frames received in this attempt, chunk by chunk.
        num_written: frames on disk, of the attempt `written_attempt`.
        frames: pts and index of the whole clip, once it is decoded.
        failed: whether it has been given up.
        is_cut: whether the run is stopping and this clip needs no more frames in it.
    """

    clip: Clip
    source: SourceInfo
    info: VideoInfo
    writer: ClipWriter | None
    resume_frames: int
    attempt: int = 1
    pts: list[NDArray[np.int64]] = field(default_factory=list)
    index: list[NDArray[np.int64]] = field(default_factory=list)
    num_written: int = 0
    written_attempt: int = 1
    frames: Frames | None = None
    failed: bool = False
    is_cut: bool = False

    @property
    def num_frames(self) -> int:
        """Frames received so far in this attempt."""
        return sum(len(part) for part in self.pts)


class ClipCommits:
    """Writes clips to a store; one thread writes all of a clip, several threads several clips.

    Args:
        manifest: for the data set's name and its phases.
        store: directory of the store.
        report: updated.
        is_sampled: whether frames are sampled: they may repeat, and need not reach the end.
        windows: of the backbone.
    """

    def __init__(
        self,
        manifest: Manifest,
        store: Path,
        report: ExtractReport,
        *,
        is_sampled: bool = False,
        windows: Windows = WINDOWS_OF_FRAMES,
    ) -> None:
        self._is_sampled, self._windows = is_sampled, windows
        self._manifest, self._store, self._report = manifest, store, report
        self._writer = StoreWriter(store, writer_id=f"extract-{os.getpid()}")

    def __enter__(self) -> "ClipCommits":
        self._writer.__enter__()
        return self

    def suspend(self, entries: Iterable[OpenClip]) -> None:
        """Release the clips that have not ended; their whole segments stay on disk."""
        for entry in entries:
            if entry.writer is not None:
                entry.writer.suspend()
        self._writer.__exit__(None, None, None)

    def is_committed(self, clip_id: str) -> bool:
        """Whether the clip is committed to the store."""
        return self._writer.is_committed(clip_id)

    def begin(self, clip: Clip, source: SourceInfo, info: VideoInfo) -> OpenClip:
        """Claim a clip.

        Raises:
            ClaimHeld: another writer has claimed it.
        """
        writer = self._begin(clip, source, info)
        done = writer.resume_frames
        return OpenClip(clip, source, info, writer, done, num_written=done)

    def write(
        self,
        entry: OpenClip,
        encode: Callable[[int], Sequence[EncodedView]],
        attempt: Attempt,
        *,
        first: int,
        count: int,
    ) -> None:
        """Append frames; commit the clip if these were the last missing.

        Args:
            entry: the clip.
            encode: called with a number of leading frames to leave out; returns the views.
            attempt: that decoded the frames.
            first: index of the first frame in the clip.
            count: number of frames.

        Raises:
            StoreError: the disk is full, read-only or gone.
        """
        if not self._is_open(entry, attempt):
            return
        assert entry.writer is not None
        known = entry.num_written - first  # frames that are already on disk
        if known >= count:
            return
        try:
            views = encode(known)
        except ValueError as error:
            self.fail(entry, "encode", str(error))
            return
        count -= known
        try:
            for number, view in enumerate(views):
                entry.writer.append(number, view.encoded, view.cls, view.cls_normed)
        except ValueError as error:
            self.fail(entry, "write", str(error))
            return
        entry.num_written += count
        self._report.wrote(count, sum(view.num_bytes for view in views))
        self._commit_if_whole(entry)

    def fail(
        self, entry: OpenClip, stage: str, reason: str, details: dict[str, object] | None = None
    ) -> None:
        """Put a clip in quarantine."""
        if entry.failed:
            return
        entry.failed = True
        if entry.writer is not None:
            entry.writer.abort()
            entry.writer = None
        self.record(entry.clip, stage, reason, details or {"decoder": entry.source.decoder})

    def close(self, entry: OpenClip, frames: Frames, attempt: Attempt) -> None:
        """Record the frames of the decoded clip; commit it if all of them are written."""
        if self._is_open(entry, attempt):
            entry.frames = frames
            self._commit_if_whole(entry)

    def _commit_if_whole(self, entry: OpenClip) -> None:
        if entry.failed or entry.writer is None or entry.frames is None:
            return
        pts, index = entry.frames
        if entry.num_written < self._windows.rows_of(len(pts)):
            return
        rows, base = self._windows.in_time(pts, index), float(entry.info.time_base)
        distinct = np.unique(pts)
        try:
            if not self._is_sampled:
                check_reach(entry.clip, distinct.astype(np.float64) * base)
            labels = frame_labels(entry.clip, rows.middle_pts * base, is_sampled=self._is_sampled)
        except ClipFailed as error:
            self.fail(entry, error.stage, error.reason)
            return
        flags = np.zeros(len(rows.pts), np.uint8)
        entry.writer.commit(rows.pts, rows.index, labels, flags, stop_pts=rows.stop_pts)
        entry.writer = None
        self._report.committed.append(entry.clip.clip_id)
        self._report.num_frames += len(rows.pts)
        self._report.num_repeated += len(pts) - len(distinct)

    def record(self, clip: Clip, stage: str, reason: str, details: Mapping[str, object]) -> None:
        """Record a failure in the report and in the store's quarantine."""
        log.warning("%s: %s: %s", clip.clip_id, stage, reason)
        self._report.failed.append(ClipFailed(clip.clip_id, stage=stage, reason=reason))
        record_failure(
            self._store,
            clip.clip_id,
            stage=stage,
            reason=reason,
            details={**details, "video": clip.video},
        )

    def _begin(self, clip: Clip, source: SourceInfo, info: VideoInfo) -> ClipWriter:
        return self._writer.begin(
            clip,
            dataset=self._manifest.dataset,
            phases=tuple(self._manifest.phases.get(clip.action, ())),
            source=source,
            time_base=info.time_base,
        )

    def _is_open(self, entry: OpenClip, attempt: Attempt) -> bool:
        """Whether frames of an attempt may be written; the second attempt restarts the clip."""
        if entry.failed or attempt.number < entry.written_attempt:
            return False
        if attempt.number == entry.written_attempt:
            return entry.writer is not None
        if entry.writer is not None:
            entry.writer.abort()
        entry.source = replace(  # the record must name the decoder of its frames
            entry.source, decoder=attempt.decoder, decoder_version=decoder_version(attempt.decoder)
        )
        try:
            entry.writer = self._begin(entry.clip, entry.source, entry.info)
        except ClaimHeld as held:
            log.info("%s", held)
            entry.failed, entry.writer = True, None
            self._report.skipped.append(entry.clip.clip_id)
            return False
        entry.written_attempt, entry.num_written = attempt.number, 0
        return True
