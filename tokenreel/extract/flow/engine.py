"""Batches -> encoded rows: resize | backbone | quantise | copy to the host, overlapped.

On CUDA the host only launches: a batch is resized, run and quantised.  Its pixels are uploaded on
one stream and its tokens downloaded on another, both through page-locked memory, while other
batches run; a second thread waits for the download.  On a CPU the backbone has one thread and
quantising another.  Memory is bounded by SLOTS and queue depths.
"""

import queue
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokenreel.cache.format.identity import StoreIdentity
from tokenreel.extract.backbone.base import Backbone, FrameTokens
from tokenreel.extract.encode.quantiser import Encoder
from tokenreel.extract.flow.batching import Batch, Piece
from tokenreel.extract.flow.devices import Machine, named_failures
from tokenreel.extract.flow.stage import Stage
from tokenreel.extract.flow.windows import Windows
from tokenreel.extract.images.resize import resize_on_device
from tokenreel.extract.images.transforms import plan_on_device

BATCHES_AHEAD = 1  # that may wait for the backbone, and for the copy
SLOTS = 3  # page-locked copies of a batch's tokens: one being filled, one being written, one spare

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Rows:
    """A piece whose tokens are on the host.

    Attributes:
        piece: the frames.
        views: of each view, the outputs of the piece's batch by name; see Quantiser.on_device.
        rows: of the piece in them.
        done: to be called once the outputs are no longer needed.
    """

    piece: Piece
    views: tuple[Arrays, ...]
    rows: slice
    done: Callable[[], None]


@dataclass(slots=True)
class _Running:
    """A batch in progress on the device; its tensors are held until they are copied."""

    batch: Batch
    found: list[FrameTokens] = field(default_factory=list)
    outputs: list[dict[str, Tensor]] = field(default_factory=list)
    slot: list[dict[str, Tensor]] | None = None
    began: Any = None  # CUDA events
    ended: Any = None
    copied: Any = None


