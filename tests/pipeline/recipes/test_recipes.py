"""Recipes: each name makes a valid config, says what it is, and matches the paper's rows."""

import json

import pytest

from tests.fuse.tiny import write_store
from tokenreel.cache.errors import UsageError
from tokenreel.cache.read.store_reader import open_store
from tokenreel.cache.read.store_set import StoreSet
from tokenreel.evaluate.protocol import EvaluateConfig, resolve
from tokenreel.fuse.systems.mvformer.model import build_model
from tokenreel.fuse.systems.mvformer.requirements import blocks_of
from tokenreel.fuse.train.train import train_together
from tokenreel.pipeline.phases.training import make_job, run_name
from tokenreel.pipeline.recipes import CONTROLS, RECIPES, TABLES, describe, get_recipe

PAPERS = [name for name in RECIPES if get_recipe(name).source]
FRAMES = [name for name in RECIPES if get_recipe(name).fuse.system == "mvformer"]


@pytest.mark.parametrize("name", RECIPES)
def test_a_docstring_says_command_cost_published_number_and_whether_it_is_exact(name):
    lines = dict(line.split(": ", 1) for line in RECIPES[name].__doc__.splitlines() if ": " in line)
    assert lines["command"].startswith(f"fuse train {name}")
    assert "steps" in lines["cost"] or "nothing is trained" in lines["cost"]
    assert lines.keys() & {"exact", "variant", "control"} == {get_recipe(name).status}
    assert lines["published"]
    assert len(RECIPES[name].__doc__.splitlines()[0]) > 10
    told = describe(name, RECIPES[name])
    assert told.splitlines()[0] == name
    assert all(f"{key}: {value}" in told for key, value in lines.items())


def test_a_docstring_says_whose_sampling_it_has():
    for name, words in {
        "mvformer-penn": "official, as the released code does",
        "carl-finegym": "official_finegym, as the released code does",
        "carl-table10-even": "even, as in the text",
        "tcc-penn": "uniform, of the whole clip",
        "sample": "paper, as in the text",
    }.items():
        assert f"sampling: {words}" in RECIPES[name].__doc__.splitlines()
    assert "sampling" not in RECIPES["untrained"].__doc__


def test_what_else_differs_from_a_published_row_is_told():
    told = "runs the model of row 7, so that the published number may be of that"
    assert {name for name in RECIPES if told in RECIPES[name].__doc__} == {"mvformer-table4-10"}
    assert "control: ours, exact on cached features" in RECIPES["untrained"].__doc__
    for name, backbone in {
        "mvformer-table4-1": "resnet50, pre-trained by BYOL",
        "mvformer-table4-5": "vit_base_patch8_224, pre-trained by DINO",
        "mvformer-finegym": "vit_base_patch8_224, pre-trained by DINO",
    }.items():
        assert f"backbone of the paper: {backbone}" in RECIPES[name].__doc__.splitlines()


def test_the_rate_of_the_probe_on_finegym_is_for_the_length_of_the_embeddings():
    for name in RECIPES:
        recipe = get_recipe(name)
        [settings] = resolve(EvaluateConfig(), dict(recipe.evaluate))
        if settings.classifier == "sgd":
            rate = 50.0 if recipe.fuse.temporal.l2_normalise else 0.1
            assert settings.learning_rate == rate, name


def test_the_number_in_a_docstring_is_that_of_the_recipe():
    assert (
        "published: classification 94.21 +- 0.04, progression 0.931 +- 0.006, "
        "tau 0.989 +- 0.002, ap@5 92.99 +- 0.06"
    ) in RECIPES["mvformer-penn"].__doc__
    assert "published: classification@10% 33.53" in RECIPES["carl-finegym"].__doc__
    assert "published: not known" in RECIPES["carl-table10-alpha2"].__doc__


@pytest.mark.parametrize("name", PAPERS)
def test_a_papers_recipe_names_its_table_and_published_number_or_why_it_has_none(name):
    recipe = get_recipe(name)
    assert "Table" in recipe.source
    assert bool(recipe.published) != bool(recipe.unpublished)
    for task, (value, _) in recipe.published.items():
        limit = 1 if task in ("progression", "tau") else 100
        assert 0 < value <= limit, (task, value)


@pytest.mark.parametrize("name", RECIPES)
def test_what_a_recipe_tells_phase_3_is_understood_there(name):
    assert resolve(EvaluateConfig(), get_recipe(name).evaluate)


def test_tables_are_of_recipes_and_table_4_has_its_15_rows_in_order():
    assert {row for rows in TABLES.values() for row in rows} <= {*RECIPES, *CONTROLS}
    rows = [get_recipe(name) for name in TABLES["mvformer-table4"]]
    assert [row.source for row in rows] == [f"MV-Former, Table 4 row {i}" for i in range(1, 16)]
    kinds = [row.fuse.pooling.kind for row in rows]
    assert kinds == [
        "max",
        *["lstp"] * 3,
        "max",
        "mean",
        "cls",
        *["lstp"] * 3,
        *["fixed_width"] * 2,
        *["lstp"] * 3,
    ]
    assert [row.fuse.pooling.num_entities for row in rows if row.fuse.pooling.kind == "lstp"] == [
        1,
        3,
        5,
        1,
        3,
        5,
        1,
        3,
        5,
    ]
    assert rows[13].fuse == get_recipe("mvformer-penn").fuse
    assert rows[13].published == get_recipe("mvformer-penn").published


