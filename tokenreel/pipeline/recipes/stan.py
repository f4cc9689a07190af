"""STAN's tables: the rows that need tokens of frozen CNNs alone.

Stores of the rows: `spatial`, a ResNet-18 of the centre frame of each scene, and `temporal`, an
R(2+1)D-18 of its frames, both of one unit a scene; 13 scenes of a clip.  Rows that train a CNN from
pixels are variants with it frozen, or listed without a recipe.
"""

from collections.abc import Callable, Sequence
from typing import Any

from tokenreel.evaluate.tables.printed import Published
from tokenreel.fuse.config import config_class
from tokenreel.pipeline.override import apply_overrides
from tokenreel.pipeline.recipes.base import PROTOCOLS, Recipe
from tokenreel.pipeline.recipes.tables import tables_of

Maker = Callable[[], Recipe]

RESNET, R2PLUS1D = "resnet18", "torchvision:r2plus1d_18"
FROZEN = "the paper trains the ResNet-18 from pixels, which is frozen here"
UNSAID = "whether the paper trains the ResNet-18 is not said; it is frozen here"
AVERAGE = ("streams=spatial", "encoder.kind=average", "fusion.kind=concat")
FEW = "data.num_train_clips=2000"


def _row(
    name: str,
    summary: str,
    words: Sequence[str],
    published: Published,
    *,
    label: str,
    differs: str = "",
    dataset: str = "mmx",
    backbone: str = "",
    caveat: str = "",
    parameters: float | None = None,
) -> Maker:
    """A row of a table; exact where nothing differs."""

    def make() -> Recipe:
        default = config_class("stan").model_validate({})
        return Recipe(
            dataset=dataset,
            fuse=apply_overrides(default, words, root="fuse"),
            evaluate=PROTOCOLS[dataset],
            label=label,
            published=published,
            backbone=backbone,
            source=tables_of(name),
            status="variant" if differs else "exact",
            differs=differs,
            caveat=caveat,
            parameters=parameters,
        )

    make.__doc__ = summary
    return make


def _control(summary: str, words: Sequence[str], label: str) -> Maker:
    def make() -> Recipe:
        default = config_class("stan").model_validate({})
        return Recipe(
            dataset="mmx",
            fuse=apply_overrides(default, words, root="fuse"),
            evaluate=PROTOCOLS["mmx"],
            label=label,
        )

    make.__doc__ = summary
    return make


def _map(value: float) -> Published:
    return {"map": (value, None)}


def _genres(f1: float, mean: float, precision: float, recall: float) -> Published:
    """Table 3: F1_w, mAP, P_w, R_w."""
    values = {"f1": f1, "map": mean, "f1-precision": precision, "f1-recall": recall}
    return {task: (value, None) for task, value in values.items()}


