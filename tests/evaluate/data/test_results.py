"""Rows of results.csv: what is written is read, what is torn is not, and means over actions."""

import csv
import math
from dataclasses import astuple, fields, replace

import pytest

from tokenreel.evaluate.data import results
from tokenreel.evaluate.data.results import (
    Score,
    append_rows,
    mean_rows,
    names_apart,
    read_rows,
    write_rows,
)

KINDS = {str: "text{}", int: "{}", float: "{}.5"}
DISTINCT = Score(  # another value in every field
    **{field.name: field.type(KINDS[field.type].format(n)) for n, field in enumerate(fields(Score))}
)


def a_score(value, **changes):
    common = {"run": "r", "recipe": "", "model": "m", "seed": "0", "dataset": "d"}
    common |= {"task": "tau", "action": "a", "split": "val", "fraction": 1.0, "protocol": "p"}
    return Score(**{**common, "value": value, **changes})


def test_every_field_of_a_row_is_read_as_it_was_written(tmp_path):
    path = tmp_path / "results.csv"
    assert read_rows(path) == []
    second = replace(DISTINCT, note='a, "b"\n=c', run="=1")
    write_rows([DISTINCT], path)
    append_rows([second, DISTINCT], path)
    assert read_rows(path) == [DISTINCT, second, DISTINCT]
    write_rows([second], path)
    assert read_rows(path) == [second]
    with path.open(newline="") as file:
        header, row = csv.reader(file)
    assert header == [field.name for field in fields(Score)]
    assert row == list(map(str, astuple(second)))


def test_rows_are_on_the_disk_when_they_were_added(tmp_path, monkeypatch):
    path = tmp_path / "results.csv"
    write_rows([], path)
    size, seen = path.stat().st_size, []
    monkeypatch.setattr(results, "flush", lambda handle, file: seen.append(file.stat().st_size))
    append_rows([DISTINCT, DISTINCT], path)
    assert seen == [path.stat().st_size]
    assert seen[0] > size


def test_text_that_a_spreadsheet_would_compute_has_an_apostrophe_where_wanted(tmp_path):
    path = tmp_path / "results.csv"
    write_rows([replace(DISTINCT, run="=1+1")], path, spreadsheet=True)
    assert read_rows(path) == [replace(DISTINCT, run="'=1+1")]


def test_torn_wrong_and_short_rows_are_left_out_and_those_around_them_kept(tmp_path):
    path = tmp_path / "results.csv"
    write_rows([DISTINCT], path)
    header, row = path.read_text().splitlines(keepends=True)
    cells = row.rstrip().split(",")
    wrong = [
        ",".join(cells[:-1]),
        ",".join([*cells, "more"]),
        row.rstrip().replace("15,", "many,", 1),
        row.rstrip().replace("9.5", "much", 1),
    ]
    assert all(line != row.rstrip() for line in wrong)
    path.write_text("".join([header, *(f"{line}\n" for line in wrong), row, row.rstrip()]))
    assert read_rows(path) == [DISTINCT]
    path.write_text(header.replace("run", "ran") + row)
    assert read_rows(path) == []


@pytest.mark.parametrize(("absent", "num_read"), [(0, 1), (1, 0), (2, 1), (3, 1), (4, 0)])
def test_only_columns_of_a_known_version_are_read(tmp_path, absent, num_read):
    path = tmp_path / "results.csv"
    write_rows([DISTINCT], path)
    lines = path.read_text().splitlines()
    path.write_text("".join(f"{line.rsplit(',', absent)[0]}\n" for line in lines))
    found = read_rows(path)
    assert len(found) == num_read
    blank = {"clock_value": math.nan, "threshold": 0.0, "num_positives": 0}
    later = {name: blank[name] for name in list(blank)[3 - absent :]}
    assert [repr(row) for row in found] == [repr(replace(DISTINCT, **later))] * num_read


def test_the_mean_over_actions_is_unweighted_and_counts_what_it_is_of():
    scores = [
        a_score(0.2, action="a", num_frames=10, num_clips=1, clock_value=0.1, note="x"),
        a_score(math.nan, action="b", num_frames=100, num_clips=7, clock_value=0.9, note="none"),
        a_score(0.5, action="c", num_frames=30, num_clips=2, clock_value=0.3),
        a_score(1.1, action="d", num_frames=30, num_clips=2, clock_value=0.5),
        a_score(0.9, action="a", task="ap@5"),
        a_score(0.8, action="a", fraction=0.5),
        a_score(0.7, action="a", protocol="q"),
    ]
    first, *others = mean_rows(scores)
    assert (first.action, first.task, first.protocol, first.fraction) == ("mean", "tau", "p", 1.0)
    assert (first.value, first.clock_value) == pytest.approx((0.6, 0.3))
    assert (first.num_frames, first.num_clips) == (70, 5)
    assert (first.note, first.status) == ("1 of 4 actions left out", "ok")
    assert [(row.value, row.note, row.action) for row in others] == [
        (0.9, "", "mean"),
        (0.8, "", "mean"),
        (0.7, "", "mean"),
    ]


def test_a_mean_of_no_value_counts_what_was_looked_at_and_says_why():
    rows = [
        a_score(math.nan, action=action, num_nan=2, status="undefined", note=f"no pair of {action}")
        for action in "ab"
    ]
    [mean] = mean_rows(rows)
    assert math.isnan(mean.value)
    assert (mean.num_nan, mean.status, mean.note) == (4, "undefined", "no pair of a")


def test_what_seeds_have_in_common_is_recipe_data_set_and_weights():
    score = a_score(1.0, weights="w")
    assert score.kind_key == ("r", "d", "w")  # a run without a recipe is one of its own
    assert replace(score, recipe="x").kind_key == ("x", "d", "w")
    assert not score.is_clock
    assert replace(score, model="clock").is_clock


def test_recipes_of_several_data_sets_and_weights_are_told_apart():
    keys = [("a", "d", "w"), ("a", "e", ""), ("b", "d", "w"), ("b", "e", "w"), ("c", "d", "w")]
    assert names_apart([*keys, keys[0]]) == dict(
        zip(keys, ["a (d, w)", "a (e, unknown)", "b (d)", "b (e)", "c"], strict=True)
    )
