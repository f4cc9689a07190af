"""Write a clip: append its frames in order, then commit it or record it in quarantine."""

import hashlib
import logging
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.errors import ClipFailed, UsageError
from tokenreel.cache.files import again_if_stale
from tokenreel.cache.format.clip import ClipRecord, SourceInfo, clip_key
from tokenreel.cache.format.identity import RULES_VERSION
from tokenreel.cache.format.store_files import record_failure
from tokenreel.cache.manifest import Clip, Manifest
from tokenreel.cache.source_state import TAG, SourceState, describe_source
from tokenreel.cache.tools.sources import in_threads
from tokenreel.cache.write.claims import ClaimHeld, is_live
from tokenreel.cache.write.clip_writer import ClipWriter
from tokenreel.cache.write.store_writer import StoreWriter
from tokenreel.extract.decode_pool.pool import Attempt
from tokenreel.extract.decode_pool.worker import NO_FACTS, ClipFacts
from tokenreel.extract.encode.quantiser import EncodedView
from tokenreel.extract.flow.labels import check_reach, frame_labels
from tokenreel.extract.flow.windows import WindowRows, Windows
from tokenreel.extract.report import ExtractReport
from tokenreel.extract.video.decode import exact
from tokenreel.extract.video.geometry import UPRIGHT
from tokenreel.extract.video.source import SourceFiles, decoder_version, state_fields
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
        state: of the video's file when the clip was begun.
        replaces: record of the committed clip whose place it takes.
        writer: None once the clip has ended.
        resume_frames: frames that an earlier, killed run has left on disk in whole segments.
        attempt: number of the decode attempt of the last chunk received.
        pts, index: of the frames received in this attempt, chunk by chunk.
        num_written: frames on disk, of the attempt `written_attempt`.
        frames: pts and index of the whole clip, once it is decoded.
        facts: of its time and geometry, likewise.
        failed: whether it has been given up.
        is_cut: whether the run is stopping and this clip needs no more frames in it.
    """

    clip: Clip
    source: SourceInfo
    info: VideoInfo
    state: SourceState
    writer: ClipWriter | None
    resume_frames: int
    replaces: ClipRecord | None = None
    attempt: int = 1
    pts: list[NDArray[np.int64]] = field(default_factory=list)
    index: list[NDArray[np.int64]] = field(default_factory=list)
    num_written: int = 0
    written_attempt: int = 1
    frames: Frames | None = None
    facts: ClipFacts = NO_FACTS
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
        byte_arrays: names of the arrays of bytes that a clip has instead of tokens.
        is_sampled: whether frames are sampled: they may repeat, and need not reach the end.
        windows: of the backbone.
        rules: of the store.
        accepts_new_rules: whether clips to which the rules of the store give other frames are
            written by the present rules, or refused.
        sources: the videos; a clip whose video changed while it was extracted is not committed.
        is_last: whether such a clip failed, or is to be tried again.

    Attributes:
        unsettled: clips to be tried again.
        made_of: of each clip committed, its source and the state of the file.
    """

    def __init__(
        self,
        manifest: Manifest,
        store: Path,
        report: ExtractReport,
        *,
        sources: SourceFiles,
        is_last: bool = True,
        byte_arrays: Sequence[str] = (),
        is_sampled: bool = False,
        windows: Windows = WINDOWS_OF_FRAMES,
        rules: int = RULES_VERSION,
        accepts_new_rules: bool = False,
    ) -> None:
        self._rules, self._accepts_new_rules = rules, accepts_new_rules
        self._is_sampled, self._windows = is_sampled, windows
        self._byte_arrays = byte_arrays
        self._sources, self._is_last = sources, is_last
        self.unsettled: list[Clip] = []
        self.made_of: dict[str, tuple[SourceInfo, SourceState]] = {}
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

    @property
    def seen(self) -> frozenset[str]:
        """Keys of the clips that were committed when the writer began."""
        return self._writer.seen

    def is_committed(self, clip_id: str) -> bool:
        """Whether the clip is committed to the store."""
        return self._writer.is_committed(clip_id)

    def claim_ahead(self, clips: Sequence[Clip]) -> None:
        """Claim clips that will be begun next; see StoreWriter.claim_ahead."""
        self._writer.claim_ahead([clip.clip_id for clip in clips])

    def drop_ahead(self, clip: Clip) -> None:
        """Give up a clip that was claimed ahead and is not begun."""
        self._writer.drop_ahead(clip.clip_id)

    def survey(self) -> tuple[set[str], set[str], set[str]]:
        """Keys of clips that are committed, claimed, or both; see StoreWriter.survey."""
        return self._writer.survey()

    def is_taken(
        self, clip: Clip, *, is_replaced: bool, is_own: bool = False, was_free: bool = False
    ) -> bool:
        """Whether another writer has a clip, or has committed one that is not replaced.

        On a bucket it is claimed then, unless it was claimed ahead: one wait for the look and the
        claim.

        Args:
            clip: of the manifest.
            is_replaced: whether a committed one is to be extracted again.
            is_own: whether no other writer takes it before the end.
            was_free: whether nobody had it just now, so that any claim on it is a live one.
        """
        name = clip.clip_id
        if not is_own:
            self._writer.claim_ahead([name])
        is_free = self._writer.is_free_ahead(name, is_replaced=is_replaced)
        if is_free is not None:
            return not is_free
        if is_own:
            return False
        if not is_replaced and self.is_committed(name):
            return True
        claim = self._store / "claims" / f"{clip_key(name)}.json"
        return again_if_stale(claim.is_file) if was_free else is_live(claim)

    def begin(
        self,
        clip: Clip,
        source: SourceInfo,
        info: VideoInfo,
        state: SourceState,
        *,
        replaces: ClipRecord | None = None,
    ) -> OpenClip:
        """Claim a clip.

        Raises:
            ClaimHeld: another writer has claimed it.
        """
        writer = self._begin(clip, source, info, replaces)
        done = writer.resume_frames
        return OpenClip(clip, source, info, state, writer, done, replaces, num_written=done)

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
                if not self._byte_arrays:
                    entry.writer.append(number, view.encoded, view.cls, view.cls_normed)
                for name in self._byte_arrays:
                    entry.writer.append_bytes(name, view.strings[name])
        except ValueError as error:
            self.fail(entry, "write", str(error))
            return
        except ClaimHeld as held:
            self._leave(entry, held)
            return
        entry.num_written += count
        self._report.wrote(count, sum(view.num_bytes for view in views))
        self._commit_if_whole(entry)

    def fail(
        self, entry: OpenClip, stage: str, reason: str, details: dict[str, object] | None = None
    ) -> None:
        """Put a clip in quarantine; one whose video changed meanwhile is tried again first."""
        if entry.failed or self._has_changed(entry):
            return
        self._give_up(entry)
        details = details or {"decoder": entry.source.decoder}
        state = state_fields(entry.state, entry.source.sha256)
        self.record(entry.clip, stage, reason, details, state)

    def _has_changed(self, entry: OpenClip) -> bool:
        """Whether the video of a clip changed while it was extracted; the clip is then given up."""
        now = self._sources.change_since(entry.source, entry.state)
        if not now:
            return False
        self._give_up(entry)
        source = entry.source
        was = _in_words(source)
        what = f"{source.video} changed while it was extracted: it was {was}, is {now}"
        if not self._is_last:
            log.warning("%s: %s; it is tried again", entry.clip.clip_id, what)
            self.unsettled.append(entry.clip)
            return True
        reason = f"{what}; rerun when nothing writes the video any more"
        state = state_fields(entry.state, source.sha256)
        self.record(entry.clip, "decode", reason, {"decoder": source.decoder}, state)
        return True

    def waits_for(self, clip: Clip) -> bool:
        """Whether a clip whose video cannot be opened is tried again: it may be half written."""
        if self._is_last or not self._sources.is_recent(clip.video):
            return False
        log.info("%s: %s was written just now; it is tried again", clip.clip_id, clip.video)
        self.unsettled.append(clip)
        return True

    def changed_after_commit(self) -> dict[str, str]:
        """Of each clip committed whose video changed afterwards, what was and what is, by id."""

        def change(clip_id: str) -> str:
            source, state = self.made_of[clip_id]
            now = self._sources.change_since(source, replace(state, is_recent=False))
            was = _in_words(source)
            said = f"{clip_id}: {source.video} was {was} when it was extracted, is {now}"
            return said if now else ""

        names = list(self.made_of)
        return {
            name: what for name, what in zip(names, in_threads(change, names), strict=True) if what
        }

    def _give_up(self, entry: OpenClip) -> None:
        entry.failed = True
        if entry.writer is not None:
            entry.writer.abort()
            entry.writer = None

    def _leave(self, entry: OpenClip, held: ClaimHeld) -> None:
        """Leave a clip to the writer that took it over."""
        log.warning("%s", held)
        self._give_up(entry)
        self._report.skipped.append(entry.clip.clip_id)

    def close(self, entry: OpenClip, frames: Frames, attempt: Attempt, facts: ClipFacts) -> None:
        """Record the frames of the decoded clip; commit it if all of them are written."""
        if self._is_open(entry, attempt):
            entry.frames, entry.facts = frames, facts
            self._commit_if_whole(entry)

    def _commit_if_whole(self, entry: OpenClip) -> None:
        if entry.failed or entry.writer is None or entry.frames is None:
            return
        pts, index = entry.frames
        if entry.num_written < self._windows.rows_of(len(pts)):
            return
        distinct = np.unique(pts)
        needed = self._rules_of(entry)
        if needed > self._rules and not self._accepts_new_rules:
            self.fail(entry, "rules", _other_rules(needed, self._rules))
            return
        end = self._end_of(entry) if max(needed, self._rules) > 1 else None
        units = entry.facts.units
        if units is None:
            rows = self._windows.in_time(pts, index, end)
        else:
            rows = self._windows.of_units(units, index)
        try:
            labels = self._labels(entry, rows, end)
        except ClipFailed as error:
            self.fail(entry, error.stage, error.reason)
            return
        if self._has_changed(entry):
            return
        flags = np.zeros(len(rows.pts), np.uint8)
        try:
            entry.writer.commit(
                rows.pts,
                rows.index,
                labels,
                flags,
                stop_pts=rows.stop_pts,
                source=described(entry.source, entry.facts),
                rules=max(needed, self._rules),
            )
        except UsageError as error:  # the store's format cannot keep it
            self.fail(entry, "rules", str(error))
            return
        except ClaimHeld as held:
            self._leave(entry, held)
            return
        self._note_moved(entry)
        entry.writer = None
        self.made_of[entry.clip.clip_id] = entry.source, entry.state
        self._report.committed.append(entry.clip.clip_id)
        if entry.replaces is not None:
            self._report.replaced.append(entry.clip.clip_id)
        self._report.num_frames += len(rows.pts)
        self._report.num_repeated += len(pts) - len(distinct)
        self._report.num_other_rules += needed > self._rules

    def _rules_of(self, entry: OpenClip) -> int:
        """The first version of the rules of time and geometry that gives the clip as it is now."""
        assert entry.frames is not None
        if entry.facts.rules > 1 or self._is_sampled:
            return entry.facts.rules
        pts, index = entry.frames
        old = self._windows.in_time(pts, index)
        new = self._windows.in_time(pts, index, self._end_of(entry))
        if len(pts) > 1 and not np.array_equal(old.stops(), new.stops()):
            return RULES_VERSION
        try:
            self._labels(entry, old, None)
        except ClipFailed:
            try:
                self._labels(entry, new, self._end_of(entry))
            except ClipFailed:
                return 1  # both refuse it
            return RULES_VERSION
        return 1

    def _end_of(self, entry: OpenClip) -> int | None:
        """The tick until which the last frame of a clip is shown in it; None when unknown."""
        end, stop = entry.facts.shown_until, entry.clip.stop_seconds
        if self._is_sampled or end is None or stop is None:
            return None if self._is_sampled else end
        assert entry.frames is not None
        last = int(entry.frames[0][-1])
        return max(min(end, math.ceil(exact(stop) / entry.info.time_base)), last + 1)

    def _labels(self, entry: OpenClip, rows: WindowRows, end: int | None) -> NDArray[np.int16]:
        """Labels of the rows of a clip whose last frame is shown until a tick; None: by rules 1.

        Raises:
            ClipFailed: see check_reach and frame_labels.
        """
        assert entry.frames is not None
        base = float(entry.info.time_base)
        shown_until = None if end is None else end * base
        if not self._is_sampled:
            times = np.unique(entry.frames[0]).astype(np.float64) * base
            check_reach(entry.clip, times, shown_until)
        return frame_labels(
            entry.clip,
            rows.middle_pts * base,
            is_sampled=self._is_sampled,
            shown_until=shown_until,
        )

    def _note_moved(self, entry: OpenClip) -> None:
        """Count and log frames whose time stamps repeated others'."""
        if moved := entry.facts.num_moved:
            self._report.num_moved += moved
            log.warning(
                "%s: %d frame(s) had no time, or that of another, and were moved, in their order",
                entry.clip.clip_id,
                moved,
            )

    def record(
        self,
        clip: Clip,
        stage: str,
        reason: str,
        details: Mapping[str, object],
        state: Mapping[str, object] | None,
    ) -> None:
        """Record a failure in the report and in the store's quarantine.

        Args:
            clip: that failed.
            stage: see ClipFailed.
            reason: one sentence.
            details: of the failure.
            state: of the video that failed, see state_fields; None where there was none.
        """
        log.warning("%s: %s: %s", clip.clip_id, stage, reason)
        self._report.failed.append(ClipFailed(clip.clip_id, stage=stage, reason=reason))
        record_failure(
            self._store,
            clip.clip_id,
            stage=stage,
            reason=reason,
            details={
                **details,
                "video": clip.video,
                "source": state,
                "clip": fingerprint_of_clip(clip),
            },
        )

    def _begin(
        self, clip: Clip, source: SourceInfo, info: VideoInfo, replaces: ClipRecord | None
    ) -> ClipWriter:
        return self._writer.begin(
            clip,
            dataset=self._manifest.dataset,
            phases=tuple(self._manifest.phases.get(clip.action, ())),
            source=source,
            time_base=info.time_base,
            byte_arrays=self._byte_arrays,
            replaces=replaces,
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
            entry.writer = self._begin(entry.clip, entry.source, entry.info, entry.replaces)
        except ClaimHeld as held:
            log.info("%s", held)
            entry.failed, entry.writer = True, None
            self._report.skipped.append(entry.clip.clip_id)
            return False
        entry.written_attempt, entry.num_written = attempt.number, 0
        return True


def fingerprint_of_clip(clip: Clip) -> str:
    """SHA-256 of what a clip may fail for besides its video: its range, rate and labels."""
    spans = [(span.start_seconds, span.stop_seconds, span.phase) for span in clip.spans]
    told = clip.start_seconds, clip.stop_seconds, clip.picture_fps, spans, clip.frame_labels
    return hashlib.sha256(repr(told).encode()).hexdigest()


def described(source: SourceInfo, facts: ClipFacts) -> SourceInfo:
    """The source with what decoding showed: orientation, and time stamps that repeated others'."""
    extra: dict[str, object] = {}
    orientation: int | None = None
    if facts.orientation != UPRIGHT:
        orientation = 90 * facts.orientation.quarter_turns
        extra = {"mirrored": True} if facts.orientation.is_mirrored else {}
    if facts.num_moved:
        extra["moved_frames"] = facts.num_moved
    return replace(source, orientation=orientation, container={**source.container, **extra})


def _other_rules(needed: int, held: int) -> str:
    return (
        f"by rules {needed} of time and geometry this clip has other frames than by rules {held}, "
        f"those of this store: `extract run ... --changed replace` adds it by rules {needed}, "
        "another --out makes a store of them"
    )


def _in_words(source: SourceInfo) -> str:
    tag = str(source.container.get(TAG, ""))
    return describe_source(source.num_bytes, source.mtime_ns, source.sha256, tag)
