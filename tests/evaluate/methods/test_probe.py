"""Classifiers and draws of clips, by hand."""

import numpy as np
import pytest
from scipy.special import logsumexp

from tokenreel.evaluate.methods.probe import (
    LogisticFit,
    classify_phases,
    fit_logistic,
    stratified_draw,
)


def test_equal_remainders_go_to_the_first_phases_whatever_their_rounding():
    # 9 clips of three phases, 3 each; of 7 clips a phase has 2 1/3: the one left over is phase 0's
    labels = [np.full(2, phase) for phase in (0, 0, 0, 1, 1, 1, 2, 2, 2)]
    # 5 phases in shares whose floats differ in the last digit: 3 * k / 10
    uneven = [np.full(1, phase) for phase in (0, 1, 1, 2, 2, 3, 3, 4, 4, 4)]
    for seed in range(10):
        chosen = stratified_draw(labels, 7, seed=seed)
        assert [sum(i // 3 == phase for i in chosen) for phase in range(3)] == [3, 2, 2]
        drawn = [int(uneven[i][0]) for i in stratified_draw(uneven, 6, seed=seed)]
        # shares 0.6, 1.2, 1.2, 1.2, 1.8: whole ones 0 1 1 1 1, then the remainders 0.8 and 0.6
        assert drawn == [0, 1, 2, 3, 4, 4]


def test_a_clip_counts_for_the_phase_that_the_fewest_clips_have():
    labels = [np.array([0, 1]), np.array([0, 1]), np.array([0, 1, 2]), np.array([0])]
    # phase 1 is in three clips, 2 in one, 0 in four: clip 3 alone counts for phase 0
    for seed in range(5):
        chosen = stratified_draw(labels, 2, seed=seed)
        # shares of 2: phase 0 a half, phase 1 one, phase 2 a half; of equal remainders the first
        assert 3 in chosen
        assert 2 not in chosen


def test_large_embeddings_do_not_overflow():
    train = np.array([[900.0, 0], [1000, 0], [0, 900], [0, 1000]], np.float32)
    labels = np.array([4, 4, 7, 7])
    fit = fit_logistic(train, labels)
    assert np.isfinite(fit.weight).all()
    assert fit.predict(train).tolist() == labels.tolist()


def test_the_fit_is_where_the_gradient_of_the_penalised_loss_is_zero():
    rng = np.random.default_rng(0)
    train = rng.standard_normal((30, 3)).astype(np.float32)
    labels = rng.integers(0, 3, 30) + 2
    fit = fit_logistic(train, labels)
    assert fit.classes.tolist() == [2, 3, 4]
    logits = train.astype(float) @ fit.weight.T + fit.bias
    shares = np.exp(logits - logsumexp(logits, axis=1, keepdims=True))
    error = shares - (labels[:, None] == fit.classes)
    assert np.abs(error.T @ train + fit.weight).max() < 1e-3  # biases are not penalised
    assert np.abs(error.sum(axis=0)).max() < 1e-3


def test_labels_are_found_again_by_their_numbers():
    fit = LogisticFit(
        np.array([3, 8]), np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([0.0, 0.5]), num_iterations=1
    )
    frames = np.array([[2, 1], [1, 2], [1, 0.6]], np.float32)
    assert fit.predict(frames).tolist() == [3, 8, 8]


def test_one_phase_is_no_classification():
    with pytest.raises(ValueError, match=r"hold 1 phase.s., a classifier needs 2"):
        classify_phases(
            np.ones((2, 1), np.float32), np.zeros(2, int), np.ones((1, 1)), np.zeros(1, int)
        )
