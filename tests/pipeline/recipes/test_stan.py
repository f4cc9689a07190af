"""STAN's tables: every row is a recipe with the number that the paper prints, or listed with why.

The numbers are typed from the paper, not taken from the recipes.
"""

import csv

import pytest

from tests.fuse.systems.stan.test_runs import write_pair
from tokenreel.cache.errors import UsageError
from tokenreel.evaluate.protocol import EvaluateConfig, resolve
from tokenreel.fuse.systems.stan.config import StanConfig
from tokenreel.fuse.systems.stan.model import StanModel
from tokenreel.pipeline.phases.ablation import ablate, plan_jobs, plan_rows
from tokenreel.pipeline.phases.training import parse_store_list
from tokenreel.pipeline.recipes import RECIPES, TABLES, WITHOUT_RECIPE, get_recipe

M, G = ("map",), ("f1", "map", "f1-precision", "f1-recall")
ROWS = [
    ("stan-table1", "stan-table1-resnet", M, "0.434"),
    ("stan-table1", "stan-table1-seresnet", M, "0.544"),
    ("stan-table1", "stan-table1-gating", M, "0.4723"),
    ("stan-table1", "stan-table1-lstm", M, "0.596"),
    ("stan-table1", "stan-table1-distillation", M, "0.601"),
    ("stan-table1", "stan-table1-small", M, "0.640"),
    ("stan-table2", "stan-lvu-relationship", ("top@1",), "54.2"),
    ("stan-table2", "stan-lvu-way_speaking", ("top@1",), "40.6"),
    ("stan-table2", "stan-lvu-scene", ("top@1",), "57.3"),
    ("stan-table3", "stan-table3-resnet", G, "0.434 0.489 0.437 0.48"),
    ("stan-table3", "stan-table3-concat", G, "0.525 0.497 0.522 0.551"),
    ("stan-table3", "stan-table3-small", G, "0.65 0.64 0.62 0.73"),
    ("stan-table4", "stan-table4-spatial", M, "0.4024"),
    ("stan-table4", "stan-table4-temporal", M, "0.59"),
    ("stan-table4", "stan-table4-distillation", M, "0.6005"),
    ("stan-table4", "stan-table4-gated", M, "0.4728"),
    ("stan-table4", "stan-table4-small-2000", M, "0.6151"),
    ("stan-table4", "stan-table4-small", M, "0.6401"),
]
LISTED = {  # what each table has besides: name, number
    "stan-table1": [
        ("I3D", "0.487"),
        ("S(TPN)", "0.492"),
        ("Fine-Grained Semantic", "0.583"),
        ("STAN-Large", "0.750"),
    ],
    "stan-table2": [
        ("R101-SlowFast+NL", "52.4, 35.8, 54.7"),
        ("VideoBERT", "52.8, 37.9, 54.9"),
        ("Transformer", "53.1, 39.4, 56.9"),
        ("STAN-Large", "56.25, 41.41, 58.33"),
    ],
    "stan-table3": [
        ("Random", "clock"),
        ("VGG-Audio", "0.454"),
        ("I3D", "0.463"),
        ("SE-ResNet", "0.516"),
        ("Fine-Grained Semantic", "0.597"),
    ],
    "stan-table4": [
        ("Spatial with backprop", "0.5903"),
        ("Temporal with backprop", "0.6221"),
        ("STAN-Large", "0.7506"),
    ],
}
CONTROLS = ("stan-without-positions", "stan-as-released")
NAMES = [name for name in RECIPES if name.startswith("stan-")]
SMALL = ["data.num_frames=4", "optim.epochs=1", "head.widths=6,4"]


def small_words(name):
    """A recipe in the size of a test."""
    config = get_recipe(name).fuse
    words = [*SMALL]
    words += ["encoder.width=8"] if config.encoder.kind != "average" else []
    words += ["encoder.layers=1"] if config.encoder.kind != "average" else []
    words += ["fusion.width=6"] if config.fusion.kind == "gate" else []
    words += ["data.num_train_clips=3"] if config.data.num_train_clips else []
    return words


def test_every_row_of_the_four_tables_is_a_recipe_or_listed_with_why():
    for table in LISTED:
        assert TABLES[table] == tuple(row[1] for row in ROWS if row[0] == table)
        for name, number in LISTED[table]:
            assert name in WITHOUT_RECIPE[table]
            assert number in WITHOUT_RECIPE[table]
    assert set(NAMES) == {row[1] for row in ROWS} | set(CONTROLS)


@pytest.mark.parametrize(("table", "name", "columns", "cells"), ROWS)
def test_a_row_has_the_numbers_that_the_paper_prints(table, name, columns, cells):
    recipe = get_recipe(name)
    values = [float(cell) for cell in cells.split()]
    assert {task: value for task, (value, _) in recipe.published.items()} == dict(
        zip(columns, values, strict=True)
    )
    assert recipe.source == f"STAN, Table {table[-1]}"
    few = "2000" in name or name.endswith(("spatial", "temporal", "gated", "table4-distillation"))
    assert recipe.fuse.data.num_train_clips == (2000 if few else None)


