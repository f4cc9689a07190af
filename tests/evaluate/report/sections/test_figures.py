"""What is shown of the runs: groups, matrices, confusion, projections."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from tests.evaluate.report import made
from tokenreel.cache.embeddings import EmbeddingFile
from tokenreel.evaluate.methods.alignment import align_pair
from tokenreel.evaluate.report.data.gather import (
    Group,
    ReportConfig,
    gather_runs,
    shown_groups,
    shown_runs,
)
from tokenreel.evaluate.report.page.html import Html
from tokenreel.evaluate.report.sections.alignment import align_group, heat_png, matrix_figure
from tokenreel.evaluate.report.sections.confusion import confuse
from tokenreel.evaluate.report.sections.projection import project
from tokenreel.evaluate.report.sections.retrieval import retrieve_group


def test_one_run_a_recipe_is_shown_and_colours_are_of_recipes(evaluated):
    runs = gather_runs(evaluated.files)
    assert [run.colour for run in runs] == [0, 0, 1]
    names = [run.name for run in shown_runs(runs, ReportConfig())]
    assert names == ["good-seed0", "noisy-seed0"]


def test_groups_are_the_held_out_clips_of_actions(evaluated):
    runs = gather_runs(evaluated.files)
    groups = shown_groups(runs, ReportConfig())
    assert [group.title for group in groups] == ["Action jump", "Action wave"]
    assert groups[0].clip_ids == ("jump/v0", "jump/v1", "jump/v2")


def without_action(clip, **changes):
    return replace(clip, action="", group="", **changes)


def test_clips_without_actions_are_compared_as_in_the_tables(evaluated):
    file = evaluated.files[0]

    def groups(clips):
        runs = gather_runs([replace(file, clips=tuple(clips))])
        return [(group.title, len(group.clip_ids)) for group in shown_groups(runs, ReportConfig())]

    num_val = sum(clip.split == "val" for clip in file.clips)
    assert groups(without_action(clip) for clip in file.clips) == [("All clips", num_val)]
    some = [without_action(clip) if clip.action == "jump" else clip for clip in file.clips]
    assert groups(some) == [("Action wave", 3), ("Clips without an action", 3)]
    unlabelled = (without_action(clip, labels=clip.labels * 0 - 1) for clip in file.clips)
    assert groups(unlabelled) == []


def test_the_pair_is_of_the_clips_with_the_most_phases(evaluated):
    clips = evaluated.files[0].clips
    few = [
        replace(clip, labels=clip.labels * 0) if clip.clip_id == "jump/v0" else clip
        for clip in clips
    ]
    [run] = gather_runs([replace(evaluated.files[0], clips=tuple(few))])
    found = align_group(Group("g", ("jump/v0", "jump/v1", "jump/v2")), [run], ReportConfig())
    [(_, pair)] = found.pairs
    assert (pair.query.clip_id, pair.reference.clip_id) == ("jump/v1", "jump/v2")


def test_a_run_without_the_pair_is_left_out_of_its_pictures(evaluated):
    one, other = gather_runs([evaluated.files[0], evaluated.files[2]])
    kept = tuple(clip for clip in other.file.clips if clip.clip_id != "jump/v0")
    other = replace(other, file=replace(other.file, clips=kept))
    group = Group("g", ("jump/v0", "jump/v1", "jump/v2"))
    assert len(align_group(group, [one, other], ReportConfig()).pairs) == 1
    found = retrieve_group(group, [one, other], ReportConfig(queries=2))
    assert [len(query.found) for query in found.queries] == [1, 2]


def test_a_run_that_has_fewer_frames_of_a_clip_is_left_out_of_its_pictures(evaluated):
    one, other = gather_runs([evaluated.files[0], evaluated.files[2]])
    short = made.make_clip("jump/v0", frames=3)
    clips = [short if clip.clip_id == "jump/v0" else clip for clip in other.file.clips]
    other = replace(other, file=replace(other.file, clips=tuple(clips)))
    group = Group("g", ("jump/v0", "jump/v1", "jump/v2"))
    assert len(align_group(group, [one, other], ReportConfig()).pairs) == 1
    found = retrieve_group(group, [one, other], ReportConfig(queries=1))
    assert [len(query.found) for query in found.queries] == [1]


def test_the_matrix_is_bright_where_frames_are_near():
    distances = np.full((4, 6), 4.0)
    distances[1, 2] = 0
    with Pillow.open(io.BytesIO(heat_png(distances))) as picture:
        image = np.asarray(picture.convert("RGB")).astype(int)
    assert image.shape == (4, 6, 3)
    assert image[1, 2].tolist() == [253, 234, 69]
    assert image[0, 0].tolist() == [0, 34, 78]


def test_a_long_matrix_is_made_smaller_and_equal_frames_are_no_division_by_zero():
    with Pillow.open(io.BytesIO(heat_png(np.zeros((900, 50))))) as picture:
        assert picture.size == (50, 160)


def test_the_path_and_the_phases_are_drawn_in_units_of_the_plot():
    query, reference = (made.make_clip(name, frames=10, noise=0) for name in "ab")
    page = matrix_figure(align_pair(query, reference), title=Html("t"), number_of_run=0)
    steps = " ".join(f"{11 + 22 * i:.1f},{11 + 22 * i:.1f}" for i in range(10))
    assert f'class="path" points="{steps}"' in page
    assert page.count("<title>crouch</title>") == 2
    assert 'class="p0" x="29.0" y="20.0" width="88.0"' in page  # 4 of 10 frames of 220 units


def test_confusion_agrees_with_the_score_of_the_table(evaluated):
    runs = gather_runs(evaluated.files)
    for run in runs:
        for group in shown_groups(runs, ReportConfig()):
            found = confuse(run, group)
            values = {
                f"Action {score.action}": score.value
                for score in evaluated.scores.scores
                if (score.run, score.task) == (run.name, "classification")
            }
            share = np.trace(found.counts) / found.counts.sum()
            assert share == pytest.approx(values[group.title])
    assert found.names == ("up", "down")


def test_confusion_counts_true_by_row():
    train = [made.make_clip("t", split="train", noise=0)]
    shown = made.make_clip("v", noise=0)
    shown = replace(shown, labels=np.where(shown.labels == 2, 1, shown.labels).astype(np.int16))
    [run] = gather_runs_of([*train, shown])
    found = confuse(run, Group("g", ("v",)))
    assert found.counts.tolist() == [[7, 0, 0], [0, 7, 6], [0, 0, 0]]


def gather_runs_of(clips):
    file = EmbeddingFile(Path(__file__), {}, tuple(clips))  # any file that can be hashed
    return gather_runs([file])


def test_pca_finds_the_plane_and_its_sign_is_fixed():
    rng = np.random.default_rng(0)
    plane = rng.standard_normal((50, 2)) * [5, 2]
    frames = np.zeros((50, 6), np.float32)
    frames[:, [1, 4]] = plane
    points, words = project(frames, method="pca")
    again, _ = project(frames[:, ::-1].copy(), method="pca")
    centred = plane - plane.mean(axis=0)
    assert np.allclose(np.linalg.norm(points, axis=1), np.linalg.norm(centred, axis=1), atol=1e-5)
    assert np.allclose(points, again, atol=1e-5)
    assert words == "PCA, 100 % of the variance"


@pytest.mark.parametrize("shape", [(1, 3), (5, 1), (6, 4), (12, 1)])
def test_small_and_constant_sets_are_projected_too(shape):
    for method in ("pca", "tsne"):
        points, _ = project(np.ones(shape, np.float32), method=method)
        assert points.shape == (shape[0], 2)
        assert np.isfinite(points).all()


def test_tsne_parts_two_clusters_the_same_way_each_time():
    rng = np.random.default_rng(0)
    frames = np.concatenate([rng.normal(0, 1, (20, 5)), rng.normal(50, 1, (20, 5))])
    points, words = project(frames.astype(np.float32), method="tsne")
    again, _ = project(frames.astype(np.float32), method="tsne")
    assert np.array_equal(points, again)
    gap = np.linalg.norm(points[:20].mean(0) - points[20:].mean(0))
    assert gap > 2 * points[:20].std()
    assert words == "t-SNE, perplexity 13"
