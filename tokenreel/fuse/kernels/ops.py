"""The kernels as operators of torch: torch.compile, opcheck and DDP see one node, with a gradient.

Shapes: F frames, N tokens, E rows of attention, d stored channels of all blocks.
"""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from tokenreel.fuse.kernels.attention import absorbed
from tokenreel.fuse.kernels.attention.choose import CannotRun, decide, fall_back, loops_obstacle
from tokenreel.fuse.kernels.attention.tokens import GainedTokens, width_of


@torch.library.custom_op("tokenreel::pool", mutates_args=())
def pool(
    codes: Sequence[Tensor],
    queries: Tensor,
    scales: Sequence[Tensor],
    hidden: Tensor | None,
    implementation: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Absorbed attention: pooled codes (F, E, d), scores (F, E, N) and their lse (F, E).

    Args and the meaning of the results: :func:`tokenreel.fuse.kernels.attention.absorbed.pool`; the
    implementation is "auto", "absorbed" or "triton".  Gradient: of `queries` alone.

    Raises:
        ValueError: scales that are not finite (on the CPU: a look at the GPU's would make it wait),
            or an implementation that cannot run.
    """
    require_finite(scales)
    if decide(codes, queries, implementation) == "triton":
        from tokenreel.fuse.kernels.triton.launch import pool as fused_pool

        try:
            return fused_pool(codes, queries, scales, hidden)
        except CannotRun as error:
            _allow_fall_back(implementation, error)
    return _absorbed(codes).pool(codes, queries, scales, hidden)


@pool.register_fake
def _(codes, queries, scales, hidden, implementation):  # type: ignore[no-untyped-def]
    frames, num_tokens = codes[0].shape[:2]
    rows = queries.shape[-2]
    return (
        queries.new_empty(frames, rows, sum(map(width_of, codes))),
        queries.new_empty(frames, rows, num_tokens),
        queries.new_empty(frames, rows),
    )


@torch.library.custom_op("tokenreel::pool_backward", mutates_args=())
def pool_backward(
    codes: Sequence[Tensor],
    gradient: Tensor,
    scales: Sequence[Tensor],
    pooled: Tensor,
    scores: Tensor,
    lse: Tensor,
    shared: bool,
    implementation: str,
) -> Tensor:
    """Gradient of the queries of :func:`pool`: (E, d) where shared by all frames, or (F, E, d)."""
    outputs = (pooled, scores, lse)
    if decide(codes, gradient, implementation) == "triton":
        from tokenreel.fuse.kernels.triton.launch import pool_backward as fused_backward

        try:
            return fused_backward(codes, gradient, scales, outputs, shared=shared)
        except CannotRun as error:
            _allow_fall_back(implementation, error)
    return _absorbed(codes).pool_backward(codes, gradient, scales, outputs, shared=shared)


@pool_backward.register_fake
def _(codes, gradient, scales, pooled, scores, lse, shared, implementation):  # type: ignore[no-untyped-def]
    return gradient.new_empty(gradient.shape[1:] if shared else gradient.shape)


def _absorbed(codes: Sequence[Tensor]) -> ModuleType:
    """The absorbed path of a device: compiled loops on a CPU, else plain torch."""
    if codes[0].device.type != "cpu":
        return absorbed
    reason = loops_obstacle()
    if reason is not None:
        fall_back(reason)
        return absorbed
    from tokenreel.fuse.kernels.cpu import compiled

    return compiled


def _allow_fall_back(implementation: str, error: CannotRun) -> None:
    """Log why, unless the fused kernel was requested by name."""
    if implementation == "triton":
        raise ValueError(f"implementation triton cannot run: {error}; use auto or absorbed")
    fall_back(str(error))


def _save_pool(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    codes, queries, scales, _, implementation = inputs
    ctx.save_for_backward(*codes, *scales, *output)
    ctx.num_blocks, ctx.num_scales = len(codes), len(scales)
    ctx.shared, ctx.implementation = queries.dim() == 2, implementation
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*output[1:])


def _pool_gradient(ctx: Any, gradient: Tensor | None, *_: Tensor | None) -> tuple[Any, ...]:
    codes, scales, rest = _saved(ctx)
    if gradient is None:
        return [None] * len(codes), None, [None] * len(scales), None, None
    with torch.autocast(gradient.device.type, enabled=False):
        grad = pool_backward(
            codes, gradient.contiguous(), scales, *rest, ctx.shared, ctx.implementation
        )
    return [None] * len(codes), grad, [None] * len(scales), None, None


def _saved(ctx: Any) -> tuple[list[Tensor], list[Tensor], tuple[Tensor, ...]]:
    blocks, count = ctx.num_blocks, ctx.num_blocks + ctx.num_scales
    saved = ctx.saved_tensors
    return list(saved[:blocks]), list(saved[blocks:count]), tuple(saved[count:])


pool.register_autograd(_pool_gradient, setup_context=_save_pool)


@torch.library.custom_op("tokenreel::dots", mutates_args=())
def dots(
    codes: Sequence[Tensor], vectors: Tensor, scales: Sequence[Tensor], implementation: str
) -> Tensor:
    """Products of every token with vectors (E, d) or (F, E, d): (F, E, N).  For two passes.

    Raises:
        ValueError: scales that are not finite, or "triton", which has no fused form of it.
    """
    require_finite(scales)
    decide(codes, vectors, implementation, fused=False)
    return _absorbed(codes).dots(codes, vectors, scales)


@dots.register_fake
def _(codes, vectors, scales, implementation):  # type: ignore[no-untyped-def]
    frames, num_tokens = codes[0].shape[:2]
    return vectors.new_empty(frames, vectors.shape[-2], num_tokens)


@torch.library.custom_op("tokenreel::mix", mutates_args=())
def mix(codes: Sequence[Tensor], weights: Tensor, scales: Sequence[Tensor], shared: bool) -> Tensor:
    """Sums of tokens times weights (F, E, N): (F, E, d), or (E, d) over all frames."""
    return _absorbed(codes).mix(codes, weights, scales, shared=shared)


@mix.register_fake
def _(codes, weights, scales, shared):  # type: ignore[no-untyped-def]
    width = sum(map(width_of, codes))
    frames, rows = weights.shape[:2]
    return weights.new_empty(rows, width) if shared else weights.new_empty(frames, rows, width)


def _save_codes(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    codes, operand, scales, _ = inputs
    ctx.save_for_backward(*codes, *scales)
    ctx.num_blocks, ctx.num_scales = len(codes), len(scales)
    ctx.shared = operand.dim() == 2


def _dots_gradient(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
    codes, scales, _ = _saved(ctx)
    with torch.autocast(gradient.device.type, enabled=False):
        grad = mix(codes, gradient.contiguous(), scales, ctx.shared)
    return [None] * len(codes), grad, [None] * len(scales), None


def _mix_gradient(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
    codes, scales, _ = _saved(ctx)
    with torch.autocast(gradient.device.type, enabled=False):
        grad = dots(codes, gradient.contiguous(), scales, "absorbed")
    return [None] * len(codes), grad, [None] * len(scales), None


dots.register_autograd(_dots_gradient, setup_context=_save_codes)
mix.register_autograd(_mix_gradient, setup_context=_save_codes)


def require_finite(scales: Sequence[Tensor]) -> None:
    """Raise where a scale on the CPU is NaN or infinite."""
    for block, part in enumerate(scales):
        if not part.is_cuda and not bool(torch.isfinite(part).all()):
            frame, token = (int(i) for i in torch.nonzero(~torch.isfinite(part))[0][:2])
            raise ValueError(
                f"scales of block {block}, frame {frame}, token {token}: {part[frame, token]}, "
                "must be finite: look at the store with `tokenreel store verify --deep STORE`"
            )


def decode_gained(tokens: GainedTokens) -> Tensor:
    """What :meth:`GainedTokens.decode` gives, bit for bit, by the fastest path."""
    if tokens.device.type == "cpu" and loops_obstacle() is None:
        from tokenreel.fuse.kernels.cpu import compiled

        if compiled.decodes(tokens):
            return compiled.decode(tokens)
    return tokens.decode()


def pool_gained(
    tokens: GainedTokens, queries: Tensor, hidden: Tensor | None
) -> tuple[Tensor, Tensor, Tensor] | None:
    """As :func:`pool` of the decoded tokens, bit for bit, without all their floats at once.

    They are made a few frames at a time, in the core's own cache, and again for the gradient.

    Args:
        tokens: of R frames.
        queries: float32 (E, D of all blocks) or (R, E, D).
        hidden: bool (R, N) or None.

    Returns:
        What :func:`pool` returns; None where no compiled loop decodes the tokens.
    """
    if tokens.device.type != "cpu" or loops_obstacle() is not None:
        return None
    from tokenreel.fuse.kernels.cpu import compiled

    if not compiled.decodes(tokens):
        return None
    found: tuple[Tensor, Tensor, Tensor] = _PoolDecoded.apply(
        queries, compiled.Decoder(tokens), hidden
    )
    return found


class _PoolDecoded(torch.autograd.Function):
    """Pooling of tokens that a decoder makes, with the gradient of the queries."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, decoder: Any, hidden: Tensor | None) -> Any:
        from tokenreel.fuse.kernels.cpu import compiled

        [outputs] = compiled.pool_from(decoder, [queries], hidden)
        ctx.save_for_backward(*outputs)
        ctx.decoder, ctx.shared = decoder, queries.dim() == 2
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*outputs[1:])
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        from tokenreel.fuse.kernels.cpu import compiled

        gradient = gradients[0]
        if gradient is None:
            return None, None, None
        [found] = compiled.pool_backward_from(
            ctx.decoder, [gradient.contiguous()], [ctx.saved_tensors], shared=ctx.shared
        )
        return found, None, None
