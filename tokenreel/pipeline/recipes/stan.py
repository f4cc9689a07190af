"""STAN's tables: every row that can be run, with the number that the paper prints.

Stores of the rows, of one unit a scene and 13 scenes of a clip: `spatial`, tokens of a ResNet-18 of
the centre frame, and `temporal`, of an R(2+1)D-18 of 12 frames; `spatial_pixels` and
`temporal_pixels`, the frames themselves, for rows that train the CNN.  All are one set of stores.
"""

from collections.abc import Callable, Sequence
from typing import Any

from tokenreel.evaluate.tables.printed import Published
from tokenreel.fuse.config import SystemConfig, config_class
from tokenreel.pipeline.override import apply_overrides
from tokenreel.pipeline.recipes.base import PROTOCOLS, Recipe
from tokenreel.pipeline.recipes.tables import tables_of

Maker = Callable[[], Recipe]

RESNET, R2PLUS1D = "resnet18", "torchvision:r2plus1d_18"
FROZEN = "the paper trains the ResNet-18 from pixels, which is frozen here"
UNSAID = "whether the paper trains the ResNet-18 is not said; it is frozen here"
AVERAGE = ("streams=spatial", "encoder.kind=average", "fusion.kind=concat")
FEW = "data.num_train_clips=2000"
SPATIAL, TEMPORAL = "spatial_cnn.name=resnet18", "temporal_cnn.name=r2plus1d_18"
SE_RESNET = (*AVERAGE, "spatial_cnn.name=seresnet50")
WHICH = "which SE-ResNet it is and whether it is trained is not said; here SE-ResNet-50, trained"
TWICE = "its 92.5 million parameters count a transformer twice"
SMALL = {"map": (0.6401, None), "f1": (0.65, None), "f1-precision": (0.62, None)}
NUM_TAGS = 19  # of MMX-Trailer-20, with which parameters are counted


def _config(words: Sequence[str]) -> SystemConfig:
    default = config_class("stan").model_validate({})
    found: SystemConfig = apply_overrides(default, words, root="fuse")
    return found


def _stores(config: Any) -> tuple[str, ...]:
    """The names of the stores that a config reads."""
    return tuple(f"{s}_pixels" if s in config.cnns else s for s in config.stream_names)


def _row(
    name: str, summary: str, words: Sequence[str], published: Published, **fields: Any
) -> Maker:
    """A row of a table; exact where nothing differs."""

    def make() -> Recipe:
        fuse = _config(words)
        row = {"dataset": "mmx", "source": tables_of(name), **fields}
        return Recipe(
            fuse=fuse,
            evaluate=PROTOCOLS[row["dataset"]],
            published=published,
            status="variant" if row.get("differs") else "exact",
            stores=_stores(fuse),
            count_parameters=count_parameters if row.get("parameters") else None,
            **row,
        )

    make.__doc__ = summary
    return make


def _control(summary: str, words: Sequence[str], label: str) -> Maker:
    def make() -> Recipe:
        fuse = _config(words)
        return Recipe(
            dataset="mmx",
            fuse=fuse,
            evaluate=PROTOCOLS["mmx"],
            label=label,
            stores=_stores(fuse),
        )

    make.__doc__ = summary
    return make


