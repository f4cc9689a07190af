"""STAN's tables: every row is a recipe with the number that the paper prints, or listed with why.

The numbers are typed from the paper, not taken from the recipes.
"""

import csv
import json

import numpy as np
import pytest

from tests.fuse.systems.stan.pixel_stores import write_pixel_store, write_scenes
from tests.fuse.systems.stan.test_runs import write_pair
from tokenreel.cache.embeddings import read_embeddings
from tokenreel.cache.errors import UsageError
from tokenreel.cache.read.store_reader import open_store
from tokenreel.evaluate.protocol import EvaluateConfig, resolve
from tokenreel.fuse.runs.checkpoint import load_checkpoint
from tokenreel.fuse.systems.stan.config import StanConfig
from tokenreel.fuse.train.train import train_together
from tokenreel.pipeline.phases.ablation import ablate, plan_jobs, plan_rows, read_stores
from tokenreel.pipeline.phases.ablation_table import standard_error
from tokenreel.pipeline.phases.training import make_job
from tokenreel.pipeline.recipes import (
    RECIPES,
    TABLES,
    WITHOUT_RECIPE,
    describe_recipe,
    get_recipe,
)

M, G = ("map",), ("map", "f1", "f1-precision", "f1-recall")
ROWS = [  # table, recipe, metrics, printed numbers
    ("stan-table1", "stan-table1-resnet", M, "0.434"),
    ("stan-table1", "stan-table1-seresnet", M, "0.544"),
    ("stan-table1", "stan-table1-gating", M, "0.4723"),
    ("stan-table1", "stan-table1-lstm", M, "0.596"),
    ("stan-table1", "stan-table1-distillation", M, "0.601"),
    ("stan-table1", "stan-small", G, "0.6401 0.65 0.62 0.73"),
    ("stan-table1", "stan-large", M, "0.7506"),
    ("stan-table2", "stan-lvu-relationship", ("top@1",), "54.2"),
    ("stan-table2", "stan-lvu-way_speaking", ("top@1",), "40.6"),
    ("stan-table2", "stan-lvu-scene", ("top@1",), "57.3"),
    ("stan-table2", "stan-large-lvu-relationship", ("top@1",), "56.25"),
    ("stan-table2", "stan-large-lvu-way_speaking", ("top@1",), "41.41"),
    ("stan-table2", "stan-large-lvu-scene", ("top@1",), "58.33"),
    ("stan-table3", "stan-table3-resnet", G, "0.489 0.434 0.437 0.48"),
    ("stan-table3", "stan-table3-seresnet", G, "0.554 0.516 0.493 0.572"),
    ("stan-table3", "stan-table3-concat", G, "0.497 0.525 0.522 0.551"),
    ("stan-table3", "stan-small", G, "0.6401 0.65 0.62 0.73"),
    ("stan-table4", "stan-table4-spatial-backprop", M, "0.5903"),
    ("stan-table4", "stan-table4-temporal-backprop", M, "0.6221"),
    ("stan-table4", "stan-table4-spatial", M, "0.4024"),
    ("stan-table4", "stan-table4-temporal", M, "0.59"),
    ("stan-table4", "stan-table4-distillation", M, "0.6005"),
    ("stan-table4", "stan-table4-gated", M, "0.4728"),
    ("stan-table4", "stan-table4-small-2000", M, "0.6151"),
    ("stan-table4", "stan-small", G, "0.6401 0.65 0.62 0.73"),
    ("stan-table4", "stan-large", M, "0.7506"),
]
FROZEN = {  # what is a variant of a row from tokens alone -> its row
    "stan-small-frozen": "stan-small",
    "stan-small-2000-frozen": "stan-table4-small-2000",
    "stan-distillation-frozen": "stan-table4-distillation",
    "stan-gated-frozen": "stan-table4-gated",
    "stan-lvu-relationship-frozen": "stan-lvu-relationship",
    "stan-lvu-way_speaking-frozen": "stan-lvu-way_speaking",
    "stan-lvu-scene-frozen": "stan-lvu-scene",
}
LISTED = {  # what each table has besides: name, number
    "stan-table1": [("I3D", "0.487"), ("S(TPN)", "0.492"), ("Fine-Grained Semantic", "0.583")],
    "stan-table2": [
        ("R101-SlowFast+NL", "52.4, 35.8, 54.7"),
        ("VideoBERT", "52.8, 37.9, 54.9"),
        ("Transformer", "53.1, 39.4, 56.9"),
    ],
    "stan-table3": [
        ("Random", "clock"),
        ("VGG-Audio", "0.454"),
        ("I3D", "0.463"),
        ("Fine-Grained Semantic", "0.597"),
    ],
}
CONTROLS = ("stan-without-positions", "stan-as-released")
NAMES = [name for name in RECIPES if name.startswith("stan-")]
PIXELS = [name for name in NAMES if get_recipe(name).fuse.cnns]
SMALL = ["data.num_frames=3", "optim.epochs=2", "head.widths=6,4"]


