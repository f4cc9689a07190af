"""The block search against a stable sort of all float64 distances."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenreel.evaluate.methods import nearest
from tokenreel.evaluate.methods.nearest import nearest_in_each_clip, nearest_in_other_clips


def exact(queries, gallery):
    difference = queries.astype(np.float64)[:, None] - gallery.astype(np.float64)[None]
    return np.square(difference).sum(axis=2)


def slow_in_other_clips(clips, count):
    frames = np.concatenate(clips)
    clip_of = np.repeat(np.arange(len(clips)), [len(clip) for clip in clips])
    distances = exact(frames, frames)
    distances[clip_of[:, None] == clip_of[None]] = np.inf
    order = np.argsort(distances, axis=1, kind="stable")[:, :count]
    order = np.pad(order, ((0, 0), (0, count - order.shape[1])))
    there = np.take_along_axis(distances, order, axis=1) < np.inf
    there[:, len(frames) :] = False
    return np.where(there, order, -1)


def make_clips(lengths, channels, kind, seed):
    rng = np.random.default_rng(seed)
    clips = [rng.standard_normal((n, channels)) for n in lengths]
    if kind == "ties":
        clips = [np.round(clip) for clip in clips]
    if kind == "constant":
        clips = [np.full_like(clip, 0.1) for clip in clips]
    if kind == "far":  # a large mean and a small spread: float32 products see nothing
        clips = [1e4 + 1e-2 * clip for clip in clips]
    if kind == "huge":
        clips = [1e25 * clip for clip in clips]
    return [clip.astype(np.float32) for clip in clips]


KINDS = ("normal", "ties", "constant", "far", "huge")


@settings(deadline=None, max_examples=60)
@given(
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=7).filter(any),
    channels=st.integers(1, 9),
    kind=st.sampled_from(KINDS),
    count=st.integers(1, 15),
    seed=st.integers(0, 99),
)
def test_the_search_equals_a_stable_sort_of_all_distances(lengths, channels, kind, count, seed):
    clips = make_clips(lengths, channels, kind, seed)
    found = nearest_in_other_clips(clips, count, memory_bytes=20_000)
    np.testing.assert_array_equal(found, slow_in_other_clips(clips, count))


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_of_the_gallery_and_threads_change_nothing(monkeypatch, kind):
    monkeypatch.setattr(nearest, "_COLUMNS", 128)
    clips = make_clips([57, 1, 200, 129, 64, 90], 5, kind, seed=1)
    wanted = slow_in_other_clips(clips, 15)
    for memory_bytes, threads in ((1, 1), (300_000, 3)):
        found = nearest_in_other_clips(clips, 15, memory_bytes=memory_bytes, threads=threads)
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_measuring_candidates_early_changes_nothing_and_bounds_their_number(monkeypatch, kind):
    monkeypatch.setattr(nearest, "_COLUMNS", 64)
    monkeypatch.setattr(nearest, "_KEPT", 1)
    sizes = []
    quick = nearest._Candidates._keep_nearest

    def watched(self):
        sizes.append(len(self.rows) / self.num_rows)
        return quick(self)

    monkeypatch.setattr(nearest._Candidates, "_keep_nearest", watched)
    clips = make_clips([57, 1, 200, 129, 64, 90], 5, kind, seed=2)
    found = nearest_in_other_clips(clips, 7)
    np.testing.assert_array_equal(found, slow_in_other_clips(clips, 7))
    assert max(sizes) <= 7 + 64


@pytest.mark.parametrize("group", [1, 4])
def test_equal_distances_that_rounding_parts_are_not_lost(monkeypatch, group):
    # groups of one frame make the first bound as tight as it can be
    monkeypatch.setattr(nearest, "_GROUP", group)
    clips = make_clips([40, 60, 50], 9, "ties", seed=3)
    found = nearest_in_other_clips(clips, 15)
    np.testing.assert_array_equal(found, slow_in_other_clips(clips, 15))


@settings(deadline=None, max_examples=60)
@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=6),
    channels=st.integers(1, 9),
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 99),
)
def test_the_nearest_frame_of_each_clip_is_the_first_of_the_smallest(lengths, channels, kind, seed):
    clips = make_clips(lengths, channels, kind, seed)
    for memory_bytes in (1, 10**9):
        found = list(nearest_in_each_clip(clips, memory_bytes=memory_bytes))
        for own, near in zip(clips, found, strict=True):
            wanted = [exact(own, other).argmin(axis=1) for other in clips]
            np.testing.assert_array_equal(near, np.stack(wanted, axis=1))


def test_no_clips_have_no_nearest_frames():
    assert list(nearest_in_each_clip([])) == []
