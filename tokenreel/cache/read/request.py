"""One request: which frames of which arrays, in pieces that threads can read side by side."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, wait
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from tokenreel.cache.codec import Codec, Encoded
from tokenreel.cache.codec.base import Array
from tokenreel.cache.errors import ClipNotFound
from tokenreel.cache.format.clip_record import ClipRecord
from tokenreel.cache.format.identity import StoreIdentity
from tokenreel.cache.read.clip_reader import OpenClip
from tokenreel.cache.read.tensorstore import frame_numbers

__all__ = ["Reading", "Request", "Tokens", "run_pieces"]


@dataclass(frozen=True, eq=False)
class Tokens:
    """Frames of a clip as they are stored.

    Attributes:
        codes: block -> (t, n, d).
        scales: block -> (t, n), {} for a codec without.
        codec: of the store.
    """

    codes: dict[int, Array]
    scales: dict[int, Array]
    codec: Codec

    def decode(self, block: int) -> Array:
        """Tokens of a block, float32 (t, n, D)."""
        encoded = Encoded(self.codes[block], self.scales.get(block))
        return self.codec.decode(encoded, block=block)


@dataclass(frozen=True, eq=False)
class Request:
    """One read of read_many: the arguments of Store.read."""

    clip_id: str
    frames: Any = None
    layers: Sequence[int] | None = None
    view: int = 0
    out: Mapping[int, Array] | None = None


class Reading:
    """A request on its way.

    Frames that are asked for twice, as by two windows of one clip, are read once.

    Args:
        request: what is wanted.
        record: of its clip.
        clip: opened.
        identity: of the store.
        codec: of the store.

    Attributes:
        pieces: calls that do not depend on one another; result() is complete after all of them.
            None of them holds the reading, so that its buffers are free when their user is done.

    Raises:
        ClipNotFound: no such block, view or frame.
        ValueError: frames or `out` that cannot be meant.
    """

    def __init__(
        self,
        request: Request,
        record: ClipRecord,
        clip: OpenClip,
        *,
        identity: StoreIdentity,
        codec: Codec,
    ) -> None:
        self._blocks = tuple(identity.blocks if request.layers is None else request.layers)
        if (
            not set(self._blocks) <= set(identity.blocks)
            or not 0 <= request.view < record.num_views
        ):
            raise ClipNotFound(
                f"{record.clip_id}: no block {self._blocks} or view {request.view}; the store has "
                f"blocks {identity.blocks} and {record.num_views} view(s)"
            )
        rows = frame_numbers(record, request.frames)
        distinct, self._inverse = np.unique(rows, return_inverse=True)
        self._is_plain = np.array_equal(distinct, rows)
        self._out, self._codec = request.out, codec
        self._read: dict[int, Array] = {}
        self._scales: dict[int, Array] = {}
        self.pieces: list[Callable[[], None]] = []
        for block in self._blocks:
            path, scale = (f"views/{request.view}/{kind}/{block}" for kind in ("tokens", "scale"))
            target = self._given(block, clip.shape_of(path, len(rows)))
            if target is None or not self._is_plain:
                target = clip.empty(path, len(distinct))
            self._read[block] = target
            self.pieces += clip.pieces(path, distinct, target)
            if clip.has(scale):
                self.pieces.append(partial(_read_scales, self._scales, block, clip, scale, rows))

    def _given(self, block: int, shape: tuple[int, ...]) -> Array | None:
        if self._out is None:
            return None
        given, dtype = self._out.get(block), self._codec.dtype
        if given is None:
            raise ValueError(f"out has no array for block {block}, only for {sorted(self._out)}")
        if given.shape != shape or given.dtype != dtype or not given.flags.c_contiguous:
            raise ValueError(
                f"out[{block}] is {given.dtype}{given.shape}, wanted contiguous {dtype}{shape}"
            )
        return given

    def result(self) -> Tokens:
        """What the pieces have read."""
        codes = self._read
        if not self._is_plain:
            given = self._out or {}
            codes = {
                block: np.take(read, self._inverse, axis=0, out=given.get(block), mode="clip")
                for block, read in self._read.items()
            }
        scales = {block: self._scales[block] for block in self._blocks if block in self._scales}
        return Tokens(codes, scales, self._codec)


def _read_scales(
    scales: dict[int, Array], block: int, clip: OpenClip, path: str, rows: Array
) -> None:
    scales[block] = clip.rows(path, rows)


def run_pieces(pieces: Sequence[Callable[[], None]], pool: Executor) -> None:
    """Run the pieces on threads; an error of one is raised when nobody writes any longer."""
    waiting = [pool.submit(piece) for piece in pieces]
    try:
        for future in waiting:
            future.result()
    finally:
        for future in waiting:
            future.cancel()
        wait(waiting)
