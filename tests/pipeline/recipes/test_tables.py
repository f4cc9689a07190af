"""Every row of the papers' frame-level tables: a recipe, its published numbers, what it changes.

The numbers are typed from the papers, not taken from the recipes.
"""

import pytest

from tokenreel.fuse.config import FuseConfig
from tokenreel.pipeline.recipes import RECIPES, TABLES, get_recipe

P, G = ("classification", "progression", "tau", "ap@5"), ("classification",)
AP = ("ap@5", "ap@10", "ap@15")
LABELS = ("classification@10%", "classification@50%", "classification")

# Table -> columns, and rows: recipe, the paper's cells in their order ("-": the paper has none).
MVFORMER = {
    "mvformer-table1": [
        ("sal-penn", P, "68.15 0.390 0.474 76.04"),
        ("tcn-penn", P, "68.09 0.383 0.542 77.84"),
        ("carl-penn", P, "93.07 0.918 0.985 92.28"),
        ("vsp-penn", P, "93.12 0.923 0.986 92.56"),
        ("mvformer-penn", P, "94.21±0.04 0.931±0.006 0.989±0.002 92.99±0.06"),
        ("sal-finegym", G, "21.45"),
        ("tcn-finegym", G, "20.02"),
        ("carl-finegym", G, "41.75"),
        ("vsp-finegym", G, "43.12"),
        ("mvformer-finegym", G, "44.77±0.71"),
        ("sal-finegym288", G, "19.58"),
        ("tcn-finegym288", G, "17.11"),
        ("carl-finegym288", G, "35.23"),
        ("vsp-finegym288", G, "36.95"),
        ("mvformer-finegym288", G, "38.30±0.26"),
    ],
    "mvformer-table2": [
        ("sal-pouring", P, "- - - 84.05"),
        ("tcn-pouring", P, "89.53 0.804 0.852 83.56"),
        ("carl-pouring", P, "93.73 0.935 0.992 -"),
        ("vsp-pouring", P, "93.85 0.942 0.990 91.85"),
        ("carl-pouring-rerun", P, "89.95±3.33 0.873±0.047 0.970±0.007 89.21±0.80"),
        ("mvformer-pouring", P, "93.34±2.00 0.919±0.015 0.985±0.003 92.33±1.02"),
    ],
    "mvformer-table3": [
        ("carl-penn", P, "93.07 0.918 0.985 92.28"),
        ("carl-penn-transferred", P, "91.9 0.903 0.949 -"),
        ("carl-penn-finetuned", P, "93.9 0.908 0.977 -"),
        ("vsp-penn", P, "93.12 0.923 0.986 92.56"),
        ("vsp-penn-transferred", P, "92.35 0.894 0.952 -"),
        ("vsp-penn-finetuned", P, "93.57 0.944 0.988 -"),
        ("mvformer-penn", P, "94.21±0.04 0.931±0.006 0.989±0.002 92.99±0.06"),
        ("mvformer-penn-transferred", P, "91.62±0.30 0.927±0.005 0.895±0.004 88.38±0.20"),
        ("mvformer-penn-finetuned", P, "94.56±0.32 0.924±0.004 0.980±0.002 93.40±0.08"),
    ],
    "mvformer-table4": [
        ("mvformer-table4-1", P, "91.96±0.48 0.900±0.008 0.993±0.001 90.88±0.38"),
        ("mvformer-table4-2", P, "92.77±0.08 0.909±0.008 0.991±0.001 91.50±0.23"),
        ("mvformer-table4-3", P, "92.46±0.24 0.915±0.002 0.992±0.0004 91.15±0.20"),
        ("mvformer-table4-4", P, "92.54±0.25 0.917±0.004 0.992±0.001 91.28±0.20"),
        ("mvformer-table4-5", P, "87.61±0.12 0.883±0.005 0.996±0.0001 83.76±0.21"),
        ("mvformer-table4-6", P, "92.57±0.07 0.904±0.012 0.995±0.001 90.52±0.4"),
        ("mvformer-table4-7", P, "93.48±0.16 0.918±0.007 0.992±0.0002 92.31±0.16"),
        ("mvformer-table4-8", P, "93.35±0.61 0.924±0.006 0.990±0.0001 91.97±0.79"),
        ("mvformer-table4-9", P, "93.92±0.24 0.926±0.004 0.989±0.0003 92.81±0.30"),
        ("mvformer-table4-10", P, "93.50±0.27 0.911±0.006 0.992±0.001 92.50±0.3"),
        ("mvformer-table4-11", P, "88.28±0.48 0.913±0.008 0.995±0.0002 86.49±0.27"),
        ("mvformer-table4-12", P, "87.97±0.12 0.911±0.004 0.995±0.0001 86.26±0.12"),
        ("mvformer-table4-13", P, "94.23±0.08 0.920±0.007 0.987±0.0005 93.02±0.18"),
        ("mvformer-table4-14", P, "94.21±0.04 0.931±0.006 0.989±0.002 92.99±0.06"),
        ("mvformer-table4-15", P, "94.11±0.18 0.926±0.005 0.989±0.002 93.07±0.01"),
    ],
    "mvformer-table5": [
        ("tcc-star-penn", P, "81.35 0.664 0.701 76.74"),
        ("tcc-penn", P, "74.39 0.591 0.641 -"),
        ("lav-star-penn", P, "84.25 0.661 0.805 79.13"),
        ("lav-penn", P, "78.68 0.625 0.684 -"),
        ("gta-penn", P, "- 0.789 0.748 -"),
        ("sal-penn", P, "68.15 0.390 0.474 76.04"),
        ("tcn-penn", P, "68.09 0.383 0.542 77.84"),
        ("carl-penn", P, "93.07 0.918 0.985 92.28"),
        ("vsp-penn", P, "93.12 0.923 0.986 92.56"),
        ("vsp-p-penn", P, "93.27 - - 93.45"),
        ("vsp-f-penn", P, "94.24 - - 94.89"),
        ("carl-penn-finetuned", P, "93.9 0.908 0.977 -"),
        ("vsp-penn-finetuned", P, "93.57 0.944 0.988 -"),
        ("mvformer-penn", P, "94.21±0.04 0.931±0.006 0.989±0.002 92.99±0.06"),
        ("mvformer-penn-finetuned", P, "94.56±0.32 0.924±0.004 0.980±0.002 93.40±0.08"),
        ("tcc-finegym", G, "25.18"),
        ("sal-finegym", G, "21.45"),
        ("tcn-finegym", G, "20.02"),
        ("carl-finegym", G, "41.75"),
        ("vsp-finegym", G, "43.12"),
        ("vsp-p-finegym", G, "44.58"),
        ("vsp-f-finegym", G, "45.66"),
        ("mvformer-finegym", G, "44.77±0.71"),
    ],
}
CARL = {
    "carl-table1": [
        ("tcc-star-penn", P[:3], "81.35 0.664 0.701"),
        ("lav-star-penn", P[:3], "84.25 0.661 0.805"),
        ("tcc-penn", P[:3], "74.39 0.591 0.641"),
        ("lav-penn", P[:3], "78.68 0.625 0.684"),
        ("gta-penn", P[:3], "- 0.789 0.748"),
        ("sal-penn", P[:3], "68.15 0.390 0.474"),
        ("tcn-penn", P[:3], "68.09 0.383 0.542"),
        ("carl-penn", P[:3], "93.07 0.918 0.985"),
    ],
    "carl-table2": [
        ("tcn-penn", AP, "77.84 77.51 77.28"),
        ("tcc-star-penn", AP, "76.74 76.27 75.88"),
        ("lav-star-penn", AP, "79.13 78.98 78.90"),
        ("carl-penn", AP, "92.28 92.10 91.82"),
    ],
    "carl-table3": [
        ("tcn-finegym", G, "20.02"),
        ("sal-finegym", G, "21.45"),
        ("tcc-finegym", G, "25.18"),
        ("gta-finegym", G, "27.81"),
        ("carl-finegym", G, "41.75"),
        ("tcn-finegym288", G, "17.11"),
        ("sal-finegym288", G, "19.58"),
        ("tcc-finegym288", G, "20.82"),
        ("gta-finegym288", G, "24.16"),
        ("carl-finegym288", G, "35.23"),
    ],
    "carl-table4": [
        ("tcn-pouring", P[:3], "89.53 0.804 0.852"),
        ("tcc-pouring", P[:3], "91.53 0.837 0.864"),
        ("lav-pouring", P[:3], "92.84 0.805 0.856"),
        ("carl-pouring", P[:3], "93.73 0.935 0.992"),
    ],
    "carl-table5": [
        ("carl-table5-resnet", P[:3], "68.63 0.296 0.440"),
        ("carl-table5-c3d", P[:3], "83.96 0.705 0.778"),
        ("carl-penn", P[:3], "93.07 0.918 0.985"),
    ],
    "carl-table6": [
        ("carl-table6-1", P[:3], "92.15 0.909 0.985"),
        ("carl-table6-2", P[:3], "92.61 0.913 0.990"),
        ("carl-penn", P[:3], "93.07 0.918 0.985"),
        ("carl-table6-4", P[:3], "92.81 0.910 0.990"),
    ],
    "carl-table7": [
        ("carl-table7-none", P[:3], "90.63 0.907 0.994"),
        ("carl-penn", P[:3], "93.07 0.918 0.985"),
    ],
    "carl-table8": [
        ("carl-table8-tcn", P[:3], "86.31 0.898 0.832"),
        ("carl-table8-tcc", P[:3], "86.35 0.899 0.980"),
        ("carl-penn", P[:3], "93.07 0.918 0.985"),
    ],
    "carl-table9": [
        ("carl-table9-variance1", P[:3], "92.95 0.903 0.963"),
        ("carl-table9-variance25", P[:3], "92.03 0.922 0.993"),
        ("carl-table9-tau1", P[:3], "91.57 0.889 0.993"),
        ("carl-table9-tau0.3", P[:3], "92.13 0.903 0.992"),
        ("carl-penn", P[:3], "93.07 0.918 0.985"),
    ],
    "carl-table10": [
        ("carl-table10-alpha1", G, "36.72"),
        ("carl-finegym", G, "41.75"),
        ("carl-table10-alpha2", G, "-"),  # the copy of the paper has no alpha of 2
        ("carl-table10-even", G, "38.44"),
        ("carl-table10-beta0", G, "38.15"),
        ("carl-table10-beta50", G, "39.14"),
        ("carl-table10-beta80", G, "37.94"),
        ("carl-table10-beta100", G, "35.53"),
    ],
    "carl-table11": [
        ("carl-table11-80", LABELS, "27.10 32.78 34.02"),
        ("carl-table11-160", LABELS, "30.28 36.46 38.06"),
        ("carl-finegym", LABELS, "33.53 39.89 41.75"),
        ("carl-table11-480", LABELS, "31.46 37.92 39.45"),
        ("carl-table11-supervised-10", LABELS, "24.51 - -"),
        ("carl-table11-supervised-50", LABELS, "- 48.75 -"),
        ("carl-table11-supervised", LABELS, "- - 60.37"),
    ],
    "carl-table13": [
        ("carl-table13-contrastive", P[:3], "88.05 0.898 0.891"),
        ("carl-penn", P[:3], "93.07 0.918 0.985"),
    ],
    "carl-table14": [
        ("carl-penn-transferred", P[:3], "91.9 0.903 0.949"),
        ("carl-penn-finetuned", P[:3], "93.9 0.908 0.977"),
    ],
}
PAPERS = MVFORMER | CARL
ROWS = [(table, *row) for table, rows in PAPERS.items() for row in rows]

