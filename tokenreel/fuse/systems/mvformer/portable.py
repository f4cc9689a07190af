"""MV-Former as a program of plain torch, without the kernels and the package.

Shapes: T frames of one piece of a clip, N spatial tokens, D channels of all blocks together, C of
an embedding.
"""

import torch
from torch import Tensor, nn

from tokenreel.fuse.kernels.attention.reference import project_and_attend
from tokenreel.fuse.layers.pooling import Lstp
from tokenreel.fuse.layers.temporal import TemporalFusion, sinusoid
from tokenreel.fuse.systems.base import Portable, Shapes
from tokenreel.fuse.systems.mvformer.model import FusionModel


class PortableModel(nn.Module):
    """Pooling and fusion of the floats of one piece of a clip."""

    def __init__(self, model: FusionModel) -> None:
        super().__init__()
        self.config, self.pooling, self.temporal = model.config, model.pooling, model.temporal

    def forward(self, tokens: Tensor | None = None, cls: Tensor | None = None) -> Tensor:
        """Embed.

        Args:
            tokens: float32 (T, N, D), where the pooling takes tokens.
            cls: float32 (T, D of CLS), where it takes CLS vectors.

        Returns:
            Embeddings (T, C).
        """
        entities = self._pool(tokens, cls)[None]
        if not isinstance(self.temporal, TemporalFusion):
            return self.temporal(entities)[0]
        steps = torch.arange(entities.shape[1], dtype=torch.float64)
        positions = steps * ((self.temporal.train_frames - 1) / steps[-1].clamp(min=1))
        table = sinusoid(positions, self.temporal.enter.out_features)
        return self.temporal.fuse_at(entities, table, None)[0]

    def _pool(self, tokens: Tensor | None, cls: Tensor | None) -> Tensor:
        """Entities (T, E, C): LSTP as its reference computes it."""
        pooling = self.pooling
        if not isinstance(pooling, Lstp):
            return pooling(tokens, cls)
        assert tokens is not None
        config = pooling.config
        context = None
        if pooling.dynamic is not None:
            assert cls is not None
            context = cls[:, None]
            if config.asks_sequence:
                one = cls[:1] if config.dynamic == "first" else cls.mean(dim=0, keepdim=True)
                context = one[None].expand(cls.shape[0], -1, -1)
        weights = pooling.weights(context)
        return project_and_attend(
            tokens, weights, None, normalise=config.normalise_keys, disjoint=config.disjoint
        )[0]


def portable_of(model: FusionModel, shapes: Shapes) -> Portable:
    """The program of a model, for pieces of up to `embed_frames` frames."""
    config, shape = model.config, shapes.first
    pooling = config.pooling
    blocks = (pooling.blocks or shape.blocks) if pooling.uses_tokens else ()
    inputs: dict[str, tuple[int, ...]] = {}
    if blocks:
        inputs["tokens"] = (shape.grid[0] * shape.grid[1], shape.dim * len(blocks))
    if pooling.uses_cls:
        inputs["cls"] = (shape.dim,)
    taken = []
    if blocks:
        named = ", ".join(map(str, blocks))
        taken.append(
            f"`tokens` are the outputs of blocks {named} before the final norm, concatenated by "
            "channel, patches row by row"
        )
    if pooling.uses_cls:
        taken.append("`cls` is the CLS vector of the last block after the final norm")
    cut = (
        f"Cut a clip of more than {config.embed_frames} frames into the fewest pieces of nearly "
        "equal length, and call the model on each"
    )
    return Portable(
        PortableModel(model), inputs, config.embed_frames, f"{'; '.join(taken)}. {cut}."
    )
