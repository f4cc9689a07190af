"""The demo of scenes to tags, at a small size: what it writes, says, and does a second time."""

import csv
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from tokenreel.cache.embeddings import read_embeddings
from tokenreel.cache.errors import UsageError
from tokenreel.evaluate.tables.summary import Row
from tokenreel.extract.scenes.run import ScenesReport
from tokenreel.pipeline.cli import fuse
from tokenreel.pipeline.datasets.trailers import TAGS, write_trailer
from tokenreel.pipeline.demo import run_named, stan
from tokenreel.pipeline.phases import training
from tokenreel.pipeline.phases.reporting import report_words
from tokenreel.pipeline.recipes.trailers import SMALL, TRAILERS

WORDS = ["data.train=8", "data.val=6", "optim.epochs=1", "optim.warmup_epochs=0"]
OUT = Path("results/demo-stan-data.train=8-data.val=6-optim.epochs=1-optim.warmup_epochs=0")


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A folder in which the demo ran at a small size, twice."""
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(stan, "SEEDS", (0, 1))
        patch.setattr(training, "num_processors", lambda: 1)  # no process for each of small runs
        assert run_named(["stan", *WORDS]) == 0
    return folder


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_summary_has_a_row_for_each_recipe_and_control(ran):
    rows = {row["recipe"]: row for row in rows_of(ran / OUT / "summary.csv")}
    assert list(rows) == [*TRAILERS, "random", "length", "clock"]
    assert list(rows[SMALL]) == list(stan.COLUMNS)
    for name, row in rows.items():
        is_trained = name in TRAILERS
        assert row["kind"] == ("trained" if is_trained else "control")
        assert row["seeds"] == ("2" if is_trained else "0")
        assert row["status"] == "ok"
        assert 0 < float(row["map"]) <= 1
        assert 0 < float(row["map_macro"]) <= 1
        assert bool(row["map_sd"]) == is_trained
    assert int(rows[SMALL]["params"]) == 716_550
    assert int(rows[f"{SMALL}-spatial"]["params"]) < 716_550
    assert float(rows["random"]["map"]) == float(rows["clock"]["map"])


def test_tags_have_their_average_precision_and_chance(ran):
    rows = rows_of(ran / OUT / "tags.csv")
    assert len(rows) == (len(TRAILERS) + 2) * len(TAGS)
    random = [row for row in rows if row["recipe"] == "random"]
    assert {row["tag"]: row["told_by"] for row in random} == TAGS
    for row in random:
        assert row["average_precision"] == row["chance"]  # every tag of every clip


def test_the_map_of_the_summary_is_that_of_the_tags_by_support(ran):
    rows = [row for row in rows_of(ran / OUT / "tags.csv") if row["recipe"] == SMALL]
    values, shares = (
        np.array([float(row[name]) for row in rows]) for name in ("average_precision", "chance")
    )
    [summary] = [row for row in rows_of(ran / OUT / "summary.csv") if row["recipe"] == SMALL]
    assert float(summary["map_macro"]) == pytest.approx(values.mean(), abs=2e-4)
    assert float(summary["map"]) == pytest.approx(values @ shares / shares.sum(), abs=2e-4)


def test_the_page_has_the_sentence(ran):
    page = (ran / OUT / "index.html").read_text()
    assert "In this run two streams" in page
    assert "<h1>TokenReel: scenes to tags</h1>" in page


def test_a_second_run_trains_nothing_and_writes_the_same_tables(ran, monkeypatch, capsys):
    monkeypatch.chdir(ran)
    monkeypatch.setattr(stan, "SEEDS", (0, 1))
    monkeypatch.setattr(training, "num_processors", lambda: 1)
    before = {p: p.read_bytes() for p in (ran / OUT).rglob("*") if p.suffix in (".csv", ".pt")}
    assert stan.run_demo(WORDS) == 0
    assert {p: p.read_bytes() for p in before} == before
    assert "14 done before" in capsys.readouterr().out


def test_the_control_of_length_knows_the_number_of_scenes_alone(ran, monkeypatch):
    like = read_embeddings(next((ran / OUT / "runs").glob(f"{SMALL}-*seed0/embeddings.h5")))
    scenes = {clip.clip_id: 4 + (place % 2) * 9 for place, clip in enumerate(like.clips)}
    _, path = stan.write_controls(like, scenes, ran / "controls")
    made = {clip.clip_id: clip for clip in read_embeddings(path).clips}
    train = [clip for clip in like.clips if clip.split == "train"]
    targets = np.stack([clip.targets for clip in train])
    for clip_id, clip in made.items():
        same = [place for place, c in enumerate(train) if scenes[c.clip_id] == scenes[clip_id]]
        share = (targets[same].sum(axis=0) + targets.mean(axis=0)) / (len(same) + 1)
        np.testing.assert_allclose(clip.embeddings[0], share, rtol=1e-6)


def test_a_run_is_explained_with_its_frames_maps_and_attention(ran, monkeypatch, capsys):
    monkeypatch.chdir(ran)
    [run] = (OUT / "runs").glob(f"{SMALL}-optim*seed0")
    words = ["explain", str(run), "--clips", "val/trailer_000", "--threshold", "0.45"]
    result = CliRunner().invoke(fuse.app, words)
    assert result.exit_code == 0, (result.output, result.exception)
    assert "no map of temporal: the store keeps one vector a scene" in result.output
    [file] = (run / "explanations").glob("*.npz")
    with np.load(file) as made:
        count = len(write_trailer("val", 0).scenes)
        assert made["map_spatial"].shape == (count, 5, 5)
        assert made["map_spatial"].min() >= 0
        for stream in ("spatial", "temporal"):
            assert made[f"attention_{stream}"].sum() == pytest.approx(1, abs=1e-5)
        assert made["seconds"][0, 0] == 0
        assert (made["seconds"][1:, 0] == made["seconds"][:-1, 1]).all()
        embedded = {c.clip_id: c for c in read_embeddings(run / "embeddings.h5").clips}
        clip = embedded["val/trailer_000.mp4"]
        np.testing.assert_allclose(made["scores"], clip.embeddings[0], rtol=1e-5)
        assert made["targets"].tolist() == clip.targets.tolist()
        decided = np.flatnonzero(clip.embeddings[0] > 0.45).tolist()
        assert made["decided"].tolist() == (decided or [int(clip.embeddings[0].argmax())])
    with Image.open(file.with_suffix(".png")) as picture:
        assert picture.width > 400
    page, _ = report_words([str(run)], out=ran / "page", jobs=1)
    assert "Explanation of" in page.read_text()
    assert "data:image/jpeg" in page.read_text().partition('id="explanations"')[2]


def row(recipe, *values):
    return Row(recipe, "trailers", "", "tags", 1.0, "measured", {"map": list(values)})


def tag_row(recipe, tag, *values):
    return stan.TagRow(recipe, tag, TAGS[tag], values, 0.5)


@pytest.mark.parametrize(
    ("ours", "best", "word"),
    [
        ((0.95, 0.96, 0.97), (0.80, 0.81, 0.82), "above"),
        ((0.80, 0.81, 0.82), (0.95, 0.96, 0.97), "below"),
        ((0.85, 0.95, 0.90), (0.85, 0.88, 0.86), "level with"),
    ],
)
def test_the_sentence_on_map_is_made_from_the_rows_whichever_way_it_is(ours, best, word):
    said = stan.findings([row(SMALL, *ours), row("other", *best)], [], count=100)
    assert f", {word} the best other row, other, of " in said


def test_the_sentence_on_a_group_says_when_a_row_is_above_chance():
    name = f"{SMALL}-spatial"
    rows = [row(SMALL, 0.9), row("other", 0.5)]
    for value, said in [(0.5, "no better than chance"), (0.9, "ABOVE chance")]:
        tags = [tag_row(name, tag, value) for tag in ("left", "down")]
        text = stan.findings(rows, tags, count=100)
        assert f"Spatial stream alone: {value:.2f} on tags of motion, {said}" in text


def test_chance_is_what_random_scores_stay_below():
    limit = stan.chance_of([0.5, 0.5], 120)
    assert 0.53 < limit < 0.66
    assert stan.chance_of([0.5, 0.5], 1000) < limit


def test_an_unknown_demo_and_a_wrong_word_are_refused_before_anything_is_rendered(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"no demo 'stam', did you mean stan"):
        run_named(["stam"])
    with pytest.raises(UsageError, match=r"optim\.epoch"):
        run_named(["stan", "optim.epoch=3"])
    assert list(tmp_path.iterdir()) == []


def test_a_signal_while_scenes_are_found_ends_the_demo_with_130(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stopped = ScenesReport(signal=int(signal.SIGINT))
    monkeypatch.setattr(stan, "scenes_of_dataset", lambda *_: (stopped, tmp_path / "scenes"))
    with pytest.raises(SystemExit) as ended:
        stan.run_demo([])
    assert ended.value.code == 130
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow  # minutes: the demo in full
@pytest.mark.timeout(1800)
def test_in_full_each_stream_fails_where_it_must_and_two_are_best(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert stan.run_demo() == 0
    said = capsys.readouterr().out
    assert ", above the best other row, " in said
    assert said.count("no better than chance") == len(stan.WANTED_AT_CHANCE)
    assert "ABOVE chance" not in said
