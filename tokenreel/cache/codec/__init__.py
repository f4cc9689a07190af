"""Codecs: how tokens become the bytes of a store.

A name is steps joined by "+": any of pool2, mean and pca:K, then one of fp16, int8, int4.  Without
the last it is fp16: "int8", "pool2+int8", "pca:128+int8", "pool2+pca:256+int4", "pool2".

A step is one file of numpy here and one line of CODECS, or a class of another package with an entry
point in the group `tokenreel.codecs`: see `base`.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from tokenreel.cache.codec.base import (
    Array,
    Calibration,
    Encoded,
    Folding,
    Grid,
    Reducer,
    Step,
    Terminal,
)
from tokenreel.cache.errors import UsageError
from tokenreel.cache.plugins import Table

__all__ = [
    "CODECS",
    "Codec",
    "Encoded",
    "Folding",
    "calibrate",
    "calibration_hash",
    "codec_from_identity",
    "codec_identity",
    "kept_grid",
    "needs_calibration",
    "require_fits",
]

CODECS = Table(
    "codec",
    "tokenreel.codecs",
    {
        "fp16": "tokenreel.cache.codec.fp16:Float16",
        "int8": "tokenreel.cache.codec.int8:Int8",
        "int4": "tokenreel.cache.codec.int4:Int4",
        "pool2": "tokenreel.cache.codec.pool2:Pool2",
        "mean": "tokenreel.cache.codec.mean:Mean",
        "pca": "tokenreel.cache.codec.pca:Pca",
    },
)


DTYPES = {"|i1": "int8", "|u1": "uint8", "<i2": "int16", "<f2": "float16", "<f4": "float32"}
SHARED = ("needs_calibration", "torch_step", "fit")
PARTS: dict[type, tuple[str, ...]] = {
    Reducer: (*SHARED, "shape", "apply", "rotation"),
    Terminal: (
        *SHARED,
        *("dtype", "fill_value", "packing", "width", "scale_shape"),
        *("encode", "decode", "channels", "unpack"),
    ),
}


@dataclass(frozen=True, eq=False)
class Codec:
    """A calibrated codec.

    Attributes:
        name: as in the identity.
        reducers: steps before the quantiser, in order.
        terminal: the quantiser.
    """

    name: str
    reducers: tuple[Reducer, ...]
    terminal: Terminal

    @property
    def steps(self) -> list[tuple[str, Step]]:
        """Every step with the name it is found by, in order; the parameter is no part of it."""
        words = [word.partition(":")[0] for word in self.name.split("+")]
        return list(zip([*words, "fp16"], (*self.reducers, self.terminal), strict=False))

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the stored codes."""
        return self.terminal.dtype

    @property
    def fill_value(self) -> float | int:
        """A value that no code has."""
        return self.terminal.fill_value

    def reduced_shape(self, num_tokens: int, dim: int, grid: Grid) -> tuple[int, int, Grid]:
        """Tokens n, channels and grid of a frame of (N, D) tokens before the quantiser."""
        for step in self.reducers:
            num_tokens, dim, grid = step.shape(num_tokens, dim, grid)
        return num_tokens, dim, grid

    def stored_shape(self, num_tokens: int, dim: int, grid: Grid) -> tuple[int, int]:
        """(n, d) of the codes of a frame of (N, D) tokens."""
        num_tokens, dim, _ = self.reduced_shape(num_tokens, dim, grid)
        return num_tokens, self.terminal.width(dim)

    def scale_shape(self, num_tokens: int, dim: int, grid: Grid) -> tuple[int, ...] | None:
        """(n,) or (n, groups) of the scales of a frame, None without scales."""
        num_tokens, dim, _ = self.reduced_shape(num_tokens, dim, grid)
        return self.terminal.scale_shape(num_tokens, dim)

    def reduce(self, tokens: Array, *, block: int, grid: Grid) -> Array:
        """Every step before the quantiser: (T, N, D) to float32 (T, n, d)."""
        values = np.asarray(tokens, np.float32)
        for step in self.reducers:
            _, _, after = step.shape(values.shape[-2], values.shape[-1], grid)
            values, grid = step.apply(values, block=block, grid=grid), after
        return values

    def encode(self, tokens: Array, *, block: int, grid: Grid) -> Encoded:
        """Encode (T, N, D) tokens of a block, float16 or float32.

        Raises:
            ValueError: NaN, infinity or overflow, with its place; a step of another package gives
                codes or scales of another shape or dtype than it says.
        """
        encoded = self.terminal.encode(self.reduce(tokens, block=block, grid=grid), block=block)
        count, shape = len(tokens), (*tokens.shape[1:], grid)
        scale = self.scale_shape(*shape)
        wanted: list[tuple[Any, tuple[int, ...]]] = [
            (self.dtype, (count, *self.stored_shape(*shape)))
        ]
        wanted += [] if scale is None else [(np.dtype(np.float32), (count, *scale))]
        found = [(a.dtype, a.shape) for a in (encoded.codes, encoded.scales) if a is not None]
        if found != wanted:
            raise ValueError(f"codec {self.name} gives {found}, but says {wanted}")
        return encoded

    def decode(self, encoded: Encoded, *, block: int) -> Array:
        """Tokens, float32 (T, n, D): n stays what it is in the store."""
        values = self.terminal.decode(encoded, block=block)
        rotation = self.rotation(block)
        return values if rotation is None else values @ rotation

    def fold(self, block: int, dim: int | None = None) -> Folding | None:
        """The folding of a block, None where only `decode` understands the codes.

        Args:
            block: of the store.
            dim: D, which codecs without calibration need.
        """
        rotation = self.rotation(block)
        if rotation is not None:
            dim = rotation.shape[0]
        elif dim is None and not self.terminal.needs_calibration:
            raise ValueError(f"fold of {self.name} needs dim, the number of channels")
        channels = self.terminal.channels(block, dim or 0)
        return None if channels is None else Folding(*channels, rotation)

    def rotation(self, block: int) -> Array | None:
        """(d, D) that takes channels back through all reducers, None when none changes them."""
        total = None
        for step in self.reducers:
            rotation = step.rotation(block)
            if rotation is not None:
                total = rotation if total is None else rotation @ total
        return total


