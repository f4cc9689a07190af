"""Pooled attention: reference and absorbed form are equal, with gradients and in every variant."""

from dataclasses import replace

import pytest
import torch

from tests.fuse.kernels.cases import (
    error,
    gradients,
    in_float64,
    loss_of,
    make_tokens,
    make_weights,
    parameters,
)
from tokenreel.fuse.kernels import CodedTokens, ops, pooled_attention

DTYPES = [torch.int8, torch.float16, torch.bfloat16, torch.float32, torch.float64]
VARIANTS = {
    "plain": ({}, {}),
    "heads": ({"heads": 4}, {}),
    "per_frame": ({"per_frame": True, "heads": 2}, {}),
    "tokens_as_values": ({"values": None}, {}),
    "normalised": ({"heads": 2}, {"normalise_keys": True}),
    "normalised_per_frame": ({"per_frame": True}, {"normalise_keys": True}),
    "disjoint": ({"heads": 2}, {"disjoint": True}),
    "disjoint_tokens_as_values": ({"values": None}, {"disjoint": True}),
    "normalised_disjoint": ({}, {"normalise_keys": True, "disjoint": True}),
}


@pytest.fixture(params=["compiled loops", "plain torch"])
def path(request, monkeypatch):
    """Either form of the absorbed path."""
    if request.param == "plain torch":
        monkeypatch.setattr(ops, "loops_obstacle", lambda: "the test says so")


