"""Which files share a clock, and what its file holds."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.evaluate.clips import make_clip
from tokenreel.cache.embeddings import EmbeddedClip, EmbeddingFile, read_embeddings
from tokenreel.evaluate.data.clock import Clocks, clock_embeddings, common_scores


def a_clip(name, action="a", **changes):
    return replace(make_clip(name, "val", action=action, frames=6), **changes)


def a_file(*clips, run="r", unit="frame", class_names=(), **provenance):
    about = {"dataset": "d", "run": run, **provenance}
    return EmbeddingFile(Path("x.h5"), about, clips, unit, class_names)


def numbers(*files) -> list[int]:
    clocks = Clocks()
    return [clocks.add(file) for file in files]


@pytest.mark.parametrize(
    "changes",
    [
        {"clip_id": "w"},
        {"split": "test"},
        {"group": "g"},
        {"phases": ("a", "b", "z")},
        {"labels": np.zeros(6, np.int16)},
        {"targets": np.ones(2, np.int64)},
        {"embeddings": np.zeros((7, 4), np.float32)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_clips_that_are_evaluated_otherwise_have_another_clock(changes):
    clip = a_clip("v")
    assert numbers(a_file(clip), a_file(replace(clip, **changes)), a_file(clip)) == [0, 1, 0]


def test_embeddings_times_and_videos_are_nothing_to_the_clock():
    clip = a_clip("v")
    others = {"embeddings": np.ones((6, 9), np.float32), "times_seconds": np.arange(6.0) + 7}
    assert numbers(a_file(clip), a_file(replace(clip, video="z.mp4", **others))) == [0, 0]


@pytest.mark.parametrize(
    "changes",
    [
        {"dataset": "e"},
        {"evaluate": {"stride": 2}},
        {"unit": "scene"},
        {"class_names": ("x",)},
        {"pairs": 1},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_files_of_another_data_set_or_evaluated_by_other_settings_have_another_clock(changes):
    clip = a_clip("v")
    assert numbers(a_file(clip), a_file(clip, **changes), a_file(clip)) == [0, 1, 0]


def test_files_share_a_clock_where_all_their_common_actions_are_the_same():
    one, two, other = a_clip("1"), a_clip("2", "b"), a_clip("2", "b", group="g")
    assert numbers(a_file(one), a_file(two), a_file(one, two)) == [0, 0, 0]
    assert numbers(a_file(one, two), a_file(one, other), a_file(other)) == [0, 1, 1]
    changed = a_file(replace(one, group="g"))
    assert numbers(a_file(one), a_file(two), changed) == [0, 0, 1]
    unnamed = [a_file(clip, dataset="") for clip in (one, two)]
    assert numbers(*unnamed, a_file(one, two, dataset="")) == [0, 1, 0]


def test_each_clock_has_a_file_of_its_clips_with_what_they_are_evaluated_by(tmp_path):
    clocks = Clocks()
    settings = {"stride": 2}
    one, two, other = a_clip("1", "b"), a_clip("2", "a"), a_clip("1", "b", group="g")
    for file in (
        a_file(one, run="first", evaluate=settings),
        a_file(two, one, run="second", evaluate=settings),
        a_file(other, run="third", unit="scene"),
    ):
        clocks.add(file)
    paths = clocks.write(tmp_path)
    assert [path.name for path in paths] == ["clock.h5", "clock-2.h5"]
    found = [read_embeddings(path) for path in paths]
    assert [clip.clip_id for clip in found[0].clips] == ["2", "1"]  # by name of their action
    assert found[0].provenance == {
        "dataset": "d",
        "evaluate": settings,
        "run": "clock",
        "recipe": "clock",
        "model": "clock",
    }
    name = "clock of third"
    assert found[1].provenance == {
        "dataset": "d",
        "evaluate": {},
        "run": name,
        "recipe": name,
        "model": "clock",
    }
    assert (found[0].unit, found[1].unit) == ("frame", "scene")
    for clip in found[0].clips:
        np.testing.assert_array_equal(clip.embeddings, clock_embeddings(6))
        assert clip.labels.tolist() == [0, 0, 1, 1, 2, 2]


def of_one_row(name, split, *, targets=(), channels=2):
    rows = np.zeros((1, channels), np.float32), np.array([-1], np.int16), np.zeros(1)
    return EmbeddedClip(name, split, "", "", *rows, targets=np.array(targets, np.int64))


def test_of_tags_every_clip_has_a_half_and_half_the_share_of_each_in_training(tmp_path):
    shares = ((1, 0), (1, 1), (0, 0), (1, 0))
    clips = [of_one_row(str(n), "train", targets=own) for n, own in enumerate(shares)]
    clips.append(of_one_row("v", "val", targets=(0, 1)))
    file = a_file(*clips, unit="clip", class_names=("x", "y"))
    assert common_scores(file).tolist() == [[0.875, 0.625]]
    assert common_scores(a_file(clips[-1], class_names=("x", "y"))).tolist() == [[0.5, 0.5]]
    clocks = Clocks()
    clocks.add(file)
    [path] = clocks.write(tmp_path)
    found = read_embeddings(path)
    assert (found.unit, found.class_names) == ("clip", ("x", "y"))
    assert [clip.embeddings.tolist() for clip in found.clips] == [[[0.875, 0.625]]] * 5


def test_of_clips_beside_texts_every_clip_has_the_same_vector_of_unit_length(tmp_path):
    clocks = Clocks()
    clips = [of_one_row(name, "val", channels=4) for name in "12"]
    clocks.add(a_file(*clips, pairs={"texts": 1}))
    [path] = clocks.write(tmp_path)
    found = read_embeddings(path)
    assert [clip.embeddings.tolist() for clip in found.clips] == [[[0.5] * 4]] * 2
    assert found.provenance["pairs"] == {"texts": 1}
