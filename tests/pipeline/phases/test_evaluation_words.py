"""Words of an evaluation: what is handed over, which runs they choose."""

import csv
import logging
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.evaluate.clips import labelled_clips, write_run
from tokenreel.cache.errors import UsageError
from tokenreel.evaluate.commands.compare import Difference
from tokenreel.pipeline.phases import evaluation
from tokenreel.pipeline.phases.evaluation import (
    choose_runs,
    compare_words,
    evaluate_frozen,
    evaluate_words,
    frozen_controls,
    published_numbers,
    split_words,
)

RECORDED = evaluation


def test_files_are_evaluated_by_all_processors_with_published_numbers(record, tmp_path, caplog):
    record("find_runs", [Path("a")])
    record("changed_stores", ["the store has changed"])
    record("num_processors", 7)
    given = record("evaluate_files", "report")
    with caplog.at_level(logging.WARNING):
        assert (
            evaluate_words(["a", "seed=3"], out=tmp_path, memory="3GB", spreadsheet=True)
            == "report"
        )
    [(args, named)] = given
    assert args == ([Path("a")],)
    assert (named["config"].seed, named["out"], named["jobs"]) == (3, tmp_path, 7)
    assert (named["memory_bytes"], named["spreadsheet"]) == (3 * 10**9, True)
    assert named["published"] == published_numbers()
    assert "the store has changed" in caplog.text
    evaluate_words(["a"], out=tmp_path, jobs=2)
    assert given[1][1]["jobs"] == 2


def test_published_numbers_are_of_all_labels_and_of_recipes_that_have_them():
    found = published_numbers()
    assert len(found) > 5
    assert all(found.values())
    assert not [task for numbers in found.values() for task in numbers if "%" in task]


def test_a_word_with_an_equals_sign_that_is_a_path_is_a_run(record, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("seed=3").mkdir()
    given = record("find_runs", [])
    config, runs = split_words(["seed=3", "a", "epochs=5"])
    assert (config.seed, config.epochs, runs) == (None, 5, [])
    assert given[0][0] == ([Path("seed=3"), Path("a")],)


def test_runs_are_chosen_by_any_of_several_names_and_unreadable_files_are_kept(tmp_path):
    paths = [
        write_run(tmp_path / name, labelled_clips(), recipe=recipe)
        for name, recipe in (("one", "sample"), ("two", "late-fusion"), ("three", "carl"))
    ]
    (tmp_path / "torn.h5").write_text("no")
    paths.append(tmp_path / "torn.h5")
    assert choose_runs(paths, []) == paths
    assert choose_runs(paths, ["recipe=sample,thr*"]) == [paths[0], *paths[2:]]
    assert choose_runs(paths, ["recipe=sample", "recipe=two"]) == [paths[0], paths[1], paths[3]]
    with pytest.raises(UsageError, match=r"recipe=samlpe: no such run, did you mean sample\?"):
        choose_runs(paths, ["recipe=samlpe"])
    config, chosen = split_words([*map(str, paths[:2]), "recipe=carl,one"])
    assert chosen == paths[:1]
    assert config.changes() == {}


def test_wrong_words_of_frozen_controls_end_before_anything_is_pooled(record, tmp_path):
    pooled = record("frozen_controls", [])
    with pytest.raises(UsageError, match="did you mean tau_stride"):
        evaluate_frozen(tmp_path, ["tau_strid=2"], out=tmp_path)
    with pytest.raises(UsageError, match="is not a size"):
        evaluate_frozen(tmp_path, [], out=tmp_path, memory="much")
    assert pooled == []
    given = record("evaluate_words", "report")
    pooled = record("frozen_controls", [Path("a")])
    evaluate_frozen(tmp_path, ["seed=1"], out=Path("o"), blocks=[3], jobs=2, memory="1GB")
    assert pooled[0][1]["blocks"] == [3]
    assert given[0] == (
        (["a", "seed=1"],),
        {"out": Path("o"), "jobs": 2, "memory": "1GB", "progress": True},
    )


def test_controls_are_pooled_from_the_blocks_that_are_named(record, tmp_path):
    record("open_store", None)
    record("protocol_of", {"protocol": "tcc"})
    given = record("pool_store", [])
    frozen_controls(tmp_path, Path("o"), blocks=[3], pools=["max"], progress=False)
    [(args, named)] = given
    assert (args, named["blocks"], named["pools"]) == ((tmp_path, Path("o")), [3], ["max"])
    assert named["provenance"]["max"]["evaluate"] == {"protocol": "tcc"}


def test_the_table_of_a_comparison_has_the_verdict_and_torn_files_are_listed(record, tmp_path):
    good = write_run(tmp_path / "good", labelled_clips())
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "embeddings.h5").write_text("no")
    fields = dict.fromkeys(("a", "b", "gain", "low", "high", "p_value"), 0.5)
    difference = Difference(task="tau", num_clips=3, num_actions=1, num_resamples=9, **fields)
    given = record("compare_files", [difference])
    found, problems = compare_words(
        good, tmp_path, ["seed=4"], resamples=9, seed=8, out=tmp_path / "o" / "t.csv"
    )
    assert found == [difference]
    assert len(problems) == 1
    assert "torn" in problems[0]
    [(args, named)] = given
    assert args == ([good], [good])
    assert (named["resamples"], named["seed"], named["config"].seed) == (9, 8, 4)
    [line] = csv.DictReader((tmp_path / "o" / "t.csv").read_text().splitlines())
    assert (line["task"], line["verdict"]) == ("tau", difference.verdict)
    assert SimpleNamespace(**line).gain == "0.5"