MMX: dict[str, tuple[str, Sequence[str], Published, dict[str, Any]]] = {
    "stan-table1-resnet": (
        "The mean of ResNet-18 tokens of the scenes, and the head.",
        AVERAGE,
        _map(0.434),
        {
            "label": "ResNet, average",
            "differs": UNSAID,
            "backbone": RESNET,
            "caveat": "Table 3 prints 0.489",
        },
    ),
    "stan-table1-seresnet": (
        "The mean of SE-ResNet tokens of the scenes, and the head.",
        AVERAGE,
        _map(0.544),
        {
            "label": "SE-ResNet, average",
            "differs": f"{UNSAID}; tokens of an SE-ResNet come by `store import`",
            "backbone": "seresnet",
            "caveat": "Table 3 prints 0.554",
        },
    ),
    "stan-table1-gating": (
        "Collaborative gating of the two streams.",
        ["fusion.kind=gate"],
        _map(0.4723),
        {
            "label": "Collaborative gating",
            "differs": f"the paper gates 12 frames a scene of a ResNet-18, and has 0.4728 with "
            f"2,000 clips in Table 4; {FROZEN}",
        },
    ),
    "stan-table1-lstm": (
        "An LSTM over ResNet-18 tokens of the scenes.",
        ["streams=spatial", "encoder.kind=lstm", "fusion.kind=concat"],
        _map(0.596),
        {"label": "LSTM", "differs": UNSAID, "backbone": RESNET},
    ),
    "stan-table1-distillation": (
        "A token of the spatial stream learns what the temporal stream predicts.",
        ["fusion.kind=distil"],
        _map(0.601),
        {
            "label": "Distillation",
            "differs": f"{FROZEN}; the number is that of 2,000 clips in Table 4",
        },
    ),
    "stan-table1-small": (
        "STAN-Small with a frozen ResNet-18.",
        [],
        _map(0.640),
        {"label": "STAN-Small, frozen", "differs": FROZEN},
    ),
    "stan-table3-resnet": (
        "The mean of ResNet-18 tokens of the scenes: F1, precision and recall at 0.3.",
        AVERAGE,
        _genres(0.434, 0.489, 0.437, 0.48),
        {
            "label": "ResNet",
            "differs": UNSAID,
            "backbone": RESNET,
            "caveat": "Table 1 prints a mAP of 0.434",
        },
    ),
    "stan-table3-concat": (
        "The means of both streams end to end, and the head.",
        ["encoder.kind=average", "fusion.kind=concat"],
        _genres(0.525, 0.497, 0.522, 0.551),
        {
            "label": "Naive concat",
            "differs": "the paper joins sound and other modalities; here the two streams",
        },
    ),
    "stan-table3-small": (
        "STAN-Small with a frozen ResNet-18: F1, precision and recall at 0.3.",
        [],
        _genres(0.65, 0.64, 0.62, 0.73),
        {"label": "STAN-Small, frozen", "differs": FROZEN},
    ),
    "stan-table4-spatial": (
        "The spatial stream alone, its CNN frozen, on 2,000 clips.",
        ["streams=spatial", FEW],
        _map(0.4024),
        {"parameters": 16.5, "label": "Spatial no backprop", "backbone": RESNET},
    ),
    "stan-table4-temporal": (
        "The temporal stream alone, its CNN frozen, on 2,000 clips.",
        ["streams=temporal", FEW],
        _map(0.59),
        {"parameters": 16.5, "label": "Temporal no backprop", "backbone": R2PLUS1D},
    ),
    "stan-table4-distillation": (
        "Distillation with a frozen ResNet-18, on 2,000 clips.",
        ["fusion.kind=distil", FEW],
        _map(0.6005),
        {"parameters": 44.5, "label": "Distillation Network", "differs": FROZEN},
    ),
    "stan-table4-gated": (
        "Gated fusion with a frozen ResNet-18, on 2,000 clips.",
        ["fusion.kind=gate", FEW],
        _map(0.4728),
        {"parameters": 45, "label": "Gated Fusion", "differs": FROZEN},
    ),
    "stan-table4-small-2000": (
        "STAN-Small with a frozen ResNet-18, on 2,000 clips.",
        [FEW],
        _map(0.6151),
        {"parameters": 45, "label": "STAN-Small, frozen, 2000", "differs": FROZEN},
    ),
    "stan-table4-small": (
        "STAN-Small with a frozen ResNet-18, on 6,047 clips.",
        [],
        _map(0.6401),
        {"parameters": 45, "label": "STAN-Small, frozen", "differs": FROZEN},
    ),
}
LVU = {"relationship": 54.2, "way_speaking": 40.6, "scene": 57.3}
STAN: dict[str, Maker] = {
    **{
        name: _row(name, summary, words, published, **fields)
        for name, (summary, words, published, fields) in MMX.items()
    },
    **{
        f"stan-lvu-{task}": _row(
            f"stan-lvu-{task}",
            f"STAN-Small with a frozen ResNet-18 on LVU: a store of `data.task={task}`.",
            ["loss=cross_entropy"],
            {"top@1": (value, None)},
            label=f"STAN-Small, frozen, {task}",
            differs=FROZEN,
            dataset="lvu",
        )
        for task, value in LVU.items()
    },
    "stan-without-positions": _control(
        "STAN with frozen CNNs and no positions: the order of scenes has no effect.",
        ["encoder.positions=none"],
        "STAN, no positions",
    ),
    "stan-as-released": _control(
        "What the author's code computes: the spatial vector twice, positions of base 1000, cycled "
        "scenes, GELU.",
        [
            "fusion.kind=spatial_twice",
            "encoder.position_base=1000",
            "fill=cycle",
            "head.gate=gelu",
        ],
        "STAN, as released",
    ),
}
