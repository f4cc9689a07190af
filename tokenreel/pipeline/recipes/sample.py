"""Recipes for the embedded sample and for your own folders."""

from collections.abc import Callable

from tokenreel.fuse.config import (
    DataConfig,
    FuseConfig,
    LstpConfig,
    OptimConfig,
    TemporalConfig,
)
from tokenreel.pipeline.recipes.base import Recipe


def sample() -> Recipe:
    """MV-Former, small, on the sample: under a minute on 2 cores."""
    return Recipe(
        dataset="sample",
        fuse=FuseConfig(
            data=DataConfig(num_frames=48, batch_clips=4),
            pooling=LstpConfig(num_entities=3, channels=96),
            temporal=TemporalConfig(
                fc_width=128,
                hidden=128,
                heads=4,
                feed_forward=256,
                layers=2,
                output="avg",
                embedding=64,
            ),
            optim=OptimConfig(name="adamw", lr=5e-4, weight_decay=1e-4, epochs=30, warmup_epochs=3),
        ),
    )


def untrained() -> Recipe:
    """A control: the model of `sample` with its first weights."""
    trained = sample()
    fuse = trained.fuse.with_(optim=trained.fuse.optim.with_(epochs=0))
    return Recipe(dataset="sample", fuse=fuse)


def folder() -> Recipe:
    """The model of `sample`, on the store of a folder of videos."""
    return Recipe(dataset="folder", fuse=sample().fuse)


SAMPLE: dict[str, Callable[[], Recipe]] = {
    "sample": sample,
    "untrained": untrained,
    "folder": folder,
}
