"""Checks of the arrays that a metric is computed from, by the name of the argument."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray


def require_finite(name: str, frames: NDArray[np.generic] | Sequence[NDArray[np.generic]]) -> None:
    """Check that embeddings, or those of every clip, hold real and finite numbers.

    Args:
        name: of the argument, for the error.
        frames: (n, C), or one (T_i, C) a clip.

    Raises:
        ValueError: NaN or infinity, with the name of the argument and the first place.
        TypeError: complex numbers, text or objects, or no array of NumPy.

    >>> require_finite("train", np.array([[1.0, np.nan]]))
    Traceback (most recent call last):
    ValueError: train holds 1 value(s) that are NaN or infinite, the first in row 0: leave them out
    """
    for where, array in _named(name, frames):
        if array.dtype.kind not in "fiub":
            raise TypeError(f"{where} holds {array.dtype}, wanted real numbers")
        finite = np.isfinite(array)
        if not finite.all():
            row = int(np.argwhere(~finite)[0][0])
            raise ValueError(
                f"{where} holds {int((~finite).sum())} value(s) that are NaN or infinite, the "
                f"first in row {row}: leave them out"
            )


def require_frames(name: str, frames: NDArray[np.generic] | Sequence[NDArray[np.generic]]) -> None:
    """Check that embeddings are (n, C), C >= 1, real and finite; of all clips with one C.

    Raises:
        ValueError: another shape, NaN or infinity, with the name of the argument.
        TypeError: as require_finite.

    >>> require_frames("clips", [np.zeros((2, 3)), np.zeros((2, 4))])
    Traceback (most recent call last):
    ValueError: clips[1] is of shape (2, 4), wanted (frames, 3 channels)
    """
    channels = None
    for where, array in _named(name, frames):
        is_table = array.ndim == 2 and array.shape[1] > 0
        if not is_table or array.shape[1] != (channels or array.shape[1]):
            wanted = f"{channels} channels" if channels else "channels >= 1"
            raise ValueError(f"{where} is of shape {array.shape}, wanted (frames, {wanted})")
        channels = array.shape[1]
    require_finite(name, frames)


def _named(
    name: str, given: NDArray[np.generic] | Sequence[NDArray[np.generic]]
) -> Iterator[tuple[str, NDArray[np.generic]]]:
    """An argument, or those of every clip in it, each with its name.

    Matrices and masked arrays compute other things than arrays, and a mask would be passed over.
    """
    is_one = isinstance(given, np.ndarray)
    for i, array in enumerate([given] if is_one else given):
        where = name if is_one else f"{name}[{i}]"
        if not isinstance(array, np.ndarray) or isinstance(array, np.matrix | np.ma.MaskedArray):
            raise TypeError(f"{where} is a {type(array).__name__}, wanted an array of NumPy")
        yield where, array


def require_labels(
    name: str,
    labels: NDArray[np.generic] | Sequence[NDArray[np.generic]],
    frames: NDArray[np.generic] | Sequence[NDArray[np.generic]] | None = None,
    *,
    num_classes: int | None = None,
) -> None:
    """Check that labels, or those of every clip, are whole numbers from 0, one a frame.

    Args:
        name: of the argument, for the error.
        labels: (n,), or one (T_i,) a clip.
        frames: (n, C), or one (T_i, C) a clip, that they are of.
        num_classes: where known; labels are below it.

    Raises:
        TypeError: floats (NaN among them), text or objects, or no array of NumPy.
        ValueError: another number of labels than of frames, or a label out of range.

    >>> require_labels("labels", np.array([0.0, np.nan]))
    Traceback (most recent call last):
    TypeError: labels holds float64, wanted whole numbers from 0
    """
    is_one = isinstance(labels, np.ndarray)
    arrays = [labels] if is_one else labels
    lengths = None
    if frames is not None:
        lengths = [len(frames)] if is_one else [len(clip) for clip in frames]
        if len(lengths) != len(arrays):
            raise ValueError(f"{name} is of {len(arrays)} clips, embeddings of {len(lengths)}")
    for i, (where, array) in enumerate(_named(name, labels)):
        if array.dtype.kind not in "iu":
            raise TypeError(f"{where} holds {array.dtype}, wanted whole numbers from 0")
        wanted = len(array) if lengths is None else lengths[i]
        if array.shape != (wanted,):
            raise ValueError(f"{where} is of shape {array.shape}, wanted ({wanted},): one a frame")
        low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
        if low < 0 or (num_classes is not None and high >= num_classes):
            most = "up" if num_classes is None else f"to {num_classes - 1}"
            raise ValueError(f"{where} goes from {low} to {high}, wanted 0 {most}")
