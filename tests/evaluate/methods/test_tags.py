"""Metrics of tags: the golden numbers of two versions of scikit-learn, ties, weights, controls."""

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from tokenreel.evaluate.methods.tags import (
    Ranking,
    by_support,
    count_decided,
    mean_average_precision,
    top_k_accuracy,
)

AVERAGES = ("weighted", "macro", "micro", "samples")
RULES = {"102": "nan", "191": "zero"}
SUPPORTS = (130, 197, 46, 13, 224, 102, 87, 267, 117, 115, 44, 104, 41, 86, 107, 30, 45, 12, 21)
GOLDEN = Path(__file__).parents[2] / "golden"


@pytest.fixture(scope="module")
def inputs():
    with np.load(GOLDEN / "classification_metrics_inputs.npz") as file:
        return dict(file)


@pytest.mark.parametrize("version", RULES)
def test_the_numbers_are_those_of_scikit_learn_by_its_rule(inputs, version):
    wanted = json.loads((GOLDEN / f"classification_metrics_sklearn{version}.json").read_text())
    targets, scores = inputs["ml_targets"], inputs["ml_scores"]
    rule = RULES[version]
    for average in AVERAGES:
        found = mean_average_precision(targets, scores, average, absent=rule)
        value = wanted[f"mAP_{average}"]
        assert found == pytest.approx(np.nan if value is None else value, abs=1e-12, nan_ok=True)
    of_tags = Ranking(targets, scores).average_precision()
    assert np.isnan(of_tags).sum() == 1
    known = [
        np.nan if v is None or s == 0 else v
        for v, s in zip(wanted["ap_per_class"], wanted["support"], strict=True)
    ]
    np.testing.assert_allclose(of_tags, known, atol=1e-12)
    for threshold in (0.3, 0.5):
        tags = count_decided(targets, scores, threshold)
        clips = count_decided(targets.T, scores.T, threshold)
        assert tags.support.tolist() == wanted["support"]
        for name, attribute in (("precision", "precision"), ("recall", "recall"), ("f1", "f1")):
            found = {
                "weighted": by_support(getattr(tags, attribute), tags.support),
                "macro": getattr(tags, attribute).mean(),
                "micro": getattr(tags.total(), attribute)[0],
                "samples": getattr(clips, attribute).mean(),
            }
            for average, value in found.items():
                assert value == pytest.approx(wanted[f"{name}_{average}@{threshold}"], abs=1e-12)
    for k in (1, 5):
        found = top_k_accuracy(inputs["sl_logits"], inputs["sl_targets"], k).mean()
        assert found == pytest.approx(wanted[f"top{k}"])


def test_equal_scores_are_one_threshold_and_rows_may_count_more_than_once():
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 2, (40, 5))
    scores = rng.integers(0, 4, (40, 5)) / 4
    weights = rng.integers(0, 4, 40)
    found = Ranking(targets, scores).average_precision(weights)
    rows = np.repeat(np.arange(40), weights)
    wanted = [average_precision_score(targets[rows, k], scores[rows, k]) for k in range(5)]
    np.testing.assert_allclose(found, wanted, atol=1e-12)
    some = count_decided(targets, scores, 0.5, weights)
    again = count_decided(targets[rows], scores[rows], 0.5)
    assert some.right.tolist() == again.right.tolist()


def test_what_has_no_tag_and_no_clip_is_left_out_by_default():
    targets = np.array([[1, 0, 0], [0, 0, 0], [1, 0, 1]])
    scores = np.array([[3, 1, 1], [2, 2, 2], [1, 3, 3]])
    assert mean_average_precision(targets, scores, "macro") == pytest.approx((5 / 6 + 1) / 2)
    zero = mean_average_precision(targets, scores, "macro", absent="zero")
    assert zero == pytest.approx((5 / 6 + 0 + 1) / 3)
    assert mean_average_precision(targets, scores, "weighted") == pytest.approx((5 / 3 + 1) / 3)
    samples = mean_average_precision(targets, scores, "samples")
    assert samples == pytest.approx((1 + (1 / 2 + 2 / 3) / 2) / 2)
    none = np.zeros_like(targets)
    for average in AVERAGES:
        assert np.isnan(mean_average_precision(none, scores, average))


def test_every_tag_of_every_clip_gives_the_papers_random_row():
    """Of the printed supports: P_w .19 and R_w 1 as printed; F1_w .313, where it prints .318."""
    targets = np.zeros((754, 19))
    for tag, support in enumerate(SUPPORTS):
        targets[:support, tag] = 1
    found = count_decided(targets, np.ones((754, 19)), 0.3)
    values = [by_support(x, found.support) for x in (found.precision, found.recall, found.f1)]
    assert np.round(values, 3).tolist() == [0.194, 1.0, 0.313]
    ones = np.ones((754, 19))
    assert round(mean_average_precision(targets, ones, "weighted"), 3) == 0.194
    assert round(mean_average_precision(targets, ones, "macro"), 3) == 0.125
