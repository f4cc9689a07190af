"""Phase 1: manifest -> token store.

    decode and resize | resize | backbone | quantise | copy out | checksum and write
    processes         | the device ------------------------- | threads

All of them work at once, behind short queues, so that memory does not grow with the length of a
clip.  A frame's tokens do not depend on what ran beside it (see `batching`): the store is the same
bytes for any number of workers, shards and restarts.
"""

import resource
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from tokenreel.cache.codec import codec_from_recipe
from tokenreel.cache.errors import ClipFailed, TokenReelError, UsageError
from tokenreel.cache.manifest import Clip, Manifest
from tokenreel.cache.progress import Progress
from tokenreel.cache.recipe import StoreRecipe
from tokenreel.extract.backbone import Backbone, backbone_shape, build_backbone
from tokenreel.extract.batching import Batch, Batcher
from tokenreel.extract.book import ClipBook
from tokenreel.extract.config import ExtractConfig
from tokenreel.extract.devices import Machine, machine_for, pick_device, ready
from tokenreel.extract.encode import EncodedView, Quantiser
from tokenreel.extract.engine import Engine, Rows
from tokenreel.extract.identity import (
    build_recipe,
    needs_samples,
    open_or_create,
    recipe_for,
    store_name,
)
from tokenreel.extract.report import ExtractReport
from tokenreel.extract.sampling import sample_images
from tokenreel.extract.stopping import Stopping, stop_on_signals
from tokenreel.extract.supervisor import DecodedBatch, DecodePool
from tokenreel.extract.weights import load_weights, weights_sha256
from tokenreel.extract.writing import WriteLanes

__all__ = [
    "ExtractReport",
    "build_recipe",
    "extract_clips",
    "pick_device",
    "prepare_store",
    "store_name",
]

CHUNK_FRAMES = 16  # of a slot, at most
VIDEOS_A_SHARD = 8  # with fewer, shards of whole videos differ too much in length
WINDOW_ROOM = 4  # a window of a frame may have so many times the bytes of an image, or goes fewer


def extract_clips(
    manifest: Manifest,
    config: ExtractConfig,
    store: Path,
    *,
    progress: bool = True,
    shard: tuple[int, int] = (0, 1),
    retries: bool = False,
    processes: int = 1,
    tick: Callable[[ExtractReport], None] = lambda _: None,
) -> ExtractReport:
    """Write the tokens of every clip of a manifest that the store does not hold yet.

    Args:
        manifest: the clips.
        config: the extraction.
        store: directory of the store; made when absent.
        progress: whether to draw a bar of frames.
        shard: (i, n): only every n-th clip, from the i-th on.
        retries: whether clips in quarantine are tried again; they are only reported otherwise.
        processes: that extract on this machine, this one included.
        tick: called with the report now and then.

    Returns:
        What was done.  Clips that failed are in it, and in the store's quarantine.

    Raises:
        WrongRecipe: the store was made by another recipe.
        UsageError: the backbone, its weights or the device are not to be had.
        TokenReelError: more clips failed than config.max_failures.
    """
    started = time.monotonic()
    report = ExtractReport()
    backbone, recipe, calibration, device = prepare_store(manifest, config, store)
    machine = machine_for(config, processes=processes)
    machine = ready(backbone, machine, compiles=config.compile_backbone)
    quantiser = Quantiser(codec_from_recipe(recipe.codec, calibration), recipe, device)
    book = ClipBook(
        manifest, config, recipe, store, report, part=clips_of_shard(manifest, shard),
        align=1 if machine.mixes else machine.batch_frames, retries=retries,
    )  # fmt: skip
    with ExitStack() as stack:
        stopping = stack.enter_context(stop_on_signals())
        run = _Run(machine, config, recipe, report, book, stopping)
        stack.enter_context(book)
        run.enter(stack, backbone, quantiser)
        bar = stack.enter_context(Progress(desc="extract", unit="frame", enabled=progress))

        def show() -> None:
            report.seconds["total"] = time.monotonic() - started
            run.measure()
            bar.set_postfix_str(report.status(), refresh=False)
            bar.update(report.num_appended - bar.n)
            tick(report)

        run.hear_decoders(show)
        run.finish(show)
        show()
    report.stopped = stopping.event.is_set()
    check_failures(report, config)
    return report


def prepare_store(
    manifest: Manifest, config: ExtractConfig, store: Path
) -> tuple[Backbone, StoreRecipe, Mapping[str, NDArray[Any]], torch.device]:
    """Open the store, or make it and calibrate its codec on frames of some clips.

    Returns:
        The backbone, the recipe of the store, the calibration of its codec, and the device.

    Raises:
        WrongRecipe: the store was made by another recipe.
        UsageError: the backbone, its weights or the device are not to be had.
        TokenReelError: the codec needs frames, and no clip could be decoded.
    """
    device = pick_device(config.device)
    state = load_weights(config.backbone, config.weights)
    planned = recipe_for(config, weights_sha256(state))
    shape = backbone_shape(config.backbone, config.blocks, config.image_size)
    backbone = build_backbone(config.backbone, state, shape, numeric=config.numeric, device=device)
    calibrates = needs_samples(config.codec) and not (store / "recipe.json").is_file()
    recipe, calibration = open_or_create(
        store,
        planned,
        config=config,
        dataset=manifest.dataset,
        backbone=backbone,
        samples=sample_images(manifest, config, planned) if calibrates else None,
    )
    return backbone, recipe, calibration, device


