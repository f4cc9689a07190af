"""One pass over the codes of a batch for all models in lock-step that attend over them.

On a CPU a step is bound by its memory and by turning codes into floats: the compiled loops do both
once for all models, and a run still ends with the bytes of the same run alone.  On a GPU the fused
kernel runs for each model alone, and nothing is shared.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from tokenreel.fuse.config.model import LstpConfig
from tokenreel.fuse.config.mvformer import FuseConfig
from tokenreel.fuse.data.frames import Frames
from tokenreel.fuse.data.source import TokenSource
from tokenreel.fuse.kernels import CodedTokens
from tokenreel.fuse.kernels.attention.choose import loops_obstacle, wanted_word
from tokenreel.fuse.kernels.attention.weights import absorb_queries
from tokenreel.fuse.kernels.ops import require_finite
from tokenreel.fuse.layers.pooling import AttendedTokens, Lstp
from tokenreel.fuse.systems.mvformer.model import FusionModel
from tokenreel.fuse.systems.mvformer.requirements import pooled_dim


@contextmanager
def share_attention(
    models: Sequence[FusionModel], frames: Frames
) -> Iterator[Mapping[FusionModel, AttendedTokens]]:
    """Attend over frames for all models that can share it.

    Inside, each computes the gradient of its loss down to what it attended to; at the end come the
    gradients of all their queries.

    Args:
        models: that train on the frames.
        frames: of the batch.

    Yields:
        The attended tokens of each model that shares; empty where fewer than two can.
    """
    groups: dict[tuple[int, ...], list[FusionModel]] = {}
    for model in models:
        if _can_share(model, frames):
            blocks = model.config.pooling.blocks or tuple(frames.codes)
            groups.setdefault(tuple(sorted(blocks)), []).append(model)
    shared = [
        _attend(group, frames.coded(blocks)) for blocks, group in groups.items() if len(group) > 1
    ]
    yield {model: tokens for group in shared for model, tokens in group.attended.items()}
    for group in shared:
        group.backward()


def may_share(config: FuseConfig, device: torch.device) -> bool:
    """Whether a model of a config attends in one pass over tokens as they are stored, on a CPU."""
    pooling = config.pooling
    if not isinstance(pooling, LstpConfig) or config.augment.changes_tokens:
        return False
    if pooling.num_dynamic or pooling.normalise_keys or pooling.disjoint:
        return False
    is_absorbed = wanted_word(None) in ("auto", "absorbed") and device.type == "cpu"
    return is_absorbed and loops_obstacle() is None


def _can_share(model: FusionModel, frames: Frames) -> bool:
    if not frames.has_known_codes:
        return False
    codes = next(iter(frames.codes.values()))
    return len(codes) > 0 and may_share(model.config, codes.device)


def attended_bytes(config: FuseConfig, source: TokenSource) -> int:
    """Of what its queries took from the frames of a batch, the gradient of that, and all scores.

    It is held for all runs in lock-step at once where they share a pass over the codes.
    """
    if not (config.optim.epochs and may_share(config, source.device)):
        return 0
    grid = source.grid[0] * source.grid[1]
    row = 2 * pooled_dim(config, source.store) + grid
    return 4 * source.frames_at_once * config.pooling.total_entities * row


@dataclass(frozen=True, eq=False)
class _Shared:
    """Models that attended together.

    Attributes:
        tokens: of F frames.
        attended: what each model got.
        queries: absorbed, (E, d) of each.
        outputs: of the pass, of each.
    """

    tokens: CodedTokens
    attended: Mapping[FusionModel, AttendedTokens]
    queries: list[Tensor]
    outputs: list[tuple[Tensor, Tensor, Tensor]]

    def backward(self) -> None:
        """From the gradients of what was attended to, where there are any, the queries' own."""
        attended = [tokens.pooled for tokens in self.attended.values()]
        parts = [
            (queries, pooled.grad.contiguous(), outputs)
            for queries, pooled, outputs in zip(self.queries, attended, self.outputs, strict=True)
            if pooled.grad is not None
        ]
        if not parts:
            return
        from tokenreel.fuse.kernels.cpu import compiled

        queries, gradients, outputs = zip(*parts, strict=True)
        rows = compiled.pool_backward_each(
            self.tokens.codes, gradients, self.tokens.scales, outputs, shared=True
        )
        for own, gradient in zip(queries, rows, strict=True):
            own.backward(gradient)


def _attend(models: Sequence[FusionModel], tokens: CodedTokens) -> _Shared:
    from tokenreel.fuse.kernels.cpu import compiled

    require_finite(tokens.scales)
    queries = []
    for model in models:
        assert isinstance(model.pooling, Lstp)
        queries.append(absorb_queries(tokens, model.pooling.weights()).contiguous())
    with torch.no_grad():
        outputs = compiled.pool_each(tokens.codes, queries, tokens.scales, None)
    attended = {
        model: AttendedTokens(tokens, pooled.detach().requires_grad_())
        for model, (pooled, _, _) in zip(models, outputs, strict=True)
    }
    return _Shared(tokens, attended, queries, outputs)
