"""Recipes of `tokenreel demo stan`: STAN of width 128 and 2 layers on rendered trailers.

The published width is 896, with 4 layers, which takes an hour of two cores.  All rows have the same
epochs, optimiser and head.
"""

from collections.abc import Callable

from tokenreel.fuse.config import config_class
from tokenreel.pipeline.override import apply_overrides
from tokenreel.pipeline.recipes.base import Recipe, changed

SMALL = "trailers-stan-128x2"
WORDS = (
    "data.num_frames=16",
    "data.batch_clips=8",
    "encoder.width=128",
    "encoder.layers=2",
    "encoder.feed_forward=128",
    "encoder.dropout=0",
    "head.dropout=0",
    "optim.lr=2.5e-4",
    "optim.weight_decay=1e-4",
    "optim.epochs=16",
    "optim.warmup_epochs=2",
)


def small() -> Recipe:
    """STAN of width 128 and 2 layers, two streams, on the rendered trailers of its demo."""
    default = config_class("stan").model_validate({})
    return Recipe(
        dataset="trailers",
        fuse=apply_overrides(default, WORDS, root="fuse"),
        evaluate={"protocol": "tags"},
        label="STAN 128x2, two streams",
    )


TRAILERS: dict[str, Callable[[], Recipe]] = {
    SMALL: small,
    f"{SMALL}-spatial": changed(
        small, "Its spatial stream alone.", ["streams=spatial"], label="spatial stream alone"
    ),
    f"{SMALL}-temporal": changed(
        small, "Its temporal stream alone.", ["streams=temporal"], label="temporal stream alone"
    ),
    f"{SMALL}-no-positions": changed(
        small,
        "Two streams without positions: the order of the scenes has no effect.",
        ["encoder.positions=none"],
        label="no positions",
    ),
    f"{SMALL}-shuffled": changed(
        small,
        "Two streams with the scenes of each clip shuffled, in training and evaluation.",
        ["order=shuffled"],
        label="shuffled scenes",
    ),
    f"{SMALL}-average": changed(
        small,
        "The means of the scenes of both streams end to end, and the same head: no transformer.",
        ["encoder.kind=average", "fusion.kind=concat"],
        label="means of both streams",
    ),
}
