"""MV-Former on the data sets of its paper.  All are variants: cached tokens, no pixel augmentation.

The published runs draw new pixel augmentations at every step; a cache of the clean view cannot.
"""

from tokenreel.fuse.config import (
    DataConfig,
    FuseConfig,
    OptimConfig,
    PoolingConfig,
    TemporalConfig,
)
from tokenreel.pipeline.recipes.base import Recipe

__all__ = ["finegym", "penn", "pouring"]


def penn() -> Recipe:
    """MV-Former on Penn Action, Table 1 and Table 4 row 14.

    Command: `fuse train mvformer-penn --store STORE`.  Published: classification 94.21 +- 0.04,
    progress 0.931 +- 0.006, tau 0.989 +- 0.002, AP@5 92.99 +- 0.06.
    """
    fuse = FuseConfig(
        data=DataConfig(num_frames=80),
        pooling=PoolingConfig(blocks=(3, 7, 11), num_entities=3),
        optim=OptimConfig(epochs=500),
    )
    return Recipe("penn_action", fuse, {"tau_stride": 2, "retrieval_stride": 2})


def pouring() -> Recipe:
    """MV-Former on Pouring, Table 2.

    Command: `fuse train mvformer-pouring --store STORE`.  Published: classification 93.34 +- 2.00,
    progress 0.919 +- 0.015, tau 0.985 +- 0.003, AP@5 92.33 +- 1.02.
    """
    fuse = FuseConfig(
        data=DataConfig(num_frames=240),
        pooling=PoolingConfig(blocks=(11,), num_entities=3),
        optim=OptimConfig(epochs=1000),
    )
    return Recipe("pouring", fuse, {"tau_stride": 5, "retrieval_stride": 5})


def finegym() -> Recipe:
    """MV-Former on FineGym99, Table 1.

    Command: `fuse train mvformer-finegym --store STORE`.  Published: classification 44.77 +- 0.71
    by the SGD probe of the paper.
    """
    fuse = FuseConfig(
        data=DataConfig(num_frames=240),
        pooling=PoolingConfig(blocks=(9, 10, 11), num_entities=6),
        temporal=TemporalConfig(fc_width=1536, embedding=256, output="avg"),
        optim=OptimConfig(epochs=300),
        embed_frames=2000,
    )
    return Recipe("finegym", fuse)