class _Run:
    """The stages of one run, between the decode processes and the store."""

    def __init__(
        self,
        machine: Machine,
        config: ExtractConfig,
        recipe: StoreRecipe,
        report: ExtractReport,
        book: ClipBook,
        stopping: Stopping,
    ) -> None:
        self._machine, self._config, self._recipe = machine, config, recipe
        self._report, self._book, self._stopping = report, book, stopping
        self._decode_seconds = 0.0
        image_bytes = recipe.num_views * 3 * recipe.image_size[0] * recipe.image_size[1]
        self._room = WINDOW_ROOM if machine.resizes else 1
        self._batcher = Batcher(
            batch_frames=machine.batch_frames,
            buffer_bytes=max(machine.batch_frames, CHUNK_FRAMES) * image_bytes * self._room,
            mixes=machine.mixes,
            pins=machine.device.type == "cuda",
        )

    def enter(self, stack: ExitStack, backbone: Backbone, quantiser: Quantiser) -> None:
        """Start the stages, the last first."""
        self._quantiser = quantiser
        self._lanes = stack.enter_context(WriteLanes(self._machine.write_threads))
        self._engine = stack.enter_context(
            Engine(
                self._machine,
                backbone,
                quantiser,
                self._recipe,
                emit=self._write,
                release=self._batcher.release,
            )
        )
        self._pool = DecodePool(
            (replace(job, chunk_frames=CHUNK_FRAMES, on_device=self._machine.resizes)
             for job in self._book.jobs(self._stopping.event)),
            slot_shape=(
                CHUNK_FRAMES * self._room, self._recipe.num_views, 3, *self._recipe.image_size
            ),
            workers=self._machine.workers,
            timeout_seconds=self._config.timeout_seconds,
        )  # fmt: skip

    def hear_decoders(self, show: Callable[[], None]) -> None:
        """Batch what the decoders give until all clips have ended, or the run is stopped."""
        with self._pool as pool:
            for chunk in pool:
                self._take(chunk)
                show()
                check_failures(self._report, self._config)
                if self._stopping.event.is_set():
                    self._book.cut()
                    if self._stopping.is_overdue or self._book.is_cut():
                        break

    def finish(self, show: Callable[[], None]) -> None:
        """Run the batches that are not full, and wait for the stages; drop them when overdue."""

        def watch() -> None:
            if self._stopping.is_overdue:
                self._engine.run.drop()
            show()

        watch()
        for batch in self._batcher.rest():
            self._engine.run.put(batch)
        self._engine.run.finish(watch)
        self._engine.copy.finish(show)

    def measure(self) -> None:
        """Fill in the seconds and the memory of the report."""
        seconds = self._report.seconds
        seconds["decode"] = self._decode_seconds / self._machine.workers
        seconds["backbone"], seconds["wait"] = self._engine.busy_seconds, self._engine.idle_seconds
        seconds["encode"] = self._engine.copy.busy_seconds
        seconds["write"] = self._lanes.busy_seconds
        self._report.peak_bytes = own_peak_bytes() + self._pool.peak_bytes
        if self._machine.device.type == "cuda":
            self._report.peak_device_bytes = torch.cuda.max_memory_allocated(self._machine.device)

    def _take(self, chunk: DecodedBatch) -> None:
        entry = self._book.entry(chunk.position)
        if chunk.end is not None:
            for batch in self._batcher.end(chunk.position):
                self._put(batch)
            self._lanes.put(chunk.position, self._book.ended(entry, chunk))
            return
        self._decode_seconds += chunk.seconds
        if chunk.attempt != entry.attempt:
            self._batcher.forget(chunk.position)
        first, wanted = self._book.takes(entry, chunk)
        if chunk.images is not None:
            for batch in self._batcher.add(chunk, first=first, wanted=wanted):
                self._put(batch)
        chunk.release()

    def _put(self, batch: Batch) -> None:
        self._engine.run.put(batch)

    def _write(self, rows: Rows) -> None:
        """Give a piece to the thread that writes its clip."""
        piece = rows.piece
        entry = self._book.entry(piece.position)

        def encode(known: int) -> list[EncodedView]:
            part = slice(rows.rows.start + known, rows.rows.stop)
            place = piece.first + known
            return [self._quantiser.on_host(view, part, first=place) for view in rows.views]

        work = partial(
            self._book.commits.write,
            entry,
            encode,
            attempt=piece.attempt,
            decoder=piece.decoder,
            first=piece.first,
            count=piece.num_frames,
        )
        self._lanes.put(piece.position, work, rows.done)


def clips_of_shard(manifest: Manifest, shard: tuple[int, int]) -> list[Clip]:
    """The clips of every n-th video from the i-th on, so that one shard reads a video.

    Where there are few videos for so many shards, every n-th clip instead: shares are even then.
    """
    part, parts = shard
    if not 0 <= part < parts:
        raise UsageError(f"shard {part}/{parts}: i/n with 0 <= i < n")
    videos = sorted({clip.video for clip in manifest.clips})
    if len(videos) < VIDEOS_A_SHARD * parts:
        return list(manifest.clips[part::parts])
    mine = set(videos[part::parts])
    return [clip for clip in manifest.clips if clip.video in mine]


def own_peak_bytes() -> int:
    """Most memory that this process has held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def check_failures(report: ExtractReport, config: ExtractConfig) -> None:
    """Raise once more clips have failed than the user allows."""
    if config.max_failures is not None and len(report.failed) > config.max_failures:
        last: ClipFailed = report.failed[-1]
        raise TokenReelError(
            f"{len(report.failed)} clips failed, more than max_failures={config.max_failures}; "
            f"the last: {last}"
        )
