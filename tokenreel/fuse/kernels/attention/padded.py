"""Self-attention of padded sequences: no mask where nothing is padded, no padded keys on a GPU.

Shapes: B sequences, S tokens, H heads, C channels of a head.  Every token is a query, also padding
(batch norms and losses see its output); keys are the valid tokens, the same order for all blocks.
Source: MV-Former, section 3.4: key padding.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention.varlen import varlen_attn


@dataclass(frozen=True, eq=False)
class Padding:
    """Which tokens of a batch are valid, made once for all blocks.

    Attributes:
        longest: valid tokens of the longest sequence, on the host: no wait for a GPU.
        size: tokens S of a sequence, valid or not.
        may_attend: bool (B, 1, 1, S), False at padding.
        starts: int32 (B + 1,): where each sequence's queries start, end to end.
        key_starts: int32 (B + 1,): where each sequence's valid keys start, end to end.
        valid_index: int64 (valid tokens,): their rows among all B * S.
    """

    longest: int
    size: int
    may_attend: Tensor
    starts: Tensor
    key_starts: Tensor
    valid_index: Tensor

    @classmethod
    def of(cls, valid: Tensor, repeats: int, device: torch.device) -> "Padding | None":
        """From frames that are `repeats` tokens each; None where nothing is padded.

        Args:
            valid: bool (B, T).  It is looked at on the host: give it there to spare a GPU the wait.
            repeats: tokens of a frame.
            device: of the tokens.

        Raises:
            ValueError: a sequence that is padding alone.
            TypeError: not bool: numbers would be added to the scores.
        """
        if valid.dtype != torch.bool:
            raise TypeError(f"valid is {valid.dtype}: want bool, True where a frame is one")
        on_host = valid.cpu()
        counts = on_host.sum(dim=1) * repeats
        if not bool(counts.all()):
            empty = (counts == 0).nonzero().flatten().tolist()
            raise ValueError(f"sequences {empty} have no valid frame: leave them out")
        if bool(on_host.all()):
            return None
        mask = on_host.repeat_interleave(repeats, dim=1)
        size = mask.shape[1]
        starts = torch.arange(len(mask) + 1, dtype=torch.int32) * size
        return cls(
            longest=int(counts.max()),
            size=size,
            may_attend=mask[:, None, None].to(device),
            starts=starts.to(device),
            key_starts=functional.pad(counts.cumsum(0), (1, 0)).int().to(device),
            valid_index=mask.flatten().nonzero().flatten().to(device),
        )


def padded_attention(query: Tensor, key: Tensor, value: Tensor, padding: Padding | None) -> Tensor:
    """Attend: without a mask, to packed keys, or with a mask, whichever is fastest.

    Args:
        query: (B, S, H, C); all of them.
        key: (B, S, H, C).
        value: (B, S, H, C).
        padding: which keys are valid; None for all.

    Returns:
        (B, S, H, C).
    """
    if padding is not None and takes_packed_keys(query):
        return attend_packed(query, key, value, padding)
    mask = None if padding is None else padding.may_attend
    mixed = functional.scaled_dot_product_attention(
        query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), mask
    )
    return mixed.transpose(1, 2)


def takes_packed_keys(query: Tensor) -> bool:
    """Whether torch's attention over sequences of different lengths can take these queries.

    It is for CUDA from compute capability 8.0, in half precisions; channels of a head a multiple of
    8 (torch pads them for its masked form alone), and few enough for a gradient on every GPU.
    """
    if not query.is_cuda or query.dtype not in (torch.float16, torch.bfloat16):
        return False
    channels = query.shape[-1]
    if channels % 8 or channels > 192:
        return False
    return torch.cuda.get_device_capability(query.device) >= (8, 0)


def attend_packed(query: Tensor, key: Tensor, value: Tensor, padding: Padding) -> Tensor:
    """All queries against the valid keys, sequences end to end; shapes as above."""
    out = varlen_attn(
        query.flatten(0, 1),
        key.flatten(0, 1).index_select(0, padding.valid_index),  # its gradient sorts no index
        value.flatten(0, 1).index_select(0, padding.valid_index),
        padding.starts,
        padding.key_starts,
        padding.size,
        padding.longest,
    )
    assert isinstance(out, Tensor)
    return out.unflatten(0, query.shape[:2])
