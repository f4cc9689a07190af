"""Explanations against their definitions: Grad-CAM by finite differences, shares of attention."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.fuse.systems.stan.test_model import SMALL
from tokenreel.fuse.systems.stan.config import CnnConfig, DistilConfig, HeadConfig, StanConfig
from tokenreel.fuse.systems.stan.explain import explain_clip, grad_cam
from tokenreel.fuse.systems.stan.model import StanModel, scores_of

GRIDS = {"spatial": (2, 3), "temporal": (1, 1)}
DIMS = {"spatial": 5, "temporal": 7}
STORES = {"spatial": "a", "temporal": "b"}
VALID = torch.tensor([[True, True, True, False]])
GATHER = torch.tensor([[0, 1, 2, 2]])  # padding repeats the last


def model_of(**changes):
    config = StanConfig(**{"encoder": SMALL, "head": HeadConfig(widths=(6, 4)), **changes})
    torch.manual_seed(0)
    blocks = {name: 3 for name in DIMS if name not in config.cnns}
    model = StanModel(config, dims=DIMS, num_classes=3, blocks=blocks, stores=STORES)
    return model.double().eval()


def tokens_of(count=3):
    rng = torch.Generator().manual_seed(1)
    return {
        name: torch.randn(count, GRIDS[name][0] * GRIDS[name][1], dim, generator=rng).double()
        for name, dim in DIMS.items()
    }


def frames_of(tokens):
    return {
        STORES[name]: SimpleNamespace(tokens=lambda _, own=own: own, cls=None, pictures=None)
        for name, own in tokens.items()
    }


def score(model, tokens, decided):
    scenes = {name: own.mean(dim=1)[GATHER] for name, own in tokens.items()}
    with torch.no_grad():
        return model(scenes, VALID)[0, : 2 if len(model.heads) == 3 else 1][:, decided].sum()


@pytest.mark.parametrize("fusion", [{}, {"fusion": DistilConfig()}])
def test_a_map_is_each_token_times_the_mean_gradient_of_the_decided_scores(fusion):
    model, tokens = model_of(**fusion), tokens_of()
    found = explain_clip(model, frames_of(tokens), GATHER, VALID, grids=GRIDS, threshold=0.5)
    decided = list(found["decided"])
    step, wanted = 1e-5, np.zeros((3, 2, 3))
    for unit in range(3):
        slopes = []
        for channel in range(DIMS["spatial"]):  # moving the mean by a step
            sides = []
            for sign in (1, -1):
                moved = {name: own.clone() for name, own in tokens.items()}
                moved["spatial"][unit, :, channel] += sign * step
                sides.append(float(score(model, moved, decided)))
            slopes.append((sides[0] - sides[1]) / (2 * step) / 6)  # of one of 6 tokens
        added = tokens["spatial"][unit].numpy() @ np.array(slopes)
        wanted[unit] = np.maximum(added, 0).reshape(2, 3)
    assert wanted.max() > 0
    np.testing.assert_allclose(found["maps"]["spatial"], wanted, atol=1e-7)
    assert set(found["maps"]) == {"spatial"}  # one vector a scene has no places


def test_scores_are_those_of_the_model_and_the_highest_is_explained_where_none_is_decided():
    model, tokens = model_of(), tokens_of()
    scenes = {name: own.mean(dim=1)[GATHER] for name, own in tokens.items()}
    wanted = scores_of(model(scenes, VALID), model.config)[0].detach().numpy()
    for threshold in (0.0, 0.5, 1.0):
        found = explain_clip(
            model, frames_of(tokens), GATHER, VALID, grids=GRIDS, threshold=threshold
        )
        np.testing.assert_allclose(found["scores"], wanted, rtol=1e-6)
        decided = np.flatnonzero(wanted > threshold).tolist() or [int(wanted.argmax())]
        assert list(found["decided"]) == decided


def test_attention_is_the_mean_of_the_heads_by_unit_and_sums_to_1():
    model, tokens = model_of(), tokens_of()
    found = explain_clip(model, frames_of(tokens), GATHER, VALID, grids=GRIDS, threshold=0.5)
    for name, own in tokens.items():
        weights = model.encoders[name].attention(own.mean(dim=1)[GATHER], VALID)
        wanted = weights[0].mean(dim=0)[:3].detach().numpy()
        np.testing.assert_allclose(found["attention"][name], wanted / wanted.sum(), rtol=1e-5)


def test_scenes_that_are_cycled_add_their_attention():
    model, tokens = model_of(fill="cycle"), tokens_of(2)
    gather, valid = torch.tensor([[0, 1, 0, 1]]), torch.ones(1, 4, dtype=torch.bool)
    found = explain_clip(model, frames_of(tokens), gather, valid, grids=GRIDS, threshold=0.5)
    weights = model.encoders["spatial"].attention(tokens["spatial"].mean(dim=1)[gather], valid)
    each = weights[0].mean(dim=0).detach().numpy()
    wanted = np.array([each[0] + each[2], each[1] + each[3]]) / each.sum()
    np.testing.assert_allclose(found["attention"]["spatial"], wanted, rtol=1e-5)


def test_the_map_of_a_trained_cnn_is_grad_cam_of_its_last_map():
    model = model_of(spatial_cnn=CnnConfig(name="small", weights="random:0")).float()
    pictures = torch.randint(0, 256, (3, 1, 32, 40, 3), dtype=torch.uint8)
    frames = frames_of({name: own.float() for name, own in tokens_of().items()})
    frames["a"] = SimpleNamespace(pictures=pictures, cls=None)
    found = explain_clip(model, frames, GATHER, VALID, grids=GRIDS, threshold=0.0)
    assert found["maps"]["spatial"].shape == (3, 4, 4)
    # The vector is the mean of the last map: d score / d place is that of the vector over places.
    net, kept = model.cnns["spatial"].net, []
    net.stages.register_forward_hook(lambda *given: kept.append(given[2]))
    scenes = model.scenes(frames, GATHER)
    total = model(scenes, VALID)[0, 0].sum()
    [slopes] = torch.autograd.grad(total, [scenes["spatial"]])
    by_unit = torch.stack([slopes[0, 0], slopes[0, 1], slopes[0, 2] + slopes[0, 3]]) / 16
    wanted = torch.einsum("fcthw,fc->fhw", kept[0], by_unit).relu()
    torch.testing.assert_close(torch.from_numpy(found["maps"]["spatial"]), wanted.detach())


def test_nothing_of_a_model_changes_and_no_hook_is_left():
    model = model_of(spatial_cnn=CnnConfig(name="small", weights="random:0")).float()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    frames = frames_of({name: own.float() for name, own in tokens_of().items()})
    frames["a"] = SimpleNamespace(
        pictures=torch.zeros((3, 1, 32, 32, 3), dtype=torch.uint8), cls=None
    )
    with torch.inference_mode():
        explain_clip(model, frames, GATHER, VALID, grids=GRIDS, threshold=0.5)
    assert all((value == before[name]).all() for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not model.cnns["spatial"].net.stages._forward_hooks


def test_grad_cam_of_several_frames_is_their_mean():
    maps, slopes = torch.randn(2, 3, 4, 5, 6), torch.randn(2, 3, 4, 5, 6)
    weights = slopes.mean(dim=(2, 3, 4))
    wanted = torch.einsum("fcthw,fc->fthw", maps, weights).relu().mean(dim=1)
    torch.testing.assert_close(grad_cam(maps, slopes), wanted)
