"""Phase 1: manifest -> token store.

    decode and resize | resize | backbone | quantise | copy out | checksum and write
    processes         | the device ------------------------- | threads

All of them run at once, behind short queues, so that memory does not grow with the length of a
clip.  A frame's tokens do not depend on the rest of its batch (see `batching`): the store is the
same bytes for any number of workers, shards and restarts.
"""

import logging
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from tokenreel.cache.bucket.path import store_path
from tokenreel.cache.codec import codec_from_identity, needs_calibration
from tokenreel.cache.format.clip import clip_key
from tokenreel.cache.format.identity import StoreIdentity
from tokenreel.cache.format.index import committed_keys
from tokenreel.cache.format.store_files import read_failures
from tokenreel.cache.manifest import Clip, Manifest, first_clips
from tokenreel.cache.progress import Progress
from tokenreel.cache.write.claims import EXPIRY_SECONDS, wait_for_heartbeats
from tokenreel.cache.write.worker_notes import WorkerNotes, note_run, settle_run
from tokenreel.extract.backbone.base import Backbone
from tokenreel.extract.backbone.cpu_threads import in_parts, num_threads
from tokenreel.extract.backbone.families import backbone_shape, build_backbone, load_weights
from tokenreel.extract.backbone.weights import weights_sha256
from tokenreel.extract.config import ExtractConfig
from tokenreel.extract.decode_pool.calibration_frames import sample_images
from tokenreel.extract.decode_pool.pool import ClipEnded, DecodedChunk, DecodePool
from tokenreel.extract.encode.identity import (
    identity_for,
    open_or_create,
    require_same_tokens,
    versions_of,
)
from tokenreel.extract.encode.pictures import JpegEncoder, PassThrough, picture_identity
from tokenreel.extract.encode.quantiser import EncodedView, Encoder, Quantiser
from tokenreel.extract.flow.batching import Batcher
from tokenreel.extract.flow.changes import StoreChanges, WhenChanged, find_changes
from tokenreel.extract.flow.clip_queue import ClipQueue, clips_of_shard
from tokenreel.extract.flow.devices import (
    Machine,
    compile_quantiser,
    machine_for,
    pick_device,
    prepare_backbone,
)
from tokenreel.extract.flow.engine import Engine, Rows
from tokenreel.extract.flow.stage import WriterThreads
from tokenreel.extract.flow.windows import Windows
from tokenreel.extract.frame_policy import FrameList
from tokenreel.extract.report import STAGES, ExtractReport
from tokenreel.extract.signals import Stopping, stop_on_signals

log = logging.getLogger(__name__)

CHUNK_FRAMES = 16  # of a slot, at most
MOST_ROUNDS = 3  # over clips whose writers were killed
ATTEMPTS = 2  # at a clip whose video changes while it is extracted
WINDOW_ROOM = 4  # bytes of a slot for each byte of an image, as windows of frames are larger


