"""Frames as codes: what a pooling makes of them is what it makes of decoded tokens."""

import logging

import numpy as np
import pytest
import torch

from tests.cache.codec.plugin import install
from tests.fuse.kernels.cases import error, in_float64, make_weights
from tokenreel.cache.codec import Encoded, calibrate, codec_from_identity, codec_identity
from tokenreel.fuse.config import POOLINGS, ClsConfig, FuseConfig
from tokenreel.fuse.data.frames import Foldings, Frames
from tokenreel.fuse.kernels import CodedTokens, pooled_attention
from tokenreel.fuse.systems.mvformer.model import tokens_for

BLOCKS, GRID, DIM = (2, 5), (4, 6), 80
CPU = torch.device("cpu")


def make_tokens():
    """Seven frames of two blocks, channels of very different size."""
    rng = np.random.default_rng(0)
    spread = rng.uniform(0.1, 4, DIM).astype(np.float32)
    return {
        block: rng.standard_normal((7, 24, DIM)).astype(np.float32) * spread + spread
        for block in BLOCKS
    }


def make_codec(name):
    """Fitted to them."""
    calibration = calibrate(name, make_tokens(), grid=GRID)
    return codec_from_identity(codec_identity(name, calibration), calibration)


def make_frames(name):
    """Frames of them, encoded."""
    codec = make_codec(name)
    encoded = {b: codec.encode(part, block=b, grid=GRID) for b, part in make_tokens().items()}
    codes = {b: torch.from_numpy(one.codes) for b, one in encoded.items()}
    scales = {
        b: torch.from_numpy(one.scales) for b, one in encoded.items() if one.scales is not None
    }
    return Frames(codes, scales, None, Foldings(codec, DIM))


@pytest.mark.parametrize(
    "name", ["fp16", "int8", "int4", "pool2+int8", "pca:24", "pca:24+int8", "pca:24+int4"]
)
@pytest.mark.parametrize("blocks", [None, (5,)])
def test_codes_pool_to_what_decoded_tokens_pool_to(name, blocks):
    frames = make_frames(name)
    coded, floats = frames.coded(blocks), CodedTokens((frames.tokens(blocks),))
    assert error(coded.decode(), floats.codes[0]) < 1e-6
    weights = in_float64(make_weights(floats))
    [found] = pooled_attention(coded, [weights])
    [wanted] = pooled_attention(floats, [weights], implementation="reference")
    torch.testing.assert_close(found.entities, wanted.entities, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["fp16", "int8", "int4", "pool2+int8", "pool2+int4"])
def test_decoded_tokens_are_those_of_the_codec_bit_for_bit(name):
    frames, codec = make_frames(name), make_codec(name)
    decoded = frames.tokens().numpy()
    for place, block in enumerate(BLOCKS):
        scales = frames.scales.get(block)
        coded = Encoded(frames.codes[block].numpy(), None if scales is None else scales.numpy())
        wanted = codec.decode(coded, block=block)
        assert decoded[..., place * DIM :][..., :DIM].tobytes() == wanted.tobytes()


@pytest.mark.parametrize("name", ["pca:24", "pca:24+int8", "pca:24+int4"])
def test_rotated_tokens_are_those_of_the_codec_but_for_the_order_of_sums(name):
    frames, codec = make_frames(name), make_codec(name)
    for place, block in enumerate(BLOCKS):
        scales = frames.scales.get(block)
        coded = Encoded(frames.codes[block].numpy(), None if scales is None else scales.numpy())
        found = frames.tokens().numpy()[..., place * DIM :][..., :DIM]
        np.testing.assert_allclose(found, codec.decode(coded, block=block), rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", ["squares", "pool2+squares", "pca:24+squares"])
def test_codes_that_no_kernel_knows_are_decoded_by_their_codec(tmp_path, monkeypatch, caplog, name):
    install(tmp_path, monkeypatch)
    caplog.set_level(logging.INFO, "tokenreel")
    frames, codec = make_frames(name), make_codec(name)
    wanted = [codec.decode(Encoded(frames.codes[b].numpy()), block=b) for b in BLOCKS]
    assert frames.tokens().numpy().tobytes() == np.concatenate(wanted, axis=-1).tobytes()
    coded = frames.to(CPU).coded((5,))
    assert coded.codes[0].numpy().tobytes() == wanted[1].tobytes()
    weights = make_weights(coded)
    [found] = pooled_attention(coded, [weights])
    [reference] = pooled_attention(coded, [in_float64(weights)], implementation="reference")
    torch.testing.assert_close(found.entities.double(), reference.entities, rtol=0, atol=1e-4)
    lines = [r.getMessage() for r in caplog.records if "decoded in numpy" in r.getMessage()]
    assert lines == [
        f"codec {name}: the kernels do not know its codes, so tokens are decoded in numpy and "
        "pooled as floats"
    ]


def test_decoding_leaves_the_codes_as_they_are():
    frames = make_frames("fp16")
    floats = CodedTokens(
        tuple(part.float() for part in frames.coded().codes), (), frames.coded().foldings
    )
    before = [part.clone() for part in floats.codes]
    floats.decode()
    for part, wanted in zip(floats.codes, before, strict=True):
        assert torch.equal(part, wanted)


def test_codes_are_handed_over_as_they_lie():
    frames = make_frames("int8")
    coded = frames.to(CPU).coded((5,))
    assert coded.codes[0].data_ptr() == frames.codes[5].data_ptr()
    assert coded.foldings[0] is frames.coded((5,)).foldings[0]


@pytest.mark.parametrize(("kind", "wanted"), [("lstp", CodedTokens), ("mean", torch.Tensor)])
def test_a_model_gets_what_it_pools(kind, wanted):
    config = FuseConfig(pooling=POOLINGS[kind](blocks=(5,)))
    tokens = tokens_for(make_frames("int8"), config)
    assert isinstance(tokens, wanted)
    assert tokens.num_tokens == 24 if kind == "lstp" else tokens.shape == (7, 24, DIM)


def test_a_model_of_cls_vectors_gets_no_tokens():
    config = FuseConfig(pooling=ClsConfig())
    assert tokens_for(make_frames("int8"), config) is None
