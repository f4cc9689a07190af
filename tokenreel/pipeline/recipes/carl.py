"""CARL and the ablations of its paper, on frozen features: Tables 1 to 11, 13 and 14.

The paper trains the last stage of its ResNet-50 with the rest; a store's backbone is frozen, as in
the row 'None' of its Table 7.  Not here: the rows of Table 7 that train the backbone, and Table 12
(localisation on ActivityNet).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from tokenreel.evaluate.tables.printed import Published
from tokenreel.fuse.config.mvformer import FuseConfig
from tokenreel.pipeline.recipes.base import (
    DRAWN,
    FROZEN,
    GYM99,
    GYM288,
    RESNET,
    SAME_VIEW,
    SUPERVISED,
    Recipe,
    by_labels,
    changed,
    late_fusion,
    percent,
    variant,
)

Maker = Callable[[], Recipe]

_carl = partial(variant, "CARL", label="CARL", backbone=RESNET, differs=FROZEN)


def penn() -> Recipe:
    """CARL on Penn Action."""
    published = percent(93.07, 0.918, 0.985, 92.28, ap10=92.10, ap15=91.82)
    return _carl("penn_action", late_fusion(), "Tables 1, 2, 5 to 9 and 13", published)


def pouring() -> Recipe:
    """CARL on Pouring; the released configuration has two transformer blocks here."""
    fuse = late_fusion(num_frames=240, layers=2)
    return _carl("pouring", fuse, "Table 4", percent(93.73, 0.935, 0.992))


def _finegym(action: str = GYM99) -> FuseConfig:
    return late_fusion(
        num_frames=240, sampling="official_finegym", embed_frames=6000, action=action
    )


def finegym() -> Recipe:
    """CARL on FineGym99; the number is of the paper's SGD probe."""
    published = by_labels(33.53, 39.89, 41.75)
    return _carl("finegym", _finegym(), "Tables 3, 10 and 11, FineGym99", published)


def finegym288() -> Recipe:
    """CARL on FineGym288: a store of `extract run finegym data.classes=288`."""
    return _carl("finegym", _finegym(GYM288), "Table 3, FineGym288", percent(35.23))


def kinetics400() -> Recipe:
    """CARL pre-trained on Kinetics-400; two transformer blocks, as released."""
    fuse = late_fusion(layers=2, epochs=10)
    fuse = fuse.with_(loss=fuse.loss.with_(negatives="batch_noself"))
    unpublished = "its numbers are of Penn Action: carl-penn-transferred"
    return _carl("kinetics400", fuse, "Table 14, pre-training", {}, unpublished=unpublished)


def penn_finetuned() -> Recipe:
    """CARL on Penn Action from the weights of a run on Kinetics-400."""
    return _carl(
        "penn_action",
        late_fusion(layers=2),
        "Table 14, K400 -> PennAction",
        percent(93.9, 0.908, 0.977),
        label="CARL, K400",
        begins_from="carl-kinetics400",
    )


def _change(
    table: int, label: str, words: str, published: Published, summary: str = "", **fields: Any
) -> Maker:
    """A row of an ablation: of CARL on Penn Action, in Tables 10 and 11 on FineGym99."""
    return changed(
        finegym if table in (10, 11) else penn,
        summary or f"An ablation of CARL: {label}.",
        words.split(),
        label=label,
        published=published,
        source=f"CARL, Table {table}",
        **fields,
    )


def _scl(temperature: float, variance: int, published: Published) -> Maker:
    words = f"loss.label_variance={variance} loss.temperature={temperature}"
    return _change(9, f"tau {temperature}, sigma^2 {variance}", words, published)


def _share(share: int, value: float) -> Maker:
    """The supervised row with some % of the labels."""
    words = f"loss.name=cross_entropy data.label_share={share / 100}"
    published: Published = {f"classification@{share}%": (value, None)}
    return _change(11, f"supervised on {share}% of labels", words, published, differs=DRAWN)


C3D = """CARL's C3D: two 3D convolutions before the spatial pooling, in place of the transformer.

A step is for a GPU: 1 TFLOP forward on the 7 x 7 x 2048 map of a ResNet-50.
"""
NOT_CARL = "CARL's encoder under another loss: "

