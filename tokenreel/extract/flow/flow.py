"""The stages of a run, from the decode processes to the store, and the queues between them."""

import resource
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

import torch

from tokenreel.cache.errors import ClipFailed, TokenReelError
from tokenreel.cache.format.identity import StoreIdentity
from tokenreel.extract.backbone.timm_backbone import Backbone
from tokenreel.extract.config import ExtractConfig
from tokenreel.extract.decode_pool.pool import DecodedBatch, DecodePool
from tokenreel.extract.encode.quantiser import EncodedView, Quantiser
from tokenreel.extract.flow.batching import Batch, Batcher
from tokenreel.extract.flow.clip_queue import ClipBook
from tokenreel.extract.flow.devices import Machine
from tokenreel.extract.flow.engine import Engine, Rows
from tokenreel.extract.flow.write_lanes import WriteLanes
from tokenreel.extract.report import ExtractReport
from tokenreel.extract.signals import Stopping

__all__ = ["Flow", "check_failures", "has_too_many_failures"]

CHUNK_FRAMES = 16  # of a slot, at most
WINDOW_ROOM = 4  # a window of a frame may have so many times the bytes of an image, or goes fewer


class Flow:
    """The stages of one run: `enter`, then `hear_decoders`, then `finish`.

    Args:
        machine: device and sizes.
        config: of the extraction.
        identity: of the store.
        report: filled in.
        book: of the clips.
        stopping: whether the run is to end early.
    """

    def __init__(
        self,
        machine: Machine,
        config: ExtractConfig,
        identity: StoreIdentity,
        report: ExtractReport,
        book: ClipBook,
        stopping: Stopping,
    ) -> None:
        self._machine, self._config, self._identity = machine, config, identity
        self._report, self._book, self._stopping = report, book, stopping
        self._decode_seconds = 0.0
        image_bytes = identity.num_views * 3 * identity.image_size[0] * identity.image_size[1]
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
                self._identity,
                emit=self._write,
                release=self._batcher.release,
            )
        )
        self._pool = DecodePool(
            (
                replace(job, chunk_frames=CHUNK_FRAMES, on_device=self._machine.resizes)
                for job in self._book.jobs(self._stopping.event)
            ),
            slot_shape=(
                CHUNK_FRAMES * self._room,
                self._identity.num_views,
                3,
                *self._identity.image_size,
            ),
            workers=self._machine.workers,
            timeout_seconds=self._config.timeout_seconds,
            is_over=lambda: self._stopping.is_overdue,  # a decoder may yield nothing for minutes
        )

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
        self._lanes.finish(show)

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


def own_peak_bytes() -> int:
    """Most memory that this process has held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def has_too_many_failures(report: ExtractReport, config: ExtractConfig) -> bool:
    """Whether more clips have failed than the user allows."""
    return config.max_failures is not None and len(report.failed) > config.max_failures


def check_failures(report: ExtractReport, config: ExtractConfig) -> None:
    """Raise where more clips have failed than the user allows."""
    if has_too_many_failures(report, config):
        last: ClipFailed = report.failed[-1]
        raise TokenReelError(
            f"{len(report.failed)} clips failed, more than max_failures={config.max_failures}; "
            f"the last: {last}"
        )
