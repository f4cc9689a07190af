"""Queries of a search: patches that somebody clicked, and the direction in which tokens count."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.canonical import is_whole_number
from tokenreel.cache.errors import UsageError
from tokenreel.cache.read.store_reader import Store
from tokenreel.cache.search.scores import exact_tokens, unit_rows

Patch = int | tuple[int, int] | tuple[int, int, int, int]
"""A patch as its number, row by row; as (row, column); or a box, (row, column, last row, last
column), both corners part of it."""


@dataclass(frozen=True)
class Click:
    """A patch, or a box of patches, that a search compares with.

    Attributes:
        clip_id: the clip.
        frame: index into the clip.
        patch: in the store's grid.
        is_positive: whether patches like it are wanted, or unwanted.
    """

    clip_id: str
    frame: int
    patch: Patch
    is_positive: bool = True


def stored_grid(store: Store) -> tuple[int, int]:
    """Rows and columns of the tokens that a frame has in the store."""
    identity = store.identity
    return store.codec.reduced_shape(identity.num_tokens, identity.dim, identity.grid)[2]


def find_block(store: Store, block: int | None) -> int:
    """The block, the last of the store when None.

    Raises:
        UsageError: the store does not have it, or keeps no tokens.
    """
    store.require_tokens()
    blocks = store.identity.blocks
    if block is not None and block not in blocks:
        raise UsageError(f"block {block}: {store.path} has blocks {', '.join(map(str, blocks))}")
    return blocks[-1] if block is None else block


def require_view(store: Store, view: int) -> None:
    """Raise UsageError where the store does not have the view."""
    if not 0 <= view < store.identity.num_views:
        raise UsageError(f"view {view}: {store.path} has views 0 to {store.identity.num_views - 1}")


def parse_patch(text: str) -> Patch:
    """A patch as it is typed: "27", "3,4" or "3,4,5,6".

    Raises:
        UsageError: anything else.

    >>> parse_patch("27"), parse_patch("3,4"), parse_patch("3,4,5,6")
    (27, (3, 4), (3, 4, 5, 6))
    """
    words = text.split(",")
    if len(words) not in (1, 2, 4) or not all(map(is_whole_number, words)):
        raise UsageError(
            f"patch {text!r}: its number, as in 27; row,column, as in 3,4; or a box, "
            "row,column,last row,last column, as in 3,4,5,6"
        )
    numbers = tuple(map(int, words))
    return numbers[0] if len(numbers) == 1 else numbers  # type: ignore[return-value]


def patch_numbers(patch: Patch, grid: tuple[int, int]) -> NDArray[np.int64]:
    """Numbers of the patches of a click, row by row.

    Raises:
        UsageError: outside the grid, or a box whose corners are the wrong way round.

    >>> patch_numbers((1, 2, 2, 3), (4, 4)).tolist()
    [6, 7, 10, 11]
    """
    rows, columns = grid
    if isinstance(patch, int):
        if not 0 <= patch < rows * columns:
            raise UsageError(f"patch {patch}: there are 0 to {rows * columns - 1}")
        return np.array([patch])
    corners = patch if len(patch) == 4 else (*patch, *patch)
    top, left, bottom, right = corners
    if not (0 <= top <= bottom < rows and 0 <= left <= right < columns):
        raise UsageError(
            f"patch {','.join(map(str, patch))}: rows are 0 to {rows - 1} and columns 0 to "
            f"{columns - 1}, first the upper left corner of a box"
        )
    numbers = np.arange(top, bottom + 1)[:, None] * columns + np.arange(left, right + 1)
    return numbers.reshape(-1).astype(np.int64)


def query_direction(
    store: Store, clicks: Sequence[Click], *, block: int, view: int = 0
) -> NDArray[np.float64]:
    """The unit vector that a token is compared with, (D,).

    A click counts as the mean of its tokens at length one; the direction is the mean of the
    positive clicks less the mean of the negative ones.

    Raises:
        UsageError: no positive click; patches whose tokens are zero, or cancel each other.
        ClipNotFound: no such clip or frame.
        Damaged: a file that cannot be read.
    """
    if not any(click.is_positive for click in clicks):
        raise UsageError("no positive patch: a search needs one that results are to be like")
    grid = stored_grid(store)
    sums: dict[bool, list[NDArray[np.float64]]] = {True: [], False: []}
    for click in clicks:
        numbers = patch_numbers(click.patch, grid)
        tokens = store.read(click.clip_id, [click.frame], blocks=[block], view=view)
        of_frame = exact_tokens(store.codec, tokens.encoded(block), block=block)[0]
        sums[click.is_positive].append(unit_rows(of_frame[numbers].mean(axis=0)[None])[0])
    direction = np.mean(sums[True], axis=0)
    if sums[False]:
        direction = direction - np.mean(sums[False], axis=0)
    length = float(np.sqrt(np.square(direction).sum()))
    if length < 1e-9:
        raise UsageError("these patches cancel each other, or are zero: choose others")
    unit: NDArray[np.float64] = direction / length
    return unit
