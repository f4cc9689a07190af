"""The clips of a run: which are to be done, in what order, and how far the decoding of each is."""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from tokenreel.cache.errors import ClipFailed
from tokenreel.cache.format.identity import StoreIdentity
from tokenreel.cache.format.layout import SEGMENT
from tokenreel.cache.format.store_files import read_failures
from tokenreel.cache.manifest import Clip, Manifest
from tokenreel.cache.write.store_writer import ClaimHeld
from tokenreel.extract.config import ExtractConfig
from tokenreel.extract.decode_pool.calibration_frames import job_for
from tokenreel.extract.decode_pool.pool import DecodedBatch
from tokenreel.extract.decode_pool.worker import ClipEnd, ClipFailure, DecodeJob
from tokenreel.extract.flow.commits import ClipCommits, Entry
from tokenreel.extract.report import ExtractReport
from tokenreel.extract.video.decode import VideoError
from tokenreel.extract.video.source import SourceFiles

__all__ = ["ClipBook"]

log = logging.getLogger(__name__)


class ClipBook:
    """Opens clips as workers ask for them; each ends by a commit or a quarantine record.

    One thread calls its methods: the one that hears the decoders.  What `ended` returns, and
    `commits.write`, runs in one writing thread for each clip, in order.

    Args:
        manifest: for the root and the phases.
        config: of the extraction.
        identity: of the store.
        store: its directory.
        report: filled in.
        part: the clips of this shard.
        align: frames on disk are decoded again from a multiple of this on; 1: none is.
        retries: whether clips in quarantine are tried; otherwise they are only reported.
    """

    def __init__(
        self,
        manifest: Manifest,
        config: ExtractConfig,
        identity: StoreIdentity,
        store: Path,
        report: ExtractReport,
        *,
        part: Sequence[Clip],
        align: int = 1,
        retries: bool = False,
    ) -> None:
        self._manifest, self._config, self._identity = manifest, config, identity
        self._store, self._report, self._part = store, report, part
        self._align, self._retries = align, retries
        self._entries: list[Entry] = []
        self._sources = SourceFiles(manifest.root)
        self._is_ending = False
        self.commits = ClipCommits(manifest, store, report)

    def __enter__(self) -> "ClipBook":
        self.commits.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.commits.suspend(self._entries)

    def entry(self, position: int) -> Entry:
        """The clip of a job."""
        return self._entries[position]

    def jobs(self, stopping: threading.Event) -> Iterator[DecodeJob]:
        """Open clip after clip, and yield what is left to decode of each.

        The longest videos come first, so that none is left for the end; the clips of one video
        are neighbours, in order of time, so that its index is read while it is remembered.
        """
        for clip in self._left_to_do():
            if stopping.is_set() or self._fails_too_often():
                return
            try:
                source, info = self._sources.examine(clip.video, self._config.decoder)
                entry = self.commits.begin(clip, source, info)
            except VideoError as error:
                details = {"decoder": self._config.decoder, "frame": error.frame}
                self.commits.record(clip, error.stage, str(error), details)
            except ClaimHeld as held:
                log.info("%s", held)
                self._report.skipped.append(clip.clip_id)
            else:
                self._entries.append(entry)
                skip = entry.resume_frames // self._align * self._align
                yield job_for(
                    clip, self._manifest.root, self._config, self._identity, skip_frames=skip
                )

    def _fails_too_often(self) -> bool:
        """Whether the run is about to end: a disk that is gone must not put all in quarantine."""
        limit = self._config.max_failures
        return limit is not None and len(self._report.failed) > limit

    def _left_to_do(self) -> list[Clip]:
        """Clips that are neither committed nor in quarantine, in the order to do them."""
        quarantine = {} if self._retries else {f["clip_id"]: f for f in read_failures(self._store)}
        left = []
        for clip in self._part:
            if self.commits.is_committed(clip.clip_id):
                self._report.skipped.append(clip.clip_id)
            elif clip.clip_id in quarantine:
                found = quarantine[clip.clip_id]
                failure = ClipFailed(clip.clip_id, stage=found["stage"], reason=found["reason"])
                log.warning("in quarantine, not tried again: %s", failure)
                self._report.quarantined.append(failure)
            else:
                left.append(clip)
        return sorted(left, key=self._turn)

    def _turn(self, clip: Clip) -> tuple[float, str, float]:
        """Place of a clip: by the bytes of its video, known without opening it; then by time."""
        try:
            size = float((self._manifest.root / clip.video).stat().st_size)
        except OSError:
            size = 0.0
        return -size, clip.video, clip.start_seconds or 0.0

    def takes(self, entry: Entry, chunk: DecodedBatch) -> tuple[int, slice]:
        """Take note of a chunk's frames.

        Returns:
            Place in the clip of the first image, and which images are to be encoded.  After `cut`
            those that complete a segment, and then none.
        """
        if entry.failed or entry.is_cut:
            return 0, slice(0, 0)
        if chunk.attempt != entry.attempt:
            entry.attempt, entry.pts, entry.index = chunk.attempt, [], []
        first, count = entry.num_frames, len(chunk.pts)
        if self._is_ending:
            room = -first % SEGMENT
            count, entry.is_cut = min(count, room), room <= count
        entry.pts.append(chunk.pts[:count])
        entry.index.append(chunk.index[:count])
        return first + chunk.skipped, slice(0, max(count - chunk.skipped, 0))

    def cut(self) -> None:
        """From now on take frames only to the end of each clip's open segment."""
        self._is_ending = True

    def is_cut(self) -> bool:
        """Whether every clip that is open has all the frames of its segment."""
        return all(
            entry.is_cut or entry.num_frames % SEGMENT == 0
            for entry in self._entries
            if entry.writer is not None
        )

    def ended(self, entry: Entry, chunk: DecodedBatch) -> Callable[[], None]:
        """What the writing thread is to do at the end of a clip."""
        end = chunk.end
        if entry.is_cut:
            return lambda: None
        if isinstance(end, ClipFailure):
            details: dict[str, object] = {
                "decoder": chunk.decoder,
                "frame": end.frame,
                "decode_attempts": list(chunk.failures),
            }
            reason = "; ".join(chunk.failures) or end.reason
            return partial(self.commits.fail, entry, end.stage, reason, details)
        assert isinstance(end, ClipEnd)
        frames = np.concatenate(entry.pts), np.concatenate(entry.index)
        return partial(
            self.commits.close, entry, frames, attempt=chunk.attempt, decoder=chunk.decoder
        )