def small_words(name):
    """A recipe in the size of a test: its CNNs, encoders and head are small."""
    config = get_recipe(name).fuse
    words = [*SMALL]
    words += ["encoder.width=8"] if config.encoder.kind != "average" else []
    words += ["encoder.layers=1"] if config.encoder.kind != "average" else []
    words += ["fusion.width=6"] if config.fusion.kind == "gate" else []
    words += ["data.num_train_clips=3"] if config.data.num_train_clips else []
    for stream in config.cnns:
        words += [f"{stream}_cnn.name=small", f"{stream}_cnn.weights=random:0"]
    return words


def test_every_row_of_the_four_tables_is_a_recipe_or_listed_with_why():
    for number in (1, 2, 3, 4):
        table = f"stan-table{number}"
        assert TABLES[table] == tuple(row[1] for row in ROWS if row[0] == table)
        for name, printed in LISTED.get(table, ()):
            assert name in WITHOUT_RECIPE[table]
            assert printed in WITHOUT_RECIPE[table]
    assert set(NAMES) == {row[1] for row in ROWS} | set(CONTROLS) | set(FROZEN)
    assert "stan-table4" not in WITHOUT_RECIPE  # all nine rows


@pytest.mark.parametrize(("table", "name", "columns", "cells"), ROWS)
def test_a_row_has_the_numbers_that_the_paper_prints(table, name, columns, cells):
    recipe = get_recipe(name)
    values = [float(cell) for cell in cells.split()]
    assert {task: value for task, (value, _) in recipe.published.items()} == dict(
        zip(columns, values, strict=True)
    )
    assert recipe.source.startswith("STAN, Table")
    assert table[-1] in recipe.source.removeprefix("STAN, Table")
    few = ("2000", "backprop", "table4-spatial", "table4-temporal", "gated", "table4-distillation")
    is_few = any(part in name for part in few)
    assert recipe.fuse.data.num_train_clips == (2000 if is_few else None)


def test_rows_are_exact_where_what_the_paper_trains_is_trained():
    exact = {name for name in NAMES if get_recipe(name).status == "exact"}
    table4 = {row[1] for row in ROWS if row[0] == "stan-table4"}
    lvu = {row[1] for row in ROWS if row[0] == "stan-table2"}
    assert exact == table4 | lvu | {"stan-table1-distillation"}
    assert all(get_recipe(name).differs for name in {*NAMES} - exact - {*CONTROLS})
    trained = {
        name: {s: cnn.name for s, cnn in get_recipe(name).fuse.cnns.items()} for name in NAMES
    }
    both = {"spatial": "resnet18", "temporal": "r2plus1d_18"}
    assert trained["stan-small"] == trained["stan-table4-gated"] == {"spatial": "resnet18"}
    assert trained["stan-large"] == trained["stan-large-lvu-scene"] == both
    assert trained["stan-table4-temporal-backprop"] == {"temporal": "r2plus1d_18"}
    assert trained["stan-table4-temporal"] == trained["stan-small-frozen"] == {}


