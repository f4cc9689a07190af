"""The clock: the control that knows only the position of a frame in its clip."""

import csv
import math
from dataclasses import replace

import numpy as np
import pytest

from tests.evaluate.clips import labelled_clips, make_clip, write_run
from tests.evaluate.tables.test_summary import score as make_score
from tokenreel.cache.embeddings import read_embeddings
from tokenreel.evaluate.commands.suite import evaluate_files
from tokenreel.evaluate.data.clock import CLOCK, Clocks, clock_embeddings
from tokenreel.evaluate.data.results import read_rows
from tokenreel.evaluate.protocol import EvaluateConfig
from tokenreel.evaluate.report.build import _card
from tokenreel.evaluate.report.data.scores import ScoreTable
from tokenreel.evaluate.report.sections.scores import summary_table
from tokenreel.evaluate.tables.summary import rank_of, summarise, write_tables


def evaluate(paths, out, **given):
    return evaluate_files(paths, config=EvaluateConfig(), out=out, progress=False, **given)


def a_score(recipe, value, *, seed=0, clock=math.nan):
    model = CLOCK if recipe == "clock" else ""
    return make_score(recipe, "tau", value, str(seed), clock_value=clock, model=model)


def by_task(report, run, action="mean"):
    return {s.task: s for s in report.scores if s.run == run and s.action == action}


def test_it_is_the_position_in_the_clip_alone():
    angle = np.arange(7) / 7
    np.testing.assert_allclose(
        clock_embeddings(7), np.stack([np.cos(angle), np.sin(angle)], 1), atol=1e-7
    )
    assert clock_embeddings(1).tolist() == [[1.0, 0.0]]
    assert clock_embeddings(7).dtype == np.float32


def test_on_phases_of_equal_length_it_is_almost_perfect_and_nothing_beats_its_tau(tmp_path):
    path = write_run(tmp_path / "run", labelled_clips(frames=60, noise=2.0))
    report = evaluate([path], tmp_path / "out")
    clock = by_task(report, "clock")
    assert clock["classification"].value > 0.9
    assert clock["progression"].value > 0.95
    assert clock["tau"].value == pytest.approx(1.0)
    run = by_task(report, "run")
    assert run.keys() == clock.keys()
    for task, score in run.items():
        assert score.clock_value == clock[task].value
        assert (score.protocol, score.num_clips, score.num_frames) == (
            clock[task].protocol,
            clock[task].num_clips,
            clock[task].num_frames,
        )


def test_the_rows_of_the_runs_are_those_without_it(tmp_path):
    path = write_run(tmp_path / "run", labelled_clips())
    alone = evaluate([path], tmp_path / "alone", clock=False)
    report = evaluate([path], tmp_path / "out")
    runs = [score for score in report.scores if score.run == "run"]
    assert [repr(replace(score, clock_value=float("nan"))) for score in runs] == [
        repr(score) for score in alone.scores
    ]
    assert not (tmp_path / "alone/clock.h5").exists()
    assert {score.run for score in report.scores} == {"run", "clock"}
    with (tmp_path / "out/results.csv").open() as file:
        assert {row["run"] for row in csv.DictReader(file)} == {"run", "clock"}


