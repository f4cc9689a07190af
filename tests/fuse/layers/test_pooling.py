"""Poolings of one token, of half precision, of masks that are none, and of tokens that are NaN."""

import pytest
import torch

from tests.fuse.kernels.cases import make_tokens, make_weights
from tokenreel.fuse.config.model import (
    ClsConfig,
    FixedWidthConfig,
    GridConfig,
    LstpConfig,
    MaxConfig,
    MeanConfig,
)
from tokenreel.fuse.kernels import CodedTokens, pooled_attention
from tokenreel.fuse.layers.pooling import make_pooling, reduce_tokens

LSTP = {
    "lstp": LstpConfig(num_entities=2, channels=4),
    "dynamic": LstpConfig(num_entities=1, dynamic="separate", num_dynamic=2, channels=4),
    "unit_keys": LstpConfig(num_entities=2, channels=4, normalise_keys=True),
    "disjoint": LstpConfig(num_entities=2, channels=4, disjoint=True),
}
WITH_TOKENS = {**LSTP, "mean": MeanConfig(), "max": MaxConfig(), "grid": GridConfig()}


def tokens_of(frames=3, count=5, width=8):
    return torch.randn(frames, count, width, generator=torch.Generator().manual_seed(1))


def cls_of(frames=3):
    return torch.randn(frames, 6, generator=torch.Generator().manual_seed(2))


def make(config):
    torch.manual_seed(0)
    return make_pooling(config, 8, 6)


@pytest.mark.parametrize("dtype", [torch.int8, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("options", [{}, {"normalise_keys": True}, {"disjoint": True}])
@pytest.mark.parametrize("implementation", ["absorbed", "reference"])
def test_the_entity_of_a_single_token_is_its_value(dtype, options, implementation):
    many = make_tokens(dtype, frames=3, tokens=5)
    one = CodedTokens(
        tuple(codes[:, 2:3] for codes in many.codes),  # strides of all five tokens
        tuple(scales[:, 2:3] for scales in many.scales),
    )
    assert one.codes[0].stride(1) * 5 == one.codes[0].stride(0)
    weights = make_weights(one, entities=1)
    [found] = pooled_attention(
        one, [weights], implementation=implementation, with_attention=True, **options
    )
    token = one.decode()[:, 0]
    wanted = token @ weights.value.T + weights.value_bias  # softmax over one token is 1
    torch.testing.assert_close(found.entities[:, 0].float(), wanted, rtol=1e-4, atol=1e-4)
    assert (found.attention == 1).all()
    found.entities.sum().backward()
    assert weights.queries.grad is None or weights.queries.grad.abs().max() < 1e-4
    torch.testing.assert_close(weights.value_bias.grad, torch.full((8,), 3.0))


def test_a_token_of_a_single_channel_is_pooled_whatever_its_stride():
    wide = tokens_of(width=4)
    one = CodedTokens((wide[..., :1].as_strided((3, 5, 1), (20, 1, 7)),))
    weights = make_weights(one)
    [found] = pooled_attention(one, [weights])
    [wanted] = pooled_attention(
        CodedTokens((wide.flatten(1)[:, :5, None].clone(memory_format=torch.contiguous_format),)),
        [weights],
    )
    assert torch.equal(found.entities, wanted.entities)


@pytest.mark.parametrize("name", WITH_TOKENS)
def test_poolings_take_frames_of_one_token(name):
    pooling, tokens = make(WITH_TOKENS[name]), tokens_of()[:, 3:4]
    found = pooling(tokens, cls_of())
    wanted = pooling(tokens.clone(memory_format=torch.contiguous_format), cls_of())
    assert torch.equal(found, wanted)
    if name in ("mean", "max", "grid"):
        assert torch.equal(found, tokens)


@pytest.mark.parametrize("name", LSTP)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_of_lstp_are_refused_by_name(name, dtype):
    pooling = make(LSTP[name]).to(dtype)
    with pytest.raises(TypeError, match=rf"queries {dtype}, key {dtype}.* want all float32 or all"):
        pooling(tokens_of(), cls_of())


@pytest.mark.parametrize("part", ["queries", "key", "key_bias", "value", "value_bias"])
def test_one_part_of_another_precision_is_refused_by_name(part):
    tokens = make_tokens(torch.float32)
    weights = make_weights(tokens)
    object.__setattr__(weights, part, getattr(weights, part).detach().half())
    with pytest.raises(TypeError, match=rf"{part} torch.float16"):
        pooled_attention(tokens, [weights])


def test_cls_vectors_of_half_precision_are_split_as_their_floats():
    pooling, cls = make(FixedWidthConfig(num_entities=2, channels=4)), cls_of().half()
    assert torch.equal(pooling(None, cls), pooling(None, cls.float()))
    assert torch.equal(make(ClsConfig())(None, cls)[:, 0], cls)


@pytest.mark.parametrize("name", WITH_TOKENS)
@pytest.mark.parametrize(
    "hidden", [torch.zeros(3, 5), torch.zeros(3, 5, dtype=torch.uint8), torch.zeros(3, 4) > 0]
)
def test_a_mask_of_tokens_that_is_not_bool_or_of_another_shape_is_refused(name, hidden):
    with pytest.raises(ValueError, match=r"^hidden is .*: want bool \(3, 5\)"):
        make(WITH_TOKENS[name])(tokens_of(), cls_of(), hidden)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("name", ["lstp", "dynamic", "unit_keys", "mean", "grid"])
def test_a_token_that_is_not_finite_spoils_its_frame_and_no_other(name, value):
    pooling, tokens = make(WITH_TOKENS[name]), tokens_of()
    good = pooling(tokens, cls_of())
    spoilt = tokens.clone()
    spoilt[1, 4, 2] = value
    found = pooling(spoilt, cls_of())
    assert not found[1].isfinite().all()
    torch.testing.assert_close(found[::2], good[::2])


def test_the_mean_and_the_maximum_of_the_tokens_that_are_seen_by_hand():
    tokens = torch.tensor([[[1.0, 9.0], [3.0, 2.0], [8.0, 4.0]]])
    hidden = torch.tensor([[False, False, True]])
    assert reduce_tokens(tokens, "mean").tolist() == [[4.0, 5.0]]
    assert reduce_tokens(tokens, "max").tolist() == [[8.0, 9.0]]
    assert reduce_tokens(tokens, "mean", hidden).tolist() == [[2.0, 5.5]]
    assert reduce_tokens(tokens, "max", hidden).tolist() == [[3.0, 9.0]]
