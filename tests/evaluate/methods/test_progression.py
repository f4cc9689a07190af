"""Regressions by hand, their rounding, and R2 where a target is constant."""

import numpy as np
import pytest

from tokenreel.evaluate.methods.progression import (
    _r2,
    count_absent,
    fit_progression,
    progression_targets,
)


def column(*values):
    return np.array(values, np.float32)[:, None]


def test_a_line_is_found_and_judged_by_hand():
    # y = 2 x + 1 from two clips; on x = 0, 1, 2 it says 1, 3, 5
    found = fit_progression(
        column(0, 2, 4), [column(1, 5), column(9)], column(0, 1, 2), [column(1, 3), column(8)]
    )
    np.testing.assert_allclose(found.predicted[:, 0], [1, 3, 5], rtol=1e-6)
    # wanted 1, 3, 8, mean 4: 1 - 9 / (9 + 1 + 16)
    assert found.score == pytest.approx(1 - 9 / 26, rel=1e-6)


def test_each_boundary_has_its_own_mean_and_counts_alike():
    train = column(0, 1, 2, 3)
    targets = [np.stack([[0, 1, 2, 3], [50, 50, 50, 54]], axis=1).astype(float)]
    wanted = [np.array([[0.0, 50.0], [1.0, 52.0], [2.0, 54.0]])]
    found = fit_progression(train, targets, column(0, 1, 2), wanted)
    # the second boundary: slope 6 / 5, mean 51 at 1.5: 49.2, 50.4, 51.6
    np.testing.assert_allclose(found.predicted[:, 1], [49.2, 50.4, 51.6], rtol=1e-6)
    rest = 0.8**2 + 1.6**2 + 2.4**2
    assert found.score == pytest.approx((1 + 1 - rest / 8) / 2, abs=1e-5)


def test_channels_that_differ_by_rounding_alone_get_no_weight():
    rng = np.random.default_rng(0)
    signal = rng.standard_normal((60, 1)).astype(np.float32)
    noise = 1e-6 * rng.standard_normal((60, 1)).astype(np.float32)
    # 60 * 1.2e-7 = 7e-6 of the largest singular value is taken for zero; 1e-6 is below it
    train = np.concatenate([signal, signal + noise], axis=1)
    target = 3 * signal.astype(np.float64)
    val = np.array([[1.0, 2.0]], np.float32)
    found = fit_progression(train, [target], np.repeat(val, 2, axis=0), [target[:2]])
    # of equal channels each has half the weight
    np.testing.assert_allclose(found.predicted, 3 * 1.5, rtol=1e-3)


def test_r2_as_scikit_learn_has_it_by_hand():
    wanted = np.array([[1.0, 5.0, 5.0, 1.0], [3.0, 5.0, 5.0, 2.0]])
    predicted = np.array([[1.0, 5.0, 5.0, 3.0], [3.0, 5.0, 6.0, 2.0]])
    assert _r2(wanted, predicted).tolist() == [1.0, 1.0, 0.0, -7.0]
    assert np.isnan(_r2(wanted[:1], predicted[:1])).tolist() == [True] * 4
    tiny = 1e-8 * wanted[:, :1]
    assert _r2(tiny, tiny).tolist() == [1.0]
    assert _r2(tiny, tiny[::-1]).tolist() == [pytest.approx(-3.0)]


def test_targets_are_shares_of_the_clip_from_the_end_of_each_phase():
    labels = np.array([0, 0, 1, 2])
    wanted = np.array([[-1, 0, 1, 2], [-2, -1, 0, 1]]).T / 4
    np.testing.assert_array_equal(progression_targets(labels, 3), wanted)
    assert count_absent(np.array([0, 2, 2, 3]), 4) == 1
