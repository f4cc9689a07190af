"""Exact nearest frames: by matrix products in blocks, then by the distances themselves.

A matrix product gives distances fast but rounds them, and rounds equal ones differently at the
edges of its tiles.  So it only proposes: every frame that its error bound leaves possible is
measured again as sum((q - g)^2) in float64, and of equal distances the first frame wins.  The
answer is that of a stable sort of all float64 distances, whatever the blocks and threads.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from tokenreel.evaluate.methods.finite import require_frames

MEMORY_BYTES = 2_000_000_000  # default for the blocks of a search

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_GROUP = 64  # columns whose minimum is looked at first
_COLUMNS = 4096  # of a block: wide enough for the matrix product, small enough for the cache
_KEPT = 16  # candidates for each frame that is wanted, before they are measured
_EXACT_BYTES = 32_000_000  # float64 rows measured at once


def squared_distances(queries: NDArray[np.floating], gallery: NDArray[np.floating]) -> Floats:
    """Squared Euclidean distances, (n, m), in float64, by a matrix product: to look at.

    Raises:
        ValueError: NaN or infinity.
        TypeError: no real numbers.
    """
    require_frames("queries", queries)
    require_frames("gallery", gallery)
    return distances_of_finite(queries, gallery)


def distances_of_finite(queries: NDArray[np.floating], gallery: NDArray[np.floating]) -> Floats:
    """As :func:`squared_distances`, of frames that have been checked."""
    first, second = queries.astype(np.float64), gallery.astype(np.float64)
    out = -2.0 * first @ second.T
    out += (first**2).sum(1)[:, None]
    out += (second**2).sum(1)[None, :]
    return np.maximum(out, 0.0)


def nearest_in_other_clips(
    clips: Sequence[NDArray[np.floating]],
    count: int,
    *,
    memory_bytes: int = MEMORY_BYTES,
    threads: int = 1,
) -> Ints:
    """For each frame its `count` nearest frames of all other clips.

    Args:
        clips: embeddings (T_i, C).
        count: k >= 1.
        memory_bytes: what the blocks may hold together; the work is linear in queries x gallery
            whatever it is.
        threads: blocks of queries searched at once.

    Raises:
        ValueError: NaN or infinity in a clip, count or threads < 1.

    Returns:
        (n, count) int64 indices into all clips laid end to end, nearest first; -1 where a frame has
        fewer than `count` frames in other clips.
    """
    require_frames("clips", clips)
    if count < 1 or threads < 1:
        raise ValueError(f"count and threads are at least 1, got {count} and {threads}")
    frames = np.concatenate(clips)
    if not len(frames):
        return np.empty((0, count), np.int64)
    edges = _edges(clips)
    search = _Search(frames, edges, count)
    columns = min(_COLUMNS, -(-len(frames) // _GROUP) * _GROUP)
    # a block of products, its minima, and the candidates of the first block, which are the most
    rows = int(np.clip(memory_bytes // threads // (12 * columns), 1, 1024))
    starts = range(0, len(frames), rows)
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(threads) as pool:
        found = list(
            pool.map(lambda a: search.nearest(a, min(a + rows, len(frames)), columns), starts)
        )
    return np.concatenate(found)


class _Search:
    """The gallery, centred and scaled to norms up to 1, in float32, with its squared norms."""

    def __init__(self, frames: NDArray[np.floating], edges: Ints, count: int) -> None:
        self.frames, self.edges, self.count = frames, edges, count
        self.clip_of = np.repeat(np.arange(len(edges) - 1), np.diff(edges))
        scaled, norms, unit = _scale(frames, np.float32)
        self.queries = np.concatenate([-2 * scaled, np.ones((len(frames), 1), np.float32)], axis=1)
        self.gallery = np.concatenate([scaled, (norms**2)[:, None].astype(np.float32)], axis=1)
        self.slack = 2 * unit * (2 * norms + 1)

    def nearest(self, start: int, stop: int, columns: int) -> Ints:
        """The nearest frames of queries [start, stop), in the order of all frames."""
        bound = np.full(stop - start, np.inf, np.float32)
        kept = _Candidates(self, start, stop)
        for left in range(0, len(self.frames), columns):
            right = min(left + columns, len(self.frames))
            products = self._products(start, stop, left, right)
            rows, cols, values = _below(products, bound, kept.slack, self.count)
            bound = kept.add(rows, cols + left, values)
        return kept.nearest()

    def _products(self, start: int, stop: int, left: int, right: int) -> NDArray[np.float32]:
        """Squared distances less the query's norm, infinite within a clip and in the padding."""
        width = -(-(right - left) // _GROUP) * _GROUP
        out = np.empty((stop - start, width), np.float32)
        out[:, right - left :] = np.inf
        np.matmul(self.queries[start:stop], self.gallery[left:right].T, out=out[:, : right - left])
        first, last = self.clip_of[start], self.clip_of[stop - 1]
        for a, b in pairwise(self.edges[first : last + 2]):
            rows = slice(max(a, start) - start, min(b, stop) - start)
            out[rows, max(a - left, 0) : max(min(b, right) - left, 0)] = np.inf
        return out


def _below(
    products: NDArray[np.float32], bound: NDArray[np.float32], slack: Floats, count: int
) -> tuple[Ints, Ints, NDArray[np.float32]]:
    """Rows, columns and values of the entries that may be among a row's `count` smallest."""
    groups = products.reshape(len(products), -1, _GROUP)
    minima = groups.min(axis=2)
    if not np.isfinite(bound).all() and minima.shape[1] > count:
        # at least `count` entries are no larger than the count-th smallest minimum
        largest = np.partition(minima, count - 1, axis=1)[:, count - 1]
        bound = np.minimum(bound, _raised(largest, slack))
    rows, places = np.nonzero(minima <= bound[:, None])
    chosen = groups[rows, places]
    which, inside = np.nonzero((chosen <= bound[rows, None]) & (chosen < np.inf))
    return rows[which], places[which] * _GROUP + inside, chosen[which, inside]


def _raised(values: NDArray[np.float32], slack: Floats) -> NDArray[np.float32]:
    """The sum, one step up, so that rounding never puts it below itself."""
    return np.nextafter((values + slack).astype(np.float32), np.float32(np.inf))


class _Candidates:
    """What may be among the nearest frames of a block of queries, as sorted (row, value, column).

    `bound` of a row is its count-th smallest value plus what rounding may have added to it.
    """

    def __init__(self, search: _Search, start: int, stop: int) -> None:
        self.search, self.start, self.num_rows = search, start, stop - start
        self.rows = np.empty(0, np.int64)
        self.cols = np.empty(0, np.int64)
        self.values = np.empty(0, np.float32)
        self.slack = search.slack[start:stop]

    def add(self, rows: Ints, cols: Ints, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Take in a block; returns the new bound of each row, (n,) float32."""
        rows = np.concatenate([self.rows, rows])
        cols = np.concatenate([self.cols, cols])
        values = np.concatenate([self.values, values])
        order = np.lexsort((values, rows))
        rows, cols, values = rows[order], cols[order], values[order]
        bound = self._bound(rows, values)
        keep = values <= bound[rows]
        self.rows, self.cols, self.values = rows[keep], cols[keep], values[keep]
        if len(self.rows) > _KEPT * self.search.count * self.num_rows:
            self._keep_nearest()  # ties by the thousand would fill the memory
        return bound

    def _bound(self, rows: Ints, values: NDArray[np.float32]) -> NDArray[np.float32]:
        firsts = np.searchsorted(rows, np.arange(self.num_rows + 1))
        last = firsts[:-1] + self.search.count - 1
        bound = np.full(self.num_rows, np.inf, np.float32)
        full = last < firsts[1:]
        bound[full] = _raised(values[last[full]], self.slack[full])
        return bound

    def _keep_nearest(self) -> Ints:
        """Measure the candidates and keep the nearest of each row; returns their ranks.

        A later frame at the same distance loses to them, as blocks come in the order of frames.
        """
        exact = _measure(self.search.frames, self.rows + self.start, self.cols)
        order = np.lexsort((self.cols, exact, self.rows))
        rows = self.rows[order]
        rank = np.arange(len(rows)) - np.searchsorted(rows, rows)
        keep = order[rank < self.search.count]
        self.rows, self.cols, self.values = self.rows[keep], self.cols[keep], self.values[keep]
        return rank[rank < self.search.count]

    def nearest(self) -> Ints:
        """The nearest frames of each row in order, (n, count), -1 where there are fewer."""
        rank = self._keep_nearest()
        out = np.full((self.num_rows, self.search.count), -1, np.int64)
        out[self.rows, rank] = self.cols
        return out


def nearest_in_each_clip(
    clips: Sequence[NDArray[np.floating]], *, memory_bytes: int = MEMORY_BYTES
) -> Iterator[Ints]:
    """For the frames of each clip in turn, their nearest frame in every clip, itself included.

    Args:
        clips: embeddings (T_i, C), T_i >= 1.
        memory_bytes: what the blocks may hold.

    Yields:
        (T_i, clips) int64, counted from the start of the clip that is searched.
    """
    if not clips:
        return
    require_frames("clips", clips)
    frames, edges = np.concatenate(clips), _edges(clips)
    scaled, norms, unit = _scale(frames, np.float64)
    clip_of = np.repeat(np.arange(len(clips)), np.diff(edges))
    squares, slack = norms**2, 2 * unit * (2 * norms + 1)
    size = max(1, memory_bytes // (32 * len(frames)))
    for first, last in pairwise(edges):
        parts = []
        for start in range(first, last, size):
            block = slice(start, min(start + size, last))
            values = -2 * scaled[block] @ scaled.T + squares
            bound = np.minimum.reduceat(values, edges[:-1], axis=1) + slack[block, None]
            rows, cols = np.nonzero(values <= np.repeat(bound, np.diff(edges), axis=1))
            parts.append(_first_nearest(frames, rows + start, cols, clip_of, edges))
        yield np.concatenate(parts)


def _first_nearest(
    frames: NDArray[np.floating], rows: Ints, cols: Ints, clip_of: Ints, edges: Ints
) -> Ints:
    """The nearest of the candidates (row, column) in each clip, the first of equal ones."""
    num_clips = len(edges) - 1
    cell = rows * num_clips + clip_of[cols]  # sorted, as rows and columns are
    is_first = np.concatenate([[True], cell[1:] != cell[:-1]])
    is_alone = is_first & np.concatenate([is_first[1:], [True]])
    tied = np.flatnonzero(~is_alone)
    if len(tied):
        exact = np.zeros(len(rows))
        exact[tied] = _measure(frames, rows[tied], cols[tied])
        cols = cols[np.lexsort((cols, exact, cell))]
    best = cols[is_first]
    nearest: Ints = (best - edges[clip_of[best]]).reshape(-1, num_clips)
    return nearest


def _scale(
    frames: NDArray[np.floating], kind: type[np.float32] | type[np.float64]
) -> tuple[NDArray[np.floating], Floats, float]:
    """Frames less their mean, divided by the longest; their norms; error of a product of two.

    The error is in units of (2 |q| + 1): (C + 10) roundings cover those of the inputs, of a dot
    product of C + 1 terms in any order, and of the squared norm.
    """
    centred = frames.astype(np.float64)
    centred -= centred.mean(axis=0)
    norms = np.sqrt(np.einsum("ij,ij->i", centred, centred))
    longest = float(norms.max(initial=0.0))
    if longest > 0:
        centred /= longest
        norms = norms / longest
    unit = (frames.shape[1] + 10) * float(np.finfo(kind).eps) / 2
    return centred.astype(kind, copy=False), norms, unit


def _measure(frames: NDArray[np.floating], first: Ints, second: Ints) -> Floats:
    """sum((a - b)^2) in float64 of pairs of frames."""
    size = max(1, _EXACT_BYTES // (16 * max(1, frames.shape[1])))
    out = np.empty(len(first))
    for start in range(0, len(first), size):
        part = slice(start, start + size)
        difference = frames[first[part]].astype(np.float64)
        difference -= frames[second[part]]
        out[part] = np.square(difference, out=difference).sum(axis=1)
    return out


def _edges(clips: Sequence[NDArray[np.floating]]) -> Ints:
    return np.concatenate([[0], np.cumsum([len(clip) for clip in clips])]).astype(np.int64)
