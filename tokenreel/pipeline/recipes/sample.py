"""Recipes for the embedded sample and for your own folders."""

from collections.abc import Callable

from tokenreel.fuse.config import (
    AugmentConfig,
    DataConfig,
    FuseConfig,
    LstpConfig,
    OptimConfig,
    SclConfig,
    TemporalConfig,
)
from tokenreel.pipeline import defaults
from tokenreel.pipeline.recipes.base import Recipe, changed


def sample() -> Recipe:
    """MV-Former, small, on the sample: about a minute on 2 cores.

    Windows are short (24 frames) and of very different spans (up to 72 frames): where a window is
    half of a clip or more, as the papers' defaults are on short clips, the position in it tells the
    time, and the loss is won by a clock.  Tokens are augmented, steps are many and small, labels
    are wide: with the papers' values some seeds learn to know the frames of a clip again, and not
    its motion (fuse/NOTES.md, 2026-11-28).
    """
    return Recipe(
        dataset=defaults.SAMPLE,
        fuse=FuseConfig(
            data=DataConfig(num_frames=24, batch_clips=2, alpha=3.0),
            augment=AugmentConfig(crop=0.6, noise=0.1),
            loss=SclConfig(label_variance=25.0),
            pooling=LstpConfig(num_entities=3, channels=96),
            temporal=TemporalConfig(
                fc_width=128,
                hidden=128,
                heads=4,
                feed_forward=256,
                layers=2,
                output="avg",
                embedding=128,
            ),
            optim=OptimConfig(name="adamw", lr=5e-4, weight_decay=1e-4, epochs=40, warmup_epochs=3),
        ),
    )


SAMPLE: dict[str, Callable[[], Recipe]] = {
    "sample": sample,
    "untrained": changed(
        sample, "A control: the model of `sample` with its first weights.", ["optim.epochs=0"]
    ),
    "late-fusion": changed(
        sample,
        "A control: late fusion as in CARL: `sample` on the maximum of the last block.",
        ["pooling.kind=max", "pooling.blocks=-1"],
    ),
    "sample-24-epochs": changed(
        sample, "`sample` for less time: the demo on weights of your own.", ["optim.epochs=24"]
    ),
    "late-fusion-24-epochs": changed(
        sample,
        "A control: `late-fusion` for as many epochs as `sample-24-epochs`.",
        ["pooling.kind=max", "pooling.blocks=-1", "optim.epochs=24"],
    ),
    "folder": changed(
        sample, "The model of `sample`, on the store of a folder of videos.", dataset="folder"
    ),
}
