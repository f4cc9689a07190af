"""The example of docs/embeddings.md, and bad files among good ones."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.evaluate.clips import labelled_clips, write_run
from tokenreel.evaluate.commands.check import check_file
from tokenreel.evaluate.commands.compare import compare_files
from tokenreel.evaluate.commands.suite import evaluate_files
from tokenreel.evaluate.data.clips import file_sha256, load_screened
from tokenreel.evaluate.protocol import EvaluateConfig
from tokenreel.evaluate.report.data.gather import gather_runs

DOCS = Path(__file__).parents[2] / "docs" / "embeddings.md"


def evaluate(paths, out):
    return evaluate_files(paths, config=EvaluateConfig(), out=out, progress=False)


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """The file of the example in the documentation."""
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(), flags=re.DOTALL)
    exec(code, {})
    return tmp_path / "mine.npz"


def rewrite(path, **changes):
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    np.savez(path, **(arrays | changes))


def test_the_example_of_the_documentation_passes_and_has_every_value(mine, tmp_path):
    assert check_file(mine).is_good
    report = evaluate([mine], tmp_path / "out")
    assert (report.exit_status, report.problems) == (0, ())
    runs = [row for row in report.scores if not row.is_clock]
    means = {row.task: row.value for row in runs if row.action == "mean"}
    assert set(means) == {"classification", "progression", "tau", "ap@5", "ap@10", "ap@15"}
    assert means["classification"] > 0.9


def test_a_problem_is_listed_once_with_all_metrics_that_it_concerns(mine, tmp_path):
    rewrite(mine, split=np.array(["train"] * 5 + ["val"]))
    (problem,) = evaluate([mine], tmp_path / "out").problems
    assert problem == (
        "mine: squat: tau, ap@5, ap@10, ap@15: 1 labelled clip(s) of the split val, it needs 2"
    )


@pytest.mark.parametrize("spelling", ["training", "Train", " TRAIN"])
def test_another_spelling_of_a_split_is_a_problem_that_says_what_to_write(mine, tmp_path, spelling):
    rewrite(mine, split=np.array(["train"] * 2 + [spelling] + ["val"] * 3))
    words = f"a/3: its split is {spelling!r}: write 'train'"
    assert check_file(mine).problems == (words,)
    report = evaluate([mine], tmp_path / "out")
    assert report.exit_status == 3
    assert words in report.problems[0]


def test_one_frame_of_nan_is_named_with_what_to_do(mine):
    with np.load(mine) as archive:
        embeddings = archive["embeddings"].copy()
    embeddings[62, 1] = np.nan
    rewrite(mine, embeddings=embeddings)
    (problem,) = check_file(mine).problems
    assert problem == (
        "a/2: 1 of 70 frames have NaN or infinite embeddings, the first is frame 2: write finite "
        "ones, or leave the clip out"
    )


def test_nan_labels_are_told_and_give_the_numbers_of_minus_one(mine, tmp_path, caplog):
    with np.load(mine) as archive:
        labels = archive["labels"].astype(float)
    labels[::9] = -1
    rewrite(mine, labels=labels)
    wanted = {(row.run, row.task): row.value for row in evaluate([mine], tmp_path / "a").scores}
    labels[::9] = np.nan
    rewrite(mine, labels=labels)
    report = evaluate([mine], tmp_path / "b")
    assert {(row.run, row.task): row.value for row in report.scores} == wanted
    assert report.exit_status == 0
    assert "43 labels are NaN: read as -1, unlabelled" in caplog.text
    assert report.scores[0].num_dropped > 0
    caplog.clear()
    compare_files([mine], [mine], config=EvaluateConfig(), resamples=100, progress=False)
    assert "43 labels are NaN: read as -1, unlabelled" in caplog.text


def test_bad_files_are_listed_and_the_others_evaluated(mine, tmp_path):
    good = write_run(tmp_path / "run", labelled_clips())
    bad = []
    for name, change in {
        "complex": {"embeddings": np.ones((384, 2), complex)},
        "list": {"provenance": np.array("[1]")},
        "big": {"labels": np.full(384, 65536)},
    }.items():
        bad.append(tmp_path / f"{name}.npz")
        shutil.copy(mine, bad[-1])
        rewrite(bad[-1], **change)
    (tmp_path / "torn.h5").write_bytes(good.read_bytes()[:900])
    report = evaluate([*bad, tmp_path / "torn.h5", good, mine], tmp_path / "out")
    assert report.exit_status == 3
    assert len(report.problems) == 4
    for problem, words in zip(
        report.problems,
        ["complex numbers", "provenance is a list", "label 65536", "torn or damaged"],
        strict=True,
    ):
        assert words in problem
    assert {row.run for row in report.scores if not row.is_clock} == {"run", "mine"}


def test_own_files_are_runs_of_their_own_name_and_colour(mine, tmp_path):
    other = tmp_path / "theirs.npz"
    shutil.copy(mine, other)
    named = tmp_path / "named.npz"
    shutil.copy(mine, named)
    rewrite(named, provenance=np.array('{"run": "n-0", "recipe": "ours", "seed": 4}'))
    files = [load_screened(path, file_sha256(path)).file for path in (mine, other, named)]
    runs = gather_runs(files)
    assert [(run.name, run.recipe, run.colour) for run in runs] == [
        ("mine", "mine", 0),
        ("theirs", "theirs", 1),
        ("n-0", "ours", 2),
    ]
    row = evaluate([named], tmp_path / "out").scores[0]
    assert (row.run, row.recipe, row.seed) == ("n-0", "ours", "4")
