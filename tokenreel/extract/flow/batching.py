"""Chunks of clips -> batches of one size for the backbone, in buffers that are reused.

Every batch has the same number of rows, so that every matrix product has the same shape: the
tokens of a row are then the same bytes whatever the other rows are.  Where that holds for every
place in a batch (`devices.is_place_free`), batches are filled across clips; elsewhere a batch holds
frames of one clip, frame i of it in row i modulo the size.
"""

import queue
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from tokenreel.extract.decode_pool.pool import Attempt, DecodedChunk


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows of a batch that are consecutive frames of one clip.

    Attributes:
        attempt: of decoding, which names the clip.
        row: first row.
        first: index of its frame among the clip's frames.
        pixels: uint8 (t, V, 3, H, W), or windows (t, h, w, 3) of frames, in the batch's buffer.
        frame_size: height and width of those frames; None for images.
        offset: byte of the buffer at which the pixels begin.
    """

    attempt: Attempt
    row: int
    first: int
    pixels: NDArray[np.uint8]
    frame_size: tuple[int, int] | None
    offset: int

    @property
    def num_frames(self) -> int:
        """Rows of the piece."""
        return len(self.pixels)


@dataclass(slots=True)
class Batch:
    """Pieces in one buffer.

    Attributes:
        buffer: uint8 (bytes,), in page-locked memory where a GPU reads it.
        pieces: in the order of their rows.
        num_rows: filled so far.
        num_bytes: of the buffer, filled so far.
    """

    buffer: torch.Tensor
    pieces: list[Piece] = field(default_factory=list)
    num_rows: int = 0
    num_bytes: int = 0


class Batcher:
    """Fills batches.

    Released buffers are reused: there are never more than the clips being decoded and the batches
    that later stages hold.

    Args:
        batch_frames: rows of a batch.
        buffer_bytes: of a buffer; a batch whose windows of frames need more ends early.
        mixes: whether a batch may hold frames of several clips.
        pins: whether buffers are page-locked.
        window_frames: of a window, which lies in one batch: batches, chunks and the images wanted
            of them are multiples of it.
    """

    def __init__(
        self,
        *,
        batch_frames: int,
        buffer_bytes: int,
        mixes: bool,
        pins: bool,
        window_frames: int = 1,
    ) -> None:
        self._window_frames = window_frames
        self._batch_frames, self._mixes = batch_frames, mixes
        self._buffer_bytes, self._pins = buffer_bytes, pins
        self._free: queue.SimpleQueue[torch.Tensor] = queue.SimpleQueue()
        self._open: dict[int, Batch] = {}

    def add(self, chunk: DecodedChunk, *, first: int, wanted: slice) -> Iterator[Batch]:
        """Copy frames of a chunk, and yield batches as they fill up.

        Args:
            chunk: with images.
            first: index of the first image among the clip's frames.
            wanted: which of the images; its step is 1.
        """
        assert chunk.images is not None
        start, stop, _ = wanted.indices(len(chunk.images))
        key = -1 if self._mixes else chunk.attempt.position
        while start < stop:
            batch = self._open.get(key)
            if batch is None:
                batch = self._open[key] = Batch(self._buffer())
            row_bytes = chunk.images[0].nbytes
            room = (self._buffer_bytes - batch.num_bytes) // row_bytes
            room -= room % self._window_frames
            count = min(stop - start, self._batch_frames - batch.num_rows, room)
            if count > 0:
                self._put(batch, chunk, first + start, chunk.images[start : start + count])
                start += count
            if batch.num_rows == self._batch_frames or room == count:
                yield self._open.pop(key)

    def end(self, position: int) -> Iterator[Batch]:
        """Yield the clip's own batch, as it has no more frames; none where clips share batches."""
        if not self._mixes and position in self._open:
            yield self._open.pop(position)

    def forget(self, position: int) -> None:
        """Discard the frames of a failed attempt in the clip's own batch."""
        if not self._mixes and position in self._open:
            self.release(self._open.pop(position))

    def rest(self) -> Iterator[Batch]:
        """Yield the batches that are not full, after the last chunk."""
        while self._open:
            yield self._open.popitem()[1]

    def release(self, batch: Batch) -> None:
        """Release the buffer of a batch; from any thread."""
        self._free.put(batch.buffer)

    def _buffer(self) -> torch.Tensor:
        try:
            return self._free.get_nowait()
        except queue.Empty:
            return torch.zeros(self._buffer_bytes, dtype=torch.uint8, pin_memory=self._pins)

    def _put(
        self, batch: Batch, chunk: DecodedChunk, first: int, images: NDArray[np.uint8]
    ) -> None:
        flat = batch.buffer.numpy()[batch.num_bytes : batch.num_bytes + images.nbytes]
        pixels = flat.reshape(images.shape)
        np.copyto(pixels, images)
        batch.pieces.append(
            Piece(chunk.attempt, batch.num_rows, first, pixels, chunk.frame_size, batch.num_bytes)
        )
        batch.num_rows += len(images)
        batch.num_bytes += images.nbytes
