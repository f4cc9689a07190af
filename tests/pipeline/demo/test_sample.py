"""What the demo ends with; extraction and training have tests of their own."""

import math
from pathlib import Path

import pytest

from tests.evaluate.report import made
from tokenreel.cache.errors import UsageError
from tokenreel.evaluate.tables.order import order_sentence
from tokenreel.extract.report import ExtractReport
from tokenreel.pipeline.demo import sample as demo
from tokenreel.pipeline.recipes import RECIPES


@pytest.fixture
def attended(tmp_path, monkeypatch):
    """The demo in a folder where its runs are there already; the runs that it drew attention of."""
    monkeypatch.chdir(tmp_path)
    paths = [file.path for file in made.write_runs(tmp_path / "runs").files]
    extracted = ExtractReport(committed=["a"], num_clips=1)
    drawn = []

    def attend_clips(run, clips, *, store):
        drawn.append((run.name, clips))
        (run / "attention").mkdir()
        (run / "attention/clip.mp4").touch()
        return []

    monkeypatch.setattr(demo, "extract_dataset", lambda *words: (extracted, tmp_path / "store"))
    monkeypatch.setattr(demo, "_train", lambda store, folder, recipes: (paths, []))
    monkeypatch.setattr(demo, "attend_clips", attend_clips)
    return drawn


def test_the_demo_ends_with_the_path_of_its_report(attended, capsys):
    assert demo.run_demo() == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "report: results/demo/index.html"
    page = Path("results/demo/index.html").read_text()
    assert "<h1>TokenReel demo</h1>" in page
    assert "Without the frames of" in page  # these runs have no videos


def test_attention_is_drawn_once(attended):
    demo.run_demo()
    demo.run_demo()
    assert attended == [("noisy-seed0", [demo.CLIP])]


def test_weights_that_cannot_be_loaded_offer_the_demo_without_any_before_anything_is_made(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    Path("notes.txt").write_text("no tensors")
    for words in (["weights=notes.txt"], ["weights=none.pth", "backbone=test_vit"]):
        with pytest.raises(UsageError, match=r"neither weights nor a network: `tokenreel demo`$"):
            demo.run_demo(words)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_without_a_network_the_demo_of_random_weights_is_offered(tmp_path, monkeypatch):
    import timm

    def no_network(*_, **__):
        raise OSError("no route to host\nmore lines")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(timm, "create_model", no_network)
    with pytest.raises(UsageError) as caught:
        demo.run_demo(["weights=pretrained"])
    assert "\n" not in str(caught.value)
    assert "could not load vit_small_patch14_dinov2.lvd142m (OSError: no route" in str(caught.value)
    assert str(caught.value).endswith("`tokenreel demo`")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "added"),
    [
        ([], []),
        (["data.train=6"], []),
        (["weights=random:1"], ["blocks=3,7,11", "image_size=112"]),
        (["backbone=vit_small_patch14_dinov2"], ["blocks=3,7,11", "image_size=112"]),
        (["backbone=vit_small_patch32_224"], ["blocks=3,7,11", "image_size=96"]),
        (["backbone=vit_large_patch16_224"], ["blocks=7,15,23", "image_size=112"]),
        (["backbone=resnet18"], ["blocks=3", "image_size=112"]),
        (["backbone=test_vit", "image_size=160"], ["blocks=1,3,5"]),
        (["backbone=test_vit", "blocks=2", "image_size=64"], []),
    ],
)
def test_image_size_and_blocks_fit_the_backbone_unless_they_are_given(words, added, monkeypatch):
    monkeypatch.setattr("tokenreel.extract.backbone.families.load_weights", lambda *words: {})
    found, config = demo.demo_extraction(words)
    assert (found[: len(words)], sorted(found[len(words) :])) == (words, added)
    assert config.weights.startswith("random:")


def test_the_tables_of_other_weights_are_in_another_folder(attended, capsys):
    demo.run_demo()
    demo.run_demo(["data.train=6"])
    assert sorted(path.name for path in Path("results").iterdir()) == ["demo", "demo-store"]
    assert "backbone weights: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("weights", "recipes"),
    [
        ("random:1", ("untrained", "late-fusion", "sample")),
        ("file.pth", ("untrained", "late-fusion-24-epochs", "sample-24-epochs")),
    ],
)
def test_weights_of_a_file_have_rows_of_fewer_epochs_all_alike(
    attended, monkeypatch, weights, recipes
):
    trained = []
    monkeypatch.setattr("tokenreel.extract.backbone.families.load_weights", lambda *words: {})
    monkeypatch.setattr(demo, "_train", lambda store, folder, names: trained.append(names))
    with pytest.raises(TypeError):  # as nothing is returned
        demo.run_demo([f"weights={weights}", "backbone=vit_small_patch14_dinov2"])
    assert trained == [recipes]
    epochs = [RECIPES[name]().fuse.optim.epochs for name in recipes]
    assert epochs[0] == 0
    assert epochs[1] == epochs[2] == (40 if weights.startswith("random") else 24)


NAN = math.nan


@pytest.mark.parametrize(
    ("ours", "told"),
    [
        ((0.6, 0.02), "above every control in classification"),
        ((0.3, 0.02), "below clock in classification"),
        ((0.47, 0.02), "level with clock in classification"),
        ((0.5, NAN), "above every control in classification"),
    ],
)
def test_the_sentence_on_order_is_made_from_the_rows_whichever_way_it_is(ours, told):
    rows = {"sample": ours, "clock": (0.45, NAN), "late-fusion": (0.4, 0.01), "bad": (NAN, NAN)}
    tables = {"classification": rows, "tau": {"sample": (0.1, 0.0), "clock": (1.0, 0.0)}}
    assert order_sentence("sample", tables) == f"In this run MV-Former (sample) is {told}."


def test_the_sentence_on_order_names_each_row_once():
    even, best = (
        {"sample": (0.5, 0.1), "late": (0.5, 0.1)},
        {"sample": (0.9, 0.1), "late": (0.5, 0)},
    )
    clock = {"sample": (0.5, 0.1), "clock": (0.5, NAN)}
    tables = {"classification": even, "ap@5": even, "progression": clock}
    assert order_sentence("sample", tables) == (
        "In this run MV-Former (sample) is level with late in classification and AP@5, "
        "level with clock in progression."
    )
    tables = {"classification": best, "ap@5": best, "progression": best}
    assert order_sentence("sample", tables) == (
        "In this run MV-Former (sample) is above every control in classification, "
        "AP@5 and progression."
    )


def test_nothing_is_said_on_order_where_there_is_nothing_to_compare():
    assert order_sentence("sample", {}) == ""
    assert order_sentence("sample", {"ap@5": {"sample": (0.5, 0.1)}}) == ""


def test_the_sentence_of_the_console_is_on_the_page(attended, monkeypatch, capsys):
    monkeypatch.setattr(demo, "RECIPES", ("noisy",))
    demo.run_demo()
    [said] = [line for line in capsys.readouterr().out.splitlines() if "In this run" in line]
    assert f"<p>{said}</p>" in Path("results/demo/index.html").read_text()
