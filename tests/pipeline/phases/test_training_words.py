"""Words of stores and runs."""

import json
import logging
from pathlib import Path

import pytest

from tests.fuse.tiny import write_store
from tokenreel.cache.errors import UsageError
from tokenreel.pipeline.phases.training import (
    LONGEST_NAME,
    apply_words,
    configure_run,
    folder_name,
    make_job,
    parse_store_list,
    parse_stores,
    recorded_config,
    run_name,
    train_recipe,
    words_of_first_runs,
)


def test_a_store_is_a_path_and_several_have_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parse_stores([]) is None
    assert parse_stores(["a/b"]) == Path("a/b")
    assert parse_stores(["x=s"]) == {"x": Path("s")}
    Path("x=s").mkdir()  # such a path is there
    assert parse_stores(["x=s"]) == Path("x=s")
    assert parse_stores(["a=1", "b=2"]) == {"a": Path("1"), "b": Path("2")}
    with pytest.raises(UsageError, match="--store a --store b=2: of several stores each has a"):
        parse_stores(["a", "b=2"])
    with pytest.raises(UsageError, match="--store a=PATH is given twice"):
        parse_stores(["a=1", "a=2"])
    assert parse_store_list(["s", "a=1", "t", "b=2", "x=s"]) == [
        Path("s"),
        Path("t"),
        Path("x=s"),
        {"a": Path("1"), "b": Path("2")},
    ]
    assert parse_store_list([]) == []


def test_names_of_runs_are_one_folder_and_never_too_long():
    assert run_name("r", ["seed=3", "b=x/y", "a=1"], 3) == "r-a=1-b=x_y-seed3"
    longest = "x" * LONGEST_NAME
    assert folder_name([longest]) == longest
    cut = {folder_name([longest, end]) for end in "ab"}
    assert len(cut) == 2
    assert {len(name) for name in cut} == {LONGEST_NAME + 9}


def test_words_that_mean_another_system_or_the_former_model_are_told(caplog):
    with pytest.raises(UsageError, match="recipe sample is of mvformer: type `fuse train stan`"):
        apply_words("sample", ["system=stan"])
    assert apply_words("sample", ["system=mvformer"]) == apply_words("sample", [])
    with caplog.at_level(logging.WARNING):
        assert apply_words("sample", ["model=mvformer", "seed=3"]).seed == 3
    assert "leave the word out" in caplog.text


def test_one_model_for_each_action_needs_its_action():
    with pytest.raises(UsageError, match=r"data\.action=ACTION`, or `fuse ablate tcc-star-penn`"):
        configure_run("tcc-star-penn", [])
    assert configure_run("tcc-star-penn", ["data.action=squat"]).data.action == "squat"


def test_shared_words_of_first_runs_come_in_the_place_of_their_own():
    def first(*words):
        return dict(words_of_first_runs("ftp-table1-b", words))

    assert first()["ftp-align-a"] == ["data.num_frames=8"]
    assert first("seed=3", "optim.lr=0.5")["ftp-align-a"] == ["data.num_frames=8", "seed=3"]
    assert first("data.num_frames=4") == {
        f"ftp-align-{prompt}": ["data.num_frames=4"] for prompt in "abcd"
    }


def test_a_run_begins_from_that_of_the_same_words_then_of_another_optimiser_then_of_none(tmp_path):
    name, source = "mvformer-penn-transferred", "mvformer-kinetics400"
    words = ["temporal.layers=1"]

    def make(*changes):
        run = tmp_path / run_name(source, changes, 0)
        run.mkdir()
        (run / "run.json").write_text(json.dumps({"recipe": " ".join([source, *changes])}))
        return run

    def first(*given):
        return configure_run(name, given, folder=tmp_path).init

    plain = make()
    with pytest.raises(UsageError, match=f"starts from a run of {source}, and .* no checkpoint"):
        first()  # begun, and not saved yet
    (plain / "checkpoint.pt").touch()
    assert first() == first(*words) == str(plain)
    other = make(*words, "optim.epochs=2")
    (other / "checkpoint.pt").touch()
    assert first(*words) == str(other)
    assert first("temporal.layers=3") == first() == str(plain)
    same = make(*words)
    assert first(*words) == str(other)
    (same / "checkpoint.pt").touch()
    assert first(*words) == str(same)


def test_a_system_without_a_data_set_needs_a_store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="system stan has no data set: give --store"):
        make_job("stan", [])


def test_a_run_keeps_its_fields_only_where_the_same_words_began_it(tmp_path, caplog):
    store = write_store(tmp_path / "store")
    words = ["optim.epochs=0"]
    out = tmp_path / "run"
    train_recipe("late-fusion", words, store=store, out=out, progress=False)
    text = (out / "run.json").read_text()
    (out / "run.json").write_text(text.replace('"weight_decay":0.0001', '"weight_decay":0.25'))
    job = make_job("late-fusion", words, store=store, out=out)
    with caplog.at_level(logging.WARNING):
        held = recorded_config(job)
    assert "keeps its fields: optim.weight_decay 0.25 (now 0.0001)" in caplog.text
    assert (held.optim.weight_decay, job.config.optim.weight_decay) == (0.25, 0.0001)
    other = make_job("late-fusion", [*words, "optim.lr=0.5"], store=store, out=out)
    assert recorded_config(other) == other.config
    seeded = make_job("late-fusion", [*words, "seed=4"], store=store, out=out)
    assert seeded.provenance["recipe"] == job.provenance["recipe"]  # a seed is no change
    assert recorded_config(seeded).seed == 4
    elsewhere = make_job("late-fusion", words, store=store, out=tmp_path / "new")
    assert recorded_config(elsewhere) is elsewhere.config
