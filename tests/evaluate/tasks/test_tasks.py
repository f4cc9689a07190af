"""The table of metrics: ours, those of plugins, and names that there are not."""

from dataclasses import replace

import pytest

from tests.evaluate.clips import labelled_clips, write_run
from tokenreel.cache.errors import UsageError
from tokenreel.evaluate.commands.compare import compare_files
from tokenreel.evaluate.commands.suite import evaluate_files
from tokenreel.evaluate.protocol import PROTOCOLS, TASKS, EvaluateConfig
from tokenreel.evaluate.tables.summary import summarise
from tokenreel.evaluate.tasks import task as tasks
from tokenreel.pipeline.override import apply_overrides

PLUGIN = """
from dataclasses import replace
from tokenreel.evaluate.tasks.labelled import missing_pairs
from tokenreel.evaluate.tasks.task import RowPlan, Task

def rows(settings, clips):
    return [RowPlan(("frames@1",))]

def of_action(data, request):
    return [replace(request.blank, task="frames@1", value=float(data.val.num_frames))]

def resampled(data, settings):
    return {"frames@1": lambda drawn: float(drawn.sum())}

def of_file(file, request):
    return [replace(request.blank, task="clips", value=float(len(file.clips)))]

def fails(data, request):
    raise TypeError("no such tensor")

common = dict(is_percent=False, missing=missing_pairs)
FRAMES = Task("frames", title="Frames", scope="action", rows=rows, compute=of_action,
              resampled=resampled, **common)
CLIPS = Task("clips", title="Clips", scope="file", is_percent=False,
             missing=lambda file: ("", ""), compute=of_file,
             rows=lambda settings, clips: [RowPlan(("clips",))])
FAILS = Task("fails", title="Fails", scope="action", rows=lambda s, c: [RowPlan(("fails",))],
             compute=fails, **common)
"""
POINTS = {"frames": "FRAMES", "clips": "CLIPS", "fails": "FAILS", "other": "FRAMES", "word": "rows"}


@pytest.fixture
def _plugin(tmp_path, monkeypatch):
    """A package with metrics."""
    folder = tmp_path / "site"
    info = folder / "lab_metrics-1.5.dist-info"
    info.mkdir(parents=True)
    (folder / "lab_metrics.py").write_text(PLUGIN)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lab_metrics\nVersion: 1.5\n")
    lines = [f"{name} = lab_metrics:{value}" for name, value in POINTS.items()]
    (info / "entry_points.txt").write_text("\n".join(["[tokenreel.tasks]", *lines, ""]))
    monkeypatch.syspath_prepend(folder)
    for cached in (tasks.load_task, tasks.task_of):
        cached.cache_clear()
    yield
    for cached in (tasks.load_task, tasks.task_of):
        cached.cache_clear()


def evaluate(tmp_path, clips, *names):
    run = write_run(tmp_path / "run", clips)
    config = EvaluateConfig(tasks=names)
    return evaluate_files([run], config=config, out=tmp_path / "out", progress=False)


def test_every_metric_of_a_protocol_is_in_the_table():
    for name in TASKS.ours:
        assert tasks.load_task(name).name == name
    used = {name for protocol in PROTOCOLS.values() for name in protocol.tasks}
    assert used == set(TASKS.ours)


@pytest.mark.parametrize("name", ["classification", "progression", "tau", "retrieval", "few-shot"])
def test_the_rows_that_a_metric_plans_are_its_own(name):
    task = tasks.load_task(name)
    clips = [replace(clip, group="shared:x") for clip in labelled_clips()]
    rows = [row for plan in task.rows(PROTOCOLS["carl"], clips) for row in plan.names]
    assert rows
    assert [tasks.task_of(row) for row in rows] == [task] * len(rows)


def test_an_unknown_metric_is_refused_with_the_nearest_and_where_plugins_come_from():
    words = "no metric 'tua', did you mean tau.*by the entry point tokenreel.tasks"
    with pytest.raises(UsageError, match=words):
        apply_overrides(EvaluateConfig(), ["tasks=tua"], root="evaluate")


@pytest.mark.usefixtures("_plugin")
def test_a_metric_of_a_plugin_is_planned_computed_averaged_and_shown(tmp_path):
    clips = [*labelled_clips("one"), *labelled_clips("two", frames=15)]
    report = evaluate(tmp_path, clips, "frames", "tau")
    values = {(row.task, row.action): row.value for row in report.scores if not row.is_clock}
    assert values["frames@1", "one"] == 36
    assert values["frames@1", "two"] == 45
    assert values["frames@1", "mean"] == 40.5
    assert report.exit_status == 0
    assert "Frames@1" in (tmp_path / "out" / "summary.md").read_text()
    assert summarise(report.scores)[0].values["frames@1"] == [40.5]
    assert tasks.row_title("frames@1") == "Frames@1"
    run = tmp_path / "run" / "embeddings.h5"
    config = EvaluateConfig(tasks=("frames", "clips"))
    (found,) = compare_files([run], [run], config=config, resamples=100, progress=False)
    assert (found.task, found.a) == ("frames@1", 3.0)


@pytest.mark.usefixtures("_plugin")
@pytest.mark.parametrize("labelled", [True, False])
def test_a_metric_of_the_file_is_computed_once_with_and_without_labels(tmp_path, labelled):
    clips = [*labelled_clips("one", labelled=labelled), *labelled_clips("two", labelled=labelled)]
    rows = [row for row in evaluate(tmp_path, clips, "clips").scores if not row.is_clock]
    assert [(row.task, row.action, row.value) for row in rows] == [("clips", "mean", 10.0)]
    assert (rows[0].num_clips, rows[0].num_frames) == (6, 72)


@pytest.mark.usefixtures("_plugin")
def test_a_plugin_that_fails_is_a_problem_and_the_other_metrics_have_values(tmp_path):
    report = evaluate(tmp_path, labelled_clips(), "fails", "tau")
    assert report.exit_status == 3
    assert "fails: the plugin failed: TypeError: no such tensor" in report.problems[0]
    assert [(row.task, row.status) for row in report.scores if row.action == "act"] == 2 * [
        ("fails", "problem"),
        ("tau", "ok"),
    ]  # of the run and of the clock


@pytest.mark.usefixtures("_plugin")
@pytest.mark.parametrize(
    ("name", "words"),
    [("other", "'other' gives the metric 'frames'"), ("word", "'word' gives <function rows")],
)
def test_a_plugin_that_gives_another_thing_is_refused_before_anything_runs(tmp_path, name, words):
    with pytest.raises(UsageError, match=words):
        evaluate(tmp_path, labelled_clips(), "tau", name)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("_plugin")
def test_another_version_of_a_metric_is_computed_again(tmp_path, monkeypatch):
    first = evaluate(tmp_path, labelled_clips(), "frames").scores[0]
    newer = replace(tasks.load_task("frames"), version=2)
    monkeypatch.setattr("lab_metrics.FRAMES", newer)
    tasks.load_task.cache_clear()
    again = evaluate(tmp_path, labelled_clips(), "frames")
    assert again.scores[0].settings != first.settings
    assert again.num_kept == 0
