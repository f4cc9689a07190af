"""Process contrastive loss against the official value and gradient; how bridges are drawn."""

import numpy as np
import pytest
import torch

from tests.fuse.losses.goldens import arrays, assert_gradient, facts
from tokenreel.fuse.losses.vsp import (
    draw_bridges,
    phase_bridges,
    process_contrastive_loss,
    supervised_contrastive_loss,
)


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


def test_segments_follow_one_another_and_overlap_by_their_share():
    valid = torch.zeros(3, 40, dtype=torch.bool)
    valid[0] = valid[1, :7] = valid[2, :3] = True
    overlaps, middles = [], set()
    for seed in range(200):
        rows, bridges = draw_bridges(valid, np.random.default_rng(seed), segments=5, overlap=0.4)
        assert rows.tolist() == [0] * 5 + [1] * 2 + [2]  # short ones have fewer segments
        assert (np.diff(bridges, axis=1) > 0).all()
        assert (bridges[:5] <= 39).all()
        assert (bridges[5:7] <= 6).all()
        assert bridges[7].tolist() == [0, 1, 2]
        starts, ends = bridges[:5, 0], bridges[:5, 2]
        np.testing.assert_allclose(starts, [0, 8, 16, 24, 32], atol=2)
        np.testing.assert_allclose(ends[:-1], starts[1:], atol=4)
        overlaps += (ends[:-1] - starts[1:]).tolist()
        middles.add(bridges[2, 1].item())
    assert set(overlaps) == {0, 1, 2, 3, 4}  # of 10, where one end of a bridge is moved furthest
    assert middles == set(range(15, 26))


def test_one_segment_is_the_whole_sequence_whatever_the_overlap():
    valid = torch.ones(2, 9, dtype=torch.bool)
    _, bridges = draw_bridges(valid, np.random.default_rng(0), segments=1, overlap=0.9)
    assert bridges[:, [0, 2]].tolist() == [[0, 8], [0, 8]]


def test_bridges_of_phases_need_their_boundaries_alone_and_three_frames():
    labels = torch.tensor([[4, 4, 4, 1, 1, -1, -1, -1, 4, 4, 4, 4], [2] * 12])
    valid = torch.ones(2, 12, dtype=torch.bool)
    valid[0, 11] = valid[1, 5:] = False
    middles = set()
    for seed in range(50):
        rows, bridges = phase_bridges(valid, labels, np.random.default_rng(seed))
        assert rows.tolist() == [0, 0, 1]
        assert bridges[:, [0, 2]].tolist() == [[0, 2], [8, 10], [0, 4]]
        assert bridges[:2, 1].tolist() == [1, 9]
        middles.add(bridges[2, 1].item())
    assert middles == {1, 2, 3}
    renamed = torch.where(labels >= 0, 7 - labels, -1)
    np.testing.assert_array_equal(
        phase_bridges(valid, renamed, np.random.default_rng(3))[1],
        phase_bridges(valid, labels, np.random.default_rng(3))[1],
    )


def test_the_supervised_part_is_minus_the_log_of_the_share_of_the_own_phase():
    frames = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]], requires_grad=True)
    # From frame 0: e^2 to its like, e^0 to the other; frame 1 is alone in its phase.
    wanted = np.log((np.exp(2) + 1) / np.exp(2))
    loss = supervised_contrastive_loss(frames, torch.tensor([0, 1, 0]), temperature=0.5)
    assert loss.item() == pytest.approx(wanted, rel=1e-6)
    alone = supervised_contrastive_loss(frames, torch.tensor([0, 1, 2]), temperature=0.5)
    alone.backward()
    assert alone.item() == 0
    assert torch.isfinite(frames.grad).all()