def make_packed(frames=2, tokens=9, width=72):
    """Two 4-bit codes a byte, with a scale for each 64 channels."""
    rng = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 256, (frames, tokens, width // 2), generator=rng, dtype=torch.uint8)
    return CodedTokens((codes,), (torch.rand(frames, tokens, 2, generator=rng),))


def both(tokens, weights, **options):
    """The reference and the absorbed form, in float64."""
    truth, other = in_float64(weights), in_float64(weights)
    wanted = pooled_attention(
        tokens, [truth], implementation="reference", with_attention=True, **options
    )
    found = pooled_attention(
        tokens, [other], implementation="absorbed", with_attention=True, **options
    )
    return wanted, truth, found, other


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("folds", [False, True])
def test_absorbed_equals_project_and_attend(variant, folds):
    of_weights, options = VARIANTS[variant]
    tokens = make_tokens(torch.float64, frames=3, tokens=11, widths=(12, 20), folds=folds)
    wanted, truth, found, other = both(tokens, make_weights(tokens, **of_weights), **options)
    assert error(found[0].entities, wanted[0].entities) < 1e-13
    assert error(found[0].attention, wanted[0].attention) < 1e-13
    true_grads = gradients(wanted, truth)
    for name, grad in gradients(found, other).items():
        assert error(grad, true_grads[name]) < 1e-11 or not grad.any(), name


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("variant", ["plain", "disjoint", "normalised"])
def test_absorbed_equals_the_reference_where_tokens_are_hidden(variant):
    of_weights, options = VARIANTS[variant]
    tokens = make_tokens(torch.int8, tokens=11, widths=(24,))
    hidden = torch.rand(2, 11, generator=torch.Generator().manual_seed(1)) < 0.4
    weights = make_weights(tokens, **of_weights)
    wanted, truth, found, other = both(tokens, weights, hidden=hidden, **options)
    assert error(found[0].entities, wanted[0].entities) < 1e-13
    assert not found[0].attention.transpose(1, 2)[hidden].any()
    true_grads = gradients(wanted, truth)
    for name, grad in gradients(found, other).items():
        assert error(grad, true_grads[name]) < 1e-11 or not grad.any(), name


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_is_pooled_in_float32_or_better(dtype):
    tokens = make_tokens(dtype, tokens=50, widths=(40, 40), folds=True)
    weights = make_weights(tokens)
    [found] = pooled_attention(tokens, [weights])
    [wanted] = pooled_attention(tokens, [in_float64(weights)], implementation="reference")
    assert found.entities.dtype == torch.float32
    assert found.attention is None
    assert error(found.entities, wanted.entities) < 2e-6


@pytest.mark.usefixtures("path")
def test_packed_codes_are_pooled_as_what_they_stand_for():
    tokens = make_packed()
    low, high = tokens.codes[0] & 15, tokens.codes[0] >> 4
    plain = torch.stack([low, high], -1).flatten(-2).double() - 7
    plain *= tokens.scales[0].double().repeat_interleave(64, -1)[..., :72]
    weights = in_float64(make_weights(tokens))
    [found] = pooled_attention(tokens, [weights])
    [wanted] = pooled_attention(CodedTokens((plain,)), [weights], implementation="reference")
    assert error(found.entities, wanted.entities) < 1e-13


@pytest.mark.usefixtures("path")
def test_models_that_share_a_read_get_what_each_gets_alone():
    tokens = make_tokens(torch.float64)
    models = [
        in_float64(make_weights(tokens, entities=n, heads=n, values=6, channels=6, seed=n))
        for n in (1, 2, 3)
    ]
    models.append(in_float64(make_weights(tokens, per_frame=True)))
    together = pooled_attention(tokens, models, with_attention=True)
    alone = [pooled_attention(tokens, [one], with_attention=True)[0] for one in models]
    named = [pair for one in models for pair in parameters(one).items()]
    found = torch.autograd.grad(loss_of(together), [part for _, part in named])
    wanted = torch.autograd.grad(loss_of(alone), [part for _, part in named])
    for shared, own in zip(together, alone, strict=True):
        torch.testing.assert_close(shared.entities, own.entities, rtol=0, atol=1e-12)
        torch.testing.assert_close(shared.attention, own.attention, rtol=0, atol=1e-12)
    for (name, _), ours, theirs in zip(named, found, wanted, strict=True):
        assert error(ours, theirs) < 1e-12 or not ours.any(), name


def test_one_read_serves_all_models(monkeypatch):
    calls = []
    pool = ops.pool
    monkeypatch.setattr(ops, "pool", lambda *args: calls.append(1) or pool(*args))
    tokens = make_tokens(torch.int8)
    pooled_attention(tokens, [make_weights(tokens, seed=seed) for seed in range(4)])
    assert len(calls) == 1


@pytest.mark.parametrize("implementation", ["reference", "absorbed"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_equal_finite_differences(variant, implementation):
    of_weights, options = VARIANTS[variant]
    tokens = make_tokens(torch.float64, tokens=5, widths=(4, 6))
    weights = in_float64(
        make_weights(tokens, entities=2, channels=4, **{"values": 4, **of_weights})
    )
    named = parameters(weights)

    def pool(*parts):
        given = replace(weights, **dict(zip(named, parts, strict=True)))
        [found] = pooled_attention(tokens, [given], implementation=implementation, **options)
        return found.entities

    assert torch.autograd.gradcheck(pool, tuple(named.values()), fast_mode=True)


def test_the_order_of_tokens_does_not_matter():
    tokens = make_tokens(torch.float64)
    order = torch.randperm(37, generator=torch.Generator().manual_seed(0))
    turned = CodedTokens((tokens.codes[0][:, order].contiguous(),))
    weights = in_float64(make_weights(tokens))
    [first] = pooled_attention(tokens, [weights])
    [second] = pooled_attention(turned, [weights])
    assert error(second.entities, first.entities) < 1e-13


def test_queries_of_zero_give_the_projected_mean():
    tokens = make_tokens(torch.float64)
    weights = in_float64(make_weights(tokens))
    weights = replace(weights, queries=torch.zeros_like(weights.queries))
    [found] = pooled_attention(tokens, [weights], with_attention=True)
    mean = tokens.codes[0].mean(1) @ weights.value.T + weights.value_bias
    assert error(found.entities, mean[:, None].expand(-1, 3, -1)) < 1e-13
    torch.testing.assert_close(found.attention, torch.full((2, 3, 37), 1 / 37).double())


def test_the_key_bias_changes_nothing_and_gets_a_gradient_of_exactly_zero():
    tokens = make_tokens(torch.int8)
    weights = make_weights(tokens)
    first = pooled_attention(tokens, [weights])
    moved = replace(weights, key_bias=weights.key_bias.detach() + 100)
    assert torch.equal(pooled_attention(tokens, [moved])[0].entities, first[0].entities)
    assert not gradients(first, weights)["key_bias"].any()


def test_a_frame_that_is_hidden_whole_gives_nan_and_no_other_does():
    tokens = make_tokens(torch.int8)
    hidden = torch.zeros(2, 37, dtype=torch.bool)
    hidden[1] = True
    [found] = pooled_attention(tokens, [make_weights(tokens)], hidden=hidden)
    assert torch.isfinite(found.entities[0]).all()
    assert found.entities[1].isnan().all()


def test_autocast_does_not_touch_the_small_matrices():
    tokens = make_tokens(torch.int8)
    weights = make_weights(tokens)
    [plain] = pooled_attention(tokens, [weights])
    with torch.autocast("cpu", torch.bfloat16):
        [found] = pooled_attention(tokens, [weights])
    assert torch.equal(found.entities, plain.entities)
