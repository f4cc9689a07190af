"""Codecs: bounds in the caller's terms, folding, names, refusals."""

import numpy as np
import pytest

from tokenreel.cache.codec import calibrate, codec_from_identity, codec_identity
from tokenreel.cache.codec.pca import Pca
from tokenreel.cache.errors import UsageError

GRID = (4, 5)


def make_tokens(frames: int = 6, dim: int = 32) -> np.ndarray:
    rng = np.random.default_rng(0)
    tokens = rng.standard_normal((frames, 20, dim)).astype(np.float32)
    tokens[..., 3] = tokens[..., 3] * 40 + 100  # an outlier channel
    return tokens


def make_codec(name: str, tokens: np.ndarray):
    calibration = calibrate(name, {7: tokens}, grid=GRID)
    return codec_from_identity(codec_identity(name, calibration), calibration)


def test_int8_is_within_one_254th_of_the_tokens_largest_standardised_value():
    tokens = make_tokens()
    codec = make_codec("int8", tokens)
    encoded = codec.encode(tokens, block=7, grid=GRID)
    fold = codec.fold(7)
    error = np.abs(codec.decode(encoded, block=7) - tokens) / fold.channel_scale
    peak = np.abs((tokens - fold.channel_offset) / fold.channel_scale).max(axis=-1, keepdims=True)
    assert (error <= peak / 254 * (1 + 1e-4) + 1e-5).all()
    assert encoded.codes.min() >= -127


def test_int4_is_within_one_14th_of_the_groups_largest_standardised_value():
    tokens = make_tokens(dim=96)
    codec = make_codec("int4", tokens)
    encoded = codec.encode(tokens, block=7, grid=GRID)
    assert encoded.codes.shape == (6, 20, 48)
    assert encoded.scales.shape == (6, 20, 2)
    assert (encoded.codes != 255).all()
    fold = codec.fold(7)
    error = np.abs(codec.decode(encoded, block=7) - tokens) / fold.channel_scale
    size = np.abs((tokens - fold.channel_offset) / fold.channel_scale)
    for channels in (slice(0, 64), slice(64, 96)):
        peak = size[..., channels].max(axis=-1, keepdims=True)
        assert (error[..., channels] <= peak / 14 * (1 + 1e-3) + 1e-5).all()


def test_pool2_is_the_mean_of_squares_and_of_what_is_there_at_an_odd_edge():
    codec = make_codec("pool2", make_tokens())
    tokens = np.arange(6, dtype=np.float32).reshape(1, 6, 1)  # grid 2 x 3
    encoded = codec.encode(tokens, block=7, grid=(2, 3))
    assert encoded.codes.ravel().tolist() == [2.0, 3.5]


def test_mean_is_one_token_a_row():
    codec = make_codec("mean", make_tokens())
    tokens = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    encoded = codec.encode(tokens, block=7, grid=(1, 3))
    assert encoded.codes.tolist() == [[[2.0, 3.0]], [[8.0, 9.0]]]


def test_pca_with_every_component_gives_the_tokens_back():
    tokens = make_tokens()
    codec = make_codec("pca:32", tokens)
    restored = codec.decode(codec.encode(tokens, block=7, grid=GRID), block=7)
    assert np.abs(restored - tokens).max() < 0.1 * 1.5
    assert np.linalg.norm(restored - tokens) / np.linalg.norm(tokens) < 2e-3


@pytest.mark.parametrize(
    "name", ["fp16", "int8", "pool2+int8", "mean+int8", "pca:8+int8", "pool2+pca:8"]
)
def test_folding_says_what_decode_does(name):
    tokens = make_tokens()
    codec = make_codec(name, tokens)
    encoded = codec.encode(tokens, block=7, grid=GRID)
    fold = codec.fold(7, encoded.codes.shape[-1])
    scale = 1 if encoded.scales is None else encoded.scales[..., None]
    folded = encoded.codes * scale * fold.channel_scale + fold.channel_offset
    if fold.rotation is not None:
        folded = folded @ fold.rotation
    np.testing.assert_allclose(folded, codec.decode(encoded, block=7), rtol=1e-4, atol=1e-4)
    assert encoded.codes.shape[1:] == codec.stored_shape(20, 32, GRID)


def test_what_cannot_be_encoded_is_refused_with_its_place():
    tokens = make_tokens()
    tokens[2, 5, 1] = 1e6
    with pytest.raises(ValueError, match="block 7, frame 2, token 5, channel 1"):
        make_codec("fp16", make_tokens()).encode(tokens, block=7, grid=GRID)
    tokens[2, 5, 1] = np.nan
    with pytest.raises(ValueError, match="frame 2, token 5"):
        make_codec("int8", make_tokens()).encode(tokens, block=7, grid=GRID)


@pytest.mark.parametrize("name", ["int9", "int8+pool2", "pca:x", "pca:4+pca:4"])
def test_an_unknown_name_is_refused(name):
    with pytest.raises(UsageError, match="codec"):
        codec_identity(name, {})


def test_another_calibration_is_refused():
    calibration = calibrate("int8", {7: make_tokens()}, grid=GRID)
    identity = codec_identity("int8", calibration)
    changed = calibration | {"mean/7": calibration["mean/7"] + 1}
    with pytest.raises(UsageError, match="calibration"):
        codec_from_identity(identity, changed)


def test_a_projection_has_the_same_bits_whatever_the_order_of_its_sums():
    tokens = np.random.default_rng(0).standard_normal((64, 20, 768)).astype(np.float32)
    order = np.random.default_rng(1).permutation(768)
    calibration = calibrate("pca:32", {7: tokens}, grid=GRID)
    sd, basis = calibration["pca_sd/7"], calibration["pca_basis/7"]
    shuffled = {"pca_sd/7": sd[order], "pca_basis/7": basis[order]}
    some = tokens[:2]
    plain = Pca("32", calibration).apply(some, block=7, grid=GRID)
    other = Pca("32", shuffled).apply(some[..., order], block=7, grid=GRID)
    np.testing.assert_array_equal(plain, other)
    np.testing.assert_allclose(plain, (some / sd).astype(float) @ basis, atol=1e-4)