def extract_clips(
    manifest: Manifest,
    config: ExtractConfig,
    store: Path,
    *,
    progress: bool = True,
    shard: tuple[int, int] = (0, 1),
    retries: bool = False,
    limit: int | None = None,
    changed: WhenChanged = "refuse",
    changes: StoreChanges | None = None,
    processes: int = 1,
    part: Sequence[Clip] | None = None,
    share: tuple[int, int] = (0, 1),
    stopping: Stopping | None = None,
    tick: Callable[[ExtractReport], None] = lambda _: None,
) -> ExtractReport:
    """Write the tokens of every clip of a manifest that the store does not hold yet.

    Args:
        manifest: the clips.
        config: the extraction.
        store: directory of the store; created when absent.
        progress: whether to draw a bar of frames.
        shard: (i, n): only every n-th clip, from the i-th on.
        retries: whether clips in quarantine are retried; otherwise they are only reported.
        limit: only the first clips of each split; the codec is calibrated on all of them.
        changed: what is done with committed clips whose video or range is another one now:
            "refuse" and "keep" leave them as they are, "replace" extracts them again; the old clip
            stays in the store until the new one is committed.
        changes: of find_changes, where that was called before.
        processes: number that extract on this machine, this one included.
        part: the clips, in the place of those of a shard.
        share: (i, n): of n writers that have the same clips, this one takes every n-th first, and
            those of the others last.
        stopping: ends the run early, in the place of signals.
        tick: called with the report now and then.

    Returns:
        The report.  Clips that failed are in it, and in the store's quarantine.

    Raises:
        WrongIdentity: the store was made with other settings, or a live worker has other versions.
        UsageError: the backbone, its weights or the device are unavailable.
        TokenReelError: more clips failed than config.max_failures.
    """
    started = time.monotonic()
    report = ExtractReport()
    manifest, store = replace(manifest, root=store_path(manifest.root)), store_path(store)
    config = config if config.pixels is None else config.model_copy(update={"device": "cpu"})
    backbone, identity, calibration, device = prepare_store(
        manifest, config, store, processes=processes
    )
    windows = Windows(identity.frames_per_window, identity.rows_per_window)
    machine = machine_for(config, processes=processes, window_frames=windows.frames)
    machine = prepare_backbone(backbone, machine, compiles=config.compile_backbone)
    require_same_tokens(
        store, identity, backbone, batch_frames=machine.batch_frames if machine.pads else None
    )
    quantiser: Encoder
    if config.pixels is None:
        quantiser = Quantiser(codec_from_identity(identity.codec, calibration), identity, device)
    else:
        quantiser = JpegEncoder(identity)
    if config.compile_backbone and isinstance(quantiser, Quantiser):
        compile_quantiser(quantiser, backbone, machine)
    given = part
    part = clips_of_shard(manifest, shard, limit=limit) if given is None else given
    if changes is None:
        policy: WhenChanged = "replace" if retries else changed
        changes = find_changes(
            manifest, store, part, policy=policy, is_whole=not retries, progress=progress
        )
    listed = FrameList(config)
    names = [clip.clip_id for clip in first_clips(manifest.clips, limit) if listed.has(clip)]
    is_whole_run = given is None and not retries
    with (
        WorkerNotes(
            store, device=_device_name(machine.device), versions=versions_of(config)
        ) as notes,
        nullcontext(stopping) if stopping is not None else stop_on_signals() as stopping,
        Progress(desc="extract", unit="frame", enabled=progress) as bar,
    ):
        notes.require_same_versions()
        if is_whole_run:
            note_run(store, names)

        def show() -> None:
            report.seconds["total"] = time.monotonic() - started
            bar.set_postfix_str(report.status(), refresh=False)
            bar.update(report.num_appended - bar.n)
            notes.update(
                num_committed=len(report.committed),
                num_failed=len(report.failed),
                num_frames=report.num_appended,
            )
            tick(report)

        def extract(part: Sequence[Clip], *, is_last: bool) -> ClipQueue:
            clips = ClipQueue(
                manifest,
                config,
                identity,
                store,
                report,
                part=part,
                align=windows.frames if machine.mixes else machine.batch_frames,
                retries=retries,
                changes=changes,
                share=share,
                accepts_new_rules=changed == "replace",
                is_last=is_last,
            )
            with ExitStack() as stack:
                flow = Flow(machine, config, identity, report, clips, stopping)
                stack.enter_context(clips)
                flow.enter(stack, backbone, quantiser)
                flow.run(show)
            report.changed |= clips.commits.changed_after_commit()
            return clips

        def is_over() -> bool:
            show()
            return stopping.event.is_set()

        taken: list[Clip] = []
        for attempt in range(ATTEMPTS):
            clips = extract(part, is_last=attempt == ATTEMPTS - 1)
            taken += clips.taken
            part = clips.commits.unsettled
            if not part or stopping.event.is_set():
                break
        if given is None and share[0] == 0:  # else the one who started it looks after the others'
            for _ in range(MOST_ROUNDS):
                part = _abandoned(store, taken, report, is_over)
                if not part or stopping.event.is_set():
                    break
                taken += extract(part, is_last=True).taken
    if is_whole_run:
        settle_run(store, names)
    _report_changes(report, changes)
    report.signal = stopping.signal
    report.check_failures(config.max_failures)
    return report