@pytest.mark.parametrize(("name", "whole"), FROZEN.items())
def test_a_variant_of_tokens_is_its_row_with_the_cnn_frozen(name, whole):
    frozen, row = get_recipe(name), get_recipe(whole)
    assert frozen.fuse == row.fuse.with_(spatial_cnn={"name": "none"})
    assert {frozen.published[task] for task in frozen.published} <= {*row.published.values()}
    assert frozen.differs
    assert set(TABLES["stan-frozen"]) & set(PIXELS) == set()


def test_rows_are_evaluated_by_their_tags_on_the_test_split():
    for name in NAMES:
        [settings] = resolve(EvaluateConfig(), get_recipe(name).evaluate)
        assert (settings.protocol, settings.split, settings.threshold) == ("tags", "test", 0.3)


def test_the_settings_are_those_of_the_author():
    config = get_recipe("stan-small-frozen").fuse
    assert config == StanConfig()
    optim = config.optim
    assert (optim.name, optim.lr, optim.weight_decay) == ("adamw", 5e-6, 0.09)
    assert (config.data.num_frames, config.data.batch_clips, config.encoder.dropout) == (13, 2, 0.5)
    assert "steps of 2 clips, 13 units each" in RECIPES["stan-small"].__doc__
    assert "100,000 steps" in RECIPES["stan-table4-spatial"].__doc__  # of 2,000 clips, 100 epochs
    assert "sampling" not in RECIPES["stan-table4-spatial"].__doc__


STREAM = 16_549_376 + (512 * 896 + 896) + 896  # encoder, layer before it, CLS
HEAD = 896 * 1024 + 1024 + 512 * 256 + 256 + 128 * 19 + 19
LAYER = 896 * 896 + 896


RESNET, R2PLUS1D = 11_176_512, 31_300_125


@pytest.mark.parametrize(
    ("name", "count", "printed"),
    [
        ("stan-table4-spatial-backprop", STREAM + RESNET + 2 * LAYER + HEAD, "28"),
        ("stan-table4-temporal-backprop", STREAM + R2PLUS1D + 2 * LAYER + HEAD, "48"),
        ("stan-table4-spatial", STREAM + 2 * LAYER + HEAD, "16.5"),
        ("stan-table4-temporal", STREAM + 2 * LAYER + HEAD, "16.5"),
        ("stan-table4-distillation", 2 * STREAM + RESNET + 896 + 3 * HEAD, "44.5"),
        ("stan-table4-gated", 2 * STREAM + RESNET + 3 * LAYER + HEAD, "45"),
        ("stan-table4-small-2000", 2 * STREAM + RESNET + 2 * LAYER + HEAD, "45"),
        ("stan-small", 2 * STREAM + RESNET + 2 * LAYER + HEAD, "45"),
        ("stan-large", 2 * STREAM + RESNET + R2PLUS1D + 2 * LAYER + HEAD, "92.5"),
    ],
)
def test_the_trained_parameters_of_a_row_are_beside_those_of_the_paper(name, count, printed):
    """The paper counts encoders and CNNs alone: 44.7 million where ours are 45.2 and the rest."""
    recipe = get_recipe(name)
    counts = recipe.count_parameters(recipe.fuse)
    assert sum(counts.values()) == count
    told = describe_recipe(name)
    assert f"parameters of the paper: {printed} million" in told
    assert f"parameters here: {count / 1e6:.2f} million: " in told
    if name == "stan-large":
        assert f"cnns {RESNET + R2PLUS1D:,}, encoders {2 * STREAM:,}, fusion {2 * LAYER:,}" in told
        assert "its 92.5 million parameters count a transformer twice" in told


