"""Sections of the page on runs that can be worked by hand."""

import io
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow
from sklearn.manifold import TSNE

from tests.evaluate.report import made
from tests.evaluate.report.sections.test_tables import make_row, make_score
from tests.evaluate.tasks.test_paired import ACTIONS, action_clips
from tests.evaluate.tasks.test_tags import make_clips
from tokenreel.cache.embeddings import EmbeddingFile
from tokenreel.evaluate.methods.alignment import align_pair
from tokenreel.evaluate.report.build import make_report
from tokenreel.evaluate.report.data.gather import Group, ReportConfig, gather_runs, shown_groups
from tokenreel.evaluate.report.data.scores import ScoreTable
from tokenreel.evaluate.report.page.html import Html, colour_class, script_data
from tokenreel.evaluate.report.pictures.frames import Pictures
from tokenreel.evaluate.report.sections.actions import _bars, _ends, action_articles, action_pair
from tokenreel.evaluate.report.sections.alignment import (
    _same_phase,
    align_group,
    heat_png,
    matrix_figure,
)
from tokenreel.evaluate.report.sections.confusion import confuse, confusion_article
from tokenreel.evaluate.report.sections.curves import training_curves
from tokenreel.evaluate.report.sections.projection import (
    SHAPES,
    draw_cloud,
    project,
    projection_article,
)
from tokenreel.evaluate.report.sections.provenance import flatten, provenance_section
from tokenreel.evaluate.report.sections.retrieval import retrieve_group
from tokenreel.evaluate.report.sections.scores import action_bars, all_rows, summary_table
from tokenreel.evaluate.report.sections.tags import tag_articles, tag_pages
from tokenreel.evaluate.tables.summary import DAGGER


def runs_of(*clips_of_runs, names=(), **provenance):
    """Runs of files that are any that can be hashed."""
    unit = "clip" if names else "frame"
    return gather_runs(
        [
            EmbeddingFile(
                Path(__file__), {"recipe": f"r{n}", **provenance}, tuple(clips), unit, tuple(names)
            )
            for n, clips in enumerate(clips_of_runs)
        ]
    )


def shares_of(said):
    return [[0.8 if name == action else 0.1 for name in ACTIONS] for action in said]


def pair_of(first, second, own):
    clips = [action_clips(shares_of(said), own) for said in (first, second)]
    return action_pair(runs_of(*clips, names=ACTIONS))


def test_bars_of_losses_hang_from_the_line_and_small_tables_have_one_end():
    pair = pair_of(["jump", "jump", "walk"], ["run", "run", "walk"], ["jump", "run", "walk"])
    bars = re.findall(
        r'y="([\d.]+)" width="[\d.]+" height="([\d.]+)" class="bar (c\d)', _bars(pair)
    )
    assert bars == [("6.0", "94.0", "c0"), ("100.0", "0.5", "c0"), ("100.0", "94.0", "c1")]
    assert "most gained" in _ends(pair)
    assert "least gained" not in _ends(pair)  # all classes are in the first table
    page = action_articles(pair, Pictures(made.make_frames, height=16), ReportConfig())
    assert "\u2717 run 0.80" in page  # of the clip of jump, by the second run


def test_clips_that_change_come_in_turn_those_won_and_those_lost():
    own = ["jump"] * 3 + ["run"]
    pair = pair_of(["jump", "jump", "jump", "walk"], ["run", "run", "jump", "run"], own)
    assert pair.changed() == [0, 3, 1]


def test_runs_of_tags_are_no_pair_of_actions():
    clips = make_clips()
    assert action_pair(runs_of(clips, clips, names=("a", "b", "c", "d"))) is None


def test_each_matched_frame_is_shown_and_the_path_is_the_players():
    query, reference = made.make_clip("a", frames=6), made.make_clip("b", frames=15, bend=2)
    [run] = runs_of([query, reference])
    group = align_group(Group("g", ("a", "b")), [run], ReportConfig(slider_frames=2))
    pictures = Pictures(made.make_frames, height=16)
    group.want(pictures)
    pictures.fetch()
    text = group.render(pictures)
    strip = text[text.index('class="strip"') :]
    assert strip.count("<img") == 2 * 6
    data = json.loads(text.partition('data-name="pair">')[2].partition("</script>")[0])
    [(_, pair)] = group.pairs
    assert data["runs"] == [
        {"rows": pair.path.steps[:, 0].tolist(), "columns": pair.path.steps[:, 1].tolist()}
    ]
    assert [data["sides"][side]["rows"] for side in ("query", "reference")] == [1, 1]
    assert '<li><span class="swatch p0" aria-hidden="true"></span>crouch</li>' in text


def test_the_pair_is_of_labelled_phases_and_unlabelled_frames_are_neither_right_nor_wrong():
    clips = [made.make_clip(name, frames=12) for name in "abc"]
    clips[0].labels[:] = [0] * 6 + [1] * 4 + [-1] * 2
    [run] = runs_of(clips)
    [(_, pair)] = align_group(Group("g", ("a", "b", "c")), [run], ReportConfig()).pairs
    assert (pair.query.clip_id, pair.reference.clip_id) == ("b", "c")
    both = align_pair(clips[0], clips[0])
    assert [_same_phase(both, *places) for places in ((0, 1), (0, 6), (0, 11), (11, 11))] == [
        True,
        False,
        None,
        None,
    ]


