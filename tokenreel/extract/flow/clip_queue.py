"""Clip queue of a run: which clips are left, in what order, and the progress of each."""

import logging
import random
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from tokenreel.cache.bucket.path import bucket_path, is_bucket
from tokenreel.cache.errors import ClipFailed, ServiceError, UsageError, limit_behind
from tokenreel.cache.format.clip import SourceInfo, clip_key
from tokenreel.cache.format.identity import StoreIdentity
from tokenreel.cache.format.store_files import forget_failure, read_failures
from tokenreel.cache.manifest import Clip, Manifest, first_clips, path_below
from tokenreel.cache.write.bucket_claims import AHEAD
from tokenreel.cache.write.claims import ClaimHeld
from tokenreel.extract.config import ExtractConfig
from tokenreel.extract.decode_pool.calibration_frames import job_for
from tokenreel.extract.decode_pool.pool import ClipEnded, DecodedChunk
from tokenreel.extract.decode_pool.worker import DecodeJob
from tokenreel.extract.encode.pictures import arrays_of
from tokenreel.extract.flow.changes import StoreChanges
from tokenreel.extract.flow.commits import ClipCommits, OpenClip, fingerprint_of_clip
from tokenreel.extract.flow.windows import Windows
from tokenreel.extract.frame_policy import SAMPLED, FrameList
from tokenreel.extract.report import ExtractReport
from tokenreel.extract.scene_list import change_of_version
from tokenreel.extract.video.source import SourceFiles, state_fields
from tokenreel.extract.video.types import VideoError

log = logging.getLogger(__name__)

T = TypeVar("T")

VIDEOS_A_SHARD = 8  # with fewer, shards of whole videos differ too much in length
MOST_MISSES = 32  # in a row: nearly all clips of the others' shares are taken
MOST_LOOKS = 16  # at claims that may be of dead writers, by each writer
MOST_SINGLE = 100  # videos on a bucket whose sizes are asked for one by one


def clips_of_shard(
    manifest: Manifest, shard: tuple[int, int], *, limit: int | None = None
) -> list[Clip]:
    """The clips of every n-th video from the i-th on, so that only one shard reads a video.

    With few videos a shard, every n-th clip instead, so that shards are even.  With a limit, of the
    first clips of each split.

    Raises:
        UsageError: i is not in [0, n).
    """
    part, parts = shard
    if not 0 <= part < parts:
        raise UsageError(f"shard {part}/{parts}: i/n with 0 <= i < n")
    clips = first_clips(manifest.clips, limit)
    videos = sorted({clip.video for clip in clips})
    if len(videos) < VIDEOS_A_SHARD * parts:
        return clips[part::parts]
    mine = set(videos[part::parts])
    return [clip for clip in clips if clip.video in mine]