# Ablations: recipe -> what it is an ablation of, and all that it changes.
LAST = {"pooling.blocks": (-1,)}
CHANGES = {
    **{
        f"mvformer-table4-{row}": ("mvformer-penn", change)
        for row, change in {
            1: {**LAST, "pooling.kind": "max"},
            2: {**LAST, "pooling.num_entities": 1},
            3: LAST,
            4: {**LAST, "pooling.num_entities": 5},
            5: {**LAST, "pooling.kind": "max"},
            6: {**LAST, "pooling.kind": "mean"},
            7: {"pooling.kind": "cls"},
            8: {**LAST, "pooling.num_entities": 1},
            9: LAST,
            10: {**LAST, "pooling.num_entities": 5},
            11: {"pooling.kind": "fixed_width"},
            12: {"pooling.kind": "fixed_width", "pooling.num_entities": 5},
            13: {"pooling.num_entities": 1},
            14: {},
            15: {"pooling.num_entities": 5},
        }.items()
    },
    "mvformer-penn-finetuned": ("mvformer-penn", {}),
    "mvformer-penn-transferred": ("mvformer-penn", {"optim.epochs": 0}),
    "mvformer-kinetics400": (
        "mvformer-penn",
        {"data.batch_clips": 8, "optim.epochs": 10, "loss.negatives": "batch_noself"},
    ),
    "mvformer-finegym288": ("mvformer-finegym", {"data.action": "gym288"}),
    "carl-finegym288": ("carl-finegym", {"data.action": "gym288"}),
    "carl-pouring-rerun": ("carl-pouring", {}),
    "carl-penn-finetuned": ("carl-penn", {"temporal.layers": 2}),
    "carl-penn-transferred": ("carl-penn", {"temporal.layers": 2, "optim.epochs": 0}),
    "carl-table5-resnet": ("carl-penn", {"temporal.layers": 0}),
    "carl-table5-c3d": (
        "carl-penn",
        {"pooling.kind": "grid", "temporal.kind": "conv3d", "temporal.layers": 2},
    ),
    "carl-table6-1": ("carl-penn", {"temporal.layers": 1}),
    "carl-table6-2": ("carl-penn", {"temporal.layers": 2}),
    "carl-table6-4": ("carl-penn", {"temporal.layers": 4}),
    "carl-table7-none": ("carl-penn", {}),
    "carl-table8-tcn": ("carl-penn", {"loss.name": "tcn", "data.sampling": "uniform"}),
    "carl-table8-tcc": (
        "carl-penn",
        {"loss.name": "tcc", "data.sampling": "uniform", "temporal.l2_normalise": False},
    ),
    "carl-table9-variance1": ("carl-penn", {"loss.label_variance": 1}),
    "carl-table9-variance25": ("carl-penn", {"loss.label_variance": 25}),
    "carl-table9-tau1": ("carl-penn", {"loss.temperature": 1}),
    "carl-table9-tau0.3": ("carl-penn", {"loss.temperature": 0.3}),
    "carl-table10-alpha1": ("carl-finegym", {"data.alpha": 1}),
    "carl-table10-alpha2": ("carl-finegym", {"data.alpha": 2}),
    "carl-table10-even": ("carl-finegym", {"data.sampling": "even"}),
    "carl-table10-beta0": ("carl-finegym", {"data.beta": 0}),
    "carl-table10-beta50": ("carl-finegym", {"data.beta": 0.5}),
    "carl-table10-beta80": ("carl-finegym", {"data.beta": 0.8}),
    "carl-table10-beta100": ("carl-finegym", {"data.beta": 1}),
    "carl-table11-80": ("carl-finegym", {"data.num_frames": 80}),
    "carl-table11-160": ("carl-finegym", {"data.num_frames": 160}),
    "carl-table11-480": ("carl-finegym", {"data.num_frames": 480}),
    "carl-table11-supervised": ("carl-finegym", {"loss.name": "cross_entropy"}),
    "carl-table11-supervised-10": ("carl-table11-supervised", {"data.label_share": 0.1}),
    "carl-table11-supervised-50": ("carl-table11-supervised", {"data.label_share": 0.5}),
    "carl-table13-contrastive": (
        "carl-penn",
        {"loss.label_variance": 1e-3, "loss.label_mode": "stable"},
    ),
    "tcc-star-penn": ("tcc-penn", {}),
    "lav-star-penn": ("lav-penn", {}),
    "vsp-p-penn": (
        "vsp-penn",
        {"loss.supervision": "phase", "data.num_frames": 80, "data.batch_clips": 4},
    ),
    "vsp-f-penn": ("vsp-p-penn", {"loss.supervision": "frame"}),
    "vsp-f-finegym": ("vsp-p-finegym", {"loss.supervision": "frame"}),
    "vsp-penn-finetuned": ("vsp-penn", {}),
    "vsp-penn-transferred": ("vsp-penn", {"optim.epochs": 0}),
}