SCENES = {f"train{i}": 3 for i in range(3)} | {"test0": 3}
TAGGED = {clip: ("x",) if number % 2 else ("y", "x") for number, clip in enumerate(SCENES)}
ONE_TAG = {clip: tags[:1] for clip, tags in TAGGED.items()}


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """A function that makes the four stores of clips with some tags, once."""
    top, made = tmp_path_factory.mktemp("sets"), {}

    def set_of(tags):
        name = f"{len(tags['train0'])} tags"
        if name not in made:
            folder, fields = top / name, {"codec": "fp16", "cls": False}
            folder.mkdir()
            made[name] = {
                "spatial": write_scenes(folder / "s", SCENES, tags=tags, **fields),
                "temporal": write_scenes(folder / "t", SCENES, tags=tags, **fields),
                "spatial_pixels": write_pixel_store(folder / "sp", SCENES, tags=tags),
                "temporal_pixels": write_pixel_store(folder / "tp", SCENES, kind="all", tags=tags),
            }
        return made[name]

    return set_of


def test_every_recipe_trains_two_epochs_on_one_set_of_stores_and_scores_clips(sets, tmp_path):
    jobs = [
        make_job(
            name,
            small_words(name),
            store=sets(ONE_TAG if get_recipe(name).fuse.loss == "cross_entropy" else TAGGED),
            out=tmp_path / name,
        )
        for name in NAMES
    ]
    results = train_together(jobs, device="cpu", progress=False)
    assert [result.error for result in results] == [None] * len(NAMES)
    for name, result in zip(NAMES, results, strict=True):
        assert all((clip.embeddings > 0).all() for clip in read_embeddings(result.embeddings).clips)
        state = load_checkpoint(result.path / "checkpoint.pt")["model"]
        streams = {key.split(".")[1] for key in state if key.startswith("cnns.")}
        assert streams == set(get_recipe(name).fuse.cnns), name


def test_a_table_has_parameters_beside_those_of_the_paper_and_rows_that_are_not_run(sets, tmp_path):
    stores = {name: path for name, path in sets(TAGGED).items() if name != "temporal_pixels"}
    names = ["stan-table4-spatial-backprop", "stan-table4-temporal", "stan-large"]
    words = [word for word in small_words("stan-table4-spatial-backprop") if "cnn" not in word]
    words += ["spatial_cnn.name=small", "spatial_cnn.weights=random:0"]
    report = ablate(
        [*names[:1], *words],
        seeds=2,
        stores=[stores],
        out=tmp_path / "table",
        device="cpu",
        progress=False,
    )
    lines = report.text.splitlines()
    assert lines[0].split()[-3:] == ["million", "parameters", "published"]
    assert lines[1].split()[-2:] == ["0.05", "28"]
    with (tmp_path / "table" / "ablation.csv").open() as file:
        row = next(line for line in csv.DictReader(file) if line["task"] == "map")
    assert int(row["parameters"]) == pytest.approx(50_000, abs=5_000)
    assert float(row["published parameters"]) == 28e6
    assert float(row["standard error"]) == pytest.approx(float(row["2std ddof=1"]) / 2 / 2**0.5)
    rows = plan_rows([*names, "data.num_train_clips=3"])
    jobs, problems = plan_jobs(rows, 1, [stores], tmp_path)
    assert [row.recipe for row, _, _ in jobs] == names[:2]
    assert "STAN-Large: " in problems[0]
    assert "temporal_cnn.name=r2plus1d_18 trains a CNN from the pictures of scenes" in problems[0]
    assert "pixels=all --out STORE" in problems[0]
    read = {row.recipe: store.path.name for row, store in read_stores(jobs).items()}
    assert read == {names[0]: "sp", names[1]: "t"}


