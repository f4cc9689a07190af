"""Vectors of the texts of clips, as stage 1 takes them.

Shapes: B clips, E channels of a text, R rows that the tokens of a text are resampled to.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.errors import UsageError
from tokenreel.cache.format.text_file import TextFile, read_text_file

Floats = NDArray[np.float32]


def open_texts(path: Path) -> TextFile:
    """The file of texts; read again where it has changed.

    Raises:
        UsageError: there is none; the command that makes one.
        EmbeddingFileError: it cannot be read.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise UsageError(
            f"texts={path}: {(error.strerror or str(error)).lower()}: `extract text DATASET --from "
            f"prompts.jsonl --out {path}` makes a file of texts"
        ) from error
    return _read(path.absolute(), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4)
def _read(path: Path, num_bytes: int, mtime_ns: int) -> TextFile:
    return read_text_file(path)


def texts_of(
    file: TextFile, prompt: str, clip_ids: Sequence[str]
) -> tuple[NDArray[np.int64], Floats]:
    """Which clips have a text for a prompt, and its vector.

    Returns:
        int64 (n,) places among the clips, and float32 (n, E).
    """
    rows = file.rows_of(prompt, clip_ids)
    places = np.flatnonzero(rows >= 0)
    return places, file.pooled[rows[places]]


def token_rows(file: TextFile, prompt: str, clip_ids: Sequence[str], count: int) -> Floats:
    """The tokens of the texts of clips that have one, resampled to some rows: (n, R, E).

    Row r is at r (L - 1) / (R - 1) of the L tokens of a text, between the two nearest.
    """
    rows = file.rows_of(prompt, clip_ids)
    vectors, mask = file.tokens_of(rows[rows >= 0])
    return resample_rows(vectors, mask.sum(axis=1), count)


def resample_rows(vectors: Floats, lengths: NDArray[np.integer], count: int) -> Floats:
    """The first `lengths` rows of sequences, resampled linearly: (n, L, E) -> (n, count, E).

    >>> resample_rows(np.array([[[0.0], [2.0], [9.0]]], np.float32), np.array([2]), 3).ravel()
    array([0., 1., 2.], dtype=float32)
    """
    shares = np.linspace(0, 1, count) if count > 1 else np.zeros(1)
    places = shares[None] * (np.asarray(lengths)[:, None] - 1)
    below = np.floor(places).astype(np.int64)
    above = np.minimum(below + 1, np.asarray(lengths)[:, None] - 1)
    weight = (places - below)[..., None].astype(np.float32)
    each = np.arange(len(vectors))[:, None]
    found: Floats = vectors[each, below] * (1 - weight) + vectors[each, above] * weight
    return found.astype(np.float32)
