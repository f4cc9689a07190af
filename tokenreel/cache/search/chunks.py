"""Frames of one block of a store in chunks: as many clips as fit into a few megabytes of codes."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.codec import Encoded
from tokenreel.cache.errors import Damaged
from tokenreel.cache.read.store_reader import Store

CHUNK_BYTES = 2**25


@dataclass(frozen=True)
class Span:
    """Consecutive frames of a clip.

    Attributes:
        clip: place of the clip among those of the search.
        start, stop: frames, `stop` not among them.
    """

    clip: int
    start: int
    stop: int


@dataclass(frozen=True, eq=False)
class Chunk:
    """Codes of the frames of some spans, end to end.

    Attributes:
        encoded: codes (F, n, d), and scales.
        clips: place of the clip of each frame, int64 (F,).
        frames: index of each frame in its clip, int64 (F,).
        left_out: sentences on clips that cannot be read, by place.
    """

    encoded: Encoded
    clips: NDArray[np.int64]
    frames: NDArray[np.int64]
    left_out: dict[int, str] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes of codes and scales."""
        scales = self.encoded.scales
        return self.encoded.codes.nbytes + (0 if scales is None else scales.nbytes)

    @classmethod
    def of(cls, encoded: Encoded, spans: list[Span], left_out: dict[int, str]) -> "Chunk":
        """A chunk whose frames are those of the spans."""
        none = np.empty(0, np.int64)
        frames = [np.arange(span.start, span.stop) for span in spans]
        clips = [np.full(span.stop - span.start, span.clip) for span in spans]
        return cls(
            encoded, np.concatenate([none, *clips]), np.concatenate([none, *frames]), left_out
        )


def plan_chunks(lengths: list[int], frame_bytes: int) -> list[list[Span]]:
    """The spans of each chunk; no chunk has more than CHUNK_BYTES, or it has one frame.

    Args:
        lengths: frames of each clip.
        frame_bytes: of codes.

    >>> plan = plan_chunks([3, 2], CHUNK_BYTES // 4)
    >>> [[(span.clip, span.start, span.stop) for span in spans] for spans in plan]
    [[(0, 0, 3), (1, 0, 1)], [(1, 1, 2)]]
    """
    most = max(1, CHUNK_BYTES // frame_bytes)
    plan: list[list[Span]] = [[]]
    free = most
    for clip, length in enumerate(lengths):
        start = 0
        while start < length:
            if not free:
                plan.append([])
                free = most
            stop = min(length, start + free)
            plan[-1].append(Span(clip, start, stop))
            free -= stop - start
            start = stop
    return [spans for spans in plan if spans]


def spread_order(count: int) -> Iterator[int]:
    """0 to count - 1 in an order whose every beginning is spread over the whole.

    >>> list(spread_order(8))
    [0, 5, 2, 7, 4, 1, 6, 3]
    """
    step = max(1, round(count * (5**0.5 - 1) / 2))
    while np.gcd(step, count) != 1:
        step += 1
    yield from (place * step % count for place in range(count))


def read_chunk(
    store: Store, names: list[str], spans: list[Span], *, block: int, view: int
) -> Chunk:
    """Read the frames of spans; a damaged clip is left out, with the reason.

    Args:
        store: that is read.
        names: ids of the clips of the search.
        spans: of one chunk.
        block: of the store.
        view: of the store.
    """
    identity = store.identity
    shape = store.codec.stored_shape(identity.num_tokens, identity.dim, identity.grid)
    count = sum(span.stop - span.start for span in spans)
    codes = np.empty((count, *shape), store.codec.dtype)
    scale_shape = store.codec.scale_shape(identity.num_tokens, identity.dim, identity.grid)
    scales = None if scale_shape is None else np.empty((count, *scale_shape), np.float32)
    left_out: dict[int, str] = {}
    sound, done = [], 0
    for span in spans:
        rows = slice(done, done + span.stop - span.start)
        name = names[span.clip]
        try:
            read = store.read(
                name,
                slice(span.start, span.stop),
                blocks=[block],
                view=view,
                out={block: codes[rows]},
            )
        except Damaged as error:
            left_out[span.clip] = f"{name}: {error}"
            continue
        if scales is not None:
            scales[rows] = read.scales[block]
        sound.append(span)
        done = rows.stop
    kept = Encoded(codes[:done], None if scales is None else scales[:done])
    return Chunk.of(kept, sound, left_out)
