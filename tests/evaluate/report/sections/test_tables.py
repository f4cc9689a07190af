"""Tables, charts and provenance, each on a case that can be worked by hand."""

import json
import logging
import math
from dataclasses import replace

from tokenreel.evaluate.data.results import Score
from tokenreel.evaluate.report.data.gather import ReportConfig, gather_runs, shown_runs
from tokenreel.evaluate.report.data.scores import ScoreTable
from tokenreel.evaluate.report.page.html import script_data, tag
from tokenreel.evaluate.report.sections.curves import training_curves
from tokenreel.evaluate.report.sections.provenance import provenance_section
from tokenreel.evaluate.report.sections.scores import action_bars, summary_table
from tokenreel.evaluate.tables.summary import Row, summarise


def make_score(
    recipe, task, value, *, action="mean", fraction=1.0, protocol="carl", dataset="d", weights=""
):
    return Score(
        run=f"{recipe}-run",
        recipe=recipe,
        model="",
        seed="0",
        dataset=dataset,
        task=task,
        action=action,
        split="val",
        fraction=fraction,
        value=value,
        protocol=protocol,
        stride=1,
        distance="",
        num_clips=1,
        num_frames=1,
        num_dropped=0,
        num_nan=0,
        num_classes=2,
        store_fingerprint="",
        weights=weights,
        augmentation="",
        commit="",
    )


def make_row(recipe, kind="measured", spread=None, **values):
    return Row(recipe, "d", "w", "carl", 1.0, kind, values, spread or {})


def test_the_best_is_bold_and_the_second_underlined_and_published_rows_are_neither():
    rows = [make_row("a", tau=[0.2, 0.4]), make_row("b", tau=[0.9]), make_row("c", tau=[0.1])]
    published = [
        make_row("a", "published", {"tau": 0.01}, tau=[0.95]),
        make_row("b", "published", tau=[0.97]),
    ]
    page = summary_table([*rows, *published], {})
    assert '<strong title="best">0.900</strong>' in page
    assert '<u title="second">0.300</u><span class="spread"> \u00b1 0.200</span>' in page
    assert "<span>0.100</span>" in page
    assert '<span>0.950</span><span class="spread"> \u00b1 0.010</span>' in page
    assert page.count("<strong") == 1


def test_equal_rows_are_both_best_and_a_lone_row_is_not():
    page = summary_table([make_row("a", tau=[0.5]), make_row("b", tau=[0.5])], {})
    assert page.count("<strong") == 2
    assert "<strong" not in summary_table([make_row("a", tau=[0.5])], {})


def test_a_missing_value_is_a_dash():
    page = summary_table([make_row("a", tau=[math.nan]), make_row("b", tau=[0.5])], {})
    assert '<td class="num">-</td>' in page


def test_the_score_table_keeps_the_largest_fraction_and_tells_protocols_apart():
    scores = [
        make_score("a", "progression", 0.1, fraction=0.5),
        make_score("a", "progression", 0.7),
        make_score("a", "progression", 0.9),
    ]
    table = ScoreTable(scores)
    cell = table.cell("a", "mean", "progression")
    assert (cell.mean, round(cell.spread, 12)) == (0.8, 0.2)
    both = ScoreTable([*scores, make_score("a", "tau", 0.3, protocol="tcc")])
    assert both.rows == ["a [carl]", "a [tcc]"]
    assert both.tasks == ["progression", "tau"]


def test_rows_of_other_data_or_weights_are_never_averaged():
    """Such as those of an older version of the sample, or of random and of trained weights."""
    old = [make_score("a", "tau", 0.1, dataset="sample-3", weights="w")]
    new = [make_score("a", "tau", v, dataset="sample-4", weights="w") for v in (0.6, 0.8)]
    random = [make_score("a", "tau", 0.3, dataset="sample-4", weights="random:0")]
    other = [make_score("b", "tau", 0.2, dataset="sample-4", weights="w")]
    table = ScoreTable([*old, *new, *random, *other])
    assert {row: table.cell(row, "mean", "tau").mean for row in table.rows} == {
        "a (sample-3, w)": 0.1,
        "a (sample-4, w)": 0.7,
        "a (sample-4, random:0)": 0.3,
        "b": 0.2,
    }
    rows = summarise([*old, *new, *random, *other])
    assert [(row.recipe, row.dataset, row.weights, row.mean("tau")) for row in rows] == [
        ("a", "sample-3", "w", 0.1),
        ("a", "sample-4", "w", 0.7),
        ("a", "sample-4", "random:0", 0.3),
        ("b", "sample-4", "w", 0.2),
    ]
    page = summary_table(rows, {"a (sample-4, random:0)": 2})
    assert '<th scope="col">Weights</th>' in page
    assert page.count('class="swatch c2"') == 1


