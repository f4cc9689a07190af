"""Views: how many frames, in order, within the clip, overlapping, and the same for a seed."""

import numpy as np
import pytest

from tokenreel.fuse.sampling import sample_views


def draw(clip_frames, num_frames=20, *, alpha=1.5, beta=0.2, seed=0):
    rng = np.random.default_rng(seed)
    return sample_views(clip_frames, num_frames, alpha=alpha, beta=beta, rng=rng)


@pytest.mark.parametrize("clip_frames", [1, 5, 20, 25, 30, 200])
def test_frames_are_in_order_and_within_the_clip(clip_frames):
    for seed in range(50):
        views = draw(clip_frames, seed=seed)
        assert views.frames.shape == views.valid.shape == (2, 20)
        assert (np.diff(views.frames, axis=1) >= 0).all()
        assert views.frames.min() >= 0
        assert views.frames.max() < clip_frames
        assert views.valid.any(axis=1).all() or clip_frames < 20


def test_a_long_clip_has_no_padding_and_no_frame_twice():
    for seed in range(50):
        views = draw(200, seed=seed)
        assert views.valid.all()
        assert (np.diff(views.frames, axis=1) > 0).all()


def test_padding_repeats_the_last_frame():
    views = draw(5)
    assert (views.frames[~views.valid] == 4).all()
    assert not views.valid.all()


def test_a_view_spans_at_most_alpha_times_its_frames():
    spans = [np.ptp(draw(400, seed=seed).frames, axis=1).max() for seed in range(200)]
    assert max(spans) < 30
    assert max(spans) > 25


def test_the_crops_of_a_long_clip_overlap():
    for seed in range(200):
        frames = draw(1000, 100, alpha=1.0, beta=0.5, seed=seed).frames
        overlap = frames[:, -1].min() - frames[:, 0].max() + 1
        assert overlap >= 50


def test_the_same_generator_gives_the_same_views():
    np.testing.assert_array_equal(draw(100, seed=3).frames, draw(100, seed=3).frames)
    assert (draw(100, seed=3).frames != draw(100, seed=4).frames).any()