def test_it_is_never_best_and_what_is_not_above_it_is_marked_in_every_table(tmp_path):
    paths = [
        write_run(tmp_path / name, labelled_clips(frames=60, noise=noise), recipe=name)
        for name, noise in (("good", 0.0), ("noisy", 3.0))
    ]
    report = evaluate(paths, tmp_path / "out")
    rows = {row.recipe: row for row in summarise(report.scores)}
    assert rows["clock"].kind == "control"
    assert all(rank_of(rows["clock"], list(rows.values()), task) is None for task in ("tau",))
    assert rows["good"].is_not_above_clock("tau")  # 1 at most, as the clock has
    assert not rows["good"].is_not_above_clock("classification")
    assert rows["noisy"].is_not_above_clock("classification")
    assert not any(rows["clock"].is_not_above_clock(task) for task in rows["clock"].values)
    line = next(line for line in report.summary.splitlines() if line.startswith("noisy"))
    assert line.count("*") == 5  # not progression: the time is a channel of these embeddings
    assert "*: not above the clock, which knows only the position of a frame" in report.summary
    markdown = (tmp_path / "out/summary.md").read_text()
    assert "\u2020: not above the clock" in markdown
    [clock] = [line for line in markdown.splitlines() if line.startswith("| clock ")]
    assert "control" in clock
    assert "**" not in clock
    assert r"$^\dagger$" in (tmp_path / "out/summary.tex").read_text()
    with (tmp_path / "out/summary.csv").open() as file:
        marked = {row["recipe"]: row["not above clock"] for row in csv.DictReader(file)}
    assert marked["noisy"] == "classification tau ap@5 ap@10 ap@15"
    assert marked["clock"] == ""


@pytest.mark.parametrize(
    ("best", "other", "clock", "ranks"),
    [
        ([0.998, 0.998], [0.9], 0.999, [None, None, None]),  # tau of an untrained model
        ([0.6, 0.6], [0.5], 0.6, [None, None, None]),
        ([0.7, 0.5], [0.55], 0.52, [None, None, None]),  # above, within its spread of 0.2
        ([0.7, 0.7], [0.55], 0.52, [0, 1, None]),
        ([0.7, 0.7], [0.5], 0.52, [0, None, None]),  # no second below the clock
        ([0.7, 0.5], [0.55], math.nan, [0, 1, 2]),  # a file from before there was a clock
    ],
)
def test_no_value_is_best_but_one_above_the_clock_by_more_than_its_spread(
    best, other, clock, ranks, tmp_path
):
    values = {"a": best, "b": other, "c": [0.1]}
    scores = [
        a_score(recipe, value, clock=clock, seed=seed)
        for recipe, own in values.items()
        for seed, value in enumerate(own)
    ]
    rows = summarise(scores)
    assert [rank_of(row, rows, "tau") for row in rows] == ranks
    write_tables(scores, tmp_path)
    lines = (tmp_path / "summary.md").read_text().splitlines()
    marked = ["**" in line for line in lines[2:5]]
    assert marked == [rank == 0 for rank in ranks]
    page = summary_table(rows, {})
    assert ('title="best"' in page, 'title="second"' in page) == (0 in ranks, 1 in ranks)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([0.998, 0.998], "highest: a, not above the clock: 0.999"),
        ([1.0, 0.999], "highest: a, within its spread of the clock: 0.999"),
    ],
)
def test_no_card_of_the_report_calls_best_what_is_not_clearly_above_the_clock(values, words):
    scores = [a_score("a", value, seed=seed) for seed, value in enumerate(values)]
    scores += [a_score("b", 0.2), a_score("clock", 0.999)]
    card = _card("tau", ScoreTable(scores))
    assert f"<span>{words}</span>" in card
    above = [a_score("a", 0.5, clock=0.4), a_score("b", 0.2), a_score("clock", 0.4)]
    assert "<span>best: a; the clock: 0.400</span>" in _card("tau", ScoreTable(above))
    assert _card("tau", ScoreTable([a_score("clock", 0.4)])) is None


def test_it_is_made_once_for_runs_of_the_same_clips_and_kept(tmp_path, monkeypatch):
    paths = [write_run(tmp_path / f"r{seed}", labelled_clips(), seed=seed) for seed in (0, 1)]
    report = evaluate(paths, tmp_path / "out")
    assert {score.run for score in report.scores if score.is_clock} == {"clock"}
    monkeypatch.setattr("tokenreel.evaluate.jobs.pool.run_job", None)
    again = evaluate(paths, tmp_path / "out")
    assert again.num_kept == again.num_jobs == report.num_jobs
    assert list(map(repr, again.scores)) == list(map(repr, report.scores))


