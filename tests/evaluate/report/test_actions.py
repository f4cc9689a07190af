"""Two runs of actions on the page: gains by hand, changed clips, features beside the embeddings."""

import re
from dataclasses import replace

import numpy as np
import pytest

from tests.evaluate.tasks.test_paired import ACTIONS, action_clips, write
from tokenreel.cache.embeddings import read_embeddings, write_embeddings
from tokenreel.evaluate.commands.suite import evaluate_files
from tokenreel.evaluate.protocol import EvaluateConfig
from tokenreel.evaluate.report.build import make_report
from tokenreel.evaluate.report.data.gather import ReportConfig, gather_runs
from tokenreel.evaluate.report.pictures.frames import no_frames
from tokenreel.evaluate.report.sections.actions import action_pair

OWN = ["jump", "jump", "run", "run", "walk", "walk"]


def scores_of(said):
    return [[0.8 if name == action else 0.1 for name in ACTIONS] for action in said]


@pytest.fixture
def files(tmp_path):
    said = {  # the first has jump 2 of 2, run 1 of 2, walk 0; the second 1, 2, 0
        "one": ["jump", "jump", "run", "walk", "jump", "run"],
        "two": ["jump", "run", "run", "run", "run", "jump"],
    }
    return [
        write(tmp_path / name, action_clips(scores_of(actions), OWN), names=ACTIONS, recipe=name)
        for name, actions in said.items()
    ]


def test_gains_and_changed_clips_of_two_runs(files):
    pair = action_pair(gather_runs([read_embeddings(path) for path in files]))
    assert [run.recipe for run in pair.runs] == ["one", "two"]
    gained = {pair.names[place]: gain for place, gain in pair.gains()}
    assert gained == {"jump": 0.5, "walk": 0.0, "run": -0.5}
    assert [pair.clips[0][place].clip_id for place in pair.changed()] == ["val1", "val3"]


def test_the_page_shows_bars_ends_shares_and_both_clouds(files, tmp_path):
    features = action_clips(np.eye(6)[:, :4], OWN)
    for path in files[:1]:
        write_embeddings(path.with_name("features.h5"), features, provenance={}, unit="clip")
    report = evaluate_files(files, config=EvaluateConfig(), out=tmp_path / "out", progress=False)
    runs = [read_embeddings(path) for path in files]
    page = make_report(
        runs, report.scores, frames=no_frames, config=ReportConfig(projection="tsne")
    ).decode()
    assert "1 of 3 classes gain, 1 lose; the largest change is 50.0 points" in page
    assert "jump: +50.0" in page
    assert "most gained" in page
    assert page.count("\u2713 jump 0.80") == 1  # of the clip that the first run has right
    bars = set(re.findall(r'<rect class="(bar c\d)"', page))
    assert bars == {"bar c0", "bar c1"}  # in the colours of both runs, as the rule says
    assert re.search(r"rect\.bar[^{]*\{ ?fill: var\(--mark\)", page)
    assert "of the input of the last layer; 6 of 6 clips" in page
    assert "of logarithms of the scores; 6 of 6 clips" in page


def test_a_clip_that_changes_is_shown_by_frames_from_its_first_to_its_last(files, tmp_path):
    times = {"val1": np.arange(9) / 4, "val3": np.array([0.0, 0.0, 0.0, 1.0, 1.0])}
    index = {"val1": 2 * np.arange(9), "val3": np.array([0, 0, 0, 4, 4])}  # short: frames repeat
    asked = {}

    def with_frames(clip):
        return replace(clip, times_seconds=times[clip.clip_id], frame_index=index[clip.clip_id])

    def source(clip, positions):
        asked[clip.clip_id] = [int(clip.frame_index[position]) for position in positions]
        yield from (np.full((8, 8, 3), 20 * place, np.uint8) for place in range(len(positions)))

    report = evaluate_files(files, config=EvaluateConfig(), out=tmp_path / "out", progress=False)
    runs = [read_embeddings(path) for path in files]
    page = make_report(
        runs,
        report.scores,
        frames=source,
        clip_frames=with_frames,
        config=ReportConfig(projection="tsne"),
    ).decode()
    assert (asked["val1"], asked["val3"]) == ([0, 6, 10, 16], [0, 4])
    gains = page[page.index("Clips that change") :]
    strips = re.findall(r'<div class="frames">(.*?)</div>', gains)
    assert [strip.count("<img") for strip in strips] == [4, 2]
    assert re.findall(r'alt="(val1, jump, [^"]+)"', strips[0]) == [
        f"val1, jump, {seconds:.2f} s" for seconds in (0, 0.75, 1.25, 2)
    ]


def test_one_run_of_actions_has_no_pair(files):
    assert action_pair(gather_runs([read_embeddings(files[0])])) is None
