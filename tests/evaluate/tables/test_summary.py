"""The papers' layout: best and second, published rows, spreads, counts, and the three formats."""

import csv
import io

import numpy as np
import pytest

from tests.evaluate.clips import labelled_clips, write_run
from tokenreel.evaluate.commands.suite import evaluate_files
from tokenreel.evaluate.data.results import CLOCK, MEAN, Score
from tokenreel.evaluate.protocol import EvaluateConfig
from tokenreel.evaluate.tables.summary import (
    format_summary,
    is_clearly_above,
    rank_of,
    summarise,
    write_tables,
)

PUBLISHED = {"first": {"classification": (94.21, 0.04), "tau": (0.989, None)}}


def score(recipe, task, value, seed="0", **changes):
    values = {
        "run": f"{recipe}-{seed}",
        "recipe": recipe,
        "model": "",
        "seed": seed,
        "dataset": "d",
        "task": task,
        "action": MEAN,
        "split": "val",
        "fraction": 1.0,
        "value": value,
        "protocol": "carl",
        "stride": 1,
        "distance": "",
        "num_clips": 4,
        "num_frames": 40,
        "num_dropped": 2,
        "num_nan": 1,
        "num_classes": 3,
        "store_fingerprint": "",
        "weights": "w",
        "augmentation": "",
        "commit": "",
    }
    return Score(**(values | changes))


SCORES = [
    *(score("first", "classification", v, s) for s, v in enumerate((0.90, 0.92, 0.94))),
    *(score("second", "classification", v, s) for s, v in enumerate((0.95, 0.95, 0.95))),
    score("third_x", "classification", 0.5),
    score("first", "tau", 0.9),
    score("second", "tau", 0.8),
    score("third_x", "tau", np.nan),
]


def test_mean_and_two_std_with_both_ddof(tmp_path):
    write_tables(SCORES, tmp_path, PUBLISHED)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "summary.csv").read_text())))
    assert [(row["recipe"], row["kind"]) for row in rows] == [
        ("first", "measured"),
        ("first", "published"),
        ("second", "measured"),
        ("third_x", "measured"),
    ]
    first = rows[0]
    assert first["seeds"] == "3"
    assert float(first["classification mean"]) == pytest.approx(0.92)
    assert float(first["classification 2std ddof=0"]) == pytest.approx(
        2 * np.std([0.9, 0.92, 0.94])
    )
    assert float(first["classification 2std ddof=1"]) == pytest.approx(0.04)
    assert first["classification num_frames"] == "40"
    assert first["tau num_nan"] == "1"
    assert float(rows[1]["classification mean"]) == pytest.approx(0.9421)
    assert float(rows[1]["classification 2std ddof=0"]) == pytest.approx(0.0004)
    assert rows[1]["tau 2std ddof=0"] == rows[1]["ap@5 mean"] == ""
    assert rows[3]["tau mean"] == ""


def test_best_is_bold_and_second_underlined_among_measured_rows(tmp_path):
    write_tables(SCORES, tmp_path, PUBLISHED)
    text = (tmp_path / "summary.md").read_text()
    assert "| first | w | 3 | <u>92.00 ± 3.27</u> | - | **0.900** |" in text
    # of tau there are two values, and the worse of two is no second
    assert "| first |  | published | 94.21 ± 0.04 | - | 0.989 |" in text
    assert "| second | w | 3 | **95.00 ± 0.00** | - | 0.800 |" in text
    latex = (tmp_path / "summary.tex").read_text()
    assert r"third\_x & w & 1 & 50.00 & - & - & - & - & - \\" in latex
    assert r"\textbf{95.00 $\pm$ 0.00}" in latex
    assert r"\underline{92.00 $\pm$ 3.27}" in latex
    assert r"\underline{0.800}" not in latex


def test_equal_values_share_their_mark(tmp_path):
    write_tables([score("a", "tau", 0.5), score("b", "tau", 0.5), score("c", "tau", 0.4)], tmp_path)
    text = (tmp_path / "summary.md").read_text()
    assert text.count("**0.500**") == 2
    assert "<u>0.400</u>" in text


def test_rows_of_other_data_or_shares_of_labels_do_not_compete():
    scores = [
        score("a", "classification", 0.9),
        score("a", "classification", 0.8, fraction=0.1),
        score("b", "classification", 0.7, dataset="other"),
    ]
    rows = summarise(scores)
    assert [(row.recipe, row.dataset, row.fraction) for row in rows] == [
        ("a", "d", 1.0),
        ("b", "other", 1.0),
        ("a", "d", 0.1),
    ]


def test_published_rows_stand_on_the_screen_too():
    text = format_summary(SCORES, PUBLISHED)
    assert text.splitlines()[2].split() == [
        "first",
        "published",
        "0.9421",
        "+-",
        "0.0004",
        "-",
        "0.9890",
        "-",
        "-",
        "-",
    ]


