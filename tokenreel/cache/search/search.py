"""The most similar patches of a store: all codes are scored, the best are computed in float64.

The result is that of float64 on decoded tokens; equal cosines are ordered by clip, frame and patch.
"""

import logging
import os
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.codec import Codec
from tokenreel.cache.errors import UsageError
from tokenreel.cache.read.store_reader import Store, open_store
from tokenreel.cache.search.chunks import Chunk, Span, plan_chunks, read_chunk, spread_order
from tokenreel.cache.search.query import Click, Patch, find_block, query_direction, require_view
from tokenreel.cache.search.ranking import Candidates, Ranking
from tokenreel.cache.search.scores import Direction, Lengths, measure_lengths

log = logging.getLogger(__name__)

FIRST_SECONDS = 0.2  # until the first answer
NEXT_SECONDS = 0.5  # between two answers after it


@dataclass(frozen=True)
class SimilarPatch:
    """A patch that a search found.

    Attributes:
        clip_id: the clip.
        frame: index into the clip.
        patch: its number in the frame, row by row.
        score: cosine, of float64 on decoded tokens.
    """

    clip_id: str
    frame: int
    patch: int
    score: float


@dataclass(frozen=True)
class Found:
    """What a search has found so far.

    Attributes:
        patches: the best, the best first.
        of_clips: the best of each clip, the best clip first.
        num_done, num_frames: frames searched, of all.
        num_bytes: codes searched.
        seconds: since the search began.
        left_out: sentences on clips that cannot be read.
    """

    patches: tuple[SimilarPatch, ...]
    of_clips: tuple[SimilarPatch, ...]
    num_done: int
    num_frames: int
    num_bytes: int
    seconds: float
    left_out: tuple[str, ...]

    @property
    def is_complete(self) -> bool:
        """Whether all frames were searched."""
        return self.num_done == self.num_frames

    @property
    def speed(self) -> str:
        """How much was searched, and how fast, for people."""
        size = f"{self.num_bytes / 1e9:.2f} GB of codes in {self.seconds:.2f} s"
        return f"{self.num_done} frames, {size}, {self.num_bytes / 1e9 / self.seconds:.2f} GB/s"


@dataclass(frozen=True, eq=False)
class _Held:
    """A chunk that stays in memory."""

    chunk: Chunk
    lengths: Lengths


