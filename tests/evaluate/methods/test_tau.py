"""Tau-b against scipy, and the hand-made sets whose answer is known."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau

from tokenreel.evaluate.methods import tau
from tokenreel.evaluate.methods.tau import align_clips, tau_b, tau_b_rows


@settings(
    max_examples=150,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],  # on a busy machine
)
@given(
    rows=st.integers(1, 5),
    count=st.integers(2, 60),
    values=st.integers(1, 50),
    seed=st.integers(0, 999),
    short=st.sampled_from([0, 256]),
)
def test_tau_b_equals_scipy_to_1e_12_compared_or_merged(rows, count, values, seed, short):
    sequences = np.random.default_rng(seed).integers(0, values, (rows, count))
    wanted = [kendalltau(np.arange(count), row).statistic for row in sequences]
    was, tau._SHORT = tau._SHORT, short
    try:
        found = tau_b_rows(sequences)
    finally:
        tau._SHORT = was
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("count", [255, 257, 1000, 4097])
def test_long_sequences_equal_scipy(count):
    sequence = np.random.default_rng(count).integers(0, count, count)
    wanted = kendalltau(np.arange(count), sequence).statistic
    assert tau_b(sequence) == pytest.approx(wanted, abs=1e-12)


def line(frames, start=0.0, step=1.0):
    return (start + step * np.arange(frames, dtype=np.float32))[:, None]


def test_a_copy_gives_1_a_reversed_clip_minus_1():
    assert align_clips([line(9), line(9)]).tau == 1.0
    assert align_clips([line(9), line(9)[::-1]]).tau == -1.0


def test_a_one_frame_clip_gives_nan_as_query_and_as_candidate():
    found = align_clips([line(9), line(1), line(9)])
    assert (found.tau, found.num_pairs, found.num_nan_pairs) == (1.0, 6, 4)
    assert np.isnan(found.pairs[0, 1])
    assert np.isnan(found.pairs[1, 0])


def test_a_constant_clip_gives_nan_both_ways():
    found = align_clips([line(9), np.zeros((5, 1), np.float32), line(9)])
    assert (found.tau, found.num_nan_pairs) == (1.0, 4)


def test_all_ties_give_nan_and_every_pair_is_counted():
    found = align_clips([np.full((6, 128), 0.1, np.float32) for _ in range(3)])
    assert np.isnan(found.tau)
    assert found.num_nan_pairs == found.num_pairs == 6


def test_a_clip_without_frames_gives_nan():
    found = align_clips([line(4), line(4)[:0], line(4)])
    assert (found.tau, found.num_nan_pairs) == (1.0, 4)


def test_small_blocks_change_nothing():
    rng = np.random.default_rng(0)
    clips = [rng.standard_normal((n, 3)).astype(np.float32) for n in (5, 17, 30)]
    np.testing.assert_array_equal(
        align_clips(clips, memory_bytes=1).pairs, align_clips(clips).pairs
    )


def test_rows_of_later_blocks_are_compared_too(monkeypatch):
    monkeypatch.setattr(tau, "_PAIRS", 20)  # two rows of three frames at a time
    rows = np.array([[0, 1, 2], [0, 1, 1], [2, 1, 0], [1, 1, 1], [0, 2, 1]])
    wanted = [1.0, 2 / 6**0.5, -1.0, np.nan, 1 / 3]
    np.testing.assert_allclose(tau_b_rows(rows), wanted, rtol=1e-12)


def test_a_pair_is_the_order_of_the_first_clip_in_the_second():
    long, short = line(3, step=10), line(2, step=10)
    found = align_clips([long, short])
    # 0, 10, 20 are nearest to frames 0, 1, 1: two pairs rise, one is tied; back it is 0, 1
    np.testing.assert_allclose(found.pairs, [[np.nan, 2 / 6**0.5], [1.0, np.nan]], rtol=1e-12)
    assert found.tau == pytest.approx((2 / 6**0.5 + 1) / 2)
    assert (found.num_pairs, found.num_nan_pairs) == (2, 0)


def test_a_clip_without_frames_is_nan_in_its_own_row_and_column():
    pairs = align_clips([line(4)[:0], line(4), line(4)[::-1]]).pairs
    np.testing.assert_array_equal(np.isnan(pairs), [[1, 1, 1], [1, 1, 0], [1, 0, 1]])
    assert pairs[1, 2] == pairs[2, 1] == -1


def test_memory_is_that_of_the_argument(monkeypatch):
    seen = []
    search = tau.nearest_in_each_clip
    monkeypatch.setattr(
        tau, "nearest_in_each_clip", lambda clips, **given: seen.append(given) or search(clips)
    )
    align_clips([line(3), line(3)], memory_bytes=12345)
    assert seen == [{"memory_bytes": 12345}]


def test_long_sequences_are_merged_without_comparing_all_pairs(monkeypatch):
    monkeypatch.setattr(tau, "_compare", None)  # would be called
    assert tau_b_rows(np.arange(tau._SHORT + 1)[None]).tolist() == pytest.approx([1.0])
