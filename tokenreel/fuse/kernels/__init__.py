"""Attention of learned queries over frozen tokens, from the codes of the store.

:func:`pooled_attention` is the one entry to LSTP: three implementations, equal in exact arithmetic.

    reference   every token projected to a key and a value; the specification
    absorbed    W_K and W_V moved to the queries' side; compiled loops on a CPU, else plain torch
    triton      the same in one pass over the codes; CUDA, or Triton's interpreter

:func:`padded_attention` is that of the temporal fusion.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tokenreel.fuse.kernels import ops
from tokenreel.fuse.kernels.attention.choose import log_reference, wanted_word
from tokenreel.fuse.kernels.attention.padded import Padding, padded_attention
from tokenreel.fuse.kernels.attention.reference import keep_first, project_and_attend
from tokenreel.fuse.kernels.attention.tokens import (
    CodedTokens,
    Folding,
    GainedTokens,
    check_tokens,
)
from tokenreel.fuse.kernels.attention.weights import (
    QueryWeights,
    absorb_queries,
    apply_values,
    check_weights,
    constants_of,
    fold_rows,
)

__all__ = [
    "CodedTokens",
    "Folding",
    "GainedTokens",
    "Padding",
    "Pooled",
    "QueryWeights",
    "padded_attention",
    "pooled_attention",
]


@dataclass(frozen=True, eq=False)
class Pooled:
    """What one model gets.

    Attributes:
        entities: (F, E, V).
        attention: (F, E * heads, N), for pictures: it carries no gradient; None unless requested.
    """

    entities: Tensor
    attention: Tensor | None


def pooled_attention(
    tokens: CodedTokens | GainedTokens,
    models: Sequence[QueryWeights],
    *,
    hidden: Tensor | None = None,
    normalise_keys: bool = False,
    disjoint: bool = False,
    with_attention: bool = False,
    implementation: str | None = None,
) -> list[Pooled]:
    """Pool the tokens of each frame for one model, or for several that share one read of them.

    Shapes: F frames, N tokens, D channels of all blocks, E entities, C of a query, V of an entity.
    Computes in float32 (float64 where queries are), also under autocast, except the reference.

    Args:
        tokens: codes of F frames, or what floats of F frames are made of; frozen.
        models: weights of each model.
        hidden: bool (F, N), True where a token must not be seen.  A frame that is hidden whole
            gives NaN.
        normalise_keys: keys have unit length; only the values' projection is absorbed then.
        disjoint: a token counts only for the entity of its model that gives it most weight.
        with_attention: return the attention too.
        implementation: "auto", "reference", "absorbed" or "triton"; None for what the environment
            variable TOKENREEL_KERNEL says, and auto without it.

    Returns:
        Entities and attention of each model.

    Raises:
        ValueError: a shape, device, stride, gradient or word that is not supported.
        TypeError: a dtype that is not supported.
    """
    if not models:
        raise ValueError("no models: give the weights of one at least")
    if isinstance(tokens, GainedTokens):
        takes_two = normalise_keys or disjoint
        lazily = not takes_two and wanted_word(implementation) in ("auto", "absorbed")
        found = _pool_gained(tokens, models, hidden, with_attention) if lazily else None
        if found is not None:
            return found
        tokens = CodedTokens((ops.decode_gained(tokens),))
    check_tokens(tokens, hidden)
    for weights in models:
        check_weights(tokens, weights)
    word = wanted_word(implementation)
    if word == "reference":
        return _reference(tokens, models, hidden, normalise_keys, disjoint, with_attention)
    with torch.autocast(tokens.device.type, enabled=False):  # E x D work: keep its precision
        if normalise_keys or disjoint:
            return [
                _two_passes(tokens, weights, hidden, normalise_keys, disjoint, with_attention, word)
                for weights in models
            ]
        return _one_pass(tokens, models, hidden, with_attention, word)


def _pool_gained(
    tokens: GainedTokens,
    models: Sequence[QueryWeights],
    hidden: Tensor | None,
    with_attention: bool,
) -> list[Pooled] | None:
    """Each model's by :func:`ops.pool_gained`; None where no loop takes the tokens."""
    shape = (tokens.num_frames, tokens.num_tokens, tokens.dim)
    floats = CodedTokens(
        (tokens.gains.new_empty(1, *shape[1:]).expand(shape),)
    )  # their shape alone
    check_tokens(floats, hidden)
    out = []
    with torch.autocast(tokens.device.type, enabled=False):
        for weights in models:
            check_weights(floats, weights)
            if _precision(weights.queries) != torch.float32:
                return None
            queries = absorb_queries(floats, weights).float().contiguous()
            parts = ops.pool_gained(tokens, queries, hidden)
            if parts is None:
                return None
            pooled, scores, lse = parts
            attention = (scores - lse[..., None]).exp() if with_attention else None
            out.append(Pooled(apply_values(floats, weights, pooled), attention))
    return out


