"""Temporal cycle consistency against the official values and gradients."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.fuse.losses.goldens import arrays, assert_gradient, facts
from tokenreel.fuse.config import TccConfig
from tokenreel.fuse.losses.inputs import LossInput
from tokenreel.fuse.losses.tcc import cycle_back_logits, tcc, temporal_cycle_consistency_loss

CASES = facts("losses")["tcc"]
FINITE = [name for name, case in CASES.items() if "loss" in case]
KINDS = {
    "regression_mse_var": "mse_var",
    "regression_mse": "mse",
    "regression_huber": "huber",
    "classification": "classification_kl",
}
PAIRS = torch.tensor([[0, 1], [1, 0]])


def read(name):
    case, official = arrays("losses", f"tcc/{name}"), CASES[name]["config"]
    config = TccConfig(
        kind=KINDS[official["LOSS_TYPE"]],
        temperature=official["SOFTMAX_TEMPERATURE"],
        label_smoothing=official["LABEL_SMOOTHING"],
        variance_weight=official["VARIANCE_LAMBDA"],
    )  # huber_delta is 1, whatever the official setting: the released code does not read it
    times = case["steps"].float()
    if official["NORMALIZE_INDICES"]:
        times = times / case["seq_lens"][:, None]
    return case, times, config


def loss_of(embeddings, times, config, valid=None):
    valid = torch.ones(times.shape, dtype=torch.bool) if valid is None else valid
    return temporal_cycle_consistency_loss(embeddings, times, valid, PAIRS, config)


@pytest.mark.parametrize("name", FINITE)
def test_loss_and_gradient_equal_the_official_ones(name):
    case, times, config = read(name)
    embeddings = case["embs"].requires_grad_()

    loss = loss_of(embeddings, times, config)
    loss.backward()

    assert loss.item() == pytest.approx(CASES[name]["loss"], rel=1e-5)
    assert_gradient(embeddings.grad, case["grad_embs"])


def test_embeddings_so_far_apart_that_cycles_are_certain_give_no_finite_loss():
    case, times, config = read("collapsed_assert")

    assert CASES["collapsed_assert"]["exception"] == "AssertionError"
    assert not torch.isfinite(loss_of(case["embs"], times, config))


def test_classification_is_the_cross_entropy_of_the_frame_that_a_cycle_returns_to():
    case, times, _ = read("mse_var_default")
    config = TccConfig(kind="classification", label_smoothing=0.0)
    every = torch.ones(2, 20, dtype=torch.bool)
    logits = cycle_back_logits(case["embs"], case["embs"].flip(0), every, config)

    wanted = functional.cross_entropy(logits.flatten(0, 1), torch.arange(20).repeat(2))
    torch.testing.assert_close(loss_of(case["embs"], times, config), wanted)


def test_cycles_over_products_equal_the_sums_written_out():
    generator = torch.Generator().manual_seed(0)
    one, other = torch.randn(2, 6, 5, generator=generator, dtype=torch.float64)
    times = torch.arange(6.0, dtype=torch.float64)
    config = TccConfig(kind="mse", similarity="cosine", temperature=0.5, label_smoothing=0.0)

    found = temporal_cycle_consistency_loss(
        torch.stack([one, other]), times.repeat(2, 1), torch.ones(2, 6).bool(), PAIRS[:1], config
    )

    errors = []
    for number, frame in enumerate(one):
        there = torch.stack([frame @ x / 5 / 0.5 for x in other]).exp()
        neighbour = there @ other / there.sum()
        back = torch.stack([neighbour @ x / 5 / 0.5 for x in one]).exp()
        errors.append(float(back @ times / back.sum() - number) ** 2)
    assert found.item() == pytest.approx(np.mean(errors), rel=1e-12)


def test_embeddings_of_one_frame_return_to_the_mean_time_to_the_last_digit():
    embeddings = torch.ones(2, 3, 4, dtype=torch.float64)
    times = torch.arange(3.0, dtype=torch.float64).repeat(2, 1)

    loss = loss_of(embeddings, times, TccConfig(kind="mse", label_smoothing=0.1))

    # From 0, 1, 2 the target is at 0.15, 1 and 1.85: a tenth is on the two other frames.
    assert loss.item() == pytest.approx(2 / 3 * 0.85**2, rel=1e-14)


@pytest.mark.parametrize("kind", ["mse_var", "mse", "huber", "classification", "classification_kl"])
def test_padding_changes_nothing(kind):
    case, times, _ = read("mse_var_default")
    config = TccConfig(kind=kind)
    valid = torch.ones(2, 20, dtype=torch.bool)
    valid[:, 15:] = False
    spoiled = case["embs"].clone()
    spoiled[:, 15:] = case["embs"][:, :5].flip(0)  # as near as any frame

    short = loss_of(case["embs"][:, :15], times[:, :15], config)
    torch.testing.assert_close(loss_of(spoiled, times, config, valid), short)


def test_a_clip_of_one_frame_begins_no_cycle_but_ends_those_of_others():
    embeddings = torch.randn(3, 1, 5, 8, generator=torch.manual_seed(0)).requires_grad_()
    valid = torch.ones(3, 1, 5, dtype=torch.bool)
    valid[2, 0, 1:] = False
    steps = torch.arange(5).expand(3, 1, 5)
    inputs = LossInput(
        embeddings=embeddings,
        steps=steps,
        valid=valid,
        padding=torch.arange(11, 15),
        labels=-torch.ones_like(steps),
        actions=("a", "a", "a"),
        num_frames=torch.tensor([5, 5, 1]),
        head=nn.Identity(),
        rng=np.random.default_rng(0),
    )
    config = TccConfig()

    loss = tcc(inputs, config)
    loss.backward()

    pairs = torch.tensor([[0, 1], [0, 2], [1, 0], [1, 2]])
    times = inputs.times(normalise=True)
    wanted = temporal_cycle_consistency_loss(embeddings[:, 0], times, valid[:, 0], pairs, config)
    torch.testing.assert_close(loss, wanted)
    assert embeddings.grad.isfinite().all()
    assert embeddings.grad[2, 0, 0].abs().sum() > 0
