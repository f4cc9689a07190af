"""Choose the implementation: the requested one, else the fastest supported."""

import functools
import importlib.util
import logging
import os
from collections.abc import Sequence

import torch
from torch import Tensor

from tokenreel.fuse.kernels.attention.tokens import width_of

log = logging.getLogger(__name__)

VARIABLE = "TOKENREEL_KERNEL"
WORDS = ("auto", "reference", "absorbed", "triton")
CAPABILITY = (8, 0)  # Ampere: the first with bfloat16 and int8 matrix units of this shape
MAX_BLOCKS = 4
MAX_WIDTH = 3072  # channels of all blocks: their sums of 8 rows must fit the registers
FUSED_DTYPES = (torch.int8, torch.float16, torch.bfloat16, torch.float32)


class CannotRun(Exception):
    """The fused kernel could be chosen, but not launched: the reason."""


def wanted_word(implementation: str | None) -> str:
    """The implementation requested by argument, by environment variable, or "auto".

    Raises:
        ValueError: no such implementation.
    """
    word = implementation or os.environ.get(VARIABLE) or "auto"
    if word not in WORDS:
        source = "implementation" if implementation else VARIABLE
        raise ValueError(f"{source}={word!r}: there are {', '.join(WORDS)}")
    return word


def decide(codes: Sequence[Tensor], rows: Tensor, word: str, *, fused: bool = True) -> str:
    """Decide between "absorbed" and "triton".

    Args:
        codes: a block's array each.
        rows: what meets them, (..., E, d).
        word: "auto", "absorbed" or "triton".
        fused: whether the variant has a fused form.

    Raises:
        ValueError: triton was requested and cannot run, with the reason.
    """
    chosen = "absorbed"
    if word == "triton" or (word == "auto" and codes[0].is_cuda):
        reason = (
            obstacle(codes, rows.dtype)
            if fused
            else "normalised keys and disjoint tokens take two passes"
        )
        if reason is None:
            chosen = "triton"
        elif word == "triton":
            raise ValueError(f"implementation triton cannot run: {reason}; use auto or absorbed")
        else:
            fall_back(reason)
    log.debug(
        "pooled attention: %s, %d blocks of %s %s on %s, %d rows",
        chosen,
        len(codes),
        codes[0].dtype,
        tuple(codes[0].shape),
        codes[0].device,
        rows.shape[-2],
    )
    return chosen


def obstacle(codes: Sequence[Tensor], precision: torch.dtype) -> str | None:
    """Why the fused kernel cannot take these codes; None where it can."""
    first = codes[0]
    if not has_triton():
        return "Triton is not installed"
    if not first.is_cuda and not is_interpreted():
        return f"tokens are on {first.device}; it needs CUDA (or TRITON_INTERPRET=1)"
    if first.is_cuda and torch.version.hip is not None:
        return "the GPU is not one of NVIDIA's"
    if first.is_cuda and torch.cuda.get_device_capability(first.device) < CAPABILITY:
        found = torch.cuda.get_device_capability(first.device)
        return f"the GPU has compute capability {found}; it needs {CAPABILITY} or later"
    if first.dtype not in FUSED_DTYPES:
        return f"tokens are {first.dtype}; it takes {', '.join(map(str, FUSED_DTYPES))}"
    if precision == torch.float64:
        return "queries are torch.float64; it computes in float32"
    widths = [width_of(part) for part in codes]
    if len(set(widths)) > 1 or len(codes) > MAX_BLOCKS or sum(widths) > MAX_WIDTH:
        return (
            f"blocks have {widths} channels; it takes up to {MAX_BLOCKS} blocks of one width, "
            f"{MAX_WIDTH} channels together"
        )
    return None


@functools.cache
def has_triton() -> bool:
    """Whether the package can be found."""
    return importlib.util.find_spec("triton") is not None


@functools.cache
def loops_obstacle() -> str | None:
    """Why no loops can be compiled for a CPU; None where they can."""
    if importlib.util.find_spec("numba") is None:
        return "Numba is not installed"
    try:
        from numba.core import config  # not at the top: only pooling on a CPU waits for it
    except ImportError as error:  # such as: NumPy is too new for it
        return f"Numba cannot be imported: {error}"
    return "NUMBA_DISABLE_JIT is set" if vars(config)["DISABLE_JIT"] else None


def is_interpreted() -> bool:
    """Whether kernels run in Triton's interpreter, on the CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@functools.lru_cache(maxsize=256)
def fall_back(reason: str) -> None:
    """Log once for each reason that the slower path is taken."""
    log.warning("pooled attention takes the absorbed path in plain torch: %s", reason)


def log_reference() -> None:
    """Log that the reference runs: it is no operator, and a compiler cannot trace a logger."""
    if not torch.compiler.is_compiling():
        log.debug("pooled attention: reference")