CARL: dict[str, Maker] = {
    "carl-penn": penn,
    "carl-pouring": pouring,
    "carl-finegym": finegym,
    "carl-finegym288": finegym288,
    "carl-pouring-rerun": changed(
        pouring,
        "CARL on Pouring as MV-Former's authors ran it again, three times.",
        label="CARL*",
        published=percent(89.95, 0.873, 0.970, 89.21, spread=(3.33, 0.047, 0.007, 0.80)),
        source="MV-Former, Table 2, CARL*",
    ),
    "carl-kinetics400": kinetics400,
    "carl-penn-transferred": changed(
        penn_finetuned,
        "CARL of Kinetics-400 on Penn Action as it is.",
        ["optim.epochs=0"],
        label="CARL, K400, as it is",
        published=percent(91.9, 0.903, 0.949),
        source="CARL, Table 14, K400",
    ),
    "carl-penn-finetuned": penn_finetuned,
    "carl-table5-resnet": _change(
        5, "ResNet-50 only", "temporal.layers=0", percent(68.63, 0.296, 0.440)
    ),
    "carl-table5-c3d": _change(
        5,
        "ResNet-50+C3D",
        "pooling.kind=grid temporal.kind=conv3d temporal.layers=2",
        percent(83.96, 0.705, 0.778),
        C3D,
        differs="over a frame's neighbours in the sequence, where TCC's model convolves a frame "
        f"with a context frame 15 before it; {FROZEN}",
    ),
    "carl-table6-1": _change(6, "1 layer", "temporal.layers=1", percent(92.15, 0.909, 0.985)),
    "carl-table6-2": _change(6, "2 layers", "temporal.layers=2", percent(92.61, 0.913, 0.990)),
    "carl-table6-4": _change(6, "4 layers", "temporal.layers=4", percent(92.81, 0.910, 0.990)),
    "carl-table7-none": _change(
        7, "no block of the backbone trained", "", percent(90.63, 0.907, 0.994), differs=SAME_VIEW
    ),
    "carl-table8-tcn": _change(
        8,
        "TCN",
        "loss.name=tcn data.sampling=uniform",
        percent(86.31, 0.898, 0.832),
        f"{NOT_CARL}TCN.",
    ),
    "carl-table8-tcc": _change(
        8,
        "TCC",
        "loss.name=tcc data.sampling=uniform temporal.l2_normalise=false",
        percent(86.35, 0.899, 0.980),
        f"{NOT_CARL}TCC.",
    ),
    "carl-table9-variance1": _scl(0.1, 1, percent(92.95, 0.903, 0.963)),
    "carl-table9-variance25": _scl(0.1, 25, percent(92.03, 0.922, 0.993)),
    "carl-table9-tau1": _scl(1.0, 10, percent(91.57, 0.889, 0.993)),
    "carl-table9-tau0.3": _scl(0.3, 10, percent(92.13, 0.903, 0.992)),
    "carl-table10-alpha1": _change(
        10,
        "alpha 1",
        "data.alpha=1",
        percent(36.72),
        caveat="not certain: the copy of the paper at hand prints 36.72 beside an alpha of 0 and "
        "39.03 beside 1; its text calls the drop at alpha 1 dramatic, as that to 36.72 is",
    ),
    "carl-table10-alpha2": _change(
        10,
        "alpha 2",
        "data.alpha=2",
        {},
        unpublished="not known: the text of the paper at hand prints the three alphas as 0, 1.5 "
        "and 1; 39.03, beside the last, may be alpha 2's",
    ),
    "carl-table10-even": _change(10, "even sampling", "data.sampling=even", percent(38.44)),
    "carl-table10-beta0": _change(10, "beta 0", "data.beta=0", percent(38.15)),
    "carl-table10-beta50": _change(10, "beta 50", "data.beta=0.5", percent(39.14)),
    "carl-table10-beta80": _change(10, "beta 80", "data.beta=0.8", percent(37.94)),
    "carl-table10-beta100": _change(10, "beta 100", "data.beta=1", percent(35.53)),
    "carl-table11-80": _change(
        11, "80 frames", "data.num_frames=80", by_labels(27.10, 32.78, 34.02)
    ),
    "carl-table11-160": _change(
        11, "160 frames", "data.num_frames=160", by_labels(30.28, 36.46, 38.06)
    ),
    "carl-table11-480": _change(
        11, "480 frames", "data.num_frames=480", by_labels(31.46, 37.92, 39.45)
    ),
    "carl-table11-supervised-10": _share(10, 24.51),
    "carl-table11-supervised-50": _share(50, 48.75),
    "carl-table11-supervised": _change(
        11,
        "supervised",
        "loss.name=cross_entropy",
        percent(60.37),
        "The supervised row of Table 11, with the backbone frozen.",
        differs=SUPERVISED,
    ),
    "carl-table13-contrastive": _change(
        13,
        "contrastive baseline",
        "loss.label_variance=1e-3 loss.label_mode=stable",
        percent(88.05, 0.898, 0.891),
        "The contrastive baseline: the one positive is the nearest frame of the other window.",
    ),
}
