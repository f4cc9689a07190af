"""The learned side of a pooling, and its absorption into the stored channels of tokens.

With frozen tokens x and queries q that all frames share, q . (W_K x + b_K) is (W_K^T q) . x plus
what is the same for every token, which softmax removes; and the sum of a (W_V x + b_V) is
W_V (sum of a x) + b_V.  So neither keys nor values of tokens are made.  What a codec does to all
tokens of a block alike goes into the same two matrices.

Shapes: F frames, E entities, H heads, C channels of a query, D of the tokens of all blocks, d of
the stored ones, V of an entity.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from tokenreel.fuse.kernels.attention.tokens import CodedTokens


@dataclass(frozen=True, eq=False)
class QueryWeights:
    """What one model learns of a pooling.

    Attributes:
        queries: (E, C), or (F, E, C) where each frame has its own.
        key: W_K, (C, D); D counts all blocks, end to end.
        key_bias: b_K, (C,) or None.  Counts where keys are normalised only; its gradient is
            otherwise exactly zero.
        value: W_V, (V, D); None to pool the tokens as they are.
        value_bias: b_V, (V,) or None.
        heads: H, a divisor of C and V.
    """

    queries: Tensor
    key: Tensor
    key_bias: Tensor | None = None
    value: Tensor | None = None
    value_bias: Tensor | None = None
    heads: int = 1

    @property
    def num_rows(self) -> int:
        """E * H: rows of attention."""
        return self.queries.shape[-2] * self.heads


def check_weights(tokens: CodedTokens, weights: QueryWeights) -> None:
    """Refuse weights that do not fit the tokens.

    Raises:
        TypeError: parts that are not all float32, or all float64.
        ValueError: what was given and what is wanted.
    """
    queries, key, value, heads = weights.queries, weights.key, weights.value, weights.heads
    dim = sum(tokens.dims)
    if queries.dim() not in (2, 3) or 0 in queries.shape:
        raise ValueError(f"queries are {tuple(queries.shape)}: want (E, C) or (F, E, C)")
    channels = queries.shape[-1]
    if queries.dim() == 3 and queries.shape[0] != tokens.num_frames:
        raise ValueError(f"queries of {queries.shape[0]} frames, tokens of {tokens.num_frames}")
    if key.shape != (channels, dim):
        raise ValueError(f"key is {tuple(key.shape)}: want {(channels, dim)}, tokens {tokens.dims}")
    if weights.key_bias is not None and weights.key_bias.shape != (channels,):
        raise ValueError(f"key_bias is {tuple(weights.key_bias.shape)}: want {(channels,)}")
    if value is not None and (value.dim() != 2 or value.shape[1] != dim):
        raise ValueError(f"value is {tuple(value.shape)}: want (V, {dim}), tokens {tokens.dims}")
    wanted = () if value is None else (value.shape[0],)
    if weights.value_bias is not None and weights.value_bias.shape != wanted:
        raise ValueError(f"value_bias is {tuple(weights.value_bias.shape)}: want {wanted}")
    if heads < 1 or channels % heads or (heads > 1 and (value is None or value.shape[0] % heads)):
        raise ValueError(
            f"{heads} heads do not divide queries of {channels} channels and values of "
            f"{'none' if value is None else value.shape[0]}"
        )
    parts = (queries, key, weights.key_bias, value, weights.value_bias)
    named = zip(("queries", "key", "key_bias", "value", "value_bias"), parts, strict=True)
    dtypes = {name: part.dtype for name, part in named if part is not None}
    if len({*dtypes.values()}) > 1 or queries.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"weights are {', '.join(f'{name} {dtype}' for name, dtype in dtypes.items())}: want "
            "all float32 or all float64; torch.autocast runs the rest of a model in half precision"
        )
    devices = {part.device for part in parts if part is not None} | {tokens.device}
    if len(devices) > 1:
        raise ValueError(f"weights and tokens are on {sorted(map(str, devices))}: want one device")


def absorb_queries(tokens: CodedTokens, weights: QueryWeights) -> Tensor:
    """Queries q' so that scores are q' . codes: (E * H, d of all blocks), or (F, E * H, d)."""
    heads = weights.heads
    queries = weights.queries.unflatten(-1, (heads, -1))
    queries = queries * queries.shape[-1] ** -0.5
    if weights.key_bias is not None:  # it cancels: no part in the result, a gradient of zero
        queries = queries + 0 * weights.key_bias.unflatten(0, (heads, -1))
    key = weights.key.unflatten(0, (heads, -1))
    return fold_rows(tokens, torch.einsum("...ehc,hcd->...ehd", queries, key).flatten(-3, -2))


def fold_rows(tokens: CodedTokens, rows: Tensor) -> Tensor:
    """Rows (..., D) that meet tokens, as rows (..., d) that meet scaled codes, up to a constant."""
    if not any(tokens.foldings):
        return rows
    parts = []
    for part, folding in zip(rows.split(tokens.dims, -1), tokens.folding_of_blocks, strict=True):
        if folding is None:
            parts.append(part)
            continue
        turned = part if folding.rotation is None else part @ folding.rotation.to(part).T
        parts.append(turned * folding.channel_scale.to(part))
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


def apply_values(
    tokens: CodedTokens, weights: QueryWeights, pooled: Tensor, total: Tensor | None = None
) -> Tensor:
    """Entities from pooled codes.

    Args:
        tokens: whose folding it is.
        weights: of one model.
        pooled: (F, E * H, d of all blocks): sums of attention times scaled codes.
        total: (F, E * H, 1): sums of the attention; None where they are 1.

    Returns:
        (F, E, V).
    """
    if weights.value is None:
        return _unfold(tokens, pooled, total)
    matrix = fold_rows(tokens, weights.value).unflatten(0, (weights.heads, -1))
    entities = torch.einsum("fehd,hvd->fehv", pooled.unflatten(1, (-1, weights.heads)), matrix)
    for constant in constants_of(tokens, weights.value, weights.value_bias):
        own = constant.unflatten(0, (weights.heads, -1))
        if total is not None:
            own = own * total.unflatten(1, (-1, weights.heads))
        entities = entities + own
    return entities.flatten(2)


def constants_of(tokens: CodedTokens, matrix: Tensor, bias: Tensor | None) -> list[Tensor]:
    """What a projection of tokens adds to that of their codes: (rows of the matrix,) each."""
    offset = tokens.offset(matrix)
    return [
        part for part in (None if offset is None else matrix @ offset, bias) if part is not None
    ]


def _unfold(tokens: CodedTokens, pooled: Tensor, total: Tensor | None) -> Tensor:
    parts = []
    for part, folding in zip(
        pooled.split(tokens.widths, -1), tokens.folding_of_blocks, strict=True
    ):
        if folding is None:
            parts.append(part)
            continue
        offset = folding.channel_offset.to(part)
        moved = part * folding.channel_scale.to(part) + (
            offset if total is None else offset * total
        )
        parts.append(moved if folding.rotation is None else moved @ folding.rotation.to(part))
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
