"""The table of an ablation: spreads, parameters, columns, each on numbers by hand."""

import csv
from dataclasses import replace

import pytest

from tests.pipeline.phases.test_ablation import a_score
from tokenreel.pipeline.phases.ablation_table import (
    AblationRow,
    ablation_csv,
    format_ablation,
    format_splits,
    not_above_clock,
    standard_error,
    values_of_rows,
)

ROW = AblationRow("r", ("a=1",), "ours", {"tau": (0.9, 0.01)}, published_parameters=50.0)
OWNERS = {"r-seed0": (ROW, 0), "r-seed1": (ROW, 1)}


def scores(task, *values, **fields):
    return [a_score(f"r-seed{seed}", task, value, **fields) for seed, value in enumerate(values)]


def cells(text):
    return [line.split() for line in text.splitlines()]


def test_a_standard_error_is_of_several_values():
    assert standard_error([1.0, 3.0]) == pytest.approx(2**0.5 / 2**0.5)
    assert standard_error([1.0, 2.0, 6.0]) == pytest.approx(7**0.5 / 3**0.5)
    assert standard_error([1.0]) != standard_error([1.0])


def test_a_table_of_standard_errors_has_them_and_a_mixed_one_has_2_std():
    row = replace(ROW, spread="standard error")
    owners = {name: (row, seed) for name, (_, seed) in OWNERS.items()}
    values, _ = values_of_rows(scores("tau", 0.2, 0.4), owners)
    text = format_ablation([row], values, scores("tau", 0.2, 0.4), owners)
    assert "0.300 +- 0.100" in text
    assert "mean +- standard error (ddof=1) over 2 seed(s)" in text
    values, _ = values_of_rows(scores("tau", 0.2, 0.5), owners)
    other = replace(ROW, label="theirs")
    mixed = format_ablation([row, other], values, scores("tau", 0.2, 0.5), owners)
    assert "0.350 +- 0.300" in mixed
    alone, _ = values_of_rows(scores("tau", 0.2), owners)
    assert "0.200  " in format_ablation([other, row], alone, scores("tau", 0.2), owners)


def test_parameters_are_in_millions_beside_the_published_ones():
    values, _ = values_of_rows(scores("tau", 0.2, 0.4), OWNERS)
    table = format_ablation([ROW], values, scores("tau", 0.2), OWNERS, counts={ROW: 47_860_000})
    assert cells(table)[1][-2:] == ["47.86", "50"]
    bare = replace(ROW, published_parameters=None)
    none = format_ablation(
        [ROW, bare], values, scores("tau", 0.2), OWNERS, counts={bare: 1_000_000}
    )
    assert [line[-2:] for line in cells(none)[1:3]] == [["-", "50"], ["1.00", "-"]]
    assert cells(none)[2][2:5] == ["not", "run", "0.900"]


def test_without_published_values_columns_are_of_all_labels_and_of_no_class():
    row = replace(ROW, published={}, published_parameters=None)
    owners = {name: (row, seed) for name, (_, seed) in OWNERS.items()}
    given = [
        *scores("tau", 0.2, 0.4),
        *scores("frames@1", 0.5),
        *scores("f1@drama", 0.5),
        *scores("classification", 0.5),
        *scores("classification", 0.3, fraction=0.1),
    ]
    values, _ = values_of_rows(given, owners)
    head = cells(format_ablation([row], values, given, owners))[0]
    assert head == ["row", "classification", "tau", "frames@1"]


def test_the_csv_has_both_spreads_the_error_and_the_parameters():
    values, _ = values_of_rows(scores("tau", 0.2, 0.4), OWNERS)
    [line] = csv.DictReader(ablation_csv([ROW], values, counts={ROW: 7}).splitlines())
    assert (line["row"], line["recipe"], line["changes"], line["seeds"]) == (
        "ours",
        "r",
        "a=1",
        "2",
    )
    numbers = {name: float(line[name]) for name in ("mean", "2std ddof=0", "2std ddof=1")}
    assert numbers == pytest.approx({"mean": 0.3, "2std ddof=0": 0.2, "2std ddof=1": 0.2 * 2**0.5})
    assert float(line["standard error"]) == pytest.approx(0.1)
    assert (line["parameters"], line["published parameters"]) == ("7", "50000000.0")
    assert (line["published"], line["published 2std"]) == ("0.9", "0.01")


def test_scores_of_actions_and_of_the_clock_are_no_values():
    clock = replace(a_score("r-seed0", "tau", float("nan")), recipe="clock", model="clock")
    given = [*scores("tau", 0.2), a_score("r-seed0", "tau", 0.9, action="jump"), clock]
    values, missing = values_of_rows(given, OWNERS)
    assert values == {ROW: {"tau": [0.2]}}
    assert missing == [] or not clock.is_clock


def test_what_is_level_with_the_clock_is_not_above_it():
    level = [replace(score, clock_value=0.3) for score in scores("tau", 0.2, 0.4)]
    assert not_above_clock(level, OWNERS) == {ROW: {"tau"}}
    above = [replace(score, clock_value=0.2) for score in scores("tau", 0.2, 0.4)]
    assert not_above_clock(above, OWNERS) == {}
    assert not_above_clock(scores("tau", 0.2, 0.4), OWNERS) == {}  # of no clock


def test_values_of_splits_are_lines_below_the_table():
    parts = {name: replace(ROW, label=f"ours, {name}", published={}) for name in ("s1", "s2")}
    values = {parts["s1"]: {"tau": [0.2, 0.4], "classification@10%": [1.0], "f1@x": [1.0]}}
    assert format_splits({ROW: parts}, values) == ["ours: tau by split: s1 0.300 +- 0.200, s2 -"]
    plain = replace(ROW, published={})
    assert format_splits({plain: parts}, values) == ["ours: tau by split: s1 0.300 +- 0.200, s2 -"]


def test_metrics_that_learn_nothing_have_one_column_whatever_the_share_of_labels():
    given = [*scores("tau", 0.2, fraction=0.1), *scores("classification", 0.5, fraction=0.1)]
    values, _ = values_of_rows([*given, *scores("ap@5", 0.5)], OWNERS)
    assert set(values[ROW]) == {"tau", "classification@10%", "ap@5"}
