"""The writing end of a clip: its frames in order, then a commit or a quarantine record."""

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.errors import ClipFailed
from tokenreel.cache.manifest import Clip, Manifest
from tokenreel.cache.write.store_writer import (
    ClaimHeld,
    ClipWriter,
    SourceInfo,
    StoreWriter,
    record_failure,
)
from tokenreel.extract.encode.quantiser import EncodedView
from tokenreel.extract.flow.labels import check_reach, frame_labels
from tokenreel.extract.report import ExtractReport
from tokenreel.extract.video.decode import VideoInfo
from tokenreel.extract.video.source import decoder_version

__all__ = ["ClipCommits", "Entry"]

log = logging.getLogger(__name__)

Frames = tuple[NDArray[np.int64], NDArray[np.int64]]  # pts and index


@dataclass
class Entry:
    """A clip on its way.

    Attributes:
        clip: of the manifest.
        source: as its record names it.
        info: header of the video.
        writer: None once the clip has ended.
        resume_frames: frames that a killed run left whole.
        attempt: of decoding, as far as it is heard.
        pts, index: of the frames heard of in this attempt, in parts.
        num_written: frames on disk, of the attempt `written_attempt`.
        frames: pts and index of the whole clip, once it is decoded.
        failed: whether it has been given up.
        is_cut: whether the run ends before it: its later frames are not for this run.
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
        """Frames heard of so far in this attempt."""
        return sum(len(part) for part in self.pts)


class ClipCommits:
    """Writes clips to a store; each clip in one thread, different clips in different ones.

    Args:
        manifest: for the phases.
        store: its directory.
        report: filled in.
    """

    def __init__(self, manifest: Manifest, store: Path, report: ExtractReport) -> None:
        self._manifest, self._store, self._report = manifest, store, report
        self._writer = StoreWriter(store, writer_id=f"extract-{os.getpid()}")

    def __enter__(self) -> "ClipCommits":
        self._writer.__enter__()
        return self

    def suspend(self, entries: Iterable[Entry]) -> None:
        """Give up the clips that have not ended, but not their whole segments."""
        for entry in entries:
            if entry.writer is not None:
                entry.writer.suspend()
        self._writer.__exit__(None, None, None)

    def is_committed(self, clip_id: str) -> bool:
        """Whether the clip is in the store, whole."""
        return self._writer.is_committed(clip_id)

    def begin(self, clip: Clip, source: SourceInfo, info: VideoInfo) -> Entry:
        """Claim a clip.

        Raises:
            ClaimHeld: another writer works on it.
        """
        writer = self._begin(clip, source, info)
        done = writer.resume_frames
        return Entry(clip, source, info, writer, done, num_written=done)

    def write(
        self,
        entry: Entry,
        encode: Callable[[int], Sequence[EncodedView]],
        *,
        attempt: int,
        decoder: str,
        first: int,
        count: int,
    ) -> None:
        """Append frames; commit the clip if they are the last missing.

        Args:
            entry: the clip.
            encode: gives the views of the frames, but for so many of the first.
            attempt: of which they are.
            decoder: of the attempt.
            first: place of the first in the clip.
            count: how many.

        Raises:
            StoreError: the disk is full, read-only or gone.
        """
        if not self._is_open(entry, attempt, decoder):
            return
        assert entry.writer is not None
        known = entry.num_written - first  # frames that are on disk already
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
        self, entry: Entry, stage: str, reason: str, details: dict[str, object] | None = None
    ) -> None:
        """Put a clip in quarantine."""
        if entry.failed:
            return
        entry.failed = True
        if entry.writer is not None:
            entry.writer.abort()
            entry.writer = None
        self.record(entry.clip, stage, reason, details or {"decoder": entry.source.decoder})

    def close(self, entry: Entry, frames: Frames, *, attempt: int, decoder: str) -> None:
        """The clip has these frames; commit it, if all are written."""
        if self._is_open(entry, attempt, decoder):
            entry.frames = frames
            self._commit_if_whole(entry)

    def _commit_if_whole(self, entry: Entry) -> None:
        if entry.failed or entry.writer is None or entry.frames is None:
            return
        pts, index = entry.frames
        if entry.num_written < len(pts):
            return
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

    def record(self, clip: Clip, stage: str, reason: str, details: Mapping[str, object]) -> None:
        """Note a failure in the report and in the store's quarantine."""
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

    def _is_open(self, entry: Entry, attempt: int, decoder: str) -> bool:
        """Whether an attempt's frames may be written; the second begins the clip anew."""
        if entry.failed or attempt < entry.written_attempt:
            return False
        if attempt == entry.written_attempt:
            return entry.writer is not None
        if entry.writer is not None:
            entry.writer.abort()
        entry.source = replace(  # the record must name its decoder
            entry.source, decoder=decoder, decoder_version=decoder_version(decoder)
        )
        try:
            entry.writer = self._begin(entry.clip, entry.source, entry.info)
        except ClaimHeld as held:
            log.info("%s", held)
            entry.failed, entry.writer = True, None
            self._report.skipped.append(entry.clip.clip_id)
            return False
        entry.written_attempt, entry.num_written = attempt, 0
        return True