# What the papers say of their defaults (CARL, section 4.2; MV-Former, section 4.4).
DEFAULTS = {
    "carl-penn": {
        "temporal.layers": 3,
        "temporal.hidden": 256,
        "temporal.heads": 8,
        "temporal.embedding": 128,
        "optim.name": "adam",
        "optim.lr": 1e-4,
        "optim.weight_decay": 1e-5,
        "optim.epochs": 300,
        "loss.label_variance": 10,
        "loss.temperature": 0.1,
        "data.alpha": 1.5,
        "data.beta": 0.2,
        "data.num_frames": 80,
        "data.batch_clips": 4,
        "pooling.kind": "max",
    },
    "carl-finegym": {
        "data.num_frames": 240,
        "data.alpha": 1.5,
        "data.beta": 0.2,
        "optim.epochs": 300,
        "temporal.layers": 3,
    },
    "mvformer-penn": {
        "pooling.blocks": (3, 7, 11),
        "pooling.num_entities": 3,
        "temporal.output": "one",
        "temporal.layers": 3,
        "optim.epochs": 500,
        "data.batch_clips": 4,
        "loss.name": "scl",
    },
    "mvformer-pouring": {
        "pooling.blocks": (11,),
        "pooling.num_entities": 3,
        "temporal.output": "one",
        "optim.epochs": 1000,
        "data.batch_clips": 4,
    },
    "mvformer-finegym": {
        "pooling.blocks": (9, 10, 11),
        "pooling.num_entities": 6,
        "temporal.output": "avg",
        "optim.epochs": 300,
        "data.batch_clips": 8,
    },
    "mvformer-kinetics400": {"optim.epochs": 10, "data.batch_clips": 8, "pooling.num_entities": 3},
    "vsp-pouring": {"loss.segments": 5},
    "vsp-kinetics400": {"loss.segments": 5, "optim.epochs": 10},
    "vsp-penn": {"loss.segments": 1, "data.num_frames": 12, "data.batch_clips": 128},
}


