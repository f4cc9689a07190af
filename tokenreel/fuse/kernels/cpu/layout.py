"""What the compiled loops read and write, from tensors and back.

Shapes: f frames, N tokens, E rows of attention of a model, d stored channels of all layers; rows
are those of all models, each model's made up with zeros to a multiple of `ROWS`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from tokenreel.fuse.kernels.attention.tokens import CodedTokens, unpack
from tokenreel.fuse.kernels.cpu.loops import ROWS

__all__ = ["Array", "Block", "by_layer", "by_row", "end_to_end", "rows_of"]

Array = NDArray[Any]

BLOCK_BYTES = 1 << 19  # of codes that lie in the core's own cache
BITS = {torch.float16: torch.int16, torch.bfloat16: torch.uint16}  # numpy has no bfloat16


@dataclass(frozen=True, eq=False)
class Block:
    """Codes as the loops read them, where they lie.

    Attributes:
        codes: addresses of frames (layers, f), widths (layers,), an empty array of their dtype.
        scales: (layers, f or 1, N).
        kept: what lies at the addresses.
    """

    codes: tuple[Array, Array, Array]
    scales: Array
    kept: Sequence[Tensor]

    @classmethod
    def read(cls, tokens: CodedTokens, at: slice, dtype: torch.dtype) -> "Block":
        """The frames `at`, in place; codes of a dtype that no loop reads become floats first."""
        layers = [layer[at] for layer in tokens.codes]
        scales = [scale[at] for scale in tokens.scales]
        if layers[0].dtype == torch.uint8:
            layers = [unpack(*pair, dtype) for pair in zip(layers, scales, strict=True)]
            scales = []
        elif torch.float64 in (dtype, layers[0].dtype):
            layers = [layer.to(dtype, memory_format=torch.contiguous_format) for layer in layers]
        count, num_tokens = layers[0].shape[:2]
        addresses = [
            layer.data_ptr() + np.arange(count) * (layer.stride(0) * layer.itemsize)
            for layer in layers
        ]
        factors = layers[0].new_ones(len(layers), 1, num_tokens, dtype=dtype)
        if scales:
            factors = torch.stack([scale.to(dtype) for scale in scales]).detach()
        like = layers[0].new_empty(0)
        return cls(
            (
                np.array(addresses),
                np.array([layer.shape[2] for layer in layers]),
                like.view(BITS.get(like.dtype, like.dtype)).numpy(),
            ),
            factors.numpy(),
            layers,
        )

    def room(self, rows: int) -> Array:
        """For the products of the tokens of a block, (rows, tokens)."""
        _, widths, like = self.codes
        tokens = BLOCK_BYTES // (int(widths.sum()) * like.itemsize)
        tokens = max(4, min(tokens, self.scales.shape[2]) // 4 * 4)
        return np.empty((rows, tokens), self.scales.dtype)


def rows_of(models: Sequence[Tensor]) -> list[slice]:
    """Where the rows (..., E, d) of each model lie among those of all, end to end."""
    places, start = [], 0
    for model in models:
        places.append(slice(start, start + model.shape[-2]))
        start += -(-model.shape[-2] // ROWS) * ROWS
    return places


def end_to_end(models: Sequence[Tensor], dim: int) -> Array:
    """Rows of all models, those of each made up with zeros to a multiple of `ROWS`."""
    parts = []
    for model in models:
        missing = -model.shape[dim] % ROWS
        parts.append(pad(model, [0, 0] * (model.dim() - dim - 1) + [0, missing]))
    return torch.cat(parts, dim).detach().numpy()


def by_layer(models: Sequence[Tensor], widths: Sequence[int]) -> Array:
    """Rows (f, E, d) of each model as the loops read them, (f, rows * d)."""
    rows = torch.from_numpy(end_to_end(models, dim=1))
    return torch.cat([part.flatten(1) for part in rows.split(list(widths), dim=-1)], 1).numpy()


def by_row(flat: Array, widths: Sequence[int]) -> Tensor:
    """What :func:`by_layer` made, as rows (f, rows, d) again."""
    rows = flat.shape[1] // sum(widths)
    parts = torch.from_numpy(flat).split([rows * width for width in widths], dim=1)
    return torch.cat([part.unflatten(1, (rows, -1)) for part in parts], dim=-1)