def test_the_matrix_is_dark_from_the_98th_percentile_and_in_its_own_units():
    distances = np.ones((10, 10))
    distances[0, 0] = 1000
    with Pillow.open(io.BytesIO(heat_png(distances))) as picture:
        assert np.asarray(picture.convert("RGB"))[5, 5].tolist() == [0, 34, 78]
    query = made.make_clip("a", frames=5, noise=0)
    reference = made.make_clip("b", frames=10, noise=0)
    page = matrix_figure(align_pair(query, reference), title=Html("t"), number_of_run=0)
    points = re.search(r'class="path" points="([^"]*)"', page)[1].split()
    assert (points[0], points[-1]) == ("11.0,13.2", "209.0,118.8")
    assert page.count(">0.9 s</text>") == 1
    assert page.count(">0.4 s</text>") == 1


def test_confusions_are_in_percent_of_a_phase_and_learned_from_other_clips():
    train = [made.make_clip("t", split="train", noise=0)]
    shown = made.make_clip("v", noise=0)
    shown = replace(shown, labels=np.where(shown.labels == 2, 1, shown.labels).astype(np.int16))
    [run] = runs_of([*train, shown])
    text = confusion_article(Group("g", ("v",)), [run])
    assert "14 of 20 frames right" in text
    cells = re.findall(r'title="(\d+ frames, \d+ % of the phase)"', text)
    assert cells[3:6] == [
        f"{words} of the phase" for words in ("0 frames, 0 %", "7 frames, 54 %", "6 frames, 46 %")
    ]
    [lone] = runs_of(train)
    assert "no labelled clips to learn from" in confuse(lone, Group("g", ("t",))).reason


@pytest.mark.parametrize(("count", "is_shown"), [(24, True), (25, False)])
def test_24_classes_are_shown_and_no_more(count, is_shown):
    labels = np.arange(count).astype(np.int16)
    clips = [
        replace(made.make_clip(split, split=split, frames=count), labels=labels)
        for split in ("train", "val")
    ]
    [run] = runs_of(clips)
    found = confuse(run, Group("g", ("val",)))
    assert found.counts.shape == ((24, 24) if is_shown else (0, 0))
    assert found.reason == ("" if is_shown else "25 classes are more than a table can show (24)")


def test_curves_are_by_epoch_and_one_epoch_is_a_dot():
    [run] = runs_of([made.make_clip("a")])
    lines = [{"epoch": 3.0, "loss": 0.0}, {"epoch": 7.0, "loss": 0.0}]
    page = training_curves([replace(run, curves=lines)])
    assert "<figcaption>epoch" not in page
    assert ">7</text>" in page
    assert "0.0e+00" not in page
    one = training_curves([replace(run, curves=[{"epoch": 0.0, "loss": 2.0}])])
    assert 'd="M52.0 95.0h.01"' in one
    assert "h.01" not in page


def test_tsne_is_that_of_scikit_learn_from_small_principal_components():
    frames = np.random.default_rng(1).standard_normal((8, 3)).astype(np.float32)
    points, words = project(frames, method="tsne")
    assert words == "t-SNE, perplexity 2.33333"
    start, _ = project(frames, method="pca")
    small = (1e-4 * start / start[:, 0].std()).astype(np.float32)
    model = TSNE(init=small, perplexity=7 / 3, random_state=0)
    centred = frames.astype(np.float64) - frames.mean(axis=0, dtype=np.float64)
    np.testing.assert_allclose(points, model.fit_transform(centred.astype(np.float32)), rtol=1e-4)
    assert project(frames[:7], method="tsne")[1].startswith("PCA")


def test_points_keep_their_labels_where_some_are_left_out():
    [run] = runs_of([made.make_clip("a", action="wave"), made.make_clip("b", action="wave")])
    text = projection_article(Group("g", ("a", "b")), [run], ReportConfig(points=10))
    assert "10 of 40 frames of 2 clips" in text
    cloud = text[text.index('class="cloud"') :]
    counts = {
        int(label): d.count("M") for label, d in re.findall(r'class="p(\d)" d="([^"]*)"', cloud)
    }
    assert counts == {0: 6, 1: 4} or counts == {0: 5, 1: 5}
    dots = draw_cloud(run, np.array([[0.0, 0], [1, 1]]), np.array([0, -1]), "x")
    assert SHAPES[0] in dots
    assert '<path class="pnone" d="M248.0 12.0m-1.5 0h3' in dots


def test_provenance_has_what_any_run_has_and_each_its_own_digest(tmp_path):
    (one,), (two,) = (
        runs_of([made.make_clip("a")], weights="w" * 40),
        runs_of([made.make_clip("b")]),
    )
    two = replace(two, digest="f" * 16, name="second")
    page = provenance_section([one, two])
    assert '<th scope="col">weights</th>' in page
    assert f"<span>{'w' * 40}</span>" in page
    assert one.digest in page
    assert two.digest in page
    assert flatten({"a": {"b": {"c": 1}}}) == {"a.b.c": "1"}


