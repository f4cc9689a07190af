"""Two clips side by side: matches, agreement, names, and the table of the path."""

import csv
import io

import numpy as np
import pytest

from tokenreel.cache.embeddings import EmbeddedClip, EmbeddingFile
from tokenreel.cache.errors import UsageError
from tokenreel.evaluate.methods import alignment
from tokenreel.evaluate.methods.alignment import (
    PATH_COLUMNS,
    align_pair,
    find_clip,
    path_table,
    phase_name,
)


def make_clip(clip_id, values, labels, *, phases=("a", "b"), first_index=0):
    return EmbeddedClip(
        clip_id=clip_id,
        split="val",
        action="act",
        group="",
        embeddings=np.array(values, np.float32)[:, None],
        labels=np.array(labels, np.int16),
        times_seconds=np.arange(len(values)) / 4,
        phases=phases,
        frame_index=first_index + np.arange(len(values)),
    )


@pytest.fixture
def pair():
    query = make_clip("x/one", [0, 1, 5], [0, 0, 1])
    reference = make_clip("x/two", [0, 0, 1, 5, 5], [0, 0, 1, 1, -1], first_index=10)
    return align_pair(query, reference)


def test_the_path_goes_where_the_values_are_equal(pair):
    assert pair.path.steps.tolist() == [[0, 0], [0, 1], [1, 2], [2, 3], [2, 4]]
    assert pair.path.total == 0
    assert pair.distances[0].tolist() == [0, 0, 1, 25, 25]


def test_a_frame_with_several_steps_is_matched_with_their_middle(pair):
    assert pair.matches.tolist() == [0, 2, 3]
    same = align_pair(make_clip("q", [0], [0]), make_clip("r", [0, 0, 0], [0, 0, 0]))
    assert same.matches.tolist() == [1]


def test_agreement_is_of_steps_labelled_in_both(pair):
    assert pair.phase_agreement == 3 / 4
    unlabelled = make_clip("u", [0, 1], [-1, -1])
    assert np.isnan(align_pair(unlabelled, unlabelled).phase_agreement)


def test_tau_is_of_nearest_neighbours(pair):
    assert pair.tau == 1.0
    assert align_pair(pair.query, make_clip("back", [5, 1, 0], [0, 0, 0])).tau == -1.0


def test_the_table_has_frames_times_and_phases_of_every_step(pair):
    rows = list(csv.DictReader(io.StringIO(path_table(pair).decode())))
    assert tuple(rows[0]) == PATH_COLUMNS
    assert len(rows) == 5
    assert rows[2] == {
        "step": "2",
        "query_frame": "1",
        "reference_frame": "2",
        "query_index": "1",
        "reference_index": "12",
        "query_seconds": "0.25",
        "reference_seconds": "0.5",
        "cost": "0.0",
        "query_phase": "a",
        "reference_phase": "b",
    }
    assert rows[4]["reference_phase"] == ""


def test_a_phase_without_a_name_is_its_number():
    assert phase_name(make_clip("c", [0], [3]), 0) == "3"
    assert phase_name(make_clip("c", [0], [2]), 0) == "2"  # of two names
    assert phase_name(make_clip("c", [0], [1]), 0) == "b"


def make_file(tmp_path, *names):
    clips = tuple(make_clip(name, [0], [0]) for name in names)
    return EmbeddingFile(tmp_path / "e.h5", {}, clips)


def test_a_clip_is_found_by_a_unique_part_of_its_name(tmp_path):
    file = make_file(tmp_path, "val/lift_1", "val/lift_2", "lift_2")
    assert find_clip(file, "ift_1").clip_id == "val/lift_1"
    assert find_clip(file, "lift_2").clip_id == "lift_2"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("none", "no clip matches in .*e.h5, which has 2; such as val/lift_1, val/lift_2"),
        ("val/", "2 clips match"),
        ("", "no clip matches"),
    ],
)
def test_another_name_is_refused_with_those_there_are(tmp_path, name, words):
    with pytest.raises(UsageError, match=words):
        find_clip(make_file(tmp_path, "val/lift_1", "val/lift_2"), name)


def test_long_clips_have_the_path_of_short_ones_and_distances_of_some_frames(monkeypatch):
    query, reference = make_clip("q", [0, 1, 5, 9], [0] * 4), make_clip("r", [0, 0, 1, 5], [0] * 4)
    short = align_pair(query, reference)
    assert short.distances.shape == (4, 4)
    monkeypatch.setattr(alignment, "TABLE_CELLS", 9)
    long = align_pair(query, reference)
    assert long.path.steps.tolist() == short.path.steps.tolist()
    assert long.nearest.tolist() == short.nearest.tolist()
    # frames 0, 1.5 -> 2 and 3 of each
    assert long.distances.tolist() == [[0, 1, 25], [25, 16, 0], [81, 64, 16]]
