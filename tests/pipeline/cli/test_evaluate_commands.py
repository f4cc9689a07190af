"""`evaluate all | compare | frozen | check` as a user types them."""

import csv
import importlib.util
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.evaluate.clips import labelled_clips, make_clip, write_run
from tokenreel.cache.errors import UsageError
from tokenreel.cache.files import parse_bytes
from tokenreel.cache.write.store_writer import StoreWriter
from tokenreel.pipeline.cli.evaluate import app

_path = Path(__file__).parents[2] / "cache/stores.py"
_spec = importlib.util.spec_from_file_location("stores", _path)
stores = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(stores)


def make_labelled_store(path):
    stores.make_store(path)
    with StoreWriter(path, writer_id="test") as writer:
        for clip_id in ("t0", "t1", "v0", "v1"):
            stores.write_clip(writer, clip_id, frames=20)
    return path


def call(*words):
    return CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)


@pytest.fixture
def runs(tmp_path):
    for seed in (0, 1):
        write_run(tmp_path / f"a/seed{seed}", labelled_clips(noise=1.5), recipe="a", seed=seed)
        write_run(tmp_path / f"b/seed{seed}", labelled_clips(noise=0.1), recipe="b", seed=seed)
    return tmp_path


def test_all_prints_the_summary_and_where_the_tables_are(runs):
    result = call("all", runs / "a", runs / "b", "tau_stride=3", "--out", runs / "out", "--jobs", 1)
    assert result.exit_code == 0
    assert "a                2      " in result.stdout
    assert f"tables: {runs}/out/results.csv" in result.stdout
    rows = list(csv.DictReader((runs / "out/results.csv").read_text().splitlines()))
    assert {row["stride"] for row in rows if row["task"] == "tau"} == {"3"}


def test_all_ends_with_3_and_names_the_problem(runs):
    clips = labelled_clips()
    clips[2].labels[clips[2].labels == 1] = 2
    path = write_run(runs / "c", clips)
    result = call("all", path, "--out", runs / "out", "--jobs", 1)
    assert result.exit_code == 3
    assert "problem: c: act: progression: phase 1 is absent from a clip" in result.stdout


def test_compare_prints_and_writes_the_table(runs):
    result = call("compare", runs / "a", runs / "b", "--resamples", 100, "--out", runs / "x/c.csv")
    assert result.exit_code == 0
    [line] = [line for line in result.stdout.splitlines() if line.startswith("ap@5")]
    assert (
        line.split()[-8:]
        == ["-", "-", "3", "no", "verdict:", "3", "clips,", "8", "are", "needed"][-8:]
    )
    assert "100 paired draws of validation clips" in result.stdout
    rows = list(csv.DictReader((runs / "x/c.csv").read_text().splitlines()))
    assert [row["task"] for row in rows][:2] == ["classification", "progression"]
    assert float(rows[0]["gain"]) == pytest.approx(float(rows[0]["b"]) - float(rows[0]["a"]))


def test_recipe_chooses_runs_by_name_or_glob_in_all_and_compare(runs):
    for name in ("x-0", "x-1", "y-0"):
        write_run(runs / name, labelled_clips(), recipe=name[0])
    (runs / "torn-0").mkdir()
    (runs / "torn-0/embeddings.h5").write_bytes(b"torn")
    for words, wanted in ((["recipe=x"], {"x-0", "x-1"}), (["recipe=?-0"], {"x-0", "y-0"})):
        result = call("all", runs, *words, "--out", runs / "out", "--jobs", 1)
        assert result.exit_code == 3  # the torn one
        rows = csv.DictReader((runs / "out/results.csv").read_text().splitlines())
        assert {row["run"] for row in rows} == {*wanted, "clock"}
    with pytest.raises(UsageError, match=r"B holds runs of 2 recipes \(x, y\)"):
        call("compare", runs / "x-0", runs, "recipe=*-0", "--resamples", 100)
    result = call("compare", runs, runs, "recipe=x", "--resamples", 100)
    assert result.exit_code == 3
    assert result.stdout.count("problem: ") == 2
    assert "no verdict: 3 clips, 8 are needed" in result.stdout
    with pytest.raises(UsageError, match=r"recipe=z: no such run .there are: .*x-0"):
        call("all", runs, "recipe=z", "--out", runs / "out")


def test_check_says_what_is_missing_and_ends_with_3(tmp_path):
    np.savez(tmp_path / "mine.npz", embeddings=np.ones((3, 2)))
    result = call("check", tmp_path / "mine.npz")
    assert result.exit_code == 3
    assert "problem: no array 'lengths': it is required" in result.stdout
    good = call("check", write_run(tmp_path / "run", labelled_clips()))
    assert good.exit_code == 0
    assert good.stdout.endswith("it can be evaluated\n")


def test_one_val_clip_of_an_action_is_named(tmp_path):
    clips = [
        *labelled_clips(),
        make_clip("x/t", "train", action="x"),
        make_clip("x/v", "val", action="x"),
    ]
    result = call("all", write_run(tmp_path / "run", clips), "--out", tmp_path / "out")
    assert result.exit_code == 3
    assert "problem: run: x: tau: 1 labelled clip(s) of the split val, it needs 2" in result.stdout


@pytest.mark.parametrize(("text", "number"), [("2GB", 2 * 10**9), ("500m", 5 * 10**8), ("64", 64)])
def test_sizes(text, number):
    assert parse_bytes(text) == number


@pytest.mark.parametrize("text", ["", "GB", "2X", "-1G", "0"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(UsageError, match="is not a size such as 2GB"):
        parse_bytes(text)


def test_frozen_pools_a_store_and_evaluates_it(tmp_path):
    store = make_labelled_store(tmp_path / "store")
    result = call("frozen", store, "tasks=classification,tau", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.stdout
    for name in ("frozen-cls", "frozen-max", "frozen-mean", "clock"):
        assert name in result.stdout
    assert (tmp_path / "out/frozen-max/embeddings.h5").is_file()
    rows = list(csv.DictReader((tmp_path / "out/results.csv").read_text().splitlines()))
    assert {row["task"] for row in rows} == {"classification", "tau"}
    assert {row["model"] for row in rows} == {"frozen", "clock"}
