"""Codec steps in torch: each gives the bytes of its numpy twin in cache.codec.

They are for speed alone, and found by the name of the step: ours in TORCH_STEPS, those of other
packages by the `torch_step` of their class.

Divisors are tensor arguments, because CUDA multiplies by the rounded reciprocal of a plain number,
and so does torch.compile for a tensor created in the compiled function.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from tokenreel.cache.codec import Codec
from tokenreel.cache.codec.base import Step
from tokenreel.cache.codec.int4 import GROUP
from tokenreel.cache.codec.pca import BASIS_STEPS, EXPONENT_BITS, TOKEN_STEPS
from tokenreel.cache.errors import UsageError

INT8_STEPS = 127.0
INT4_STEPS = 7.0

Coded = tuple[Tensor, Tensor | None]  # codes, scales
Constants = tuple[NDArray[Any], ...]


def _no_constants(step: Any, block: int) -> Constants:
    return ()


@dataclass(frozen=True)
class TorchStep:
    """A step of a codec in torch.

    Attributes:
        run: called with float32 tokens (T, N, d) and the constants, each a tensor on the device of
            the tokens, and with grid=(rows, columns) of N where `takes_grid`; returns tokens, or
            Coded where the step is the last.
        constants: of a step of numpy and a block.
        takes_grid: whether the result depends on where tokens are.
    """

    run: Callable[..., Any]
    constants: Callable[[Any, int], Constants] = _no_constants
    takes_grid: bool = False


def torch_steps(codec: Codec) -> list[TorchStep | None]:
    """The torch implementation of each step of a codec, in order; None for a step without.

    Raises:
        UsageError: what a class names as its `torch_step` cannot be imported.
    """
    return [TORCH_STEPS.get(name) or _named(name, step) for name, step in codec.steps]


def _named(name: str, step: Step) -> TorchStep | None:
    """What a class names as its torch implementation."""
    if step.torch_step is None:
        return None
    module, _, attribute = step.torch_step.partition(":")
    try:
        found: TorchStep = getattr(import_module(module), attribute)
    except Exception as error:  # a plugin may raise anything when it is imported
        raise UsageError(
            f"codec {name!r}: torch_step {step.torch_step!r} cannot be imported: "
            f"{type(error).__name__}: {error}"
        ) from error
    return found


def half(tokens: Tensor) -> tuple[Tensor, None]:
    """Float16 (T, n, d) of float32 (T, n, d), as cache.codec.fp16."""
    return tokens.to(torch.float16), None


def int8(tokens: Tensor, sd: Tensor, mean: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
    """Codes (T, n, d) and scales (T, n) of float32 (T, n, d), as cache.codec.int8.

    Args:
        tokens: of a batch.
        sd: of each channel, (d,).
        mean: of each channel, (d,).
        steps: INT8_STEPS, (1,).
    """
    standard = tokens.sub(mean).div_(sd)
    scale = _scale(standard.abs().amax(-1), steps)
    return standard.div_(scale[..., None]).round_().clamp_(-127, 127).to(torch.int8), scale


def int4(tokens: Tensor, sd: Tensor, mean: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
    """Bytes (T, n, d/2) and scales (T, n, groups) of float32 (T, n, d), as cache.codec.int4.

    Args are those of int8, with INT4_STEPS.
    """
    standard = tokens.sub(mean).div_(sd)
    width = standard.shape[-1]
    padded = functional.pad(standard, (0, -width % GROUP)).unflatten(-1, (-1, GROUP))
    scale = _scale(padded.abs().amax(-1), steps)
    spread = scale.repeat_interleave(GROUP, dim=-1, output_size=padded.shape[-2] * GROUP)
    codes = standard.div_(spread[..., :width]).round_().clamp_(-7, 7).add_(7).to(torch.uint8)
    return codes[..., 0::2] | (codes[..., 1::2] << 4), scale


def _scale(peak: Tensor, steps: Tensor) -> Tensor:
    return torch.where(peak == 0, 1.0, peak / steps)


def project(tokens: Tensor, sd: Tensor, whole_basis: Tensor) -> Tensor:
    """Codes (T, n, K) of float32 (T, n, D), as cache.codec.pca; whole_basis: float64 (D, K)."""
    standard = tokens / sd
    peak = standard.abs().amax(-1, keepdim=True)
    power = (peak.view(torch.int32) & EXPONENT_BITS).view(torch.float32).double()
    unit = torch.where(power == 0, 1.0, power)
    whole = (standard.double() / unit).mul_(TOKEN_STEPS).round_()
    return ((whole @ whole_basis) * (unit / (TOKEN_STEPS * BASIS_STEPS))).float()


def pool2(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Means of 2x2 squares, (T, N, d), summed in the order of cache.codec.pool2."""
    rows, columns = grid
    image = tokens.unflatten(1, grid)
    if rows % 2:
        image = torch.cat([image, image[:, -1:]], dim=1)
    if columns % 2:
        image = torch.cat([image, image[:, :, -1:]], dim=2)
    top, bottom = image[:, 0::2], image[:, 1::2]
    total = (top[:, :, 0::2] + top[:, :, 1::2]) + (bottom[:, :, 0::2] + bottom[:, :, 1::2])
    return (total * 0.25).flatten(1, 2)


def _quantiser_constants(steps: float) -> Callable[[Any, int], Constants]:
    return lambda step, block: (*step.channels(block, 0), np.array([steps], np.float32))


TORCH_STEPS = {
    "fp16": TorchStep(half),
    "int8": TorchStep(int8, _quantiser_constants(INT8_STEPS)),
    "int4": TorchStep(int4, _quantiser_constants(INT4_STEPS)),
    "pool2": TorchStep(pool2, takes_grid=True),
    "pca": TorchStep(
        project, lambda s, block: (s.standard_deviations(block), s.whole_basis(block))
    ),
}
