"""Learning by aligning videos against the official values and gradients; soft-DTW by hand."""

import math
from functools import partial

import pytest
import torch

from tests.fuse.losses.goldens import arrays, assert_gradient, facts
from tokenreel.fuse.config import LavConfig
from tokenreel.fuse.losses.dtw import path_table, soft_minimum
from tokenreel.fuse.losses.lav import align_videos_loss, soft_dtw

CASES = facts("losses_lav")["cases"]


def read(name):
    case, official = arrays("losses_lav", f"lav/{name}"), CASES[name]["config"]
    config = LavConfig(
        gamma=official["dtw_gamma"],
        normalise=official["dtw_normalize"],
        weight=official["alpha"],
        window=official["sigma"],
        margin=official["margin"],
    )
    both = torch.cat([case["a"], case["b"]])
    return case, both, torch.stack([case["idx_a"], case["idx_b"]]), config


def loss_of(both, times, lengths, config, valid=None):
    valid = torch.ones(times.shape, dtype=torch.bool) if valid is None else valid
    return align_videos_loss(both, times, lengths, valid, torch.tensor([[0, 1]]), config)


@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradient_equal_the_official_ones(name):
    case, both, times, config = read(name)
    both.requires_grad_()

    loss = loss_of(both, times, case["len"].float(), config)
    loss.backward()

    assert loss.item() == pytest.approx(CASES[name]["loss"], rel=1e-5)
    assert_gradient(both.grad, torch.cat([case["grad_a"], case["grad_b"]]))


@pytest.mark.parametrize("name", [name for name in CASES if "normalized" not in name])
def test_soft_dtw_equals_the_official_one(name):
    case, _, _, config = read(name)
    every = torch.ones(1, case["a"].shape[1], dtype=torch.bool)

    found = soft_dtw(case["a"], case["b"], every, every, gamma=config.gamma)

    assert found.item() == pytest.approx(CASES[name]["soft_dtw"], rel=1e-5)


def test_a_table_of_two_by_three_by_hand():
    cost = torch.tensor([[[1.0, 2.0, 4.0], [3.0, 0.0, 1.0]]])

    found = path_table(cost, partial(soft_minimum, gamma=1.0))[0]

    # The cell in the middle below: reached from 1 (corner), 3 (above) and 4 (left).
    middle = -math.log(math.exp(-1) + math.exp(-3) + math.exp(-4))
    last = 1 - math.log(math.exp(-3) + math.exp(-7) + math.exp(-middle))
    wanted = torch.tensor([[1.0, 3.0, 7.0], [4.0, middle, last]])
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1), (4, 7), (7, 4)])
def test_tables_of_any_shape_equal_the_plain_recurrence(shape):
    cost = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    smooth = partial(soft_minimum, gamma=0.3)
    wanted = torch.full((2, shape[0] + 1, shape[1] + 1), 1e10, dtype=torch.float64)
    wanted[:, 0, 0] = 0
    for i in range(shape[0]):
        for j in range(shape[1]):
            former = [wanted[:, i, j], wanted[:, i, j + 1], wanted[:, i + 1, j]]
            wanted[:, i + 1, j + 1] = cost[:, i, j] + smooth(torch.stack(former, dim=-1))

    torch.testing.assert_close(path_table(cost, smooth), wanted[:, 1:, 1:])


def test_padding_changes_only_the_division_by_the_frames():
    case, both, times, config = read("default")
    valid = torch.ones(2, 20, dtype=torch.bool)
    valid[0, 14:] = valid[1, 17:] = False
    spoiled = both.clone()
    spoiled[~valid] = torch.arange(9.0)[:, None]  # padding that does not align with padding
    spoiled.requires_grad_()

    loss = loss_of(spoiled, times, case["len"].float(), config, valid)
    loss.backward()

    assert torch.isfinite(spoiled.grad).all()
    assert (spoiled.grad[~valid] == 0).all()
    changed = both.clone()
    changed[~valid] = -2.0
    torch.testing.assert_close(
        loss_of(changed, times, case["len"].float(), config, valid), loss.detach()
    )
