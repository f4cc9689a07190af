"""Self-attention of padded sequences whose valid tokens come first: no mask where none is needed.

Shapes: B sequences, S tokens, H heads, C channels of a head.  Every token is a query, also padding
(batch norms and losses see its output); keys are the valid tokens, the first of each sequence.
Source: MV-Former, section 3.4: key padding.
"""

import importlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["Padding", "prefix_attention"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Padding:
    """Where the valid tokens of each sequence end, made once for all layers.

    Attributes:
        lengths: valid tokens of each sequence, on the host: reading them never waits for a GPU.
        size: tokens S of a sequence, valid or not.
        may_attend: bool (B, 1, 1, S), False at padding.
        starts: int32 (B + 1,): where each sequence's queries start, end to end.
        key_starts: int32 (B + 1,): where each sequence's valid keys start, end to end.
        valid_index: int64 (sum of lengths,): rows of the valid tokens among all B * S.
    """

    lengths: tuple[int, ...]
    size: int
    may_attend: Tensor
    starts: Tensor
    key_starts: Tensor
    valid_index: Tensor

    @classmethod
    def of(cls, valid: Tensor, repeats: int = 1) -> "Padding | None":
        """From bool (B, T), each frame being `repeats` tokens; None where nothing is padded.

        The lengths are looked at on the host: hand `valid` over on the CPU to spare a GPU the wait.

        Raises:
            ValueError: a valid frame after padding, or a sequence that is padding alone.
        """
        on_host = valid.cpu()
        counts = on_host.sum(dim=1)
        if bool((counts == 0).any()):
            raise ValueError(
                f"sequences {(counts == 0).nonzero().flatten().tolist()} have no frame"
            )
        if not torch.equal(on_host, torch.arange(valid.shape[1]) < counts[:, None]):
            raise ValueError("a valid frame follows padding: padding must be at the end")
        if bool(on_host.all()):
            return None
        device, size = valid.device, valid.shape[1] * repeats
        lengths = counts * repeats
        mask = torch.arange(size) < lengths[:, None]
        starts = torch.arange(len(lengths) + 1, dtype=torch.int32) * size
        key_starts = functional.pad(lengths.cumsum(0), (1, 0)).int()
        return cls(
            lengths=tuple(lengths.tolist()),
            size=size,
            may_attend=mask[:, None, None].to(device),
            starts=starts.to(device),
            key_starts=key_starts.to(device),
            valid_index=mask.flatten().nonzero().flatten().to(device),
        )


def prefix_attention(query: Tensor, key: Tensor, value: Tensor, padding: Padding | None) -> Tensor:
    """Attend: without a mask, with lengths of sequences, or with a mask, whichever is fastest.

    Args:
        query: (B, S, H, C); all of them.
        key: (B, S, H, C).
        value: (B, S, H, C).
        padding: which keys are valid; None for all.

    Returns:
        (B, S, H, C).
    """
    if padding is not None:
        attend = varlen_attention(query)
        if attend is not None:
            return _packed(attend, query, key, value, padding)
    mask = None if padding is None else padding.may_attend
    mixed = functional.scaled_dot_product_attention(
        query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), mask
    )
    return mixed.transpose(1, 2)


def varlen_attention(query: Tensor) -> Callable[..., Any] | None:
    """The attention of torch over sequences of different lengths, where it can take these queries.

    It is in torch since 2.10, for CUDA from compute capability 8.0 in half precisions.
    """
    if not query.is_cuda or query.dtype not in (torch.float16, torch.bfloat16):
        return None
    if torch.cuda.get_device_capability(query.device) < (8, 0) or query.shape[-1] > 256:
        return None
    try:
        module = importlib.import_module("torch.nn.attention.varlen")
    except ImportError:
        return None
    return module.varlen_attn


def _packed(
    attend: Callable[..., Any], query: Tensor, key: Tensor, value: Tensor, padding: Padding
) -> Tensor:
    """All queries against the valid keys, sequences end to end."""
    keys = key.flatten(0, 1)[padding.valid_index]
    values = value.flatten(0, 1)[padding.valid_index]
    out = attend(
        query.flatten(0, 1), keys, values, padding.starts, padding.key_starts,
        padding.size, max(padding.lengths),
    )  # fmt: skip
    return out.unflatten(0, query.shape[:2])