def _reference(
    tokens: CodedTokens,
    models: Sequence[QueryWeights],
    hidden: Tensor | None,
    normalise: bool,
    disjoint: bool,
    with_attention: bool,
) -> list[Pooled]:
    log_reference()
    out = []
    decoded = tokens.decode(_precision(models[0].queries))
    for weights in models:
        entities, attention = project_and_attend(
            decoded, weights, hidden, normalise=normalise, disjoint=disjoint
        )
        out.append(Pooled(entities, attention if with_attention else None))
    return out


def _one_pass(
    tokens: CodedTokens,
    models: Sequence[QueryWeights],
    hidden: Tensor | None,
    with_attention: bool,
    word: str,
) -> list[Pooled]:
    queries = [absorb_queries(tokens, weights) for weights in models]
    if any(rows.dim() == 3 for rows in queries):
        frames = tokens.num_frames
        queries = [rows if rows.dim() == 3 else rows.expand(frames, -1, -1) for rows in queries]
    together = queries[0] if len(queries) == 1 else torch.cat(queries, dim=-2)
    together = together.to(_precision(together))
    pooled, scores, lse = ops.pool(
        list(tokens.codes), together.contiguous(), list(tokens.scales), hidden, word
    )
    out, start = [], 0
    for weights in models:
        rows = slice(start, start + weights.num_rows)
        start += weights.num_rows
        attention = (scores[:, rows] - lse[:, rows, None]).exp() if with_attention else None
        out.append(Pooled(apply_values(tokens, weights, pooled[:, rows]), attention))
    return out


def _two_passes(
    tokens: CodedTokens,
    weights: QueryWeights,
    hidden: Tensor | None,
    normalise: bool,
    disjoint: bool,
    with_attention: bool,
    word: str,
) -> Pooled:
    codes, scales = list(tokens.codes), list(tokens.scales)
    if normalise:
        scores = _normalised_scores(tokens, weights, word)
    else:
        queries = absorb_queries(tokens, weights)
        scores = ops.dots(codes, queries.to(_precision(queries)).contiguous(), scales, word)
    if hidden is not None:
        scores = scores.masked_fill(hidden[:, None], -torch.inf)
    attention = scores.softmax(dim=-1)
    if disjoint:
        by_head = attention.unflatten(1, (-1, weights.heads))
        attention = (by_head * keep_first(by_head)).flatten(1, 2)
    pooled = ops.mix(codes, attention.contiguous(), scales, False)
    total = attention.sum(-1, keepdim=True) if disjoint else None
    entities = apply_values(tokens, weights, pooled, total)
    return Pooled(entities, attention.detach() if with_attention else None)


def _normalised_scores(tokens: CodedTokens, weights: QueryWeights, word: str) -> Tensor:
    """Scores (F, E * H, N) of keys of unit length: the length of a key needs the key itself."""
    matrix = fold_rows(tokens, weights.key)
    matrix = matrix.to(_precision(matrix)).contiguous()
    keys = ops.dots(list(tokens.codes), matrix, list(tokens.scales), word)
    for constant in constants_of(tokens, weights.key, weights.key_bias):
        keys = keys + constant[:, None]
    keys = keys.unflatten(1, (weights.heads, -1))
    keys = torch.nn.functional.normalize(keys, dim=2)
    queries = weights.queries.unflatten(-1, (weights.heads, -1))
    queries = (queries * queries.shape[-1] ** -0.5).to(keys.dtype)
    queries = queries.expand(tokens.num_frames, *queries.shape[-3:])
    return torch.einsum("fehc,fhcn->fehn", queries, keys).flatten(1, 2)


def _precision(queries: Tensor) -> torch.dtype:
    return torch.float64 if queries.dtype == torch.float64 else torch.float32
