"""What losses are given: sequences of clips, their times, and which of them are aligned."""

import numpy as np
import pytest
import torch

from tokenreel.fuse.losses import LossInput
from tokenreel.fuse.losses.inputs import masked_mean


def make_input(actions=("run", "swim", "run")):
    clips = len(actions)
    return LossInput(
        embeddings=torch.arange(clips * 2 * 4 * 1.0).view(clips, 2, 4, 1),
        steps=torch.arange(4).expand(clips, 2, -1),
        valid=torch.ones(clips, 2, 4, dtype=torch.bool),
        padding=torch.zeros(0, dtype=torch.long),
        labels=torch.zeros(clips, 2, 4, dtype=torch.long),
        actions=actions,
        num_frames=torch.tensor([4, 8, 40])[:clips],
        head=torch.nn.Identity(),
        rng=np.random.default_rng(0),
    )


def test_sequences_lengths_and_times_are_clip_by_clip():
    inputs = make_input()

    embeddings, valid = inputs.sequences()
    assert embeddings[:, 0, 0].tolist() == [0, 4, 8, 12, 16, 20]
    assert valid.shape == (6, 4)
    assert inputs.lengths().tolist() == [4, 4, 8, 8, 40, 40]
    assert inputs.times(normalise=False)[2].tolist() == [0, 1, 2, 3]
    assert inputs.times(normalise=True)[3].tolist() == [0, 0.125, 0.25, 0.375]


def test_pairs_are_clips_of_one_action_or_windows_of_one_clip():
    inputs = make_input()

    assert inputs.pairs("action", "ordered").tolist() == [[0, 4], [1, 5], [4, 0], [5, 1]]
    assert inputs.pairs("action", "unordered").tolist() == [[0, 4], [1, 5]]
    assert inputs.pairs("windows", "unordered").tolist() == [[0, 1], [2, 3], [4, 5]]


def test_a_batch_without_a_pair_says_which_actions_it_has():
    with pytest.raises(
        ValueError, match=r"clips of the actions \['run', 'swim'\], 2 windows of each"
    ):
        make_input(("run", "swim")).pairs("action", "ordered")


def test_a_mean_over_nothing_is_zero_and_has_no_nan_in_its_gradient():
    values = torch.tensor([torch.inf, 1.0], requires_grad=True)
    assert masked_mean(values, torch.tensor([False, True])).item() == 1
    nothing = masked_mean(values, torch.tensor([False, False]))
    nothing.backward()
    assert nothing.item() == 0
    assert torch.isfinite(values.grad).all()
