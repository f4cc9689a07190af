"""Types of every codec: encoded tokens, the folding, and the two kinds of steps.

A step is a class that is made with the text after its name's colon ("128" of "pca:128", else "")
and the calibration, which is {} where only shapes are wanted.  A class of one's own may inherit
from `Reducer` or `Terminal`; `torch_step` names its torch implementation, for speed alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from tokenreel.cache.errors import UsageError

Array = np.ndarray[Any, Any]
Calibration = Mapping[str, Array]
Grid = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Encoded:
    """Codes of some frames of one block.

    Attributes:
        codes: (T, n, d) in the dtype of the codec; n and d may be smaller than N and D.
        scales: (T, n) or (T, n, groups) float32, None for a codec without scales.
    """

    codes: Array
    scales: Array | None = None


@dataclass(frozen=True, eq=False)
class Folding:
    """How a block's codes become tokens: (codes * scale_n * channel_scale + offset) @ rotation.

    A model folds these into its weights once, instead of decoding each token.

    Attributes:
        channel_scale: (d,) float32.
        channel_offset: (d,) float32.
        rotation: (d, D) float32, None for the identity.
    """

    channel_scale: Array
    channel_offset: Array
    rotation: Array | None = None


class Step(Protocol):
    """What reducers and terminals share.

    Attributes:
        needs_calibration: whether `fit` returns arrays.
        torch_step: "module:attribute" of a `TorchStep` (extract.encode.torch_codecs) that gives the
            bytes of this class; None: ours by name, or this class runs on the host.
    """

    needs_calibration: ClassVar[bool] = False
    torch_step: ClassVar[str | None] = None

    def fit(self, tokens: Array, *, block: int) -> dict[str, Array]:
        """Calibrate on (M, d) sample tokens of a block that reach this step; arrays by name.

        Names end in "/<block>" and are no other step's.
        """
        return {}


class Reducer(Step, Protocol):
    """A step that makes tokens fewer or shorter before they are quantised."""

    def shape(self, num_tokens: int, dim: int, grid: Grid) -> tuple[int, int, Grid]:
        """Tokens, channels and grid that leave this step.

        Raises:
            ValueError: tokens that it cannot take.
        """
        raise NotImplementedError

    def apply(self, tokens: Array, *, block: int, grid: Grid) -> Array:
        """Reduce float32 (T, N, D) tokens of a block; each frame by itself."""
        raise NotImplementedError

    def rotation(self, block: int) -> Array | None:
        """(d, D) that takes the channels back, None when they are as they were."""
        return None


class Terminal(Step, Protocol):
    """The last step: float32 (T, n, d) to codes and back.

    Attributes:
        dtype: of the codes.
        fill_value: a value that no code has.
        packing: "" when a code is a number, to be multiplied by its scale; "int4" for two of int4
            in a byte; any other word for codes that only `decode` understands.
    """

    dtype: np.dtype[Any]
    fill_value: float | int
    packing: ClassVar[str] = ""

    def width(self, dim: int) -> int:
        """Stored channels of a token of `dim` channels.

        Raises:
            ValueError: tokens of that width are impossible.
        """
        return dim

    def scale_shape(self, num_tokens: int, dim: int) -> tuple[int, ...] | None:
        """Shape of the scales of a frame of (n, d) tokens, None without scales."""
        return None

    def encode(self, tokens: Array, *, block: int) -> Encoded:
        """Quantise float32 (T, n, d); each frame by itself.

        Raises:
            ValueError: NaN, infinity or overflow, with its place.
        """
        raise NotImplementedError

    def decode(self, encoded: Encoded, *, block: int) -> Array:
        """Codes back to float32 (T, n, d)."""
        raise NotImplementedError

    def channels(self, block: int, dim: int) -> tuple[Array, Array] | None:
        """Scale and offset of each channel, (d,) float32, if decoding is no more than that.

        None: no folding, so a model decodes each token.
        """
        return None

    def unpack(self, codes: Array) -> Array:
        """Codes as numbers, of which all are zero only for a token without content."""
        return codes


def require_no_parameter(name: str, parameter: str) -> None:
    """Raise UsageError for a step such as "int8:3", whose name takes nothing after a colon."""
    if parameter:
        raise UsageError(f"codec {name!r} takes no parameter, got {name}:{parameter}")