def _abandoned(
    store: Path, taken: Sequence[Clip], report: ExtractReport, is_over: Callable[[], bool]
) -> list[Clip]:
    """Of the clips that were left to other writers, those that nobody works on any more.

    Args:
        store: its directory.
        taken: the clips.
        report: updated: what others work on is counted, what nobody does is no longer skipped.
        is_over: ends the wait for their heartbeats.
    """
    if not taken:
        return []
    done = committed_keys(store)
    done |= {clip_key(str(record["clip_id"])) for record in read_failures(store)}
    left = {clip_key(clip.clip_id): clip for clip in taken}
    left = {key: clip for key, clip in left.items() if key not in done}
    if not left:
        report.num_in_work = 0
        return []
    log.info(
        "%d clip(s) are claimed by other writers: waiting for their heartbeats, %.0f s at most",
        len(left),
        EXPIRY_SECONDS,
    )
    keys = wait_for_heartbeats(store / "claims", left, is_over=is_over)
    keys -= committed_keys(store)
    free = [left[key] for key in sorted(keys)]
    report.num_in_work = len(left) - len(free)
    names = {clip.clip_id for clip in free}
    report.skipped = [name for name in report.skipped if name not in names]
    return free


def _device_name(device: torch.device) -> str:
    """A device with its name, for people."""
    if device.type != "cuda":
        return device.type
    return f"{device} {torch.cuda.get_device_name(device)}"


def _report_changes(report: ExtractReport, changes: StoreChanges) -> None:
    """Say in the report what is not as it was when it was extracted."""
    report.accepts_changed = changes.policy == "keep"
    if changes.policy != "replace":
        report.changed = changes.changed | report.changed
    report.left = list(changes.left)
    report.num_compared = changes.sources.num_videos
    report.num_hashed = changes.sources.num_hashed
    report.labels = changes.labels.lines()
    report.missing = {record.clip_id: why for record, why in changes.sources.missing}


def prepare_store(
    manifest: Manifest, config: ExtractConfig, store: Path, *, processes: int = 1
) -> tuple[Backbone, StoreIdentity, Mapping[str, NDArray[Any]], torch.device]:
    """Open the store, or create it and calibrate its codec on frames of some clips.

    Args:
        manifest: the clips.
        config: the extraction.
        store: directory of the store; created when absent.
        processes: number that extract on this machine, this one included.

    Returns:
        The backbone, the identity of the store, the calibration of its codec, and the device.

    Raises:
        WrongIdentity: the store was made with other settings.
        UsageError: the backbone, its weights or the device are unavailable.
        TokenReelError: the codec needs frames, and no clip could be decoded.
    """
    device = pick_device("cpu" if config.pixels else config.device)
    backbone: Backbone
    if config.pixels is not None:
        planned = picture_identity(config)
        backbone = PassThrough(planned)
    else:
        state = load_weights(config.backbone, config.weights, config.weights_key)
        planned = identity_for(config, weights_sha256(state))
        shape = backbone_shape(config.backbone, config.blocks, config.image_size)
        backbone = build_backbone(
            config.backbone, state, shape, numeric=config.numeric, device=device
        )
        backbone = in_parts(backbone, threads=num_threads(processes))
    calibrates = needs_calibration(planned.codec["name"]) and not (store / "recipe.json").is_file()
    identity, calibration = open_or_create(
        store,
        planned,
        config=config,
        dataset=manifest.dataset,
        backbone=backbone,
        samples=sample_images(manifest, config, planned) if calibrates else None,
        root=str(manifest.root.absolute()),
    )
    return backbone, identity, calibration, device


