"""Time-contrastive loss against the official values and gradients."""

import pytest
import torch

from tests.fuse.losses.goldens import arrays, assert_gradient, facts
from tokenreel.fuse.losses.tcn import time_contrastive_loss

CASES = facts("losses")["tcn"]


@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradient_equal_the_official_ones(name):
    case = arrays("losses", f"tcn/{name}")
    embeddings = case["embs"].requires_grad_()
    valid = torch.ones(embeddings.shape[:2], dtype=torch.bool)

    loss = time_contrastive_loss(embeddings, valid, regularisation=CASES[name]["reg_lambda"])
    loss.backward()

    assert loss.item() == pytest.approx(CASES[name]["loss"], rel=1e-5)
    assert_gradient(embeddings.grad, case["grad_embs"])


def test_pairs_with_padding_and_sequences_of_padding_do_not_count():
    embeddings = arrays("losses", "tcn/basic")["embs"]
    valid = torch.ones(2, 16, dtype=torch.bool)
    valid[0, 11:] = False  # the anchor of pair 5 is there, its positive is not
    valid[1] = False

    loss = time_contrastive_loss(embeddings, valid, regularisation=0.002)

    short = embeddings[:1, :10]
    wanted = time_contrastive_loss(short, valid[:1, :10], regularisation=0.002)
    torch.testing.assert_close(loss, wanted)


def test_an_odd_number_of_frames_is_refused():
    with pytest.raises(ValueError, match="5 frames cannot be pairs"):
        time_contrastive_loss(torch.zeros(1, 5, 2), torch.ones(1, 5).bool(), regularisation=0.0)