def test_runs_of_other_weights_are_recipes_of_their_own(evaluated):
    file = evaluated.files[0]
    other = replace(file, provenance={**file.provenance, "weights": "trained.pth"})
    first, second = gather_runs([file, other])
    assert (first.colour, second.colour) == (0, 1)
    assert second.recipe == f"{first.recipe.partition(' (')[0]} (trained.pth)"
    assert len(shown_runs([first, second], ReportConfig())) == 2


def test_a_task_without_any_value_has_no_column_and_nan_is_not_averaged():
    table = ScoreTable(
        [
            make_score("a", "tau", math.nan),
            make_score("a", "ap@5", 0.5),
            make_score("a", "ap@5", math.nan),
        ]
    )
    assert table.tasks == ["ap@5"]
    assert table.cell("a", "mean", "ap@5").mean == 0.5


def test_bars_are_as_long_as_their_values_and_negative_ones_go_left():
    table = ScoreTable(
        [make_score("a", "tau", 0.5, action="x"), make_score("b", "tau", -0.5, action="x")]
    )
    page = action_bars(table, {"a": 0, "b": 1})
    assert '<rect class="c0" x="100.0" ' in page  # zero is a third from the left of 300 units
    assert '<rect class="c1" x="0.0" ' in page
    assert page.count('width="100.0"') == 2
    assert "Kendall&#x27;s tau. x: a 0.500, b -0.500" in page


def test_a_missing_bar_says_so():
    table = ScoreTable(
        [make_score("a", "tau", math.nan, action="x"), make_score("b", "tau", 0.5, action="x")]
    )
    assert "no value" in action_bars(table, {})


def write_curve(evaluated, tmp_path, text):
    path = tmp_path / "embeddings.h5"
    path.write_bytes(evaluated.files[0].path.read_bytes())
    (tmp_path / "metrics.jsonl").write_text(text)
    return gather_runs([replace(evaluated.files[0], path=path)])


def test_curves_go_from_the_first_to_the_last_epoch(evaluated, tmp_path):
    lines = [{"epoch": 0, "loss": 3.0}, {"epoch": 1, "loss": 1.0, "held_out_loss": 2.0}]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    page = training_curves(write_curve(evaluated, tmp_path, text))
    assert "loss by epoch. good-seed0: 3 to 1" in page
    assert 'd="M52.0 10.0L368.0 180.0"' in page
    assert "held out loss" in page


def test_a_torn_line_ends_the_curves_and_is_logged(evaluated, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        [run] = write_curve(evaluated, tmp_path, '{"epoch": 0, "loss": 1}\n{"epo')
    assert run.curves == [{"epoch": 0.0, "loss": 1.0}]
    assert "line 2 cannot be read" in caplog.text


def test_values_that_are_not_finite_are_left_out_of_curves(evaluated, tmp_path):
    [run] = write_curve(evaluated, tmp_path, '{"epoch": 0, "loss": NaN, "lr": 1}\n')
    assert run.curves == [{"epoch": 0.0, "lr": 1.0}]


def test_without_curves_the_page_says_why(evaluated):
    runs = [replace(run, curves=[]) for run in gather_runs(evaluated.files)]
    assert "nothing was trained" in training_curves(runs)


def test_provenance_tells_the_settings_that_differ(evaluated):
    page = provenance_section(gather_runs(evaluated.files))
    assert "Settings that differ between runs (1)" in page
    assert "optim.lr" in page
    assert "abc" in page
    assert provenance_section(gather_runs(evaluated.files[:2])).count("<details") == 0


def test_data_for_the_script_cannot_end_its_element():
    data = script_data({"name": "</script><b>"}, name="x")
    assert data.count("</script>") == 1
    assert json.loads(data.partition(">")[2].rpartition("</script>")[0]) == {"name": "</script><b>"}


def test_attributes_are_escaped():
    assert tag("td", title='a"b<c') == '<td title="a&quot;b&lt;c"></td>'
