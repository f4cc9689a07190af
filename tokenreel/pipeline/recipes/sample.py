"""Recipes for the embedded sample and for your own folders."""

from collections.abc import Callable

from tokenreel.fuse.config import DataConfig, FuseConfig, LstpConfig, OptimConfig, TemporalConfig
from tokenreel.pipeline.recipes.base import Recipe, changed


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


SAMPLE: dict[str, Callable[[], Recipe]] = {
    "sample": sample,
    "untrained": changed(
        sample, "A control: the model of `sample` with its first weights.", ["optim.epochs=0"]
    ),
    "folder": changed(
        sample, "The model of `sample`, on the store of a folder of videos.", dataset="folder"
    ),
}
