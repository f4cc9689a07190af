"""Pooled attention refuses what no implementation takes, and says what was given and wanted."""

from dataclasses import replace

import pytest
import torch

from tests.fuse.kernels.cases import make_tokens, make_weights
from tokenreel.fuse.kernels import CodedTokens, Folding, QueryWeights, pooled_attention


def spoil(tokens, **parts):
    return replace(tokens, **{name: (part,) for name, part in parts.items()})


INT8 = make_tokens(torch.int8)
FLOAT = make_tokens(torch.float32)
PLAIN = Folding(torch.ones(96), torch.zeros(96))
SCALES = torch.ones(2, 37)
BAD_TOKENS = {
    "no block": (CodedTokens(()), ValueError, "tokens of no block"),
    "int16": (spoil(FLOAT, codes=FLOAT.codes[0].short()), TypeError, "tokens are torch.int16: all"),
    "two dtypes": (CodedTokens((FLOAT.codes[0], FLOAT.codes[0].half())), TypeError, "are torch.fl"),
    "2 axes": (spoil(FLOAT, codes=FLOAT.codes[0][0]), ValueError, r"\[\(37, 96\)\]: want \(F, N"),
    "another F": (CodedTokens((FLOAT.codes[0], FLOAT.codes[0][:1])), ValueError, "with one F and"),
    "no token": (spoil(FLOAT, codes=torch.zeros(2, 0, 96)), ValueError, "must be a frame, a token"),
    "no frame": (spoil(FLOAT, codes=torch.zeros(0, 5, 96)), ValueError, "must be a frame, a token"),
    "strides": (spoil(FLOAT, codes=FLOAT.codes[0][..., ::2]), ValueError, "have strides.*contiguo"),
    "tokens apart": (spoil(FLOAT, codes=FLOAT.codes[0][:, ::2]), ValueError, "have strides"),
    "gradient": (spoil(FLOAT, codes=torch.randn(2, 3, 4).requires_grad_()), ValueError, "frozen"),
    "no scales": (CodedTokens(INT8.codes), ValueError, "0 arrays of scales for 1 blocks"),
    "scales": (spoil(FLOAT, scales=SCALES), ValueError, "want 0 .*floats have none"),
    "shape of scales": (spoil(INT8, scales=torch.ones(2, 36)), ValueError, "want floats"),
    "int scales": (spoil(INT8, scales=SCALES.int()), ValueError, "scales are torch.int32"),
    "foldings": (replace(FLOAT, foldings=(PLAIN, PLAIN)), ValueError, "2 foldings for 1 blocks"),
    "width of folding": (
        replace(FLOAT, foldings=(Folding(torch.ones(9), torch.zeros(96)),)),
        ValueError,
        "stored channels for codes of 96",
    ),
    "devices": (spoil(INT8, scales=SCALES.to("meta")), ValueError, "want one device"),
}


@pytest.mark.parametrize("case", BAD_TOKENS)
def test_bad_tokens_are_refused(case):
    tokens, kind, words = BAD_TOKENS[case]
    with pytest.raises(kind, match=words):
        pooled_attention(tokens, [make_weights(FLOAT)])


BAD_WEIGHTS = {
    "queries": ({"queries": torch.ones(16)}, r"queries are \(16,\): want \(E, C\)"),
    "no queries": ({"queries": torch.ones(0, 16)}, r"queries are \(0, 16\): want"),
    "frames": ({"queries": torch.ones(5, 3, 16)}, "queries of 5 frames, tokens of 2"),
    "key": ({"key": torch.ones(16, 95)}, r"key is \(16, 95\): want \(16, 96\)"),
    "key bias": ({"key_bias": torch.ones(3)}, r"key_bias is \(3,\): want \(16,\)"),
    "value": ({"value": torch.ones(8, 95)}, r"value is \(8, 95\): want \(V, 96\)"),
    "value bias": ({"value_bias": torch.ones(3)}, r"value_bias is \(3,\): want \(8,\)"),
    "bias alone": ({"value": None}, r"value_bias is \(8,\): want \(\)"),
    "heads": ({"heads": 3}, "3 heads do not divide queries of 16 channels and values of 8"),
    "no heads": ({"heads": 0}, "0 heads do not divide"),
    "device": ({"key": torch.ones(16, 96, device="meta")}, "want one device"),
}


@pytest.mark.parametrize("case", BAD_WEIGHTS)
def test_bad_weights_are_refused(case):
    parts, words = BAD_WEIGHTS[case]
    with pytest.raises(ValueError, match=words):
        pooled_attention(FLOAT, [replace(make_weights(FLOAT), **parts)])


def test_heads_without_values_are_refused():
    weights = QueryWeights(torch.ones(3, 16), torch.ones(16, 96), heads=2)
    with pytest.raises(ValueError, match=r"2 heads do not divide .* values of none"):
        pooled_attention(FLOAT, [weights])


def test_no_model_is_refused():
    with pytest.raises(ValueError, match="no models"):
        pooled_attention(FLOAT, [])


@pytest.mark.parametrize(
    ("hidden", "found"),
    [
        (torch.zeros(2, 36, dtype=torch.bool), r"torch.bool \(2, 36\)"),
        (torch.zeros(2, 37), "float"),
    ],
)
def test_a_mask_of_another_shape_or_dtype_is_refused(hidden, found):
    with pytest.raises(ValueError, match=rf"hidden is .*{found}.*want bool \(2, 37\)"):
        pooled_attention(FLOAT, [make_weights(FLOAT)], hidden=hidden)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("options", [{}, {"disjoint": True}])
def test_scales_that_are_not_finite_are_named(value, options):
    scales = INT8.scales[0].clone()
    scales[1, 5] = value
    tokens = replace(INT8, scales=(scales,))
    with pytest.raises(ValueError, match=r"scales of block 0, frame 1, token 5: (nan|inf)"):
        pooled_attention(tokens, [make_weights(INT8)], **options)