def test_runs_of_one_action_each_share_a_clock_and_meet_it_on_their_own_clips(tmp_path):
    both = [*labelled_clips("a"), *labelled_clips("b", frames=20)]
    files = [
        write_run(tmp_path / "a", labelled_clips("a"), dataset="d"),
        write_run(tmp_path / "b", labelled_clips("b", frames=20), dataset="d"),
        write_run(tmp_path / "both", both, dataset="d"),
    ]
    report = evaluate(files, tmp_path / "out")
    assert {score.run for score in report.scores if score.is_clock} == {"clock"}
    for action in "ab":
        wanted = by_task(report, "clock", action)["ap@5"].value
        assert by_task(report, action)["ap@5"].clock_value == wanted
        assert by_task(report, "both", action)["ap@5"].clock_value == wanted


def test_files_of_other_clips_have_clocks_of_their_own(tmp_path):
    one = write_run(tmp_path / "one", labelled_clips(frames=12))
    other = write_run(tmp_path / "other", labelled_clips(frames=30))  # same names, other frames
    report = evaluate([one, other], tmp_path / "out")
    clocks = {score.run for score in report.scores if score.is_clock}
    assert clocks == {"clock", "clock of other"}
    for run, clock in (("one", "clock"), ("other", "clock of other")):
        assert by_task(report, run)["ap@5"].clock_value == by_task(report, clock)["ap@5"].value


def test_clips_without_labels_have_the_tau_of_their_groups(tmp_path):
    clips = [make_clip(f"v{i}", "val", labelled=False, group="g", frames=20) for i in range(3)]
    report = evaluate([write_run(tmp_path / "run", clips)], tmp_path / "out")
    assert by_task(report, "run")["tau"].clock_value == pytest.approx(1.0)


def test_its_own_file_is_an_embedding_file_like_any_other(tmp_path):
    path = write_run(tmp_path / "run", labelled_clips())
    first = evaluate([path], tmp_path / "out")
    clock = tmp_path / "out/clock.h5"
    file = read_embeddings(clock)
    assert (file.run_name, file.provenance["model"]) == ("clock", "clock")
    assert [clip.clip_id for clip in file.clips] == [clip.clip_id for clip in labelled_clips()]
    alone = evaluate([clock], tmp_path / "again")
    assert by_task(alone, "clock")["tau"].value == by_task(first, "clock")["tau"].value
    assert len(evaluate([path, clock], tmp_path / "out").scores) == len(first.scores)


def test_problems_of_a_run_are_told_once(tmp_path):
    clips = labelled_clips()
    clips[2].labels[clips[2].labels == 1] = 2  # a validation clip without phase 1
    report = evaluate([write_run(tmp_path / "run", clips)], tmp_path / "out")
    assert len(report.problems) == 1
    assert report.summary.count("phase 1 is absent") == 2  # of the action, and of the mean


@pytest.mark.parametrize("later", [2, 3])  # columns: of tags, and of the clock
def test_rows_of_an_earlier_version_without_its_column_are_used_again(tmp_path, later):
    path = write_run(tmp_path / "run", labelled_clips())
    wanted = evaluate([path], tmp_path / "out")
    results = tmp_path / "out/results.csv"
    lines = [line.rsplit(",", later)[0] for line in results.read_text().splitlines()]
    results.write_text("".join(f"{line}\n" for line in lines))
    assert [row.value for row in read_rows(results)] == [row.value for row in wanted.scores]
    again = evaluate([path], tmp_path / "out")
    assert again.num_kept == wanted.num_jobs
    assert list(map(repr, again.scores)) == list(map(repr, wanted.scores))


def test_two_unnamed_data_sets_share_nothing(tmp_path):
    clocks = Clocks()
    files = [
        read_embeddings(write_run(tmp_path / name, labelled_clips(name))) for name in ("a", "b")
    ]
    assert [clocks.add(file) for file in files] == [0, 1]
    assert clocks.add(files[0]) == 0