def test_a_row_is_on_its_backbone_whatever_library_builds_it(sets):
    identity = open_store(sets(TAGGED)["spatial"]).identity
    for name, architecture, wanted in (
        ("stan-table4-spatial", "torchvision:resnet18", True),
        ("stan-table4-spatial", "resnet18", True),
        ("stan-table4-spatial", "torchvision:r2plus1d_18", False),
        ("stan-table4-temporal", "torchvision:r2plus1d_18", True),
        ("stan-small", "pixels:centre", True),
    ):
        of = identity.model_copy(update={"architecture": architecture})
        assert get_recipe(name).is_on_its_backbone(of) == wanted, (name, architecture)


def test_controls_of_tokens_are_refused_before_a_table_of_pictures_is_trained(sets, tmp_path):
    stores = {"spatial_pixels": sets(TAGGED)["spatial_pixels"]}
    name = "stan-table4-spatial-backprop"
    words = ["controls", name, *small_words(name)]
    with pytest.raises(UsageError, match=r"keeps no tokens, only bytes \(pixels\)"):
        ablate(words, seeds=1, stores=[stores], out=tmp_path / "t", device="cpu", progress=False)
    assert not (tmp_path / "t").exists()


def test_rows_of_lvu_have_the_standard_error_of_their_runs(sets, tmp_path):
    words = ["stan-lvu-scene-frozen", *small_words("stan-lvu-scene-frozen")]
    fields = {"stores": [sets(ONE_TAG)], "device": "cpu", "progress": False}
    report = ablate(words, seeds=2, out=tmp_path / "table", **fields)
    assert "mean +- standard error (ddof=1) over 2 seed(s)" in report.text
    assert standard_error([1.0, 2.0, 6.0]) == pytest.approx(np.std([1, 2, 6], ddof=1) / 3**0.5)
    assert np.isnan(standard_error([1.0]))


@pytest.mark.slow
@pytest.mark.parametrize("name", PIXELS)
def test_a_row_in_full_size_steps_once(name, tmp_path):
    scenes = {"train0": 2, "train1": 2}
    one = get_recipe(name).fuse.loss == "cross_entropy"
    tags = dict.fromkeys(scenes, ("x",) if one else ("x", "y"))
    tokens = {"blocks": (3,), "grid": (1, 1), "dim": 512}
    made = {
        "spatial": lambda path: write_scenes(path, scenes, tags=tags, **tokens),
        "temporal": lambda path: write_scenes(path, scenes, tags=tags, **tokens),
        "spatial_pixels": lambda path: write_pixel_store(path, scenes, tags=tags, size=(224, 224)),
        "temporal_pixels": lambda path: write_pixel_store(
            path, scenes, kind="all", tags=tags, size=(128, 171)
        ),
    }
    stores = {name: made[name](tmp_path / name) for name in get_recipe(name).stores}
    config = get_recipe(name).fuse
    words = ["optim.epochs=1", *(f"{stream}_cnn.weights=random:0" for stream in config.cnns)]
    words += ["data.num_train_clips=2"] if config.data.num_train_clips else []
    job = make_job(name, words, store=stores, out=tmp_path / "run")
    [result] = train_together([job], device="cpu", progress=False)
    assert result.error is None
    lines = (result.path / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 1
    assert np.isfinite(json.loads(lines[0])["loss"])
    (result.path / "checkpoint.pt").unlink()  # of up to a gigabyte


def test_a_row_of_two_streams_says_which_stores_it_lacks(tmp_path):
    stores = write_pair(tmp_path)
    told = r"give --store spatial=PATH --store temporal=PATH"
    with pytest.raises(UsageError, match=told):
        plan_jobs(plan_rows(["stan-small-frozen"]), 1, [stores["spatial"]], tmp_path)
    told = r"give --store spatial_pixels=PATH --store temporal=PATH"
    with pytest.raises(UsageError, match=told):
        plan_jobs(plan_rows(["stan-small"]), 1, [stores["spatial"]], tmp_path)