class Engine:
    """Two stages between the batcher and the writers.  Use as a context manager.

    Args:
        machine: device and sizes.
        backbone: on the device.
        quantiser: for the device.
        identity: of the store.
        emit: called with the pieces of each batch, in order; may block.
        release: frees a batch's buffer.
    """

    def __init__(
        self,
        machine: Machine,
        backbone: Backbone,
        quantiser: Encoder,
        identity: StoreIdentity,
        *,
        emit: Callable[[Rows], None],
        release: Callable[[Batch], None],
    ) -> None:
        self._machine, self._backbone, self._quantiser = machine, backbone, quantiser
        self._identity, self._emit, self._release = identity, emit, release
        self._windows = Windows(identity.frames_per_window, identity.rows_per_window)
        self._is_cuda = machine.is_cuda
        self._slots: queue.SimpleQueue[list[dict[str, Tensor]]] = queue.SimpleQueue()
        for _ in range(SLOTS):
            self._slots.put([])
        if self._is_cuda:
            self._uploads, self._copies = (torch.cuda.Stream(machine.device) for _ in range(2))
        self._images: Tensor | None = None
        self._last_end: Any = None
        self._gpu_seconds = [0.0, 0.0]  # busy, waiting
        self.run = Stage("backbone", self._run, depth=BATCHES_AHEAD, discard=release)
        self.copy = Stage("encode", self._copy, depth=BATCHES_AHEAD, discard=self._abandon)
        self._stack = ExitStack()

    def __enter__(self) -> "Engine":
        for stage in (self.copy, self.run):
            self._stack.enter_context(stage)
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._stack.__exit__(kind, error, trace)  # type: ignore[arg-type]

    @property
    def busy_seconds(self) -> float:
        """Time that the backbone ran."""
        return self._gpu_seconds[0] if self._is_cuda else self.run.busy_seconds

    @property
    def idle_seconds(self) -> float:
        """Time that the backbone waited for frames, from its first batch on."""
        return self._gpu_seconds[1] if self._is_cuda else self.run.idle_seconds

    @torch.inference_mode()
    def _run(self, batch: Batch) -> None:
        """Launch a batch; on a CPU, run its backbone."""
        running = _Running(batch)
        with named_failures(self._machine):
            if self._is_cuda:
                torch.cuda.set_device(self._machine.device)  # this thread's
                running.began, running.ended, running.copied = (
                    torch.cuda.Event(enable_timing=True) for _ in range(3)
                )
                running.began.record()
            images = self._images_of(batch)
            for view in range(images.shape[1]):
                found = self._backbone(images[:, view])
                if self._is_cuda:
                    running.outputs.append(self._quantiser.on_device(found))
                else:
                    running.found.append(found)
            if self._is_cuda:
                running.ended.record()
                self._copy_out(running)
        self.copy.put(running)

    def _images_of(self, batch: Batch) -> Tensor:
        """Images of a batch on the device, uint8 (B, V, 3, H, W); unfilled rows are stale."""
        count = self._machine.batch_frames if self._machine.pads else batch.num_rows
        shape = (count, self._identity.num_views, 3, *self._identity.image_size)
        if not self._is_cuda and all(piece.frame_size is None for piece in batch.pieces):
            return batch.buffer[: int(np.prod(shape))].reshape(shape)
        if self._images is None or self._images.shape != shape:
            self._images = torch.zeros(shape, dtype=torch.uint8, device=self._machine.device)
        on_device = self._on_device(batch)
        for frame_size, group in groupby(batch.pieces, key=lambda piece: piece.frame_size):
            pieces = list(group)  # neighbours: their rows and their bytes follow one another
            first, last = pieces[0], pieces[-1]
            pixels = on_device[first.offset : last.offset + last.pixels.nbytes]
            pixels = pixels.reshape(-1, *first.pixels.shape[1:])
            rows = self._images[first.row : last.row + last.num_frames]
            if frame_size is None:
                rows.copy_(pixels)
            else:
                plan = plan_on_device(frame_size, self._identity.transform)
                assert plan is not None
                rows[:, 0].copy_(resize_on_device(pixels, plan))
        return self._images

    def _on_device(self, batch: Batch) -> Tensor:
        """The bytes of a batch on the device, uploaded while it computes."""
        if not self._is_cuda:
            return batch.buffer
        with torch.cuda.stream(self._uploads):
            pixels = batch.buffer[: batch.num_bytes].to(self._machine.device, non_blocking=True)
        here = torch.cuda.current_stream(self._machine.device)
        here.wait_stream(self._uploads)
        pixels.record_stream(here)  # else a later upload could reuse their memory too early
        return pixels

    def _copy_out(self, running: _Running) -> None:
        """Copy into a page-locked slot while the device computes; waits for a free slot."""
        slot = self._slots.get()
        running.slot = slot
        self._copies.wait_event(running.ended)
        with torch.cuda.stream(self._copies):
            for number, outputs in enumerate(running.outputs):
                if len(slot) <= number:
                    slot.append({})
                for name, values in outputs.items():
                    if name not in slot[number] or slot[number][name].shape != values.shape:
                        slot[number][name] = torch.empty(
                            values.shape, dtype=values.dtype, pin_memory=True
                        )
                    slot[number][name].copy_(values, non_blocking=True)
            running.copied.record()

    def _copy(self, running: _Running) -> None:
        """Wait for the copy, or quantise on a CPU; then emit the pieces."""
        if self._is_cuda:
            with named_failures(self._machine):
                running.copied.synchronize()
            self._gpu_seconds[0] += running.began.elapsed_time(running.ended) / 1e3
            if self._last_end is not None:
                self._gpu_seconds[1] += max(self._last_end.elapsed_time(running.began), 0.0) / 1e3
            self._last_end = running.ended
            assert running.slot is not None
            quantised = running.slot
        else:
            quantised = [self._quantiser.on_device(view) for view in running.found]
        views = tuple({n: v.numpy() for n, v in view.items()} for view in quantised)
        running.found, running.outputs = [], []
        self._release(running.batch)
        last = _Countdown(len(running.batch.pieces), lambda: self._free_slot(running))
        for piece in running.batch.pieces:
            first = self._windows.rows_of(piece.row)
            rows = slice(first, first + self._windows.rows_of(piece.num_frames))
            self._emit(Rows(piece, views, rows, last))

    def _free_slot(self, running: _Running) -> None:
        if running.slot is not None:
            self._slots.put(running.slot)

    def _abandon(self, running: _Running) -> None:
        if self._is_cuda:
            running.copied.synchronize()
        self._release(running.batch)
        self._free_slot(running)


class _Countdown:
    """Calls `last` on its `count`-th call; safe from several threads."""

    def __init__(self, count: int, last: Callable[[], None]) -> None:
        self._tickets = iter(range(count - 1, -1, -1))  # its next() is atomic
        self._last = last

    def __call__(self) -> None:
        if next(self._tickets) == 0:
            self._last()
