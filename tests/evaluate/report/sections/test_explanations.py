"""Explanations on the page: which are read, and what is said of a clip."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tokenreel.evaluate.report.data.gather import ReportConfig
from tokenreel.evaluate.report.sections.explanations import explanation_article, read_explanations

SOUND = {
    "clip_id": np.array(["a"]),
    "class_names": np.array(["war", "drama", "love"]),
    "scores": np.array([0.4, 0.9, 0.1]),
    "decided": np.array([0, 1]),
    "targets": np.array([1, 0, 1]),
}


@pytest.fixture
def run(tmp_path):
    (tmp_path / "explanations").mkdir()
    return SimpleNamespace(folder=tmp_path, recipe="stan", colour=0)


def write(run, name, **changes):
    np.savez(Path(run.folder) / "explanations" / f"{name}.npz", **(SOUND | changes))


def test_the_decided_tags_come_by_score_with_a_cross_where_the_clip_lacks_them(run):
    write(run, "a")
    [found] = read_explanations([run], ReportConfig())
    assert (found.clip_id, found.tags, found.decided) == ("a", ("war", "love"), (0, 1))
    assert found.picture == run.folder / "explanations" / "a.png"
    text = explanation_article(found)
    assert "a: drama 0.90 \u2717, war 0.40; has war, love" in text
    write(run, "a", targets=np.zeros(3))
    [bare] = read_explanations([run], ReportConfig())
    assert "; has no tag" in explanation_article(bare)


def test_as_many_clips_of_a_run_are_shown_as_the_page_says(run):
    for name in ("c", "a", "b"):
        write(run, name, clip_id=np.array([name]))
    found = read_explanations([run], ReportConfig(attention_clips=2))
    assert [one.clip_id for one in found] == ["a", "b"]


@pytest.mark.parametrize(
    "changes",
    [
        {"scores": np.zeros(2)},
        {"decided": np.array([3])},
        {"decided": np.array([-1])},
        {"targets": np.zeros(2)},
        {"clip_id": np.array([], str)},
    ],
)
def test_files_of_another_layout_are_left_out_and_logged(run, caplog, changes):
    write(run, "a", **changes)
    assert read_explanations([run], ReportConfig()) == []
    assert "a.npz: not the explanation of a clip" in caplog.text