def codec_from_identity(codec: Mapping[str, Any], calibration: Calibration) -> Codec:
    """The codec of an identity.

    Raises:
        UsageError: an unknown name, or a calibration unlike the identity's.
    """
    wanted = codec.get("calibration_sha256")
    found = calibration_hash(calibration) if calibration else None
    if wanted != found:
        raise UsageError(f"codec {codec.get('name')}: calibration {found}, identity has {wanted}")
    return _parse(str(codec["name"]), calibration)


def codec_identity(name: str, calibration: Calibration | None = None) -> dict[str, Any]:
    """The `codec` field of a StoreIdentity: the name and the hash of its calibration."""
    _parse(name, calibration or {})
    return {
        "name": name,
        "calibration_sha256": calibration_hash(calibration) if calibration else None,
    }


def require_fits(name: str, *, num_tokens: int, dim: int, grid: Grid) -> None:
    """Check that a codec can keep frames of (N, D) tokens, before anything is read or written.

    Raises:
        UsageError: an unknown name, or one that does not fit, such as more components than
            channels, or an odd number of channels packed in pairs.
    """
    codec = _parse(name, {})
    try:
        codec.stored_shape(num_tokens, dim, grid)
        codec.scale_shape(num_tokens, dim, grid)
    except ValueError as error:
        raise UsageError(f"codec={name}: {error}") from error


def kept_grid(name: str, *, num_tokens: int, dim: int, grid: Grid) -> Grid:
    """Rows and columns of the tokens that a codec keeps of a frame of (N, D) tokens.

    Raises:
        UsageError: an unknown name.

    >>> kept_grid("pool2+int8", num_tokens=784, dim=384, grid=(28, 28))
    (14, 14)
    """
    return _parse(name, {}).reduced_shape(num_tokens, dim, grid)[2]


def calibration_hash(calibration: Calibration) -> str:
    """SHA-256 over the arrays by sorted name: name, dtype, shape, little-endian bytes."""
    digest = hashlib.sha256()
    for name in sorted(calibration):
        array = np.ascontiguousarray(calibration[name])
        digest.update(f"{name}:{array.dtype.str}:{array.shape};".encode() + array.tobytes())
    return digest.hexdigest()


def calibrate(name: str, samples: Mapping[int, Array], *, grid: Grid) -> dict[str, Array]:
    """Calibrate a codec on sample frames; {} for a codec without calibration.

    Args:
        name: of the codec.
        samples: block -> (T, N, D) tokens of a few hundred frames of several clips.
        grid: rows and columns of N.
    """
    fitted: dict[str, Array] = {}
    steps = name.split("+")
    for block, tokens in samples.items():
        for i, step in enumerate(steps):
            values = _parse("+".join(steps[:i]) or "fp16", fitted).reduce(
                tokens, block=block, grid=grid
            )
            flat = values.reshape(-1, values.shape[-1])
            fitted |= _step(step, fitted).fit(flat, block=block)
    return fitted


def needs_calibration(name: str) -> bool:
    """Whether a codec is calibrated on frames.

    Raises:
        UsageError: an unknown name.
    """
    codec = _parse(name, {})
    return any(step.needs_calibration for step in (*codec.reducers, codec.terminal))


def _parse(name: str, calibration: Calibration) -> Codec:
    reducers: list[Reducer] = []
    terminal: Terminal | None = None
    for word in name.split("+"):
        if terminal is not None:
            raise UsageError(f"codec {name!r}: {word!r} after the quantiser, which is the last")
        try:
            step = _step(word, calibration)
        except UsageError as error:
            if word == name:
                raise
            raise UsageError(f"codec {name!r}: {error}") from error
        if hasattr(step, "encode"):
            terminal = cast(Terminal, step)
        elif step.needs_calibration and any(type(other) is type(step) for other in reducers):
            raise UsageError(f"codec {name!r}: one {word.partition(':')[0]} at most")
        else:
            reducers.append(cast(Reducer, step))
    return Codec(name, tuple(reducers), terminal or cast(Terminal, _step("fp16", {})))


def _step(word: str, calibration: Calibration) -> Step:
    """A step by its word, "int8" or "pca:128".

    Raises:
        UsageError: an unknown name, with the nearest; a parameter that it does not take.
    """
    name, _, parameter = word.partition(":")
    step: Step = CODECS.load(name)(parameter, calibration)
    kind = Terminal if hasattr(step, "encode") else Reducer
    missing = [part for part in PARTS[kind] if not hasattr(step, part)]
    if missing:
        raise UsageError(
            f"codec {name!r}: {type(step).__name__} lacks {', '.join(missing)}; "
            f"inherit from cache.codec.base.{kind.__name__}"
        )
    if kind is Terminal and cast(Terminal, step).dtype.str not in DTYPES:
        raise UsageError(
            f"codec {name!r} has codes of {cast(Terminal, step).dtype}; a store holds "
            f"{', '.join(DTYPES.values())}"
        )
    return step
