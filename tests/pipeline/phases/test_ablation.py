"""`fuse ablate` and `fuse embed`: rows from words, the table, what is refused, going on."""

import csv
import logging
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.fuse.tiny import write_store
from tokenreel.cache.embeddings import read_embeddings
from tokenreel.cache.errors import TokenReelError, UsageError
from tokenreel.evaluate.data.results import MEAN, Score
from tokenreel.extract.backbone.timm_backbone import backbone_shape
from tokenreel.extract.config import ExtractConfig
from tokenreel.fuse.train import train as train_module
from tokenreel.pipeline import recipes
from tokenreel.pipeline.cli.fuse import app, main
from tokenreel.pipeline.override import apply_overrides
from tokenreel.pipeline.phases.ablation import (
    name_backbones,
    plan_jobs,
    plan_rows,
    substitutes,
)
from tokenreel.pipeline.phases.ablation_table import (
    AblationRow,
    ablation_csv,
    format_ablation,
    values_of_rows,
)
from tokenreel.pipeline.phases.evaluation import evaluate_frozen, frozen_controls
from tokenreel.pipeline.phases.training import make_job, run_name, train_recipe
from tokenreel.pipeline.recipes import Recipe, get_recipe

SMALL = [
    "optim.epochs=2",
    "data.num_frames=6",
    "data.batch_clips=2",
    "pooling.channels=8",
    "temporal.hidden=8",
    "temporal.heads=2",
    "temporal.fc_width=8",
    "temporal.feed_forward=8",
    "temporal.layers=1",
    "temporal.embedding=4",
]
PLAIN = ["augment.crop=1", "augment.noise=0"]  # the tokens as they are


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("store") / "s", val=3)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def call(*words, status=0):
    """Run `fuse`; returns what it printed."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    if isinstance(result.exception, TokenReelError):
        return result.exception
    assert result.exit_code == status, (result.output, result.exception)
    return result.stdout


def test_a_grid_makes_a_row_of_each_value_and_one_value_is_for_all_rows():
    rows = plan_rows(["sample", "untrained", "loss.temperature=0.1,0.5", "optim.epochs=2"])
    epochs = {"sample": ("optim.epochs=2",), "untrained": ()}  # which stays untrained
    assert [(row.recipe, row.words) for row in rows] == [
        (name, (f"loss.temperature={value}", *epochs[name]))
        for name in ("sample", "untrained")
        for value in ("0.1", "0.5")
    ]
    assert rows[0].label == "sample loss.temperature=0.1"


def test_a_value_that_is_named_twice_is_one_row():
    rows = plan_rows(["sample", "sample", "optim.lr=0.1,0.1,0.2"])
    assert [row.words for row in rows] == [("optim.lr=0.1",), ("optim.lr=0.2",)]


def test_values_that_are_lists_are_separated_by_a_slash():
    rows = plan_rows(["sample", "pooling.blocks=3,7/11"])
    assert [row.words for row in rows] == [("pooling.blocks=3,7",), ("pooling.blocks=11",)]


def test_rows_of_one_label_are_told_apart_by_their_recipes():
    labels = [row.label for row in plan_rows(["mvformer-table1", "mvformer-table4-14"])]
    assert labels[0] == "SaL (sal-penn)"
    assert labels[-2:] == ["MV-Former (mvformer-finegym288)", "DINO-B/8 4,8,12 LSTP 3"]
    assert len(set(labels)) == len(labels)


def test_a_table_is_the_rows_of_its_recipes():
    assert [row.recipe for row in plan_rows(["controls"])] == list(recipes.TABLES["controls"])


def test_recipes_are_told_one_by_one_or_by_table():
    told = call("recipes", "carl-table9", "sample").splitlines()
    names = [*recipes.TABLES["carl-table9"], "sample"]
    assert [line for line in told if not line.startswith(" ")] == names


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["control"], "no table or recipe 'control', did you mean controls"),
        (["optim.epochs=2"], "name a table or recipes to ablate"),
        (["frozen-mean"], "frozen-mean trains nothing: type `evaluate frozen STORE`"),
        (["sample", "seed=1,2"], "--seeds N trains each row"),
        (["sample", "optim.lr=1", "optim.lr=2"], "optim.lr is given twice: optim.lr=a,b is a row"),
    ],
)
def test_words_that_mean_nothing_are_told(words, message):
    with pytest.raises(UsageError, match=message):
        plan_rows(words)


def test_all_rows_and_seeds_of_a_table_are_one_stream(store, monkeypatch):
    together = []
    fit = train_module.fit
    monkeypatch.setattr(
        train_module, "fit", lambda runs, *a, **k: together.append(len(runs)) or fit(runs, *a, **k)
    )
    words = ["ablate", "sample", "loss.temperature=0.1,0.2", *SMALL, "--seeds", "3"]
    call(*words, "--store", store, "--device", "cpu")
    assert together == [6]


def test_a_table_is_trained_evaluated_and_printed_and_again_at_once(store, tmp_path):
    words = ["ablate", "controls", *SMALL, *PLAIN, "--seeds", "2", "--store", store]
    out = call(*words, "--device", "cpu", status=0)
    lines = out.splitlines()
    names = list(recipes.TABLES["controls"])
    assert [line.split()[:2] for line in lines[1:7]] == [
        [str(number), name] for number, name in enumerate(names, 1)
    ]
    assert "mean +- 2 std (ddof=0) over 1 or 2 seed(s)" in out
    assert "augmentation: none" in out
    with (tmp_path / "results/controls/ablation.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        assert row["seeds"] == ("1" if row["row"].startswith(("frozen-", "clock")) else "2")
    assert {row["row"] for row in rows} == set(names)
    trained = sorted((tmp_path / "runs").glob("*/embeddings.h5"))
    made = [*trained, *sorted((tmp_path / "results/controls").glob("*/embeddings.h5"))]
    times = [path.stat().st_mtime_ns for path in made]
    assert (len(trained), len(made)) == (4, 7)

    assert call(*words, "--device", "cpu") == out
    assert [path.stat().st_mtime_ns for path in made] == times


def test_a_row_that_the_store_cannot_feed_is_told_with_its_command_and_the_others_go_on(
    store, tmp_path
):
    out = call(
        "ablate",
        "sample",
        "pooling.blocks=1/3,11",
        *SMALL,
        "--seeds",
        "1",
        "--store",
        store,
        "--out",
        tmp_path / "t",
        status=3,
    )
    lines = out.splitlines()
    first, second = (line.split("  ") for line in lines[1:3])
    assert "-" not in [cell.strip() for cell in first[2:3]]
    assert {cell.strip() for cell in second if cell.strip()} == {
        "2",
        "sample pooling.blocks=3,11",
        "not run",
        "-",
    }
    assert re.search("`extract run tiny .* blocks=1,3,11 .* --out STORE`", out)
    assert [path.name for path in (tmp_path / "t/runs").iterdir()] == [
        path.name for path in (tmp_path / "t/runs").glob("sample-data*pooling.blocks=1*seed0")
    ]


def test_a_row_takes_the_first_store_that_has_what_it_needs(store, tmp_path):
    other = write_store(tmp_path / "other", blocks=(5,))
    call(
        "ablate",
        "sample",
        "pooling.blocks=1/5",
        *SMALL,
        "--seeds",
        "1",
        "--store",
        store,
        "--store",
        other,
        "--out",
        "t",
    )
    names = {}
    for path in (tmp_path / "t/runs").glob("*/embeddings.h5"):
        names[path.parent.name.partition("blocks=")[2][0]] = read_embeddings(path).provenance
    assert {key: about["store_name"] for key, about in names.items()} == {"1": "s", "5": "other"}


def test_a_row_takes_the_store_of_its_own_data_set_and_says_where_there_is_none(
    store, tmp_path, monkeypatch
):
    recipe = Recipe(dataset="penn", fuse=get_recipe("sample").fuse, published={"tau": (0.9, None)})
    monkeypatch.setitem(recipes.RECIPES, "penn-row", lambda: recipe)
    words = ("ablate", "penn-row", *SMALL, "--seeds", "1", "--store", store)
    assert "penn-row: published on penn, here on tiny (s)" in call(*words, "--out", "alone")
    other = write_store(tmp_path / "other", dataset="penn")
    assert "published on" not in call(*words, "--store", other, "--out", "both")
    path = next((tmp_path / "both/runs").glob("*/embeddings.h5"))
    assert read_embeddings(path).provenance["store_name"] == "other"


def test_the_command_for_a_store_of_the_published_backbone_names_its_blocks(store):
    names = [f"mvformer-table4-{row}" for row in (1, 9, 14)]
    jobs, problems = plan_jobs(plan_rows([*names, "pooling.blocks=-1"]), 1, [store], Path("runs"))
    assert not problems
    told = "\n".join(substitutes(jobs))
    for command in re.findall("`(.*?)`", told):
        words = [word for word in command.split() if word.startswith(("backbone=", "blocks="))]
        config = apply_overrides(ExtractConfig(), words, root="extract")
        assert backbone_shape(config.backbone, config.blocks, None).blocks
    assert "`extract run tiny backbone=resnet50 blocks=-1 --out STORE`" in told
    assert "`extract run tiny backbone=vit_base_patch8_224.dino blocks=3,7,11 --out STORE`" in told


def test_a_row_takes_the_store_of_its_own_backbone_and_says_where_there_is_none(
    store, tmp_path, monkeypatch
):
    recipe = Recipe(
        dataset="tiny", fuse=get_recipe("sample").fuse, label="ResNet", backbone="resnet50"
    )
    monkeypatch.setitem(recipes.RECIPES, "resnet-row", lambda: recipe)
    alone = ("ablate", "resnet-row", *SMALL, "--seeds", "1", "--store", store)
    note = (
        "ResNet: read from tiny (s), not from resnet50: "
        "`extract run tiny backbone=resnet50 --out STORE`"
    )
    assert note in call(*alone, "--out", "alone")
    assert note in (tmp_path / "alone/ablation.txt").read_text()
    other = write_store(tmp_path / "other", architecture="resnet50.tv")
    both = call(*alone, "--store", other, "--out", "both")
    assert "read from" not in both
    path = next((tmp_path / "both/runs").glob("*/embeddings.h5"))
    assert read_embeddings(path).provenance["store_name"] == "other"


def test_an_unknown_field_ends_with_the_nearest_and_is_told_once(store):
    error = call("ablate", "sample", "folder", "optim.epoch=1", "--store", store)
    assert isinstance(error, UsageError)
    assert "did you mean epochs?" in str(error)
    assert str(error).startswith("fuse.optim.epoch: ")
    assert str(error).count("did you mean") == 1


def test_a_value_that_every_recipe_refuses_ends_before_anything_is_trained(store, tmp_path):
    error = call("ablate", "sample", *SMALL, "optim.lr=0.1,x", "--store", store, "--out", "t")
    assert isinstance(error, UsageError)
    assert str(error).startswith("fuse.optim.lr: Input should be a valid number")
    assert not (tmp_path / "t").exists()


def test_a_row_that_refuses_what_others_take_is_left_out(store):
    rows = plan_rows(["sample", "sal-penn", "loss.temperature=0.1"])
    jobs, [problem] = plan_jobs(rows, 1, [store], Path("runs"))
    assert [row.label for row, _, _ in jobs] == ["sample"]
    assert problem.startswith("SaL: fuse.loss.temperature: no such field")


def test_where_every_run_fails_a_former_table_stays(store, tmp_path):
    words = ("ablate", "sample", *SMALL, "--seeds", "2", "--out", "t", "--store")
    call(*words, store)
    before = (tmp_path / "t/ablation.csv").read_bytes()
    error = call(*words, write_store(tmp_path / "other", train=4))
    assert error.exit_status == 3
    assert str(error).startswith("no run ended, there is no table:\nsample-")
    assert str(error).count("holds another run:") == 2
    assert (tmp_path / "t/ablation.csv").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["ablate", "sample", "--out", "file"], "Not a directory: 'file/runs'"),
        (["embed", "run", "--out", "folder"], "folder is there and is no embedding file"),
        (["ablate", "sample", "--out", 300 * "x"], "File name too long: "),
    ],
    ids=["a-file-for-a-folder", "a-folder-for-a-file", "a-name-too-long"],
)
def test_a_path_where_nothing_can_be_written_is_told_in_a_line(
    store, monkeypatch, capsys, words, told
):
    Path("file").touch()
    Path("folder").mkdir()
    train_recipe("sample", SMALL, store=store, out=Path("run"), device="cpu", progress=False)
    given = [*words, "--store", str(store), *(SMALL if words[0] == "ablate" else [])]
    monkeypatch.setattr("sys.argv", ["fuse", *given])
    with pytest.raises(SystemExit) as end:
        main()
    logging.getLogger("tokenreel").setLevel(logging.NOTSET)  # as it was
    assert end.value.code == 2
    assert told in capsys.readouterr().err.splitlines()[-1]


def a_score(run, task, value, *, fraction=1.0, action=MEAN):
    return Score(
        run,
        run,
        "m",
        "0",
        "d",
        task,
        action,
        "val",
        fraction,
        value,
        "carl",
        1,
        "e",
        1,
        1,
        0,
        0,
        2,
        "f",
        "random:0",
        "none",
        "c",
        "undefined" if value != value else "",
    )


def test_the_table_has_mean_and_2_std_in_the_units_of_the_papers_beside_the_published_value():
    row = AblationRow(
        "r", (), "MV-Former", {"classification": (94.21, 0.04), "tau": (0.989, 0.0004)}
    )
    scores = [
        a_score("r-seed0", "classification", 0.5),
        a_score("r-seed1", "classification", 0.7),
        a_score("r-seed1", "classification", 0.1, fraction=0.1),
        a_score("r-seed1", "classification", 0.1, action="jump"),
        a_score("r-seed0", "tau", 0.25),
        a_score("r-seed0", "ap@15", 0.5),  # which the paper does not print
        a_score("r-seed1", "tau", float("nan")),
        a_score("unknown", "tau", 0.5),
    ]
    owners = {"r-seed0": (row, 0), "r-seed1": (row, 1)}
    values, missing = values_of_rows(scores, owners)
    assert missing == ["r-seed1: tau: undefined"]
    lines = format_ablation([row], values, scores, owners).splitlines()
    assert lines[0].split() == ["row", "classification", "published", "tau", "published"]
    assert (
        " ".join(lines[1].split())
        == "1 MV-Former 60.00 +- 20.00 94.21 +- 0.04 0.250 0.989 +- 0.0004"
    )
    assert "over 1 or 2 seed(s)" in lines[2]
    assert lines[3] == "weights of the backbone: random:0; augmentation: none"


def test_columns_of_published_values_are_left_out_where_no_row_has_one():
    row = AblationRow("r", (), "sample", {})
    scores = [a_score("r-seed0", "classification", 0.5)]
    values, _ = values_of_rows(scores, {"r-seed0": (row, 0)})
    lines = format_ablation([row], values, scores, {"r-seed0": (row, 0)}).splitlines()
    assert [line.split() for line in lines[:2]] == [
        ["row", "classification"],
        ["1", "sample", "50.00"],
    ]


def test_a_list_of_recipes_may_be_longer_than_the_name_of_a_folder(store, tmp_path, monkeypatch):
    names = [f"{'a-long-name-' * 20}{number}" for number in range(2)]
    for name in names:
        monkeypatch.setitem(recipes.RECIPES, name, lambda: get_recipe("untrained"))
    call("ablate", *names, "--seeds", "1", "--store", store)
    assert len(list((tmp_path / "results").glob("*/ablation.csv"))) == 1


def test_a_control_is_evaluated_as_the_data_set_of_its_store_is(store, tmp_path):
    gym = write_store(tmp_path / "gym", dataset="finegym")
    for path, settings in ((gym, {"protocol": "finegym"}), (store, {})):
        assert make_job("untrained", [], store=path).provenance["evaluate"] == settings
        [file] = frozen_controls(path, tmp_path / path.name, pools=("mean",))
        about = read_embeddings(file).provenance
        assert (about["evaluate"], about["recipe"]) == (settings, "frozen-mean")


def test_words_of_the_former_field_model_are_refused_or_left_out(store, caplog):
    with pytest.raises(UsageError, match="model=frozen: nothing is trained; type `evaluate frozen"):
        make_job("sample", ["model=frozen"], store=store)
    assert make_job("sample", ["model=mvformer"], store=store).config == get_recipe("sample").fuse
    assert "model=mvformer: every recipe is of that model, leave the word out" in caplog.text


def test_a_name_too_long_for_a_file_is_cut_and_stays_its_own():
    words = [f"data.num_frames={i}" for i in range(40)]
    one, other = (run_name("sample", [*words, f"optim.epochs={i}"], 0) for i in (1, 2))
    assert one != other
    assert len(one) < 150
    assert one.endswith("-seed0")


def test_a_run_embeds_another_store(store, tmp_path):
    other = write_store(tmp_path / "other", train=1, val=1)
    call("train", "sample", *SMALL, "--store", store, "--out", "run", "--device", "cpu")
    out = call("embed", "run", "--store", other, "--device", "cpu")
    assert out == "embeddings: run/embeddings-other.h5\n"
    file = read_embeddings(tmp_path / "run/embeddings-other.h5")
    assert [clip.clip_id for clip in file.clips] == ["train0", "val0"]
    assert file.provenance["store_name"] == "other"
    whole = {c.clip_id: c for c in read_embeddings(tmp_path / "run/embeddings.h5").clips}
    again = call("embed", "run", "--store", store, "--out", "again.h5", "--device", "cpu")
    assert again == "embeddings: again.h5\n"
    for clip in read_embeddings(tmp_path / "again.h5").clips:
        np.testing.assert_array_equal(clip.embeddings, whole[clip.clip_id].embeddings)


def test_a_row_of_one_model_for_each_action_is_the_mean_of_their_runs(tmp_path):
    path = write_store(tmp_path / "two", train=8, val=4, actions=("lift", "dance"), first_frames=9)
    small = [word for word in SMALL if not word.startswith("pooling.")]  # TCC* pools by the maximum
    words = ("tcc-star-penn", "sample", *small, "--seeds", "2", "--store", path, "--out", "t")
    out = call("ablate", *words, "--device", "cpu")
    lines = [line.split() for line in out.splitlines()]
    assert lines[1][:2] == ["1", "TCC*"]
    assert "over 2 seed(s)" in out
    names = {path.parent.name for path in (tmp_path / "t/runs").glob("*/embeddings.h5")}
    starred = {name for name in names if name.startswith("tcc-star")}
    assert {(a, s) for a in ("lift", "dance") for s in (0, 1)} == {
        (a, s)
        for a in ("lift", "dance")
        for s in (0, 1)
        if any(f"data.action={a}" in name and name.endswith(f"seed{s}") for name in starred)
    }
    assert len(starred) == 4
    null = plan_rows(["tcc-star-penn", "data.action=null"])
    assert len(plan_jobs(null, 1, [path], Path("runs"))[0]) == 2
    for name in starred:
        clips = read_embeddings(tmp_path / "t/runs" / name / "embeddings.h5").clips
        assert {clip.action for clip in clips} == {name.partition("action=")[2].split("-")[0]}
    with (tmp_path / "t/results.csv").open() as file:
        scores = [row for row in csv.DictReader(file) if row["task"] == "classification"]
    by_seed = [
        np.mean(
            [
                100 * float(row["value"])
                for row in scores
                if row["run"].startswith("tcc-star")
                and row["run"].endswith(f"seed{seed}")
                and row["action"] == MEAN
            ]
        )
        for seed in (0, 1)
    ]
    with (tmp_path / "t/ablation.csv").open() as file:
        [own] = [
            row
            for row in csv.DictReader(file)
            if (row["row"], row["task"]) == ("TCC*", "classification")
        ]
    assert own["seeds"] == "2"
    assert float(own["mean"]) == pytest.approx(np.mean(by_seed))
    assert float(own["2std ddof=0"]) == pytest.approx(2 * np.std(by_seed))


def test_one_model_for_each_action_needs_actions(tmp_path):
    path = write_store(tmp_path / "none", actions=("",))
    error = call("ablate", "tcc-star-penn", "--store", path)
    assert "is one model for each action, the training clips of" in str(error)


def test_shares_of_the_labels_have_columns_where_the_paper_has_them():
    with_shares = AblationRow("a", (), "CARL", {"classification@10%": (33.53, None)})
    without = AblationRow("b", (), "MV-Former", {"classification": (44.77, 0.71)})
    scores = [
        a_score(run, "classification", value, fraction=share)
        for run in ("a-seed0", "b-seed0")
        for value, share in ((0.1, 0.1), (0.5, 0.5), (0.9, 1.0))
    ]
    owners = {"a-seed0": (with_shares, 0), "b-seed0": (without, 0)}
    values, _ = values_of_rows(scores, owners)
    alone = {without: values[without]}
    whole = format_ablation([without], alone, scores, owners).splitlines()
    assert whole[0].split() == ["row", "classification", "published"]
    both = format_ablation([with_shares, without], values, scores, owners).splitlines()
    assert both[0].split() == [
        "row",
        "classification@10%",
        "published",
        "classification",
        "published",
    ]
    assert both[1].split() == ["1", "CARL", "10.00", "33.53", "90.00", "-"]
    assert both[2].split() == ["2", "MV-Former", "10.00", "-", "90.00", "44.77", "+-", "0.71"]
    lines = ablation_csv([without], values).splitlines()
    assert [line.split(",")[3] for line in lines[1:]] == [
        "classification@10%",
        "classification@50%",
        "classification",
    ]


def test_the_table_says_which_row_had_which_augmentation(store, tmp_path):
    words = ("sample", "untrained", "augment.dropout=0,0.2", *PLAIN, *SMALL)
    out = call("ablate", *words, "--seeds", "1", "--store", store)
    [line] = [line for line in out.splitlines() if "augmentation: " in line]
    assert line.endswith(
        "augmentation: none (sample augment.dropout=0, untrained augment.dropout=0, "
        "untrained augment.dropout=0.2); of tokens: dropout 0.2 (sample augment.dropout=0.2)"
    )


def test_the_frozen_controls_of_ablate_and_of_evaluate_frozen_are_one(store, tmp_path):
    call("ablate", "controls", *SMALL, "--seeds", "1", "--store", store, "--out", "t", status=0)
    report = evaluate_frozen(store, [], out=tmp_path / "frozen", progress=False)
    with (tmp_path / "t/results.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["run"].startswith(("frozen-", "clock"))]
    ablated = {(row["run"], row["task"], row["action"]): row["value"] for row in rows}
    alone = {(row.run, row.task, row.action): str(row.value) for row in report.scores}
    assert ablated == alone
    assert {run for run, _, _ in alone} == {"frozen-mean", "frozen-max", "frozen-cls", "clock"}


def test_rows_are_named_by_the_backbone_that_feeds_them_and_run_once(store):
    rows = plan_rows([*(f"mvformer-table4-{row}" for row in (1, 2, 5, 7, 8)), "carl-penn"])
    jobs, _ = plan_jobs(rows, 1, [store], Path("runs"))
    rows, kept, problems = name_backbones(rows, jobs)
    labels = [row.label for row in rows]
    assert labels == [
        "ResNet-50 Last Max",
        "ResNet-50 Last LSTP 1",
        "tiny Last Max",
        "tiny Last CLS",
        "tiny Last LSTP 1",
        "CARL on tiny",
    ]
    assert [row.label for row, _, _ in kept] == labels[2:]
    assert problems == [
        "ResNet-50 Last Max: not run: it is of resnet50; on tiny it is the same run as DINO-B/8 "
        "Last Max",
        "ResNet-50 Last LSTP 1: not run: it is of resnet50; on tiny it is the same run as "
        "DINO-B/8 Last LSTP 1",
    ]
    text = format_ablation(rows, {}, [], {job.out.name: (row, 0) for row, _, job in kept})
    assert "not run" in text.splitlines()[1]
    assert "not run" not in text.splitlines()[3]


def test_rows_on_their_own_backbone_keep_their_names(tmp_path):
    path = write_store(tmp_path / "own", architecture="vit_base_patch8_224.dino")
    rows = plan_rows([f"mvformer-table4-{row}" for row in (1, 5)])
    named, kept, problems = name_backbones(rows, plan_jobs(rows, 2, [path], Path("runs"))[0])
    assert [row.label for row in named] == ["ResNet-50 Last Max", "DINO-B/8 Last Max"]
    assert {row.label for row, _, _ in kept} == {"DINO-B/8 Last Max"}
    assert len(kept) == 2
    assert len(problems) == 1


def test_what_is_not_above_the_clock_is_marked_and_doubtful_numbers_are_told():
    row = AblationRow("r", (), "ours", {"tau": (0.9, None)}, "not certain: x")
    low = replace(a_score("r-seed0", "tau", 0.5), clock_value=0.9)
    high = replace(a_score("r-seed0", "ap@5", 0.9), clock_value=0.8)
    owners = {"r-seed0": (row, 0)}
    values, _ = values_of_rows([low, high], owners)
    text = format_ablation([row], values, [low, high], owners)
    assert "0.500 *" in text
    assert "90.00 *" not in text
    assert "*: not above the clock" in text
    assert "ours: published number not certain: x" in text