class PatchIndex:
    """A block and view of a store to be searched again and again.

    Chunks stay in memory once they are read, with the lengths of their tokens, while there is room;
    the others are read from the store by each search.  Lengths alone stay in an eighth of the room:
    they take longer than the search itself, and far less memory than codes.

    Args:
        codec: of the store.
        block: that is searched.
        names: ids of the clips, sorted.
        plan: spans of each chunk.
        read: a chunk of spans.
        memory_bytes: for codes, scales and lengths.
    """

    def __init__(
        self,
        codec: Codec,
        block: int,
        names: Sequence[str],
        plan: Sequence[list[Span]],
        read: Callable[[list[Span]], Chunk],
        *,
        memory_bytes: int,
    ) -> None:
        self._codec, self._block, self._names = codec, block, list(names)
        self._plan, self._read = list(plan), read
        self._free_of_lengths = memory_bytes // 8
        self._free = memory_bytes - self._free_of_lengths
        self._held: dict[int, _Held] = {}
        self._lengths: dict[int, tuple[int, Lengths]] = {}  # of chunks with such scales, not held
        self._threads = num_processors()
        self._lock = threading.Lock()
        self.num_frames = sum(span.stop - span.start for spans in self._plan for span in spans)

    @classmethod
    def of_store(
        cls,
        store: Store,
        *,
        block: int,
        view: int = 0,
        clips: Sequence[str] | None = None,
        memory_bytes: int = 0,
    ) -> "PatchIndex":
        """The index of a store.

        Args:
            store: its store.
            block: that is searched.
            view: that is searched.
            clips: ids of those that are searched, all when None.
            memory_bytes: for chunks that stay in memory; 0 keeps none.

        Raises:
            UsageError: no such block or view.
        """
        block = find_block(store, block)
        require_view(store, view)
        identity = store.identity
        shape = store.codec.stored_shape(identity.num_tokens, identity.dim, identity.grid)
        frame_bytes = int(np.prod(shape)) * store.codec.dtype.itemsize
        names = sorted(store.records if clips is None else clips)
        plan = plan_chunks([store.record(name).num_frames for name in names], frame_bytes)
        read = partial(read_chunk, store, names, block=block, view=view)
        return cls(store.codec, block, names, plan, read, memory_bytes=memory_bytes)

    @property
    def is_in_memory(self) -> bool:
        """Whether no search reads the store any more."""
        return len(self._held) == len(self._plan)

    def load(self) -> None:
        """Read what has room in memory, before the first search."""
        for place in range(len(self._plan)):
            self._fetch(place)
            if place not in self._held:
                return

    def search(self, unit: NDArray[np.float64], *, count: int = 100) -> Found:
        """The patches most similar to a direction.

        Args:
            unit: of query_direction.
            count: how many.

        Raises:
            MachineError: this process cannot read the store now.
        """
        *_, last = self.refine(unit, count=count)
        return last

    def refine(
        self, unit: NDArray[np.float64], *, count: int = 100, first_seconds: float = FIRST_SECONDS
    ) -> Iterator[Found]:
        """As search: what is found after a moment, then more, at last all; close it to stop.

        Chunks come in an order whose every beginning is spread over the store.
        """
        start = time.perf_counter()
        direction = Direction(self._codec, self._block, unit)
        ranking = Ranking(count, len(self._names))
        left_out: dict[int, str] = {}
        num_done = num_frames_seen = num_bytes = 0
        due = start + first_seconds
        order = iter(spread_order(len(self._plan)))
        with ThreadPoolExecutor(self._threads, thread_name_prefix="tokenreel-search") as pool:
            waiting: deque[Future[tuple[Chunk, Candidates]]] = deque()

            def submit() -> None:
                place = next(order, None)
                if place is not None:
                    waiting.append(pool.submit(self._score, place, direction, ranking))

            for _ in range(2 * self._threads):
                submit()
            try:
                while waiting:
                    chunk, candidates = waiting.popleft().result()
                    submit()
                    ranking.add(candidates)
                    left_out |= chunk.left_out
                    num_done += 1
                    num_frames_seen += len(chunk.frames)
                    num_bytes += chunk.nbytes
                    if waiting and time.perf_counter() >= due:
                        due = time.perf_counter() + NEXT_SECONDS
                        seconds = time.perf_counter() - start
                        yield self._found(ranking, num_frames_seen, num_bytes, seconds, left_out)
            finally:
                for future in waiting:
                    future.cancel()
        seconds = time.perf_counter() - start
        yield self._found(ranking, self.num_frames, num_bytes, seconds, left_out)

    def _score(
        self, place: int, direction: Direction, ranking: Ranking
    ) -> tuple[Chunk, Candidates]:
        held = self._fetch(place)
        return held.chunk, best_of(held.chunk, held.lengths, direction, ranking)

    def _fetch(self, place: int) -> _Held:
        held = self._held.get(place)
        if held is None:
            chunk = self._read(self._plan[place])
            scales = chunk.encoded.scales
            token_hash = 0 if scales is None else zlib.crc32(scales.data)
            known, lengths = self._lengths.get(place, (None, None))
            if lengths is None or known != token_hash or scales is None or chunk.left_out:
                lengths = measure_lengths(self._codec, chunk.encoded, block=self._block)
            held = _Held(chunk, lengths)
            if not chunk.left_out:
                self._keep(place, held, token_hash)
        return held

    def _keep(self, place: int, held: _Held, token_hash: int) -> None:
        """Keep a chunk where there is room, else the lengths of its tokens."""
        size = held.chunk.nbytes + held.lengths.nbytes
        with self._lock:
            if size <= self._free:
                self._free -= size
                self._held[place] = held
            elif place in self._lengths:
                self._lengths[place] = token_hash, held.lengths
            elif held.lengths.nbytes <= self._free_of_lengths:
                self._free_of_lengths -= held.lengths.nbytes
                self._lengths[place] = token_hash, held.lengths

    def _found(
        self,
        ranking: Ranking,
        num_done: int,
        num_bytes: int,
        seconds: float,
        left_out: dict[int, str],
    ) -> Found:
        return Found(
            self._patches(ranking.best),
            self._patches(ranking.of_clips()),
            num_done,
            self.num_frames,
            num_bytes,
            seconds,
            tuple(left_out[place] for place in sorted(left_out)),
        )

    def _patches(self, found: Candidates) -> tuple[SimilarPatch, ...]:
        rows = zip(
            found.clips.tolist(),
            found.frames.tolist(),
            found.patches.tolist(),
            found.scores.tolist(),
            strict=True,
        )
        return tuple(SimilarPatch(self._names[clip], *rest) for clip, *rest in rows)


