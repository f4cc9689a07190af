"""Process contrastive loss against the official value and gradient; how bridges are drawn."""

import numpy as np
import pytest
import torch

from tests.fuse.losses.goldens import arrays, assert_gradient, facts
from tokenreel.fuse.losses.vsp import draw_bridges, process_contrastive_loss


def test_loss_and_gradient_equal_the_official_ones():
    case = arrays("losses", "pcl/single_segment")
    embeddings = case["embs"].requires_grad_()
    times = case["bridges"][:, 0]
    points = embeddings[torch.arange(4)[:, None], times.long()]

    loss = process_contrastive_loss(points, times)
    loss.backward()

    wanted = facts("losses")["pcl"]["single_segment"]["loss"]
    assert loss.item() == pytest.approx(wanted, rel=1e-5)
    assert_gradient(embeddings.grad, case["grad_embs"])


def test_far_points_do_not_underflow():
    points = torch.tensor([[[0.0], [50.0], [0.0]], [[90.0], [90.0], [90.0]]])
    times = torch.tensor([[0, 1, 2], [0, 1, 2]])

    assert torch.isfinite(process_contrastive_loss(points, times))


def test_bridges_span_the_valid_frames_and_their_middles_are_inside():
    valid = torch.zeros(4, 9, dtype=torch.bool)
    for row, count in enumerate([9, 2, 3, 5]):
        valid[row, :count] = True
    middles = set()
    for seed in range(50):
        rows, bridges = draw_bridges(valid, np.random.default_rng(seed))
        assert rows.tolist() == [0, 2, 3]  # two frames are no bridge
        assert bridges[:, 0].tolist() == [0, 0, 0]
        assert bridges[:, 2].tolist() == [8, 2, 4]
        assert bridges[1, 1] == 1
        middles.add(bridges[0, 1].item())
    assert middles == set(range(1, 8))