def test_only_the_rows_without_back_propagation_are_exact():
    exact = {name for name in NAMES if get_recipe(name).status == "exact"}
    assert exact == {"stan-table4-spatial", "stan-table4-temporal"}
    assert all(get_recipe(name).differs for name in {row[1] for row in ROWS} - exact)


def test_rows_are_evaluated_by_their_tags_on_the_test_split():
    for name in NAMES:
        [settings] = resolve(EvaluateConfig(), get_recipe(name).evaluate)
        assert (settings.protocol, settings.split, settings.threshold) == ("tags", "test", 0.3)


def test_the_settings_are_those_of_the_author():
    config = get_recipe("stan-table4-small").fuse
    assert config == StanConfig()
    optim = config.optim
    assert (optim.name, optim.lr, optim.weight_decay) == ("adamw", 5e-6, 0.09)
    assert (config.data.num_frames, config.data.batch_clips, config.encoder.dropout) == (13, 2, 0.5)
    assert "steps of 2 clips, 13 units each" in RECIPES["stan-table4-small"].__doc__
    assert "100,000 steps" in RECIPES["stan-table4-spatial"].__doc__  # of 2,000 clips, 100 epochs
    assert "sampling" not in RECIPES["stan-table4-spatial"].__doc__


STREAM = 16_549_376 + (512 * 896 + 896) + 896  # encoder, layer before it, CLS
HEAD = 896 * 1024 + 1024 + 512 * 256 + 256 + 128 * 19 + 19
LAYER = 896 * 896 + 896


@pytest.mark.parametrize(
    ("name", "count", "printed"),
    [
        ("spatial", STREAM + 2 * LAYER + HEAD, "16.5"),
        ("temporal", STREAM + 2 * LAYER + HEAD, "16.5"),
        ("distillation", 2 * STREAM + 896 + 3 * HEAD, "44.5"),
        ("gated", 2 * STREAM + 3 * LAYER + HEAD, "45"),
        ("small", 2 * STREAM + 2 * LAYER + HEAD, "45"),
    ],
)
def test_the_trained_parameters_of_a_row_are_beside_those_of_the_paper(name, count, printed):
    """The paper counts encoders alone, and a ResNet-18 of 11.6 million where it trains one."""
    recipe = f"stan-table4-{name}"
    config = get_recipe(recipe).fuse
    model = StanModel(config, dims=dict.fromkeys(config.stream_names, 512), num_classes=19)
    assert sum(parameter.numel() for parameter in model.parameters()) == count
    assert f"parameters of the paper: {printed} million" in RECIPES[recipe].__doc__


def test_every_row_trains_in_lock_step_on_a_set_of_stores_and_is_a_row_of_the_table(tmp_path):
    stores = write_pair(tmp_path)
    words = [f"{name}={path}" for name, path in stores.items()]
    names = ["stan-table1-lstm", "stan-table1-small", "stan-table1-distillation"]
    fields = ["data.num_frames=4", "optim.epochs=1", "head.widths=6,4", "encoder.layers=1"]
    report = ablate(
        [*names, *fields, "encoder.width=8"],
        seeds=1,
        stores=parse_store_list(words),
        out=tmp_path / "table",
        device="cpu",
        progress=False,
    )
    assert [line.split()[1] for line in report.text.splitlines()[1:4]] == [
        "LSTM",
        "STAN-Small,",
        "Distillation",
    ]
    with (tmp_path / "table" / "ablation.csv").open() as file:
        tasks = {line["task"] for line in csv.DictReader(file)}
    assert "map" in tasks


def test_every_recipe_trains_and_scores_clips(tmp_path):
    from tokenreel.fuse.train.train import train_together
    from tokenreel.pipeline.phases.training import make_job

    stores = write_pair(tmp_path)
    one = {name: tuple(tags[:1]) for name, tags in TAGGED.items()}
    lone = write_pair(tmp_path / "one", tags=one)
    jobs = [
        make_job(
            name,
            small_words(name),
            store=lone if get_recipe(name).fuse.loss == "cross_entropy" else stores,
            out=tmp_path / "runs" / name,
        )
        for name in NAMES
    ]
    results = train_together(jobs, device="cpu", progress=False)
    assert [result.error for result in results] == [None] * len(NAMES)
    assert all(result.embeddings.exists() for result in results)


TAGGED = {f"train{i}": ("x",) if i % 2 else ("y",) for i in range(8)} | {"val0": ("x",)}


def test_a_row_of_two_streams_says_which_stores_it_lacks(tmp_path):
    stores = write_pair(tmp_path)
    with pytest.raises(UsageError, match=r"give --store spatial=PATH --store temporal=PATH"):
        plan_jobs(plan_rows(["stan-table1-small"]), 1, [stores["spatial"]], tmp_path)
