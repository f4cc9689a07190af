"""Random tokens in every dtype of a store, weights, and the truth of both in float64."""

import math
from dataclasses import replace

import torch

from tokenreel.fuse.kernels import CodedTokens, Folding, QueryWeights

# Relative error of pooled tokens and of gradients that each dtype is held to: codes are exact, so
# what is left is the rounding of products and, for half precisions, of the low digits.
TOLERANCE = {
    torch.int8: (2e-4, 2e-3),
    torch.float16: (2e-5, 2e-4),
    torch.bfloat16: (1e-4, 1e-3),
    torch.float32: (2e-6, 2e-5),
}


def error(found, wanted):
    """Relative, over all elements."""
    found, wanted = found.detach().cpu().double(), wanted.detach().cpu().double()
    return ((found - wanted).norm() / wanted.norm().clamp_min(1e-300)).item()


def make_tokens(dtype, *, frames=2, tokens=37, widths=(96,), folds=False, seed=0, device="cpu"):
    """Codes whose channels differ in scale and in mean."""
    rng = torch.Generator().manual_seed(seed)
    codes, scales, foldings = [], [], []
    for width in widths:
        spread = 0.2 + 2 * torch.rand(width, generator=rng) ** 4
        real = torch.randn(frames, tokens, width, generator=rng) * spread
        real += 0.5 * torch.randn(width, generator=rng)
        if dtype == torch.int8:
            scale = real.abs().amax(-1) / 127
            codes.append((real / scale[..., None]).round().to(dtype))
            scales.append(scale)
        else:
            codes.append(real.to(dtype))
        turn = torch.linalg.qr(torch.randn(width, width, generator=rng)).Q
        scale = 0.5 + torch.rand(width, generator=rng)
        foldings.append(Folding(scale, torch.randn(width, generator=rng), turn) if folds else None)
    made = CodedTokens(tuple(codes), tuple(scales), tuple(foldings) if folds else ())
    return move(made, device)


def move(tokens, device):
    """The same tokens on a device."""
    folded = tuple(
        fold and Folding(*(part.to(device) for part in vars(fold).values() if part is not None))
        for fold in tokens.foldings
    )
    return CodedTokens(
        tuple(part.to(device) for part in tokens.codes),
        tuple(part.to(device) for part in tokens.scales),
        folded,
    )


def make_weights(tokens, *, entities=3, channels=16, values=8, heads=1, per_frame=False, seed=0):
    """Weights that ask for gradients, of scores about 1.5 apart."""
    rng = torch.Generator().manual_seed(seed + 1)
    dim = sum(tokens.dims)
    shape = (tokens.num_frames, entities, channels) if per_frame else (entities, channels)
    spread = tokens.decode().float().std().item()
    parts = {
        "queries": torch.randn(shape, generator=rng) * 1.5 / spread,
        "key": torch.randn(channels, dim, generator=rng) / math.sqrt(dim),
        "key_bias": torch.randn(channels, generator=rng),
    }
    if values:
        parts["value"] = torch.randn(values, dim, generator=rng) / math.sqrt(dim)
        parts["value_bias"] = torch.randn(values, generator=rng)
    device = tokens.device
    return QueryWeights(
        **{name: part.to(device).requires_grad_() for name, part in parts.items()}, heads=heads
    )


def parameters(weights):
    """Name -> tensor of those that there are."""
    return {name: part for name, part in vars(weights).items() if isinstance(part, torch.Tensor)}


def in_float64(weights):
    """A copy of the weights in float64, with gradients of its own."""
    return replace(
        weights,
        **{
            name: part.detach().cpu().double().requires_grad_()
            for name, part in parameters(weights).items()
        },
    )


def loss_of(pooled):
    """A fixed random combination of the entities of each model."""
    rng = torch.Generator().manual_seed(7)
    return sum(
        (one.entities * torch.randn(one.entities.shape, generator=rng).to(one.entities)).sum()
        for one in pooled
    )


def gradients(pooled, weights):
    """Of that combination, by name of the weight; zeros where there is none."""
    named = parameters(weights)
    found = torch.autograd.grad(
        loss_of(pooled), list(named.values()), allow_unused=True, materialize_grads=True
    )
    return dict(zip(named, found, strict=True))