def count_parameters(config: SystemConfig) -> dict[str, int]:
    """Parameters that a config trains for the tags of MMX-Trailer-20, by part of its model."""
    from tokenreel.fuse.systems.base import Shapes, StreamShape, num_parameters

    shape = StreamShape(blocks=(3,), dim=512, grid=(1, 1))
    tags = tuple(f"tag{number}" for number in range(NUM_TAGS))
    return num_parameters(config, Shapes(dict.fromkeys(_stores(config), shape), 0, tags))


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
        "The mean of the scenes' vectors by an SE-ResNet, which is trained, and the head.",
        SE_RESNET,
        _map(0.544),
        {"label": "SE-ResNet, average", "differs": WHICH, "caveat": "Table 3 prints 0.554"},
    ),
    "stan-table1-gating": (
        "Collaborative gating of the two streams, the ResNet-18 trained.",
        [SPATIAL, "fusion.kind=gate"],
        _map(0.4723),
        {
            "label": "Collaborative gating",
            "differs": "the paper gates 12 frames a scene of a ResNet-18, here the two streams",
            "caveat": "Table 4 prints 0.4728 with 2,000 clips",
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
        [SPATIAL, "fusion.kind=distil"],
        _map(0.601),
        {"label": "Distillation", "caveat": "Table 4 prints 0.6005 with 2,000 clips"},
    ),
    "stan-small": (
        "STAN-Small: the ResNet-18 is trained, the R(2+1)D-18 is frozen.",
        [SPATIAL],
        {**SMALL, "f1-recall": (0.73, None)},
        {
            "label": "STAN-Small",
            "parameters": 45,
            "caveat": "Tables 1 and 3 print a mAP of 0.640 and 0.64",
        },
    ),
    "stan-large": (
        "STAN-Large: both CNNs are trained.",
        [SPATIAL, TEMPORAL],
        _map(0.7506),
        {
            "label": "STAN-Large",
            "parameters": 92.5,
            "caveat": f"Table 1 prints 0.750; {TWICE}",
        },
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
    "stan-table3-seresnet": (
        "The mean of the scenes' vectors by an SE-ResNet: F1, precision and recall at 0.3.",
        SE_RESNET,
        _genres(0.516, 0.554, 0.493, 0.572),
        {
            "label": "SE-ResNet",
            "differs": WHICH,
            "caveat": "Table 1 prints a mAP of 0.544",
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
    "stan-table4-spatial-backprop": (
        "The spatial stream alone, its ResNet-18 trained, on 2,000 clips.",
        ["streams=spatial", SPATIAL, FEW],
        _map(0.5903),
        {"parameters": 28, "label": "Spatial with backprop"},
    ),
    "stan-table4-temporal-backprop": (
        "The temporal stream alone, its R(2+1)D-18 trained, on 2,000 clips.",
        ["streams=temporal", TEMPORAL, FEW],
        _map(0.6221),
        {"parameters": 48, "label": "Temporal with backprop"},
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
        "Distillation, the ResNet-18 trained, on 2,000 clips.",
        [SPATIAL, "fusion.kind=distil", FEW],
        _map(0.6005),
        {"parameters": 44.5, "label": "Distillation Network"},
    ),
    "stan-table4-gated": (
        "Gated fusion, the ResNet-18 trained, on 2,000 clips.",
        [SPATIAL, "fusion.kind=gate", FEW],
        _map(0.4728),
        {"parameters": 45, "label": "Gated Fusion"},
    ),
    "stan-table4-small-2000": (
        "STAN-Small on 2,000 clips.",
        [SPATIAL, FEW],
        _map(0.6151),
        {"parameters": 45, "label": "STAN-Small, 2000"},
    ),
    "stan-small-frozen": (
        "STAN-Small from tokens alone, its ResNet-18 frozen.",
        [],
        _map(0.6401),
        {"label": "STAN-Small, frozen", "differs": FROZEN, "source": "STAN, Table 4"},
    ),
    "stan-small-2000-frozen": (
        "STAN-Small from tokens alone, its ResNet-18 frozen, on 2,000 clips.",
        [FEW],
        _map(0.6151),
        {"label": "STAN-Small, frozen, 2000", "differs": FROZEN, "source": "STAN, Table 4"},
    ),
    "stan-distillation-frozen": (
        "Distillation from tokens alone, its ResNet-18 frozen, on 2,000 clips.",
        ["fusion.kind=distil", FEW],
        _map(0.6005),
        {"label": "Distillation Network, frozen", "differs": FROZEN, "source": "STAN, Table 4"},
    ),
    "stan-gated-frozen": (
        "Gated fusion from tokens alone, its ResNet-18 frozen, on 2,000 clips.",
        ["fusion.kind=gate", FEW],
        _map(0.4728),
        {"label": "Gated Fusion, frozen", "differs": FROZEN, "source": "STAN, Table 4"},
    ),
}
LVU = {  # task: top-1 of STAN-Small and STAN-Large
    "relationship": (54.2, 56.25),
    "way_speaking": (40.6, 41.41),
    "scene": (57.3, 58.33),
}


def _lvu(task: str) -> dict[str, Maker]:
    """The rows of a task of LVU, whose store is of `data.task`; five seeds, with their error."""
    small, large = LVU[task]
    one = ["loss=cross_entropy"]
    rows: dict[str, tuple[str, list[str], float, dict[str, str]]] = {
        f"stan-lvu-{task}": ("STAN-Small", [SPATIAL, *one], small, {}),
        f"stan-large-lvu-{task}": ("STAN-Large", [SPATIAL, TEMPORAL, *one], large, {}),
        f"stan-lvu-{task}-frozen": (
            "STAN-Small, frozen",
            one,
            small,
            {"differs": FROZEN, "source": "STAN, Table 2"},
        ),
    }
    return {
        name: _row(
            name,
            f"{label} on LVU: a store of `data.task={task}`, `--seeds 5`.",
            words,
            {"top@1": (value, None)},
            label=f"{label}, {task}",
            dataset="lvu",
            spread="standard error",
            **fields,
        )
        for name, (label, words, value, fields) in rows.items()
    }


STAN: dict[str, Maker] = {
    **{
        name: _row(name, summary, words, published, **fields)
        for name, (summary, words, published, fields) in MMX.items()
    },
    **{name: make for task in LVU for name, make in _lvu(task).items()},
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