@pytest.mark.parametrize(
    ("name", "dim", "count"),
    [
        ("mvformer-penn", 3 * 768, 4_768_640),
        ("mvformer-finegym", 3 * 768, 7_569_024),
        ("mvformer-pouring", 768, 3_588_992),
        ("carl-penn", 2048, 3_847_296),
    ],
)
def test_the_models_have_the_published_number_of_parameters(name, dim, count):
    model = build_model(get_recipe(name).fuse, dim=dim, cls_dim=dim)
    head = {id(p) for p in model.projection.parameters()}
    assert sum(p.numel() for p in model.parameters() if id(p) not in head) == count


def test_the_last_block_is_the_stores_last(tmp_path):
    store = open_store(write_store(tmp_path / "s", blocks=(1, 5)))
    config = get_recipe("mvformer-table4-9").fuse
    assert blocks_of(config, store) == (5,)
    assert config.for_stores(StoreSet({"tokens": store})).pooling.blocks == (5,)


def test_a_run_that_goes_on_from_another_takes_the_one_of_its_seed_or_asks_for_it(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    name = "mvformer-penn-finetuned"
    with pytest.raises(UsageError) as told:
        make_job(name, ["seed=2"], store=tmp_path)
    assert str(told.value) == (
        f"recipe {name} starts from a run of mvformer-kinetics400, and "
        "runs/mvformer-kinetics400-seed2 has no checkpoint: type `fuse train mvformer-kinetics400 "
        f"seed=2` first, or name another run with `fuse train {name} init=RUN`"
    )
    job = make_job(name, ["init=runs/x"], store=tmp_path)
    assert job.config.init == "runs/x"
    run = tmp_path / "runs/mvformer-kinetics400-seed2"
    run.mkdir(parents=True)
    (run / "checkpoint.pt").touch()
    assert make_job(name, ["seed=2"], store=tmp_path).config.init == str(run.relative_to(tmp_path))


def test_it_goes_on_from_the_run_of_the_same_words_then_of_the_same_model_then_of_none(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    words, source = ["temporal.layers=1", "seed=2"], "vsp-kinetics400"
    with pytest.raises(UsageError, match=r"type `fuse train vsp-kinetics400 temporal.layers=1 see"):
        make_job("vsp-penn-finetuned", words, store=tmp_path)
    (tmp_path / f"runs/{source}-unfinished-seed2").mkdir(parents=True)
    for changes in ([], ["optim.epochs=1", "temporal.layers=1"], ["temporal.layers=1"]):
        run = tmp_path / "runs" / run_name(source, changes, 2)
        run.mkdir(parents=True)
        (run / "checkpoint.pt").touch()
        (run / "run.json").write_text(json.dumps({"recipe": " ".join([source, *changes])}))
        job = make_job("vsp-penn-finetuned", words, store=tmp_path)
        assert job.config.init == str(run.relative_to(tmp_path))


def test_a_recipe_of_one_action_asks_for_it(tmp_path):
    with pytest.raises(UsageError, match=r"type `fuse train tcc-star-penn data.action=ACTION`, or"):
        make_job("tcc-star-penn", [], store=tmp_path)
    job = make_job("tcc-star-penn", ["data.action=bowl"], store=tmp_path)
    assert job.config.data.action == "bowl"


def test_a_name_that_is_no_recipe_gets_the_near_ones_and_not_the_whole_list():
    with pytest.raises(UsageError) as told:
        get_recipe("mvformer-pen")
    assert str(told.value) == (
        "no recipe 'mvformer-pen', did you mean mvformer-penn or mvformer or "
        f"mvformer-pouring? (`fuse recipes` lists all {len(RECIPES)} recipes; systems: "
        "ftp, mvformer, stan; packages add more by the entry point tokenreel.systems)"
    )
    with pytest.raises(UsageError, match=r"no recipe 'sampl', did you mean sample"):
        make_job("sampl", [])


SMALL = [
    "data.num_frames=16",
    "data.batch_clips=2",
    "temporal.hidden=8",
    "temporal.heads=2",
    "temporal.fc_width=8",
    "temporal.feed_forward=8",
    "temporal.embedding=4",
]


def test_every_recipe_trains_an_epoch_and_embeds(tmp_path):
    runs = tmp_path / "runs"
    stores = {
        action: write_store(
            tmp_path / action,
            train=2,
            val=1,
            first_frames=13,
            blocks=(3, 7, 9, 10, 11),
            actions=(action,),
        )
        for action in ("gym99", "gym288", "act")
    }

    def job(name):
        recipe = get_recipe(name)
        words = [*SMALL, *(["optim.epochs=1"] if recipe.fuse.optim.epochs else [])]
        words += ["pooling.channels=8"] if recipe.fuse.pooling.makes_entities else []
        words += ["data.action=act"] if recipe.per_action else []
        words += [f"init={runs / recipe.begins_from}"] if recipe.begins_from else []
        store = stores[recipe.fuse.data.action or "act"]
        return make_job(name, words, store=store, out=runs / name)

    begun = [name for name in FRAMES if get_recipe(name).begins_from]
    for names in ([name for name in FRAMES if name not in begun], begun):
        results = train_together([job(name) for name in names], device="cpu", progress=False)
        assert [result.error for result in results] == [None] * len(names)
        assert all(result.embeddings.exists() for result in results)
