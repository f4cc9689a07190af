"""Drawings of attention, by hand: colours of weights, names of files, clips of words."""

from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest

from tokenreel.cache.errors import UsageError
from tokenreel.extract.video.types import VideoError
from tokenreel.pipeline.phases import attention
from tokenreel.pipeline.phases.attention import (
    DIMMED,
    LONGEST_NAME,
    SIDE,
    _enlarge,
    _overlay,
    _panels,
    _scaled,
    file_name,
    find_clips,
)


def store(*names):
    return SimpleNamespace(records=dict.fromkeys(names), path="s")


def test_clips_are_ids_or_parts_that_one_clip_has():
    own = store("a", "ab", "abc", "xyz")
    assert find_clips(own, ["a", "bc", "y", "abc"]) == ["a", "abc", "xyz"]
    with pytest.raises(UsageError, match="'b': 2 clips match in s, name one of ab, abc"):
        find_clips(own, ["b"])
    with pytest.raises(UsageError, match="'xyw': no such clip in s, did you mean xyz"):
        find_clips(own, ["xyw"])
    with pytest.raises(UsageError, match="no clip is named: --clips"):
        find_clips(own, [])
    many = store(*(f"clip{number}" for number in range(7)))
    with pytest.raises(UsageError, match="clip0, clip1, clip2, clip3, clip4, \\.\\.\\."):
        find_clips(many, ["clip"])


def test_names_of_files_are_those_of_clips_or_unique_and_short():
    assert file_name("a-b_c.mp4") == "a-b_c.mp4"
    assert file_name("a/b") != file_name("a_b") == "a_b"
    long = "x" * (LONGEST_NAME + 1)
    assert file_name(long).startswith("x" * LONGEST_NAME + "-")
    assert len(file_name(long)) == LONGEST_NAME + 9
    assert file_name("x" * LONGEST_NAME) == "x" * LONGEST_NAME


def test_weights_are_scaled_alike_over_the_clip_and_for_each_entity_alone():
    weights = np.zeros((2, 2, 1, 2), np.float32)
    weights[0, 0] = [[0.5, 0.25]]
    weights[1, 0] = [[0.1, 0.0]]
    weights[:, 1] = 0.02
    scaled = _scaled(weights)
    brightest = np.percentile(weights[:, 0], 99.5)
    np.testing.assert_allclose(scaled[:, 0], np.minimum(weights[:, 0] / brightest, 1), rtol=1e-5)
    assert scaled[:, 1].min() == 1


def test_pixels_are_enlarged_by_the_nearest_ones():
    image = np.arange(6).reshape(2, 3)
    assert _enlarge(image, 6)[:, 0].tolist() == [0, 0, 0, 3, 3, 3]
    assert _enlarge(image, 6)[0].tolist() == [0, 0, 1, 1, 2, 2]


def test_a_frame_is_dimmed_where_nobody_looks_and_comes_first_in_the_movie():
    image = np.full((4, 4, 3), 100, np.uint8)
    assert (_overlay(np.zeros((2, 2), np.float32), image, 8) == round(DIMMED * 100)).all()
    found = SimpleNamespace(weights=np.ones((1, 2, 2, 2), np.float32))
    [with_frame] = _panels(found, iter([image]))
    assert with_frame.shape == (SIDE, 3 * SIDE, 3)
    assert (with_frame[:, :SIDE] == 100).all()
    [alone] = _panels(found, iter([None]))
    assert alone.shape == (SIDE, 2 * SIDE, 3)


@pytest.mark.parametrize(("step", "rate"), [(0.1, 10), (0.0, 25), (9.0, 1), (0.001, 60)])
def test_numbers_and_movie_are_those_of_the_clip_without_its_video_too(
    tmp_path, monkeypatch, step, rate
):
    def gone(*_, **__):
        raise VideoError("no such file")

    movies = []
    monkeypatch.setattr("tokenreel.extract.preview.show.frames_as_seen", gone)
    monkeypatch.setattr(
        attention,
        "write_movie",
        lambda _, images, *, rate, **__: movies.append((len([*images]), rate)),
    )
    record = SimpleNamespace(clip_id="a", video="a.mp4", phases=("x",), split="val", action="")
    weights = np.full((3, 2, 1, 2), 0.5, np.float32)
    labels = np.array([0, -1, 0])
    found = SimpleNamespace(
        record=record, weights=weights, labels=labels, times_seconds=np.arange(3) * step
    )
    files = attention._write(found, None, tmp_path, tmp_path)
    assert movies == [(3, Fraction(rate))]
    assert files.unseen_reason == f"{tmp_path / 'a.mp4'}: no such file"
    with np.load(files.numbers) as numbers:
        assert numbers["labels"].tolist() == [0, -1, 0]
        np.testing.assert_array_equal(numbers["weights"], weights)
    assert files.grid.read_bytes().startswith(b"\x89PNG")
