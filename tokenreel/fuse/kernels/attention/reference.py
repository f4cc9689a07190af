"""What LSTP is, without a trick: project every token to a key and a value, then attend.

The other implementations are compared with this one in float64.  Any device, any float; slow.
Source: MV-Former, section 3.3.
"""

import torch
from torch import Tensor
from torch.nn import functional

from tokenreel.fuse.kernels.attention.weights import QueryWeights


def project_and_attend(
    tokens: Tensor, weights: QueryWeights, hidden: Tensor | None, *, normalise: bool, disjoint: bool
) -> tuple[Tensor, Tensor]:
    """Pool decoded tokens.

    Args:
        tokens: (F, N, D).
        weights: of one model.
        hidden: bool (F, N), True where a token must not be seen.
        normalise: keys have unit length.
        disjoint: a token counts only for the entity that gives it most weight.

    Returns:
        Entities (F, E, V), and attention (F, E * heads, N).
    """
    queries, heads = weights.queries, weights.heads
    key = functional.linear(tokens, weights.key, weights.key_bias).unflatten(-1, (heads, -1))
    key = functional.normalize(key, dim=-1) if normalise else key
    query = queries.unflatten(-1, (heads, -1)) * (queries.shape[-1] // heads) ** -0.5
    query = query.to(key.dtype).expand(tokens.shape[0], *query.shape[-3:])
    scores = torch.einsum("fehc,fnhc->fehn", query, key)
    if hidden is not None:
        scores = scores.masked_fill(hidden[:, None, None], -torch.inf)
    attention = scores.softmax(dim=-1)
    if disjoint:
        attention = attention * keep_first(attention)
    value = tokens
    if weights.value is not None:
        value = functional.linear(tokens, weights.value, weights.value_bias)
    entities = torch.einsum(
        "fehn,fnhv->fehv", attention.to(value.dtype), value.unflatten(-1, (heads, -1))
    )
    return entities.flatten(2), attention.detach().flatten(1, 2)


def keep_first(attention: Tensor) -> Tensor:
    """True where an entity gives a token more weight than every other: (F, E, ..., N) bool."""
    winner = attention.argmax(dim=1, keepdim=True)
    entities = torch.arange(attention.shape[1], device=attention.device)
    return entities.view(1, -1, *[1] * (attention.dim() - 2)) == winner
