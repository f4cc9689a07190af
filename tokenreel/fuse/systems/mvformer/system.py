"""MV-Former as a system; CARL and the baselines are configs of it.

torch is imported by the methods that need it: a config is checked without.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.errors import UsageError
from tokenreel.cache.format.clip import ClipRecord
from tokenreel.cache.read.store_set import StoreSet
from tokenreel.fuse.config.mvformer import FuseConfig
from tokenreel.fuse.config.windows import sample_windows
from tokenreel.fuse.data.epoch_plan import Draw, shuffled_batches
from tokenreel.fuse.systems.base import Embedded, Portable, Shapes, Shared, System
from tokenreel.fuse.systems.mvformer.requirements import (
    blocks_of,
    require_store,
    require_tokens,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tokenreel.fuse.data.batches import Batch
    from tokenreel.fuse.data.source import TokenSource, Wanted
    from tokenreel.fuse.distributed.world import World


class MvFormer(System):
    """Pooling, temporal fusion and a loss of the embeddings of two windows of each clip."""

    config = FuseConfig

    def requirements(self, config: FuseConfig, stores: StoreSet) -> None:
        """One store, with the tokens, labels, actions and views that the config needs."""
        _require_one(stores)
        require_store(config, stores.first)

    def wanted(self, config: FuseConfig, stores: StoreSet) -> "Mapping[str, Wanted]":
        """The blocks that it pools, or CLS vectors."""
        from tokenreel.fuse.data.source import Wanted

        _require_one(stores)
        [(name, store)] = stores.items()
        require_tokens(config, store)
        wanted = Wanted(
            blocks_of(config, store) if config.pooling.uses_tokens else (),
            config.pooling.uses_cls,
            config.data.views != "clean",
            frozenset([config.data.action]),
        )
        return {name: wanted}

    def batches(
        self, records: Sequence[ClipRecord], config: FuseConfig, rng: np.random.Generator
    ) -> list[list[int]]:
        """Clips in a random order; all of a batch are of one action where the loss aligns them."""
        by_action = config.loss.pairs_by_action
        return shuffled_batches(records, config.data.batch_clips, rng, by_action=by_action)

    def draw(self, record: ClipRecord, config: FuseConfig, rng: np.random.Generator) -> Draw:
        """Two windows in time, (2, T)."""
        data = config.data
        windows = sample_windows(
            record.num_frames,
            data.num_frames,
            alpha=data.alpha,
            beta=data.beta,
            rng=rng,
            kind=data.sampling,
            pair_window=config.loss.pair_window,
        )
        return Draw(windows.frames, windows.valid)

    def build(self, config: FuseConfig, shapes: Shapes) -> "nn.Module":
        """The model, for the tokens of all its blocks end to end."""
        from tokenreel.fuse.systems.mvformer.model import build_model

        shape = shapes.first
        blocks = (config.pooling.blocks or shape.blocks) if config.pooling.uses_tokens else (-1,)
        return build_model(
            config,
            dim=shape.dim * len(blocks),
            cls_dim=shape.dim,
            num_classes=shapes.num_classes,
            grid=shape.grid,
        )

    def loss(
        self,
        model: Any,
        batch: "Batch",
        config: FuseConfig,
        *,
        rng: np.random.Generator,
        world: "World",
        shared: Any = None,
    ) -> "Tensor":
        """Pool, fuse, and compare the embeddings of all windows."""
        from tokenreel.fuse.systems.mvformer.model import batch_loss

        return batch_loss(model, batch, config, rng=rng, world=world, attended=shared)

    def embed(
        self, model: Any, config: FuseConfig, source: "TokenSource", record: ClipRecord
    ) -> Embedded:
        """A row a frame, (T, C)."""
        return next(self.embed_each([(model, config)], source, record))

    def embed_each(
        self, models: Sequence[tuple[Any, Any]], source: "TokenSource", record: ClipRecord
    ) -> Iterator[Embedded]:
        """Each frame is read and decoded once for all models."""
        from tokenreel.fuse.systems.mvformer.embed import embed_clip

        return map(Embedded, embed_clip(source, [model for model, _ in models], record))

    def share(self, models: Sequence[Any], batch: "Batch") -> AbstractContextManager[Shared]:
        """One pass over the codes for the queries of all models, on a CPU."""
        from tokenreel.fuse.systems.mvformer.shared_attention import share_attention

        return share_attention(models, batch.frames)

    def shared_bytes(self, config: FuseConfig, source: "TokenSource") -> int:
        """What its queries took from the frames of a batch, its gradient, and all scores."""
        from tokenreel.fuse.systems.mvformer.shared_attention import attended_bytes

        return attended_bytes(config, source)

    def compile(self, model: Any) -> None:
        """The temporal fusion alone."""
        import torch

        model.fuse = torch.compile(model.fuse, options={"fallback_random": True})

    def classes_in(self, state: "Mapping[str, Tensor]") -> int:
        """Those of the head of a supervised loss."""
        from tokenreel.fuse.losses.heads import classes_in

        return classes_in(state)

    def attention(
        self, run: Path, model: Any, config: FuseConfig, source: "TokenSource"
    ) -> Callable[[ClipRecord], NDArray[np.float32]]:
        """Where the learned queries of LSTP look."""
        from tokenreel.fuse.systems.mvformer.embed import attention_of

        if not config.pooling.attends:
            raise UsageError(
                f"{run} pools with pooling.kind={config.pooling.kind}, without attention: "
                "name a run with pooling.kind=lstp"
            )
        return lambda record: attention_of(record, model, source)

    def portable(self, run: Path, model: Any, config: FuseConfig, shapes: Shapes) -> Portable:
        """Pooling and fusion of a piece of a clip."""
        from tokenreel.fuse.systems.mvformer.portable import portable_of

        return portable_of(model, shapes)


def _require_one(stores: StoreSet) -> None:
    if len(stores) > 1:
        raise UsageError(
            f"system=mvformer reads one store, {len(stores)} were given ({', '.join(stores)}): "
            "give one --store"
        )


SYSTEM = MvFormer
