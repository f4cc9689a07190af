"""Codecs: how tokens become the bytes of a store.

A name is steps joined by "+": any of pool2 and pca:K, then one of fp16, int8, int4.  Without the
last it is fp16: "int8", "pool2+int8", "pca:128+int8", "pool2+pca:256+int4", "pool2".
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tokenreel.cache.codec.base import Array, Calibration, Encoded, Folding, Grid, Reducer, Terminal
from tokenreel.cache.codec.fp16 import Float16
from tokenreel.cache.codec.int4 import Int4
from tokenreel.cache.codec.int8 import Int8
from tokenreel.cache.codec.pca import Pca, fit_pca
from tokenreel.cache.codec.pool2 import Pool2
from tokenreel.cache.errors import UsageError

__all__ = [
    "CODECS",
    "Codec",
    "Encoded",
    "Folding",
    "calibrate",
    "calibration_hash",
    "codec_from_identity",
    "codec_identity",
]

CODECS = {"fp16": Float16, "int8": Int8, "int4": Int4, "pool2": Pool2, "pca": Pca}


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
            ValueError: NaN, infinity or overflow, with its place.
        """
        return self.terminal.encode(self.reduce(tokens, block=block, grid=grid), block=block)

    def decode(self, encoded: Encoded, *, block: int) -> Array:
        """Tokens, float32 (T, n, D): n stays what it is in the store."""
        values = self.terminal.decode(encoded, block=block)
        rotation = self.fold(block, values.shape[-1]).rotation
        return values if rotation is None else values @ rotation

    def fold(self, block: int, dim: int | None = None) -> Folding:
        """The folding of a block.  Only codecs without calibration need `dim` (D)."""
        rotation = None
        for step in self.reducers:
            rotation = step.rotation(block) if rotation is None else rotation
        if rotation is not None:
            dim = rotation.shape[0]
        elif dim is None and isinstance(self.terminal, Float16):
            raise ValueError("fold of fp16 needs dim, the number of channels")
        scale, offset = self.terminal.channels(block, dim or 0)
        return Folding(scale, offset, rotation)


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
            if step.startswith("pca:"):
                basis, sd = fit_pca(flat, int(step[4:]))
                fitted |= {f"pca_basis/{block}": basis, f"pca_sd/{block}": sd}
            elif step in ("int8", "int4"):
                wide = flat.astype(np.float64)
                deviation = np.maximum(wide.std(axis=0), 1e-6).astype(np.float32)
                mean = wide.mean(axis=0).astype(np.float32)
                fitted |= {f"mean/{block}": mean, f"sd/{block}": deviation}
    return fitted


def _parse(name: str, calibration: Calibration) -> Codec:
    reducers: list[Reducer] = []
    terminal: Terminal | None = None
    for step in name.split("+"):
        if terminal is not None:
            raise UsageError(f"codec {name!r}: {step!r} after the quantiser, which is the last")
        if step == "pool2":
            reducers.append(Pool2())
        elif step.startswith("pca:") and step[4:].isdecimal():
            if any(isinstance(other, Pca) for other in reducers):
                raise UsageError(f"codec {name!r}: one pca at most")
            reducers.append(Pca(int(step[4:]), calibration))
        elif step == "fp16":
            terminal = Float16()
        elif step in ("int8", "int4"):
            terminal = Int8(calibration) if step == "int8" else Int4(calibration)
        else:
            raise UsageError(f"codec {name!r}: no step {step!r}; there are {sorted(CODECS)}")
    return Codec(name, tuple(reducers), terminal or Float16())