def batches_of(clips: Sequence[T]) -> Iterator[Sequence[T]]:
    """Clips to be claimed together, where a claim takes a while: fewer towards the end.

    So what is left can be taken by writers that help.
    """
    at = 0
    while at < len(clips):
        count = min(AHEAD, max((len(clips) - at) // 4, 1))
        yield clips[at : at + count]
        at += count


class HelpOrder:
    """Order in which a writer takes the free clips of the others' shares, by number.

    One after another from a place of its own on, so that clips of one video stay together; where
    another writer was faster, from a place drawn at random: helpers do not follow one another over
    clips that are taken.  It ends after MOST_MISSES in a row: nothing is lost, since every writer
    takes all of its share itself.

    Args:
        count: of the clips.
        share: (i, n) of the writer.
    """

    def __init__(self, count: int, share: tuple[int, int]) -> None:
        part, parts = share
        self._left = list(range(count))
        self._at, self._misses = count * part // parts, 0
        self._draw = random.Random(part)

    def __iter__(self) -> Iterator[int]:
        while self._left and self._misses < MOST_MISSES:
            self._at %= len(self._left)
            yield self._left.pop(self._at)

    def took(self) -> None:
        """The last one was free."""
        self._misses = 0

    def missed(self) -> None:
        """Another writer has the last one."""
        self._misses += 1
        self._at = self._draw.randrange(len(self._left) or 1)

    @property
    def left(self) -> list[int]:
        """Those that were not reached."""
        return self._left


class ClipQueue:
    """Opens clips as decode processes become free; each ends in a commit or a quarantine record.

    One thread calls its methods: the one that receives chunks.  What `ended` returns, and
    `commits.write`, runs in one writer thread for each clip, in order.

    Args:
        manifest: for the root, the data set's name and the phases.
        config: of the extraction.
        identity: of the store.
        store: directory of the store.
        report: updated.
        part: the clips of this shard.
        align: a resumed clip is decoded again from a multiple of this many frames.
        retries: whether clips in quarantine are retried; otherwise they are only reported.
        accepts_new_rules: of ClipCommits.
        changes: since the clips of the store were committed.
        share: of extract_clips.
        is_last: whether a clip whose video changes while it is extracted fails; otherwise it is to
            be tried again.

    Attributes:
        taken: clips that were left to other writers.
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
        accepts_new_rules: bool = False,
        changes: StoreChanges | None = None,
        share: tuple[int, int] = (0, 1),
        is_last: bool = True,
    ) -> None:
        self._manifest, self._config, self._identity = manifest, config, identity
        self._store, self._report = store, report
        self._listed = FrameList(config)
        self._part = [clip for clip in part if self._listed.has(clip)]
        if not report.num_clips:  # else some of them are tried again
            report.num_unlisted, report.num_clips = len(part) - len(self._part), len(self._part)
        self._align, self._retries = align, retries
        self._windows = Windows(identity.frames_per_window, identity.rows_per_window)
        self._entries: list[OpenClip] = []
        self.taken: list[Clip] = []
        self._sources = SourceFiles(manifest.root)
        self._is_ending, self._share = False, share
        self._sizes: dict[str, float] = {}  # of videos, in bytes
        self._own: set[str] = set()  # videos that no other writer takes before the end
        self._help: HelpOrder | None = None  # while it takes clips that were free just now
        self._changes = changes or StoreChanges()
        self._accepts_new_rules = accepts_new_rules
        self.commits = ClipCommits(
            manifest,
            store,
            report,
            sources=self._sources,
            is_last=is_last,
            byte_arrays=arrays_of(identity),
            is_sampled=identity.frames["policy"] in SAMPLED,
            windows=self._windows,
            rules=identity.rules,
            accepts_new_rules=accepts_new_rules,
        )

    def __enter__(self) -> "ClipQueue":
        self.commits.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.commits.suspend(self._entries)

    def entry(self, position: int) -> OpenClip:
        """The clip of a decode job, by its position."""
        return self._entries[position]

    def jobs(self, stopping: threading.Event) -> Iterator[DecodeJob]:
        """Open one clip after another, and yield the job of decoding what is missing of it.

        The longest videos come first, so that none delays the end; the clips of one video are
        neighbours, in order of time, so that its packet index is still in memory.

        A run that has too many failures yields no more: a lost disk must not put every clip in
        quarantine.
        """
        for clip in self._remaining():
            if stopping.is_set():
                return
            if self._report.has_too_many_failures(self._config.max_failures):
                return
            is_replaced = clip.clip_id in self._changes.replaced
            if self.commits.is_taken(
                clip,
                is_replaced=is_replaced,
                is_own=clip.video in self._own,
                was_free=self._help is not None,
            ):
                self._skip(clip)  # before its video is read
                continue
            state = state_fields(self._sources.state(clip.video))
            try:
                examined = self._sources.examine_settled(
                    clip.video, self._config.decoder, picture_fps=clip.picture_fps
                )
                self._check_version(clip, examined[0])
                replaces = self._changes.replaced.get(clip.clip_id)
                entry = self.commits.begin(clip, *examined, replaces=replaces)
            except VideoError as error:
                if limit := limit_behind(error):  # no fault of the video: no quarantine
                    raise limit from error
                self.commits.drop_ahead(clip)
                if self.commits.waits_for(clip):
                    continue
                details = {"decoder": self._config.decoder, "frame": error.frame}
                self.commits.record(clip, error.stage, str(error), details, state)
            except ClaimHeld as held:
                log.info("%s", held)
                self._skip(clip)
            else:
                if self._help is not None:
                    self._help.took()
                self._entries.append(entry)
                skip = self._windows.frames_of(entry.resume_frames) // self._align * self._align
                yield job_for(
                    clip, self._manifest.root, self._config, self._identity, skip_frames=skip
                )

    def _skip(self, clip: Clip) -> None:
        """Leave a clip to the writer that has it."""
        self._leave([clip])
        if self._help is not None:
            self._help.missed()

    def _leave(self, clips: Iterable[Clip]) -> None:
        for clip in clips:
            self._report.skipped.append(clip.clip_id)
            self.taken.append(clip)

    def _check_version(self, clip: Clip, source: SourceInfo) -> None:
        """Raise VideoError where the listed scenes are of another version of a clip's video."""
        scenes = self._listed.scenes
        if scenes is None:
            return
        if why := change_of_version(scenes, clip.video, source.sha256, source.num_bytes):
            raise VideoError(why, stage="open")

    def _remaining(self) -> Iterator[Clip]:
        """Clips that are neither committed nor in quarantine, in the order of extraction."""
        failures = {failure["clip_id"]: failure for failure in read_failures(self._store)}
        quarantine = {} if self._retries else failures
        left = []
        for clip in self._part:
            is_replaced = clip.clip_id in self._changes.replaced
            if clip_key(clip.clip_id) in self.commits.seen and not is_replaced:
                if clip.clip_id not in self._changes.changed:
                    self._report.skipped.append(clip.clip_id)
                    if clip.clip_id in failures:  # its writer was killed just after the commit
                        forget_failure(self._store, clip.clip_id)
            elif (found := quarantine.get(clip.clip_id)) and not self._is_tried_again(clip, found):
                failure = ClipFailed(clip.clip_id, stage=found["stage"], reason=found["reason"])
                log.warning("in quarantine, not retried: %s", failure)
                self._report.quarantined.append(failure)
            else:
                left.append(clip)
        return self._own_first(left)

    def _own_first(self, clips: Sequence[Clip]) -> Iterator[Clip]:
        """The clips of this writer's share, then those of the others.

        So writers that share the clips meet at the end only, where they help each other.  The store
        and its claims are listed once more before that: to look at each clip would take longer than
        the rest.  Clips that were in work by then come last: their writers may have died.
        """
        part, parts = self._share
        mine = set(sorted({clip.video for clip in self._part})[part::parts])
        self._own = mine if parts > 1 else set()
        own = sorted((clip for clip in clips if clip.video in mine), key=self._order)
        for batch in batches_of(own):
            self.commits.claim_ahead(batch)
            yield from batch
        others = [clip for clip in clips if clip.video not in mine]
        done, claimed, both = self.commits.survey() if others else (set(), set(), set())
        left, in_work, ending = list[Clip](), list[Clip](), list[Clip]()
        for clip in others:
            key = clip_key(clip.clip_id)
            if key in done and clip.clip_id not in self._changes.replaced:
                self._report.skipped.append(clip.clip_id)
                if is_bucket(self._store):  # which may only look committed, see survey
                    self.taken.append(clip)
            else:
                (ending if key in both else in_work if key in claimed else left).append(clip)
        left.sort(key=self._order, reverse=True)
        self._help = order = HelpOrder(len(left), self._share)
        yield from (left[number] for number in order)
        self._help = None
        self._leave(left[number] for number in order.left)
        in_work = [
            clip
            for clips in (in_work, ending)
            for start in [len(clips) * part // parts]
            for clip in [*clips[start:], *clips[:start]]
        ]
        yield from in_work[:MOST_LOOKS]
        self._leave(in_work[MOST_LOOKS:])

    def _is_tried_again(self, clip: Clip, failure: Mapping[str, Any]) -> bool:
        """Whether the cause of a failure may be gone.

        A clip that failed for its rules of time and geometry alone is tried where these are
        accepted; any other where its video, range or labels changed since.
        """
        if self._accepts_new_rules and failure["stage"] == "rules":
            return True
        details = failure["details"]
        if "source" not in details:  # recorded by an earlier release
            return False
        is_same = details["clip"] == fingerprint_of_clip(clip)
        if is_same and self._sources.is_still(clip.video, details["source"]):
            return False
        what = "its video" if is_same else "its range or labels"
        log.info("%s: in quarantine, but %s changed since: it is tried again", clip.clip_id, what)
        self._report.num_tried_again += 1
        return True

    def _order(self, clip: Clip) -> tuple[float, str, float]:
        """Sort key: largest video first, known without opening it; then by time."""
        if clip.video not in self._sizes:
            self._look_at_sizes(clip.video)
        return -self._sizes[clip.video], clip.video, clip.start_seconds or 0.0

    def _look_at_sizes(self, video: str) -> None:
        """Note the size of a video; of all on a bucket where they are many, by lists of 1000."""
        root, wanted = self._manifest.root, {clip.video for clip in self._part}
        if is_bucket(root) and not self._sizes and len(wanted) > MOST_SINGLE:
            for path, state in bucket_path(root).objects():
                name = path.relative_to(bucket_path(root)).as_posix()
                if name in wanted:
                    self._sizes[name] = float(state.num_bytes)
        if video not in self._sizes:
            try:
                self._sizes[video] = float(path_below(root, video).stat().st_size)
            except ServiceError:
                raise
            except OSError:
                self._sizes[video] = 0.0

    def receive(self, entry: OpenClip, chunk: DecodedChunk) -> tuple[int, slice]:
        """Record a chunk's frames.

        Returns:
            Index in the clip of the first image, and the images to encode.  After `cut` these are
            only those that complete a segment.
        """
        if entry.failed or entry.is_cut:
            return 0, slice(0, 0)
        if chunk.attempt.number != entry.attempt:
            entry.attempt, entry.pts, entry.index = chunk.attempt.number, [], []
        first, count = entry.num_frames, len(chunk.pts)
        if self._is_ending:
            room = self._windows.room(first)
            count, entry.is_cut = min(count, room), room <= count
        entry.pts.append(chunk.pts[:count])
        entry.index.append(chunk.index[:count])
        return first + chunk.skipped, slice(0, max(count - chunk.skipped, 0))

    def cut(self) -> None:
        """From now on accept frames only up to the end of each clip's open segment."""
        self._is_ending = True

    def is_cut(self) -> bool:
        """Whether every open clip has received all frames of its segment."""
        return all(
            entry.is_cut or self._windows.room(entry.num_frames) == 0
            for entry in self._entries
            if entry.writer is not None
        )

    def ended(self, entry: OpenClip, end: ClipEnded) -> Callable[[], None]:
        """The task of the clip's writer thread at its end."""
        if entry.is_cut:
            return lambda: None
        if end.failure is not None:
            details: dict[str, object] = {
                "decoder": end.attempt.decoder,
                "frame": end.failure.frame,
                "decode_attempts": list(end.reasons),
            }
            reason = "; ".join(end.reasons)
            return partial(self.commits.fail, entry, end.failure.stage, reason, details)
        frames = np.concatenate(entry.pts), np.concatenate(entry.index)
        return partial(self.commits.close, entry, frames, end.attempt, end.facts)
