"""Retrieval by hand and by a naive loop; accuracy and gains class by class."""

import numpy as np
import pytest

from tokenreel.evaluate.methods import pairs
from tokenreel.evaluate.methods.pairs import (
    chance_of_clips,
    chance_of_texts,
    class_accuracy,
    gains,
    ranks_of_clips,
    ranks_of_texts,
)


def test_ranks_of_four_clips_that_are_worked_by_hand():
    # clips 0 and 1 have one text; the vector of clip 1 is nearer to the text of clip 2
    texts = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    clips = np.array([[0.8, 0.6], [0.6, 0.8], [0.9, 0.1], [-0.9, 0.1]])
    numbers = np.array([4, 4, 9, 2])
    # text 4: .8 .6 .9 -.9, right ones are 0 and 1: one wrong is above; text 9: .6 .8 .1 .1,
    # right is 2: two above and one level; text 2: -.8 -.6 -.9 .9
    assert ranks_of_clips(clips, texts, numbers).tolist() == [2, 2, 4, 1]
    # clip 0 by texts 4 (.8), 9 (.6), 2; clip 1 by 4 (.6), 9 (.8); clip 2 by 9 (.1) after 4 (.9)
    assert ranks_of_texts(clips, texts, numbers).tolist() == [1, 2, 2, 1]
    assert chance_of_clips(numbers) == (2 / 4 + 2 / 4 + 1 / 4 + 1 / 4) / 4
    assert chance_of_texts(numbers) == 1 / 3


def test_vectors_that_are_all_the_same_find_nothing():
    same, numbers = np.ones((5, 3)), np.array([0, 0, 1, 2, 3])
    assert ranks_of_clips(same, same, numbers).tolist() == [4, 4, 5, 5, 5]
    assert ranks_of_texts(same, same, numbers).tolist() == [4] * 5


def naive_rank(query, candidates, is_right):
    order = sorted(
        range(len(candidates)), key=lambda place: (-query @ candidates[place], is_right[place])
    )
    return 1 + min(rank for rank, place in enumerate(order) if is_right[place])


@pytest.mark.parametrize("at_once", [1, 7, 1024])
def test_ranks_are_those_of_a_naive_search(monkeypatch, at_once):
    monkeypatch.setattr(pairs, "AT_ONCE", at_once)
    rng = np.random.default_rng(0)
    numbers = rng.integers(0, 9, 20)
    of_number = rng.integers(-3, 4, (9, 4)).astype(float)
    texts, clips = of_number[numbers], rng.integers(-3, 4, (20, 4)).astype(float)
    wanted = [
        naive_rank(text, clips, numbers == own) for text, own in zip(texts, numbers, strict=True)
    ]
    assert ranks_of_clips(clips, texts, numbers).tolist() == wanted
    different = np.unique(numbers)
    wanted = [
        naive_rank(clip, of_number[different], different == own)
        for clip, own in zip(clips, numbers, strict=True)
    ]
    assert ranks_of_texts(clips, texts, numbers).tolist() == wanted


def test_accuracy_of_classes_counts_clips_as_often_as_they_are_drawn():
    right, classes = np.array([1, 0, 1, 1]), np.array([0, 0, 2, 2])
    assert class_accuracy(right, classes, 3).tolist() == pytest.approx(
        [0.5, np.nan, 1], nan_ok=True
    )
    drawn = class_accuracy(right, classes, 3, np.array([3, 1, 0, 0]))
    assert drawn.tolist() == pytest.approx([0.75, np.nan, np.nan], nan_ok=True)


def test_gains_leave_out_classes_without_a_clip():
    one, two = np.array([0.5, 1.0, np.nan, 0.2, 0.5]), np.array([0.5, 0.5, 1.0, 0.9, 0.5])
    assert gains(one, two) == [(3, 0.7), (0, 0.0), (4, 0.0), (1, -0.5)]
