"""Global temporal alignment against the official values, gradients and tables."""

from functools import partial

import pytest
import torch

from tests.fuse.losses.goldens import arrays, assert_gradient, facts
from tokenreel.fuse.config import GtaConfig
from tokenreel.fuse.losses.dtw import expected_minimum, path_table, soft_minimum
from tokenreel.fuse.losses.gta import global_alignment_loss, match_costs

CASES = facts("losses_gta")["cases"]
CONTRASTIVE = [name for name, case in CASES.items() if case["column_softmax"]]
MINIMA = {"dtw_prob": "expected", "dtw_minGamma": "soft"}
SMOOTH = {"dtw_prob": expected_minimum, "dtw_minGamma": soft_minimum}


def make_config(name):
    case = CASES[name]
    return GtaConfig(
        consistency=case["alignment"] == "D2TW_consistency",
        minimum=MINIMA[case["softning"]],
        gamma_path=case["gamma_s"],
        gamma_match=case["gamma_f"],
        label_smoothing=case["label_smoothing"],
    )


def loss_of(embeddings, config, valid=None):
    valid = torch.ones(embeddings.shape[:2], dtype=torch.bool) if valid is None else valid
    pairs = torch.tensor([[0, other] for other in range(1, len(embeddings))])
    return global_alignment_loss(embeddings, valid, pairs, config)


@pytest.mark.parametrize("name", CONTRASTIVE)
def test_loss_and_gradient_equal_the_official_ones(name):
    case = arrays("losses_gta", f"gta/{name}")
    embeddings = case["embs"].requires_grad_()

    loss = loss_of(embeddings, make_config(name))
    loss.backward()

    assert loss.item() == pytest.approx(CASES[name]["loss"], rel=1e-5)
    assert_gradient(embeddings.grad, case["grad"])


@pytest.mark.parametrize("name", CASES)
def test_costs_and_paths_equal_the_official_tables(name):
    case, about = arrays("losses_gta", f"gta/{name}"), CASES[name]
    every = torch.ones(1, case["embs"].shape[1], dtype=torch.bool)
    costs = match_costs(case["embs"][:1], case["embs"][1:2], every, about["gamma_f"])
    if name in CONTRASTIVE:
        torch.testing.assert_close(costs[0], case["cost_01"], rtol=1e-5, atol=1e-5)

    smooth = partial(SMOOTH[about["softning"]], gamma=about["gamma_s"])
    found = path_table(case["cost_01"][None], smooth)[0]

    torch.testing.assert_close(found, case["dtw_table_01_finite"], rtol=1e-5, atol=1e-5)


def test_the_gradient_of_a_path_equals_the_official_one_for_plain_costs():
    case = arrays("losses_gta", "gta/no_norm")
    embeddings = case["embs"].requires_grad_()
    costs = embeddings[:1] @ embeddings[1:2].transpose(1, 2)

    loss = path_table(costs, partial(soft_minimum, gamma=0.1))[0, -1, -1]
    loss.backward()

    assert loss.item() == pytest.approx(CASES["no_norm"]["loss"], rel=1e-5)
    assert_gradient(embeddings.grad, case["grad"])


@pytest.mark.parametrize("name", ["consistency_default", "d2tw_only"])
def test_padding_counts_nowhere(name):
    embeddings = arrays("losses_gta", f"gta/{name}")["embs"]
    padded = torch.cat([embeddings, torch.full((3, 4, 16), 3.0)], dim=1).requires_grad_()
    valid = torch.arange(12).expand(3, -1) < 8

    loss = loss_of(padded, make_config(name), valid)
    loss.backward()

    torch.testing.assert_close(loss, loss_of(embeddings, make_config(name)))
    assert torch.isfinite(padded.grad).all()
    assert (padded.grad[:, 8:] == 0).all()
