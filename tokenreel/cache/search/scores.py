"""Cosines of tokens with a direction, from codes: bounds for all of them, exact values for a few.

A stored token is z = codes * scale * channel_scale + channel_offset, and x = z @ rotation where a
reducer has one.  With a unit direction u the cosine is (scale * (codes . w) + b) / |x|, with
w = channel_scale * (rotation @ u) and b = channel_offset . (rotation @ u): one product with the
codes themselves, which are cast in tiles that fit into a core's cache.

What float32 may be off is bounded token by token (Higham, Accuracy and Stability of Numerical
Algorithms, 2002, section 3.1: a product of vectors of n elements, added in any order, is off by at
most n * 2^-24 / (1 - n * 2^-24) times the sum of the products' sizes).  Whoever may be among the
best by its bound is computed again in float64.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.codec import Codec, Encoded
from tokenreel.cache.codec.base import Array
from tokenreel.cache.search import loops

Floats = NDArray[np.float32]

TILE = 2**18  # elements that are floats at a time: 1 MB
STEP = 2.0**-24  # relative error of a float32
SMALLEST = 1e-15  # length of a token whose square float32 still has


@dataclass(frozen=True, eq=False)
class Lengths:
    """What does not depend on the direction, of each token.

    Attributes:
        inverse: float32 (F, n), 1 / |x|; 0 where the token is zero or nearly so.
        slack: float32 (F, n): a cosine from codes is off by at most this.
    """

    inverse: Floats
    slack: Floats

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return self.inverse.nbytes + self.slack.nbytes


def measure_lengths(codec: Codec, encoded: Encoded, *, block: int) -> Lengths:
    """Lengths of the tokens of frames, in tiles."""
    frames, tokens = encoded.codes.shape[:2]
    inverse = np.empty((frames, tokens), np.float32)
    slack = np.empty((frames, tokens), np.float32)
    rotation = codec.rotation(block)
    spread = 1.0 if rotation is None else float(np.linalg.norm(rotation.astype(np.float64)))
    for part in _tiles(encoded.codes):
        values = codec.terminal.decode(_part(encoded, part), block=block)
        offset = _offset_length(codec, block, values.shape[-1])
        sizes = np.sqrt(np.vecdot(values, values))
        dims = values.shape[-1]
        if rotation is not None:
            values, dims = values @ rotation, dims + len(rotation[0])
        lengths = np.sqrt(np.vecdot(values, values))
        is_small = lengths < SMALLEST  # or zero: its square may be lost, so its cosine is open
        own = np.divide(1, lengths, out=np.zeros_like(lengths), where=~is_small)
        inverse[part] = own
        slack[part] = (3 * dims + 64) * STEP * (1 + spread * (sizes + 2 * offset) * own)
        slack[part][is_small] = 2
    return Lengths(inverse, slack)


def _offset_length(codec: Codec, block: int, dim: int) -> float:
    channels = codec.terminal.channels(block, dim)
    return 0.0 if channels is None else float(np.linalg.norm(channels[1].astype(np.float64)))


class Direction:
    """A direction as codes of a block meet it.

    Args:
        codec: of the store.
        block: of the store.
        unit: float64 (D,), of length one.
    """

    def __init__(self, codec: Codec, block: int, unit: NDArray[np.float64]) -> None:
        self.codec, self.block, self.unit = codec, block, unit
        rotation = codec.rotation(block)
        inner = unit if rotation is None else rotation.astype(np.float64) @ unit
        channels = codec.terminal.channels(block, len(inner))
        self._inner = inner.astype(np.float32)
        self._weights: Floats | None = None
        if channels is not None and codec.terminal.packing == "":
            scale, offset = (part.astype(np.float64) for part in channels)
            self._weights = (scale * inner).astype(np.float32)
            self._offset = np.float32(offset @ inner)

    def cosines(self, encoded: Encoded, lengths: Lengths) -> Floats:
        """Cosines of the tokens of frames, float32 (F, n), each off by at most its slack."""
        scales = encoded.scales
        if self._weights is None or (scales is not None and scales.ndim != 2):
            products = self._of_values(encoded)
        else:
            products = loops.dot_codes(encoded.codes, self._weights, tile=TILE)
            if scales is not None:
                products *= scales
            products += self._offset
        products *= lengths.inverse
        return products

    def _of_values(self, encoded: Encoded) -> Floats:
        products = np.empty(encoded.codes.shape[:2], np.float32)
        for part in _tiles(encoded.codes):
            values = self.codec.terminal.decode(_part(encoded, part), block=self.block)
            products[part] = np.vecdot(values, self._inner)
        return products

    def exact(
        self, encoded: Encoded, frames: NDArray[np.int64], tokens: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Cosines of some tokens in float64, (m,).

        Args:
            encoded: of frames (F, n, d).
            frames: their rows, (m,).
            tokens: their numbers in the frame, (m,).
        """
        found = np.empty(len(frames))
        step = max(1, TILE // encoded.codes.shape[-1])
        for start in range(0, len(frames), step):
            part = slice(start, start + step)
            values = self._chosen(encoded, frames[part], tokens[part])
            found[part] = cosines(values, self.unit)
        return found

    def _chosen(
        self, encoded: Encoded, frames: NDArray[np.int64], tokens: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Decoded tokens, float64 (m, D)."""
        if self.codec.terminal.packing in ("", "int4"):  # a token by itself, as a frame of one
            scales = None if encoded.scales is None else encoded.scales[frames, tokens][:, None]
            one = Encoded(encoded.codes[frames, tokens][:, None], scales)
            return exact_tokens(self.codec, one, block=self.block)[:, 0]
        rows, place = np.unique(frames, return_inverse=True)
        scales = None if encoded.scales is None else encoded.scales[rows]
        whole = exact_tokens(self.codec, Encoded(encoded.codes[rows], scales), block=self.block)
        chosen: NDArray[np.float64] = whole[place, tokens]
        return chosen


def exact_tokens(codec: Codec, encoded: Encoded, *, block: int) -> NDArray[np.float64]:
    """Tokens as `Store.read` decodes them, (F, n, D), a rotation applied in float64.

    Equal tokens have equal bits, wherever they are: each is rotated by itself.
    """
    values = codec.terminal.decode(encoded, block=block).astype(np.float64)
    rotation = codec.rotation(block)
    if rotation is not None:
        values = np.matmul(values[:, :, None], rotation.astype(np.float64))[:, :, 0]
    return values


def cosines(tokens: NDArray[np.float64], unit: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cosines of tokens (..., D) with a vector of length one; 0 for a token that is zero.

    Sums are numpy's pairwise ones over a row, so equal tokens have equal cosines.
    """
    lengths = np.sqrt(np.square(tokens).sum(axis=-1))
    products = (tokens * unit).sum(axis=-1)
    found: NDArray[np.float64] = np.divide(
        products, lengths, out=np.zeros_like(products), where=lengths > 0
    )
    return found


def unit_rows(tokens: NDArray[np.float64]) -> NDArray[np.float64]:
    """Tokens (..., D) at length one; zero stays zero."""
    lengths = np.sqrt(np.square(tokens).sum(axis=-1, keepdims=True))
    found: NDArray[np.float64] = np.divide(
        tokens, lengths, out=np.zeros_like(tokens), where=lengths > 0
    )
    return found


def _tiles(codes: Array) -> list[slice]:
    frames = max(1, TILE // max(1, int(np.prod(codes.shape[1:]))))
    return [slice(start, start + frames) for start in range(0, len(codes), frames)]


def _part(encoded: Encoded, part: Any) -> Encoded:
    return Encoded(encoded.codes[part], None if encoded.scales is None else encoded.scales[part])
