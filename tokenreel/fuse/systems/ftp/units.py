"""What a store of clip maps holds: its frames and grid, and whether its maps are pooled.

A pooled store has one unit a clip: the means over space of its T frames, then the means over time
of its N = h w places, T + N tokens in all.
"""

from tokenreel.cache.read.store_reader import Store

POOLED = "pooled"  # the unit of a pooled store


def is_pooled(store: Store) -> bool:
    """Whether it holds pooled maps."""
    return store.identity.unit == POOLED


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
    """The stored views whose scores a clip's are the mean of: the clean one."""
    return [0]
