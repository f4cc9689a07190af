"""Shuffle and learn: which triplets are drawn, and what the classifier is asked."""

import math

import numpy as np
import pytest
import torch

from tokenreel.fuse.losses.sal import draw_triplets, shuffle_and_learn_loss

VALID = torch.arange(12).expand(3, -1) < torch.tensor([[12], [4], [5]])


def test_ordered_triplets_are_monotonic_and_shuffled_ones_are_not():
    for seed in range(20):
        rows, triplets, is_ordered = draw_triplets(
            VALID, np.random.default_rng(seed), count=8, shuffled=0.75
        )
        assert rows.tolist() == [0] * 8 + [2] * 8  # four frames are no five
        gaps = np.diff(triplets, axis=1)
        np.testing.assert_array_equal((gaps > 0).all(1) | (gaps < 0).all(1), is_ordered)
        assert triplets.min() >= 0
        assert (triplets < VALID.sum(-1).numpy()[rows][:, None]).all()


def test_of_five_frames_the_middle_three_are_in_order_and_the_first_or_last_between_is_not():
    rng = np.random.default_rng(0)
    _, triplets, is_ordered = draw_triplets(VALID[2:], rng, count=400, shuffled=0.75)
    assert {tuple(one) for one in triplets[is_ordered].tolist()} == {(1, 2, 3), (3, 2, 1)}
    assert {tuple(one) for one in triplets[~is_ordered].tolist()} == {
        (1, 0, 3),
        (1, 4, 3),
        (3, 0, 1),
        (3, 4, 1),
    }


def test_three_quarters_are_shuffled_and_half_run_backwards():
    rng = np.random.default_rng(0)
    _, triplets, is_ordered = draw_triplets(VALID[:1], rng, count=4000, shuffled=0.75)

    assert is_ordered.mean() == pytest.approx(0.25, abs=0.03)
    assert (triplets[:, 2] > triplets[:, 0]).mean() == pytest.approx(0.5, abs=0.03)


def test_a_classifier_that_knows_nothing_loses_log_two():
    loss = shuffle_and_learn_loss(torch.zeros(6, 2), torch.arange(6) % 2 == 0)

    assert loss.item() == pytest.approx(math.log(2))


def test_sequences_that_are_too_short_give_no_triplets():
    rows, triplets, is_ordered = draw_triplets(
        VALID[1:2], np.random.default_rng(0), count=8, shuffled=0.75
    )

    assert (len(rows), triplets.shape, len(is_ordered)) == (0, (0, 3), 0)