def flat(config: FuseConfig) -> dict[str, object]:
    """Dotted field -> value; of another loss than the default's, its name stands for the rest."""
    found = {}
    for group, value in config:
        fields = dict(value) if hasattr(value, "model_dump") else {"": value}
        found |= {f"{group}.{name}".rstrip("."): one for name, one in fields.items()}
    return found


def test_the_tables_of_the_papers_are_all_there_with_their_rows_in_order():
    others = ("controls", "stan-", "ftp-")  # those of whole clips: test_stan.py, test_ftp.py
    of_papers = {name: rows for name, rows in TABLES.items() if not name.startswith(others)}
    assert of_papers == {table: tuple(row[0] for row in rows) for table, rows in PAPERS.items()}
    sources = {name for name in RECIPES if get_recipe(name).source and not name.startswith(others)}
    pre_training = {f"{method}-kinetics400" for method in ("carl", "vsp", "mvformer")}
    assert sources == {row[1] for row in ROWS} | pre_training


@pytest.mark.parametrize(("table", "name", "columns", "cells"), ROWS)
def test_a_row_has_the_numbers_that_the_paper_prints(table, name, columns, cells):
    published = get_recipe(name).published
    for task, cell in zip(columns, cells.split(), strict=True):
        value, _, spread = cell.partition("±")
        wanted = None if cell == "-" else (float(value), float(spread) if spread else None)
        assert published.get(task) == wanted, task


