"""Tags on the page: curves, what is decided, single clips; no section where there are none."""

import re

import numpy as np
from sklearn.metrics import precision_recall_curve

from tests.evaluate.clips import labelled_clips, write_run
from tests.evaluate.report.made import unreachable_frames
from tests.evaluate.tasks.test_tags import NAMES, make_clips, write
from tokenreel.cache.embeddings import read_embeddings
from tokenreel.evaluate.commands.suite import evaluate_files
from tokenreel.evaluate.protocol import EvaluateConfig
from tokenreel.evaluate.report.build import make_report
from tokenreel.evaluate.report.data.gather import gather_runs
from tokenreel.evaluate.report.sections.tags import precision_by_recall, tag_articles, tag_pages


def page(tmp_path, paths):
    report = evaluate_files(paths, config=EvaluateConfig(), out=tmp_path / "o", progress=False)
    files = [read_embeddings(path) for path in paths]
    return make_report(files, report.scores, frames=unreachable_frames).decode()


def test_precision_by_recall_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    scores, targets = rng.integers(0, 9, 60) / 9, rng.random(60) < 0.4
    found = np.array(precision_by_recall(scores, targets))
    precision, recall, _ = precision_recall_curve(targets, scores)
    np.testing.assert_allclose(found[::-1], np.stack([recall, precision], axis=1)[:-1])
    assert precision_by_recall(scores, np.zeros(60, bool)) == []


def test_a_page_of_tags_has_a_chart_of_each_and_the_shares_that_are_decided(tmp_path):
    clips = make_clips()
    pages = tag_pages(gather_runs([read_embeddings(write(tmp_path / "r", clips))]))
    text = tag_articles(pages)
    captions = re.findall(r"<figcaption>([^<]*)", text)
    assert captions[0] == "all tags"
    assert set(captions[1:]) == set(NAMES)
    own = [clip for clip in clips if clip.split == "val"]
    targets = np.stack([clip.targets for clip in own]) > 0
    decided = np.concatenate([clip.embeddings for clip in own]) > 0.3
    share = decided[targets[:, 1]][:, 2].mean()
    count = targets[:, 1].sum()
    cells = re.findall(r'title="([^"]*)"[^>]*>', text)
    assert cells[1 * len(NAMES) + 2] == f"{100 * share:.0f} % of {count} clips"
    wrong = decided[:8] & ~targets[:8]
    assert text.count("\u2717") == wrong.sum()


def test_the_report_has_the_section_where_files_have_scores_of_tags_alone(tmp_path):
    tagged = write(tmp_path / "tagged", make_clips())
    with_tags = page(tmp_path, [tagged])
    assert 'id="tags"' in with_tags
    assert "F1@b" in with_tags  # a bar
    assert "F1@b" not in with_tags.partition('id="actions"')[0]
    frames = write_run(tmp_path / "frames", labelled_clips())
    assert 'id="tags"' not in page(tmp_path / "two", [frames])


def test_a_name_of_a_tag_is_no_markup(tmp_path):
    clips = make_clips()
    text = page(tmp_path, [write(tmp_path / "r", clips, names=("<b>", "b", "c", "d"))])
    assert "&lt;b&gt;" in text
    assert "<b>" not in text.partition('id="tags"')[2].partition('id="alignment"')[0]
