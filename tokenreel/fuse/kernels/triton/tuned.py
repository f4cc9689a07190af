"""Sizes of the fused kernel's tiles: measured ones of a GPU where there are any, else a default.

tuned.json holds what `make bench-gpu` found: GPU name -> "direction dtype LxD" -> sizes.
"""

import functools
from dataclasses import asdict, dataclass
from importlib import resources
from typing import Any

from tokenreel.cache.canonical import read_json


@dataclass(frozen=True)
class Sizes:
    """How a kernel is cut.

    Attributes:
        tokens: of a tile.
        channels: of a block; a power of two.
        warps: of a program.
        stages: of the software pipeline.
        programs: of the backward, for each multiprocessor.
        hold: a tile in shared memory for both sweeps, so that codes are read once, also from cache.
    """

    tokens: int = 64
    channels: int = 128
    warps: int = 8
    stages: int = 3
    programs: int = 1
    hold: bool = False

    def as_json(self) -> dict[str, int | bool]:
        """As in tuned.json."""
        return asdict(self)


def key_of(direction: str, dtype: str, layers: int, width: int) -> str:
    """Where a case stands in tuned.json.

    >>> key_of("forward", "int8", 3, 768)
    'forward int8 3x768'
    """
    return f"{direction} {dtype} {layers}x{width}"


def sizes_for(gpu: str, direction: str, dtype: str, layers: int, width: int) -> Sizes:
    """Measured sizes of a case on a GPU, else the default's.

    Args:
        gpu: name as CUDA gives it; "" in the interpreter.
        direction: "forward" or "backward".
        dtype: of the codes, such as "int8".
        layers: L.
        width: stored channels of a layer.
    """
    found = _measured().get(gpu, {}).get(key_of(direction, dtype, layers, width))
    return Sizes(**found) if found else default_sizes(dtype, layers, width)


def default_sizes(dtype: str, layers: int, width: int) -> Sizes:
    """Sizes whose sums, 8 rows of all channels, leave most of a thread's registers to the rest.

    Up to 1,024 channels two programs fit a multiprocessor and hide each other's waits.  Above, a
    tile of 2,304 codes or 32 half-precision tokens, 147 KB, can stay in Hopper's first cache.
    Float32 has no matrix unit: its products hold whole tiles in registers.
    """
    block = block_of(width)
    is_narrow = layers * block * -(-width // block) <= 1024
    if dtype == "float32":
        tokens, warps = (32, 8) if is_narrow else (16, 16)
        return Sizes(tokens, min(64, block), warps, stages=1)
    tokens = 64 if is_narrow or dtype == "int8" else 32
    warps, programs = (4, 2) if is_narrow else (8, 1)
    return Sizes(tokens, block, warps, stages=3, programs=programs)


def small_sizes(width: int) -> Sizes:
    """What needs least shared memory; slow."""
    return Sizes(tokens=32, channels=min(64, block_of(width)), warps=8, stages=1)


def block_of(width: int) -> int:
    """A block of channels that divides the width if it can, else covers it.

    >>> [block_of(width) for width in (768, 96, 400, 40)]
    [128, 32, 128, 64]
    """
    for block in (128, 64, 32):
        if width % block == 0:
            return block
    return 128 if width > 64 else 64 if width > 32 else 32


@functools.cache
def _measured() -> dict[str, Any]:
    found: dict[str, Any] = read_json(
        resources.files(__package__).joinpath("tuned.json").read_text()
    )
    return found


def forget() -> None:
    """Read tuned.json again when it is needed next."""
    _measured.cache_clear()
