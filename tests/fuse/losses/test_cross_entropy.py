"""Supervised loss: labelled frames that are not padding, and no others."""

import math

import pytest
import torch

from tokenreel.fuse.losses.cross_entropy import frame_classification_loss


def test_only_labelled_frames_that_are_not_padding_count():
    logits = torch.zeros(1, 1, 4, 3)
    logits[0, 0, 0, 2] = math.log(2)  # a share of 2 / 4
    logits[0, 0, 2:] = torch.tensor([9.0, -9.0, 0.0])
    labels = torch.tensor([[[2, 1, -1, 1]]])
    valid = torch.tensor([[[True, True, True, False]]])

    loss = frame_classification_loss(logits, labels, valid)

    assert loss.item() == pytest.approx((math.log(2) + math.log(3)) / 2)


def test_a_batch_without_labels_costs_nothing_and_has_a_gradient():
    logits = torch.randn(1, 2, 3, 4, requires_grad=True)
    loss = frame_classification_loss(logits, torch.full((1, 2, 3), -1), torch.ones(1, 2, 3).bool())
    loss.backward()

    assert loss.item() == 0
    assert (logits.grad == 0).all()
