"""The cost of a codec: bytes a frame, and errors as a user of the tokens meets them.

Tokens are compared after decoding, in float32, with each channel standardised by the mean and
deviation of the sample, so that a few large channels do not hide all the others.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tokenreel.cache.codec import Codec, Encoded
from tokenreel.cache.codec.base import Array, Grid

QUERIES = 8  # of a frame
STEP_FRAMES = 16  # in memory at once


@dataclass(frozen=True, slots=True)
class CodecError:
    """Errors of a codec on sample frames, over every block.

    Attributes:
        relative: root mean square of the error over that of the tokens about their means.
        cosine_median: between standardised tokens before and after, of the tokens in the middle.
        cosine_worst: of the worst hundredth: the 1st percentile.
        pooled: as relative, after attention pooling (`pool_tokens`), as in a model.
    """

    relative: float
    cosine_median: float
    cosine_worst: float
    pooled: float


def measure_codec(codec: Codec, samples: Mapping[int, Array], *, grid: Grid) -> CodecError:
    """Errors of a codec on tokens it was not calibrated on.

    Args:
        codec: calibrated.
        samples: block -> float32 (F, N, D).
        grid: rows and columns of N.
    """
    sums = np.zeros(4)  # squares of the error and of the tokens, before and after pooling
    cosines = []
    for block, tokens in samples.items():
        mean, sd = tokens.mean(axis=(0, 1)), np.maximum(tokens.std(axis=(0, 1)), 1e-6)
        small = codec.reduced_shape(tokens.shape[1], tokens.shape[2], grid)[2]
        centre = _pool_mean(tokens, mean, sd, seed=block)
        for start in range(0, len(tokens), STEP_FRAMES):
            part = tokens[start : start + STEP_FRAMES]
            encoded = codec.encode(part, block=block, grid=grid)
            wanted = (part - mean) / sd
            decoded = (codec.decode(encoded, block=block) - mean) / sd
            found = spread_over_grid(decoded, small, grid)
            lengths = np.linalg.norm(wanted, axis=-1) * np.linalg.norm(found, axis=-1)
            cosines.append(((wanted * found).sum(axis=-1) / np.maximum(lengths, 1e-12)).ravel())
            before, after = pool_tokens(wanted, seed=block), pool_tokens(decoded, seed=block)
            pairs = (found - wanted, wanted, after - before, before - centre)
            sums += [float(np.square(values, dtype=np.float64).sum()) for values in pairs]
    every = np.concatenate(cosines)
    return CodecError(
        relative=float(np.sqrt(sums[0] / sums[1])),
        cosine_median=float(np.median(every)),
        cosine_worst=float(np.quantile(every, 0.01)),
        pooled=float(np.sqrt(sums[2] / max(sums[3], 1e-12))),
    )


def _pool_mean(tokens: Array, mean: Array, sd: Array, *, seed: int) -> Array:
    """Mean pooled entity, (D,)."""
    starts = range(0, len(tokens), STEP_FRAMES)
    entities = [
        pool_tokens((tokens[start : start + STEP_FRAMES] - mean) / sd, seed=seed)
        for start in starts
    ]
    centre: Array = np.concatenate(entities).mean(axis=(0, 1))
    return centre


def pool_tokens(tokens: Array, *, seed: int, num_queries: int = QUERIES) -> Array:
    """Attention pooling by fixed random queries, like untrained LSTP.

    Args:
        tokens: standardised, (F, n, D).
        seed: of the queries.
        num_queries: E.

    Returns:
        (F, E, D): sum over tokens of softmax(2 q x / sqrt D) x; the 2 makes each query choose.
    """
    width = tokens.shape[-1]
    queries = np.random.default_rng(seed).standard_normal((num_queries, width)).astype(np.float32)
    scores = np.einsum("ed,fnd->fen", queries * np.float32(2 / np.sqrt(width)), tokens)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    pooled: Array = weights @ tokens
    return pooled


def spread_over_grid(tokens: Array, small: Grid, grid: Grid) -> Array:
    """Give each place of a grid the token of the coarser grid that covers it.

    Args:
        tokens: (F, n, D) of the grid `small`.
        small: rows and columns of n, such as (4, 4) of a grid of (7, 7) whose pairs are pooled.
        grid: rows and columns of N.

    Returns:
        (F, N, D).
    """
    if small == grid:
        return tokens
    rows, columns = (
        np.arange(large) * few // large for few, large in zip(small, grid, strict=True)
    )
    places = rows[:, None] * small[1] + columns
    spread: Array = tokens[:, places.ravel()]
    return spread


def bytes_per_frame(encoded: Encoded) -> float:
    """Bytes of the codes and scales of a frame of one block."""
    scales = 0 if encoded.scales is None else encoded.scales.nbytes
    return (encoded.codes.nbytes + scales) / len(encoded.codes)
