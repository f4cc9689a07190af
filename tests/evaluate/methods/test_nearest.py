"""The block search against a stable sort of all float64 distances."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tokenreel.evaluate.methods import nearest, retrieval
from tokenreel.evaluate.methods.nearest import nearest_in_each_clip, nearest_in_other_clips
from tokenreel.evaluate.methods.retrieval import retrieve_frames


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
SETTINGS = settings(
    max_examples=60,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],  # on a busy machine
)


@SETTINGS
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


@SETTINGS
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


def test_entries_at_the_bound_are_candidates():
    products = np.full((1, 128), 9, np.float32)
    products[0, [3, 70, 71]] = 2, 2, np.nextafter(np.float32(2), np.float32(3))
    rows, cols, values = nearest._below(products, np.array([2], np.float32), np.zeros(1), 5)
    assert (rows.tolist(), cols.tolist(), values.tolist()) == ([0, 0], [3, 70], [2, 2])


def test_a_bound_is_never_rounded_below_the_sum():
    rng = np.random.default_rng(0)
    values = rng.uniform(-3, 3, 10_000).astype(np.float32)
    slack = rng.uniform(0, 1e-6, 10_000)
    raised = nearest._raised(values, slack)
    assert raised.dtype == np.float32
    assert (raised.astype(np.float64) >= values.astype(np.float64) + slack).all()
    # and at most two steps above it
    assert (np.nextafter(raised, np.float32(-9)).astype(np.float64) - 4e-7 <= values + slack).all()


def test_of_candidates_in_a_clip_the_nearest_wins_and_then_the_first():
    # frame 0 of the query against a clip whose frames 1 and 3 are nearest, 2 and 4 a little further
    frames = np.array([[0.0], [3.0], [1.0], [2.0], [-1.0], [2.0]], np.float32)
    found = nearest._first_nearest(
        frames, np.zeros(5, np.int64), np.arange(1, 6), np.array([0] + [0] * 5), np.array([0, 6])
    )
    assert found.tolist() == [[2]]


def test_equal_frames_in_the_order_of_their_clips_by_hand():
    clips = [np.array([[0.0]]), np.array([[2.0], [1.0], [1.0]]), np.array([[1.0], [0.5]])]
    found = nearest_in_other_clips(clips, 6)
    # frames end to end: 0 | 2 1 1 | 1 0.5
    assert found.tolist() == [
        [5, 2, 3, 4, 1, -1],
        [4, 5, 0, -1, -1, -1],
        [4, 5, 0, -1, -1, -1],
        [4, 5, 0, -1, -1, -1],
        [2, 3, 0, 1, -1, -1],
        [0, 2, 3, 1, -1, -1],
    ]


def test_candidates_are_measured_early_where_ties_would_fill_the_memory(monkeypatch):
    held = []
    add = nearest._Candidates.add

    def watched(self, *block):
        bound = add(self, *block)
        held.append(len(self.rows) / (self.num_rows * self.search.count))
        return bound

    monkeypatch.setattr(nearest._Candidates, "add", watched)
    monkeypatch.setattr(nearest, "_COLUMNS", 64)
    clips = [np.full((200, 2), 0.1, np.float32) for _ in range(3)]
    found = nearest_in_other_clips(clips, 2)
    assert max(held) <= nearest._KEPT
    assert found[:200].tolist() == [[200, 201]] * 200
    assert found[200:].tolist() == [[0, 1]] * 400


def line(*values):
    return np.array(values, np.float32)[:, None]


LINES = [line(0, 1), line(), line(0.1, 5), line(1.2)]
PHASES = [np.array([0, 1]), np.array([], int), np.array([0, 0]), np.array([1])]


@pytest.mark.parametrize("ks", [(1, 2, 9), (9, 2, 1)])
def test_precision_counts_and_nan_clips_by_hand(ks):
    found = retrieve_frames(LINES, PHASES, ks)
    # nearest of each frame: 0 -> 0.1, 1.2, 5; 1 -> 1.2, 0.1, 5; 0.1 -> 0, 1, 1.2; 5 -> 1.2, 1, 0;
    # 1.2 -> 1, 0.1, 0, 5; of 9 there are 3 or 4
    np.testing.assert_allclose(found.by_clip[1], [1.0, np.nan, 0.5, 1.0])
    np.testing.assert_allclose(found.by_clip[2], [0.5, np.nan, 0.25, 0.5])
    np.testing.assert_allclose(found.by_clip[9], [1 / 2, np.nan, 1 / 3, 1 / 4])
    assert found.num_nan_clips == 1
    wanted = {1: (1 + 0.5 + 1) / 3, 2: 1.25 / 3, 9: (1 / 2 + 1 / 3 + 1 / 4) / 3}
    assert found.precision == pytest.approx(wanted)
    assert list(found.precision) == list(ks)


def test_a_clip_alone_has_no_gallery():
    found = retrieve_frames([line(), line(0, 1)], [PHASES[1], PHASES[0]], (5,))
    assert np.isnan(found.precision[5])
    assert found.num_nan_clips == 2


def test_memory_and_threads_are_those_of_the_arguments(monkeypatch):
    seen = []
    search = retrieval.nearest_in_other_clips

    def watched(clips, count, **given):
        seen.append((count, given))
        return search(clips, count, **given)

    monkeypatch.setattr(retrieval, "nearest_in_other_clips", watched)
    retrieve_frames(LINES, PHASES, (3, 7, 5), memory_bytes=12345, threads=3)
    assert seen == [(7, {"memory_bytes": 12345, "threads": 3})]