def test_published_numbers_go_through_the_suite(tmp_path):
    paths = [
        write_run(tmp_path / f"run{i}", labelled_clips(), recipe=recipe)
        for i, recipe in enumerate(("first", "first pooling.num_entities=5"))
    ]
    evaluate_files(
        paths, config=EvaluateConfig(), out=tmp_path / "out", progress=False, published=PUBLISHED
    )
    text = (tmp_path / "out/summary.md").read_text()
    assert text.count("| published |") == 1  # a changed recipe is not the published one
    assert "| first |  | published | 94.21 ± 0.04" in text


def test_what_is_published_for_a_share_of_the_labels_stands_below_that_share():
    scores = [
        score("few", "classification", value, fraction=share)
        for share, value in ((0.1, 0.3), (0.5, 0.4), (1.0, 0.5))
    ]
    given = {"few": {"classification@10%": (24.51, None), "classification": (41.75, 0.2)}}
    found = [(row.fraction, row.kind, row.values) for row in summarise(scores, given)]
    assert found == [
        (1.0, "measured", {"classification": [0.5]}),
        (1.0, "published", {"classification": [pytest.approx(0.4175)]}),
        (0.5, "measured", {"classification": [0.4]}),
        (0.1, "measured", {"classification": [0.3]}),
        (0.1, "published", {"classification": [pytest.approx(0.2451)]}),
    ]


def test_metrics_without_labels_are_in_the_row_of_the_largest_share_of_their_protocol():
    scores = [
        score("a", "classification", 0.5, fraction=0.5),
        score("a", "tau", 0.9, fraction=0.1),
        score("b", "tau", 0.8, fraction=0.2, protocol="tcc"),
    ]
    found = [(row.recipe, row.fraction, row.values) for row in summarise(scores)]
    assert found == [
        ("a", 0.5, {"classification": [0.5], "tau": [0.9]}),
        ("b", 0.2, {"tau": [0.8]}),
    ]


def test_published_rows_have_one_spread_and_no_clock_and_are_of_no_other_protocol(tmp_path):
    scores = [score("first", "tau", 0.9, clock_value=0.995)]
    first, published = summarise(scores, PUBLISHED)
    assert (first.clock, published.clock) == ({"tau": [0.995]}, {})
    assert first.is_not_above_clock("tau")
    assert not published.is_not_above_clock("tau")
    assert published.two_std("classification", 0) == pytest.approx(0.0004)
    assert np.isnan([published.two_std("classification", 1), published.two_std("tau", 0)]).all()
    assert len(summarise([score("first", "tau", 0.9, protocol="tcc")], PUBLISHED)) == 1
    few = {"first": {"classification@10%": (24.51, None)}}
    assert len(summarise(scores, few)) == 1, "published for a share of the labels alone"
    write_tables(scores, tmp_path, PUBLISHED)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "summary.csv").read_text())))
    assert [row["seeds"] for row in rows] == ["1", ""]
    assert rows[1]["classification 2std ddof=1"] == ""


def test_a_spread_that_is_unknown_hinders_nothing():
    assert is_clearly_above(0.6, float("nan"), clock=0.5)
    assert not is_clearly_above(0.5, float("nan"), clock=0.5)
    assert not is_clearly_above(0.75, 0.25, clock=0.5)


@pytest.mark.parametrize("change", [{"dataset": "e"}, {"protocol": "tcc"}, {"fraction": 0.5}])
def test_rows_that_differ_in_more_than_the_recipe_have_no_rank_and_say_it(change):
    rows = summarise(
        [score("a", "classification", 0.9), score("b", "classification", 0.8, **change)]
    )
    assert [rank_of(row, rows, "classification") for row in rows] == [None, None]
    words = {"dataset": "(d)", "protocol": "(carl)", "fraction": "weights"}
    other = {"dataset": "(e)", "protocol": "(tcc)", "fraction": "(50% of labels)"}
    [name] = change
    lines = format_summary(
        [score("a", "classification", 0.9), score("b", "classification", 0.8, **change)]
    ).splitlines()
    assert lines[2].startswith(f"b {other[name]} ")
    assert (words[name] in lines[1]) is (name != "fraction")


def test_a_lone_row_and_the_worse_of_two_have_no_rank():
    two = summarise([score("a", "tau", 0.9), score("b", "tau", 0.8)])
    assert [rank_of(row, two, "tau") for row in two] == [0, None]
    assert rank_of(two[0], two[:1], "tau") is None


def test_notes_are_those_of_the_runs_and_of_the_clock_where_they_have_none():
    scores = [
        score("a", "tau", 0.9, note="short", status="ok"),
        score("a", "tau", 0.9, note="short", status="ok", action="jump"),
        score("clock", "tau", 0.9, note="short", status="ok", model=CLOCK),
        score("clock", "tau", 0.9, note="few", status="skipped", model=CLOCK),
    ]
    lines = format_summary(scores).splitlines()
    assert [line for line in lines if ": a-0: " in line or ": clock-0: " in line] == [
        "note: a-0: jump: tau: short",
        "note: a-0: tau: short",
        "skipped: clock-0: tau: few",
    ]


def test_the_clock_has_no_spread_on_the_screen():
    given = {"model": CLOCK}
    text = format_summary([score("clock", "tau", v, s, **given) for s, v in enumerate((0.25, 0.5))])
    assert "0.3750" in text.splitlines()[1]
    assert "+-" not in text