def test_every_retrieved_frame_is_shown_and_the_query_once_for_all_runs():
    clips = [made.make_clip(name) for name in "ab"]
    runs = runs_of(clips, [replace(clip, embeddings=clip.embeddings[:, ::-1]) for clip in clips])
    found = retrieve_group(Group("g", ("a", "b")), runs, ReportConfig(queries=3, k=2))
    assert [query.clip.clip_id for query in found.queries] == ["a", "b"]
    pictures = Pictures(made.make_frames, height=16)
    found.want(pictures)
    pictures.fetch()
    text = found.render(pictures)
    assert text.count('class="query"') == 2
    assert text.count("<img") == 2 * (1 + 2 * 2)


def test_the_summary_has_no_column_of_a_class_and_marks_what_is_not_above_the_clock():
    low = replace(make_row("a", tau=[0.5], **{"f1@drama": [0.9]}), clock={"tau": [0.7]})
    page = summary_table([low, make_row("b", tau=[0.9])], {})
    assert "drama" not in page
    assert page.count(f">{DAGGER}</span>") == 1
    assert f"{DAGGER}: " in page
    assert DAGGER not in summary_table([make_row("b", tau=[0.9])], {})
    half = replace(make_row("a", tau=[0.5]), fraction=0.5)
    assert "<td>50%</td>" in summary_table([half, make_row("b", tau=[0.9])], {})


def test_bars_of_one_seed_have_no_whisker():
    one = ScoreTable([make_score("a", "tau", 0.5, action="x")])
    assert "whisker" not in action_bars(one, {})
    two = ScoreTable([make_score("a", "tau", value, action="x") for value in (0.4, 0.6)])
    assert action_bars(two, {}).count("whisker") == 1
    assert one.actions == ["x"]
    assert ScoreTable([make_score("a", "tau", 0.5)]).actions == []


def test_tasks_are_in_the_order_of_the_papers_and_counts_of_nothing_are_left_out():
    scores = [make_score("a", task, 0.5) for task in ("tau", "zzz", "ap@5", "classification")]
    assert ScoreTable(scores).tasks == ["classification", "tau", "ap@5", "zzz"]
    page = all_rows([replace(scores[0], num_pairs=4), scores[1]])
    assert ">pairs</button>" in page
    assert ">absent</button>" not in page
    assert "0 in every row: " in page


def test_tags_without_a_clip_have_no_chart_and_the_threshold_decides():
    names = tuple(f"t{number}" for number in range(26))
    targets = np.zeros(26, np.int64)
    targets[[3, 5]] = 1
    scores = np.full((1, 26), 0.1, np.float32)
    scores[0, [3, 7]] = 0.4
    clips = [
        replace(clip, targets=targets, embeddings=scores)
        for clip in make_clips(each=2, splits=("val",))
    ]
    text = tag_articles(tag_pages(runs_of(clips, names=names)))
    assert re.findall(r"<figcaption>([^<]*)", text) == ["all tags", "t3", "t5"]
    assert ", 2 more tags" in text
    rows = re.findall(r'<th scope="row">t3</th>(.*?)</tr>', text)[0]
    assert re.findall(r">(\d+)</td>", rows)[:8] == ["0", "0", "0", "100", "0", "0", "0", "100"]


def test_a_run_without_a_recipe_is_called_by_its_name_and_lone_held_out_clips_join_the_others():
    clips = [made.make_clip(name, split="train") for name in "ab"] + [made.make_clip("c")]
    [run] = gather_runs([EmbeddingFile(Path(__file__), {"run": "mine"}, tuple(clips))])
    assert (run.recipe, run.name) == ("mine", "mine")
    assert shown_groups([run], ReportConfig())[0].clip_ids == ("a", "b", "c")


def test_markup_is_the_same_each_time():
    assert [colour_class(number) for number in (-1, 0, 5, 9)] == ["control", "c0", "c5", "c1"]
    assert '{"a":2,"b":1}' in script_data({"b": 1, "a": 2}, name="x")


def test_the_head_of_the_page_says_what_it_is_of(evaluated):
    scores = evaluated.scores.scores
    page = make_report(
        evaluated.files,
        scores,
        frames=made.make_frames,
        config=ReportConfig(height=32, note="Look."),
    ).decode()
    assert '<html lang="en">' in page
    assert "<p>Look.</p>" in page
    assert "3 runs of 2 recipes on made, 2 actions." in page
    assert set(re.findall(r'alt="[^"]+" width="\d+" height="(\d+)"', page)) == {"32"}
    assert re.search(r"best: good[^<]*; the clock: 0\.\d+", page)
    alone = [row for row in scores if row.recipe != "noisy"]
    lone = make_report(evaluated.files[:2], alone, frames=made.make_frames).decode()
    cards = lone.partition('class="cards"')[2].partition("</ul>")[0]
    assert "best: " not in cards
    assert "good" in cards
