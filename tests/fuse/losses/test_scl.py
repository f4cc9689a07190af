"""Sequence contrastive loss against the official values and gradients."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tokenreel.fuse.config import SclConfig
from tokenreel.fuse.losses.inputs import LossInput
from tokenreel.fuse.losses.scl import gaussian_labels, scl, sequence_contrastive_loss

GOLDEN = Path(__file__).parents[2] / "golden"
CASES = json.loads((GOLDEN / "scl.json").read_text())["scl"]
NEGATIVES = {"single_noself": "window", "batch_noself": "batch_noself", "batch": "batch"}


def read_case(name):
    with np.load(GOLDEN / "scl.npz") as file:
        case = {key.split("/")[-1]: file[key] for key in file.files if f"scl/{name}/" in key}
    embeddings = torch.from_numpy(case["embs"]).requires_grad_()
    steps = torch.from_numpy(case["steps"]).reshape(embeddings.shape[:3])
    valid = torch.ones(steps.shape, dtype=torch.bool)
    if "masks" in case:
        valid = torch.from_numpy(case["masks"]).reshape(steps.shape) > 0
    return embeddings, steps, valid, case


def loss_of(name, embeddings, steps, valid, mode="official"):
    return sequence_contrastive_loss(
        embeddings,
        steps,
        valid,
        temperature=CASES[name]["temperature"],
        label_variance=CASES[name]["label_variance"],
        label_mode=mode,
        negatives=NEGATIVES[CASES[name]["negative_type"]],
    )


@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradient_equal_the_official_ones(name):
    embeddings, steps, valid, case = read_case(name)

    loss = loss_of(name, embeddings, steps, valid)
    loss.backward()

    assert loss.item() == pytest.approx(CASES[name]["loss"], rel=1e-5, abs=1e-8)
    wanted = case["grad_embs"].reshape(embeddings.shape)
    np.testing.assert_allclose(embeddings.grad, wanted, rtol=1e-5, atol=1e-6)


def test_stable_labels_keep_the_frames_that_underflow_skips():
    embeddings, steps, valid, _ = read_case("far_views_underflow")

    official = loss_of("far_views_underflow", embeddings, steps, valid)
    stable = loss_of("far_views_underflow", embeddings, steps, valid, mode="stable")

    # 2 of 16 rows survive in float32 (4 would in float64, 1.72); in log space all 16 do.
    assert official.item() == pytest.approx(0.51259, abs=1e-5)
    assert stable.item() == pytest.approx(5.23657, abs=1e-4)


def test_both_label_modes_agree_where_nothing_underflows():
    distance = torch.arange(5.0)[:, None] - torch.arange(5.0)
    both = torch.ones(5, 5, dtype=torch.bool)
    both[:, 4] = both[3] = False

    official = gaussian_labels(distance[None], both[None], 10.0, "official")
    stable = gaussian_labels(distance[None], both[None], 10.0, "stable")

    torch.testing.assert_close(official, stable)
    torch.testing.assert_close(official.sum(-1), torch.tensor([[1.0, 1.0, 1.0, 0.0, 1.0]]))


def full_matrix(embeddings, steps, valid, *, temperature, variance, negatives):
    """The loss as the paper's equations and the released masks have it, all pairs in one matrix."""
    clips, windows, frames = valid.shape
    flat, times, real = embeddings.flatten(0, 2), steps.flatten(), valid.flatten()
    both = real[:, None] & real
    window = torch.arange(clips * windows).repeat_interleave(frames)
    clip = window // windows
    is_other_window = (clip[:, None] == clip) & (window[:, None] != window)
    is_negative = {
        "window": is_other_window,
        "clip": clip[:, None] == clip,
        "batch_noself": is_other_window | (clip[:, None] != clip),
        "batch": torch.ones_like(both),
    }[negatives]
    weights = torch.where(both, is_negative.float(), 1e-6)
    gauss = (-((times[:, None] - times).float() ** 2) / (2 * variance)).exp()
    labels = torch.where(both & is_other_window, gauss, 0.0)
    labels = labels / labels.sum(1, keepdim=True).clamp_min(1e-38)
    similar = (flat @ flat.T / temperature).exp()
    shares = similar / (weights * similar).sum(1, keepdim=True)
    terms = torch.special.xlogy(labels, labels) - labels * (shares + 1e-6).log()
    return terms[both].sum() / real.sum()


@pytest.mark.parametrize("negatives", ["window", "clip", "batch_noself", "batch"])
def test_blocks_equal_the_full_matrix_with_padding(negatives):
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.nn.functional.normalize(torch.randn(3, 2, 9, 6, generator=generator), dim=-1)
    steps = torch.arange(9).expand(3, 2, -1)
    valid = torch.arange(9) < torch.tensor([[9, 7], [4, 9], [9, 9]])[..., None]

    found = sequence_contrastive_loss(
        embeddings, steps, valid, temperature=0.1, label_variance=10.0, negatives=negatives
    )

    wanted = full_matrix(
        embeddings, steps, valid, temperature=0.1, variance=10.0, negatives=negatives
    )
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)
    told = sequence_contrastive_loss(
        embeddings,
        steps,
        valid,
        (~valid).flatten().nonzero()[:, 0],
        temperature=0.1,
        label_variance=10.0,
        negatives=negatives,
    )
    assert told == found


def test_where_padding_is_told_no_gpu_is_asked_for_it(monkeypatch):
    embeddings, steps, valid, _ = read_case("far_views_underflow")
    inputs = LossInput(
        embeddings=embeddings,
        steps=steps,
        valid=valid,
        padding=torch.zeros(0, dtype=torch.long),
        labels=-torch.ones_like(steps),
        actions=("",) * len(steps),
        num_frames=torch.full((len(steps),), 9),
        head=torch.nn.Identity(),
        rng=np.random.default_rng(0),
    )
    monkeypatch.setattr(torch.Tensor, "nonzero", None)
    monkeypatch.setattr(torch.Tensor, "__bool__", None)
    monkeypatch.setattr(torch.Tensor, "item", None)
    scl(inputs, SclConfig())


@pytest.mark.parametrize(("frames", "wanted"), [(41, 1), (42, 1), (45, 1), (46, 0)])
def test_a_frame_counts_in_full_until_its_label_is_zero_in_float32(frames, wanted):
    labels = gaussian_labels(
        torch.full((1, 1, 1), float(frames)),
        torch.ones(1, 1, 1, dtype=torch.bool),
        10.0,
        "official",
    )
    assert labels.item() == wanted


@pytest.mark.parametrize("negatives", ["window", "clip", "batch_noself", "batch"])
@pytest.mark.parametrize("temperature", [0.01, 1e-3, 1e-6])
def test_no_temperature_is_too_small_for_float32(temperature, negatives):
    generator = torch.Generator().manual_seed(0)
    exact = torch.nn.functional.normalize(
        torch.randn(2, 2, 8, 6, generator=generator, dtype=torch.float64), dim=-1
    )
    valid = torch.arange(8) < torch.tensor([[8, 1], [5, 8]])[..., None]
    losses = []
    for embeddings in (exact, exact.float().requires_grad_()):
        losses.append(
            sequence_contrastive_loss(
                embeddings,
                torch.arange(8).expand(2, 2, -1),
                valid,
                temperature=temperature,
                label_variance=10.0,
                negatives=negatives,
            )
        )
    losses[1].backward()

    assert embeddings.grad.isfinite().all()
    assert losses[1].item() == pytest.approx(losses[0].item(), rel=1e-4)
