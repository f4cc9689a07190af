"""MV-Former: pooling, temporal fusion, the head that only the loss sees, and the loss of a batch.

Shapes: F distinct frames, N spatial tokens, D channels of all blocks together, B clips, V windows,
T frames of a sequence, E entities, C channels.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from tokenreel.fuse.config.model import LstpConfig
from tokenreel.fuse.config.mvformer import FuseConfig
from tokenreel.fuse.data.augment import WindowTokens, augment_windows
from tokenreel.fuse.data.batches import Batch
from tokenreel.fuse.data.frames import Frames
from tokenreel.fuse.distributed.global_layers import place_dropouts
from tokenreel.fuse.distributed.precision import precision_of
from tokenreel.fuse.distributed.world import ALONE, World, gather_clips
from tokenreel.fuse.kernels import CodedTokens
from tokenreel.fuse.layers.conv3d import ConvolutionalFusion
from tokenreel.fuse.layers.pooling import AttendedTokens, Lstp, Tokens, make_pooling
from tokenreel.fuse.layers.temporal import TemporalFusion
from tokenreel.fuse.losses import LOSSES, LossInput
from tokenreel.fuse.losses.heads import apply_head, make_head


class FusionModel(nn.Module):
    """MV-Former, or CARL's late fusion where the pooling gives one entity without weights."""

    def __init__(
        self,
        config: FuseConfig,
        *,
        dim: int,
        cls_dim: int,
        num_classes: int = 0,
        grid: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.pooling = make_pooling(config.pooling, dim, cls_dim)
        self.temporal = self._make_temporal(dim, cls_dim, grid)
        width = config.temporal.embedding
        self.projection = make_head(config.loss, width=width, num_classes=num_classes)

    def _make_temporal(
        self, dim: int, cls_dim: int, grid: tuple[int, int] | None
    ) -> TemporalFusion | ConvolutionalFusion:
        config, frames = self.config.temporal, self.config.data.num_frames
        if config.kind == "conv3d":
            if grid is None:
                raise ValueError(
                    "temporal.kind=conv3d needs the grid of the tokens: none was given"
                )
            return ConvolutionalFusion(config, channels=dim, grid=grid)
        pooling = self.config.pooling
        if not pooling.makes_entities:  # late fusion has one entity and no ID for it
            config = config.with_(entity_ids="none")
        return TemporalFusion(
            config,
            channels=self.pooling.channels,
            num_entities=pooling.total_entities,
            train_frames=frames,
        )

    def pool(
        self,
        tokens: Tokens | None,
        cls: Tensor | None,
        hidden: Tensor | None = None,
        context: Tensor | None = None,
    ) -> Tensor:
        """Entities of distinct frames: :class:`tokenreel.fuse.layers.pooling.Pooling`."""
        return self.pooling(tokens, cls, hidden, context)

    def attention(
        self,
        tokens: CodedTokens | Tensor,
        cls: Tensor | None,
        hidden: Tensor | None = None,
        context: Tensor | None = None,
    ) -> Tensor:
        """Where each entity looks: (F, E, N), rows that sum to 1.  Arguments as :meth:`pool`.

        Raises:
            ValueError: a model without learned attention.
        """
        if not isinstance(self.pooling, Lstp):
            raise ValueError(f"pooling.kind={self.config.pooling.kind} has no attention to show")
        attention = self.pooling.attend(tokens, cls, hidden, context, with_attention=True)[1]
        assert attention is not None
        return attention

    def pool_windows(
        self,
        tokens: Tokens | None,
        cls: Tensor | None,
        gather: Tensor,
        hidden: Tensor | None = None,
    ) -> Tensor:
        """Entities of sequences that share frames: each distinct frame is pooled once.

        Args:
            tokens: of F distinct frames, as for :meth:`pool`.
            cls: as for :meth:`pool`.
            gather: int64 (B, V, T), which distinct frame each position is; no two clips share one.
            hidden: as for :meth:`pool`.

        Returns:
            (B V, T, E, C).
        """
        pooling = self.config.pooling
        if not (isinstance(pooling, LstpConfig) and pooling.asks_sequence):
            return self.pool(tokens, cls, hidden)[gather].flatten(0, 1)
        assert cls is not None
        context = _context_of_windows(cls, gather, pooling)
        windows = range(gather.shape[1])
        if pooling.disjoint:  # entities take tokens from those of their own window alone
            parts = [
                self.pool(tokens, cls, hidden, context[:, window, None])[gather[:, window]]
                for window in windows
            ]
            return torch.stack(parts, dim=1).flatten(0, 1)
        entities = self.pool(tokens, cls, hidden, context)[gather]  # (B, V, T, E, C)
        # Every frame has the dynamic entities of all windows.
        static = pooling.num_entities
        dynamic = entities[..., static:, :].unflatten(3, (len(windows), -1))
        own = torch.stack([dynamic[:, window, :, window] for window in windows], dim=1)
        return torch.cat([entities[..., :static, :], own], dim=3).flatten(0, 1)

    def sequence_context(self, cls: Tensor) -> Tensor:
        """What the dynamic queries of one sequence's frames are made from.

        Args:
            cls: (T, D of CLS) of the whole sequence, padding included, as published.

        Returns:
            (T, 1, D of CLS).
        """
        pooling = self.config.pooling
        assert isinstance(pooling, LstpConfig)
        if pooling.dynamic == "separate":
            return cls[:, None]
        one = cls[:1] if pooling.dynamic == "first" else cls.mean(dim=0, keepdim=True)
        return one[None].expand(len(cls), -1, -1)

    def fuse(self, entities: Tensor, valid: Tensor | None = None) -> Tensor:
        """(B, T, E, C) -> embeddings (B, T, C)."""
        out: Tensor = self.temporal(entities, valid)
        return out

    def project(self, embeddings: Tensor) -> Tensor:
        """Embeddings (B, T, C) as the loss sees them; most losses see them as they are."""
        return apply_head(self.projection, self.config.loss, embeddings)


def _context_of_windows(cls: Tensor, gather: Tensor, config: LstpConfig) -> Tensor:
    """(F, V, D of CLS): for each distinct frame the contexts of all windows of its clip."""
    of_positions = cls[gather]  # (B, V, T, D)
    is_first = config.dynamic == "first"
    of_windows = of_positions[:, :, 0] if is_first else of_positions.mean(dim=2)
    clip = torch.zeros(len(cls), dtype=torch.long, device=gather.device)
    for number, frames in enumerate(gather.flatten(1)):
        clip[frames] = number
    return of_windows[clip]


def build_model(
    config: FuseConfig,
    *,
    dim: int,
    cls_dim: int,
    num_classes: int = 0,
    grid: tuple[int, int] | None = None,
) -> FusionModel:
    """A model whose weights depend on config.seed alone.

    Args:
        config: what to build.
        dim: channels D of the tokens of all blocks used, end to end.
        cls_dim: channels of the CLS vector.
        num_classes: phases to tell apart, for a supervised loss.
        grid: rows and columns of the tokens, for convolutions.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return FusionModel(config, dim=dim, cls_dim=cls_dim, num_classes=num_classes, grid=grid)


def tokens_for(
    frames: Frames, config: FuseConfig, *, with_noise: bool = False
) -> CodedTokens | Tensor | None:
    """What a model pools: codes, floats where its pooling has no weights, or no tokens.

    Args:
        frames: of a batch or clip.
        config: of the run.
        with_noise: the config's noise comes next, which decodes the frames of each window, so that
            floats of all frames are made only where a grid may be mirrored.
    """
    pooling = config.pooling
    if not pooling.uses_tokens:
        return None
    is_decoded_next = with_noise and config.augment.noise > 0 and pooling.kind != "grid"
    take = frames.coded if pooling.attends or is_decoded_next else frames.tokens
    return take(pooling.blocks)


def batch_loss(
    model: FusionModel,
    batch: Batch,
    config: FuseConfig,
    *,
    rng: np.random.Generator,
    world: World = ALONE,
    attended: AttendedTokens | None = None,
) -> Tensor:
    """The loss of a batch, float32; in every process that of the whole batch.

    Args:
        model: pools and fuses the local clips (this rank).
        batch: the step.
        config: of the run.
        rng: where augmentation and loss draw from, the same in every process.
        world: the processes that share the batch.
        attended: its frames, where the model's queries have attended over them already.
    """
    device = batch.gather.device
    if world.size > 1:
        place_dropouts(model, len(batch.clip_ids), batch.own)
    seed = int(rng.integers(2**63))  # drawn in every process, by every config
    precision = precision_of(config.optim.precision, device)
    with torch.autocast(device.type, precision, enabled=precision != torch.float32):
        is_augmented = model.training and config.augment.changes_tokens
        tokens = tokens_for(batch.frames, config, with_noise=is_augmented)
        seen = WindowTokens(tokens, batch.frames.cls, batch.gather)
        if is_augmented:
            clips = batch.clip_ids[batch.own]
            seen = augment_windows(
                seen,
                config.augment,
                grid=batch.grid,
                clip_ids=clips,
                seed=seed,
                is_spatial=config.pooling.kind == "grid",
            )
        pooled = seen.tokens if attended is None else attended
        windows = model.pool_windows(pooled, seen.cls, seen.gather, seen.hidden)
        embeddings = model.project(model.fuse(windows, batch.valid[batch.own].flatten(0, 1)))
    embeddings = embeddings.float().unflatten(0, batch.gather.shape[:2])
    inputs = LossInput(
        embeddings=gather_clips(embeddings, len(batch.clip_ids), batch.own, world),
        steps=batch.steps,
        valid=batch.valid.to(device, non_blocking=True),
        padding=(~batch.valid).flatten().nonzero().flatten().to(device, non_blocking=True),
        labels=batch.labels,
        actions=batch.actions,
        num_frames=batch.num_frames,
        head=_head_of(model, world),
        rng=rng,
    )
    loss: Tensor = LOSSES.load(config.loss.name).compute(inputs, config.loss)
    return loss


def _head_of(model: FusionModel, world: World) -> Callable[[Tensor], Tensor]:
    """The head for a loss that applies it to the whole batch, in each of the processes.

    Their gradients are added up, so each counts for its share only.
    """
    if world.size == 1:
        return model.projection
    shares = {
        name: parameter / world.size + (parameter * (1 - 1 / world.size)).detach()
        for name, parameter in model.projection.named_parameters()
    }
    return lambda x: torch.func.functional_call(model.projection, shares, (x,))