def num_processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def best_of(chunk: Chunk, lengths: Lengths, direction: Direction, ranking: Ranking) -> Candidates:
    """Patches of a chunk that may be among the best of all or the best of their clip.

    Args:
        chunk: that is searched.
        lengths: of its tokens.
        direction: of the query.
        ranking: what is known so far; it is only read.
    """
    if not len(chunk.frames):
        return Candidates.none()
    cosines = direction.cosines(chunk.encoded, lengths)
    highest, lowest = cosines + lengths.slack, cosines - lengths.slack
    threshold = max(ranking.threshold, _kth_largest(lowest, ranking.count))
    starts = np.flatnonzero(np.diff(chunk.clips, prepend=-1))
    of_clip = np.maximum.reduceat(lowest.max(axis=1), starts)
    needed = np.minimum(of_clip, threshold)
    counts = np.diff(np.append(starts, len(chunk.clips)))
    frames, patches = np.nonzero(highest >= np.repeat(needed, counts)[:, None])
    scores = direction.exact(chunk.encoded, frames, patches)
    return Candidates(scores, chunk.clips[frames], chunk.frames[frames], patches)


def _kth_largest(values: NDArray[np.float32], count: int) -> float:
    """The count-th largest of all values, minus infinity where there are fewer."""
    if values.size < count:
        return -np.inf
    return float(np.partition(values.reshape(-1), -count)[-count])


def similar_patches(
    store: Store | str | Path,
    clip: str,
    frame: int,
    patch: Patch,
    block: int | None = None,
    *,
    view: int = 0,
    more: Sequence[Click] = (),
    count: int = 100,
) -> list[SimilarPatch]:
    """The patches of a store that are most similar to one of them, itself among them.

    Args:
        store: the store or its directory.
        clip: id of the clip.
        frame: index into the clip.
        patch: its number, row by row; (row, column); or a box, (row, column, last row, last
            column), which counts as the mean of its patches.
        block: that is searched, the last of the store when None.
        view: stored augmentation; 0 is clean.
        more: further patches, positive or negative.
        count: how many.

    Returns:
        The best first; equal cosines by clip, frame and patch.  Scores are cosines of float64 on
        decoded tokens.

    Raises:
        UsageError: no such block, view or patch.
        ClipNotFound: no such clip or frame.
        MachineError: this process cannot read the store now.
    """
    found = search_store(
        store if isinstance(store, Store) else open_store(store),
        [Click(clip, frame, patch), *more],
        block=block,
        view=view,
        count=count,
    )
    for sentence in found.left_out:
        log.warning("left out: %s", sentence)
    return list(found.patches)


def search_store(
    store: Store,
    clicks: Sequence[Click],
    *,
    block: int | None = None,
    view: int = 0,
    count: int = 100,
) -> Found:
    """As similar_patches, with the best of each clip, and with what it took."""
    if count < 1:
        raise UsageError(f"{count} patches: find at least one")
    chosen = find_block(store, block)
    require_view(store, view)
    unit = query_direction(store, clicks, block=chosen, view=view)
    return PatchIndex.of_store(store, block=chosen, view=view).search(unit, count=count)