@pytest.mark.parametrize("name", sorted({row[1] for row in ROWS}))
def test_a_recipe_has_no_number_that_no_table_prints(name):
    printed = {
        task
        for _, row, tasks, cells in ROWS
        if row == name
        for task, cell in zip(tasks, cells.split(), strict=True)
        if cell != "-"
    }
    assert set(get_recipe(name).published) == printed


@pytest.mark.parametrize("name", CHANGES)
def test_an_ablation_changes_what_its_row_says_and_nothing_else(name):
    base, wanted = CHANGES[name]
    before, after = flat(get_recipe(base).fuse), flat(get_recipe(name).fuse)
    if "loss.name" in wanted:  # of the loss all is its default
        loss = get_recipe(name).fuse.loss
        assert loss == type(loss)()
        before, after = (
            {
                key: value
                for key, value in fields.items()
                if key == "loss.name" or not key.startswith("loss.")
            }
            for fields in (before, after)
        )
    assert {key: after[key] for key in after if after[key] != before[key]} == wanted


def test_every_ablation_is_compared_with_what_it_is_an_ablation_of():
    ablated = {name for name in RECIPES if name.startswith(("mvformer-table", "carl-table"))}
    assert ablated <= set(CHANGES)


@pytest.mark.parametrize("name", DEFAULTS)
def test_the_settings_are_those_that_the_papers_state(name):
    fields = flat(get_recipe(name).fuse)
    assert {key: fields[key] for key in DEFAULTS[name]} == DEFAULTS[name]


@pytest.mark.parametrize("name", sorted({row[1] for row in ROWS}))
def test_a_row_is_of_the_data_set_and_method_that_its_name_says(name):
    recipe = get_recipe(name)
    assert recipe.status == "variant"
    assert recipe.differs
    method, *_, place = name.split("-")
    if "-table" in name or place in ("transferred", "finetuned", "rerun"):
        return
    datasets = {
        "penn": ("penn_action", None),
        "pouring": ("pouring", None),
        "finegym": ("finegym", "gym99"),
        "finegym288": ("finegym", "gym288"),
    }
    assert (recipe.dataset, recipe.fuse.data.action) == datasets[place]
    assert recipe.fuse.loss.name == {"carl": "scl", "mvformer": "scl"}.get(method, method)
    assert recipe.per_action == ("-star-" in name)
