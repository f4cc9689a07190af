"""What a store of clip maps holds: its frames and grid, and whether its maps are pooled.

A pooled store has one unit a clip: the means over space of its T frames, then the means over time
of its N = h w places, T + N tokens in all.
"""

import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.read.store_reader import Store
from tokenreel.cache.tools.pool_maps import UNIT


def is_pooled(store: Store) -> bool:
    """Whether it holds pooled maps."""
    return store.identity.unit == UNIT


def frames_of_map(store: Store) -> int:
    """Most frames of a clip map."""
    if is_pooled(store):
        return int(store.identity.frames["count"])
    return max((record.num_frames for record in store.records.values()), default=1)


def grid_of_map(store: Store) -> tuple[int, int]:
    """Rows and columns of a frame's tokens, as its codec keeps them."""
    identity = store.identity
    if is_pooled(store):
        rows, columns = identity.frames["pooled_grid"]
        return int(rows), int(columns)
    return store.codec.reduced_shape(identity.num_tokens, identity.dim, identity.grid)[2]


def judged_views(store: Store) -> list[int]:
    """The stored views whose scores a clip's are the mean of: the clean one and other crops."""
    names = [view.get("name", "") for view in store.identity.views]
    return [place for place, name in enumerate(names) if not place or name.startswith("crop-")]


def segment_units(
    num_units: int, count: int, segment: int, segments: int, *, in_a_row: bool
) -> NDArray[np.int64]:
    """The units of a temporal segment of a clip, (count,).

    Of S segments of T units each, the units S apart are a segment; those of a backbone that sees
    several frames together are T in a row.

    >>> segment_units(8, 4, 1, 2, in_a_row=False).tolist()
    [1, 3, 5, 7]
    >>> segment_units(8, 4, 1, 2, in_a_row=True).tolist()
    [4, 5, 6, 7]
    >>> segment_units(3, 4, 0, 1, in_a_row=False).tolist()  # fewer: some twice
    [0, 1, 1, 2]
    """
    places = np.arange(count)
    if in_a_row:
        return ((2 * places + 1) + 2 * count * segment) * num_units // (2 * count * segments)
    return (2 * segments * places + 2 * segment + 1) * num_units // (2 * segments * count)