class Flow:
    """The stages of a run and their queues: `enter`, then `run`.

    Args:
        machine: device and sizes.
        config: of the extraction.
        identity: of the store.
        report: updated.
        clips: queue of the clips.
        stopping: whether the run is to end early.
    """

    def __init__(
        self,
        machine: Machine,
        config: ExtractConfig,
        identity: StoreIdentity,
        report: ExtractReport,
        clips: ClipQueue,
        stopping: Stopping,
    ) -> None:
        self._machine, self._config, self._identity = machine, config, identity
        self._report, self._clips, self._stopping = report, clips, stopping
        self._decode_seconds = 0.0
        self._before = dict(report.seconds)  # of an earlier flow of the run
        image_bytes = identity.num_views * 3 * identity.image_size[0] * identity.image_size[1]
        self._windows = Windows(identity.frames_per_window, identity.rows_per_window)
        self._chunk_frames = max(CHUNK_FRAMES // self._windows.frames, 1) * self._windows.frames
        self._room = WINDOW_ROOM if machine.resizes else 1
        self._batcher = Batcher(
            batch_frames=machine.batch_frames,
            buffer_bytes=max(machine.batch_frames, self._chunk_frames) * image_bytes * self._room,
            window_frames=self._windows.frames,
            mixes=machine.mixes,
            pins=machine.is_cuda,
        )

    def enter(self, stack: ExitStack, backbone: Backbone, quantiser: Encoder) -> None:
        """Start the stages, the last one first."""
        self._quantiser = quantiser
        self._writers = stack.enter_context(WriterThreads(self._machine.write_threads))
        self._engine = stack.enter_context(
            Engine(
                self._machine,
                backbone,
                quantiser,
                self._identity,
                emit=self._write,
                release=self._batcher.release,
            )
        )
        self._pool = DecodePool(
            (
                replace(job, chunk_frames=self._chunk_frames, on_device=self._machine.resizes)
                for job in self._clips.jobs(self._stopping.event)
            ),
            slot_shape=(
                self._chunk_frames * self._room,
                self._identity.num_views,
                3,
                *self._identity.image_size,
            ),
            workers=self._machine.workers,
            timeout_seconds=self._config.timeout_seconds,
            is_over=lambda: self._stopping.is_overdue,  # no chunk may come for minutes
        )

    def run(self, show: Callable[[], None]) -> None:
        """Extract the clips of the queue; `show` is called now and then."""

        def measure_and_show() -> None:
            self.measure()
            show()

        self.receive_chunks(measure_and_show)
        self.finish(measure_and_show)
        measure_and_show()

    def receive_chunks(self, show: Callable[[], None]) -> None:
        """Batch the decoded chunks until all clips have ended, or the run is stopped."""
        with self._pool as pool:
            for message in pool:
                if isinstance(message, ClipEnded):
                    self._end_clip(message)
                else:
                    self._add(message)
                show()
                self._report.check_failures(self._config.max_failures)
                if self._stopping.event.is_set():
                    self._clips.cut()
                    if self._stopping.is_overdue or self._clips.is_cut():
                        break

    def finish(self, show: Callable[[], None]) -> None:
        """Run the batches that are not full, and wait for the stages; drop batches when overdue."""

        def watch() -> None:
            if self._stopping.is_overdue:
                self._engine.run.drop()
            show()

        watch()
        for batch in self._batcher.rest():
            self._engine.run.put(batch)
        self._engine.run.finish(watch)
        self._engine.copy.finish(show)
        self._writers.finish(show)

    def measure(self) -> None:
        """Update the seconds and the memory of the report."""
        seconds = self._report.seconds
        seconds["decode"] = self._decode_seconds / self._machine.workers
        seconds["backbone"], seconds["wait"] = self._engine.busy_seconds, self._engine.idle_seconds
        seconds["encode"] = self._engine.copy.busy_seconds
        seconds["write"] = self._writers.busy_seconds
        for stage in (*STAGES, "wait"):
            seconds[stage] += self._before[stage]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        own_bytes = peak if sys.platform == "darwin" else peak * 1024
        self._report.peak_bytes = own_bytes + self._pool.peak_bytes
        if self._machine.is_cuda:
            self._report.peak_device_bytes = torch.cuda.max_memory_allocated(self._machine.device)

    def _add(self, chunk: DecodedChunk) -> None:
        position = chunk.attempt.position
        entry = self._clips.entry(position)
        self._decode_seconds += chunk.seconds
        if chunk.attempt.number != entry.attempt:
            self._batcher.forget(position)
        first, wanted = self._clips.receive(entry, chunk)
        if chunk.images is not None:
            for batch in self._batcher.add(chunk, first=first, wanted=wanted):
                self._engine.run.put(batch)
        chunk.release()

    def _end_clip(self, end: ClipEnded) -> None:
        position = end.attempt.position
        for batch in self._batcher.end(position):
            self._engine.run.put(batch)
        self._writers.put(position, self._clips.ended(self._clips.entry(position), end))

    def _write(self, rows: Rows) -> None:
        """Queue a piece for the thread that writes its clip."""
        piece = rows.piece
        position = piece.attempt.position
        entry = self._clips.entry(position)
        first_row = self._windows.rows_of(piece.first)

        def encode(known: int) -> list[EncodedView]:
            part = slice(rows.rows.start + known, rows.rows.stop)
            first = first_row + known
            return [self._quantiser.on_host(view, part, first=first) for view in rows.views]

        work = partial(
            self._clips.commits.write,
            entry,
            encode,
            piece.attempt,
            first=first_row,
            count=self._windows.rows_of(piece.num_frames),
        )
        self._writers.put(position, work, rows.done)
