"""Quantising where the tokens are gives the bytes of the codecs, which are written in numpy."""

import logging

import numpy as np
import pytest
import torch

from tests.cache.codec.plugin import Backwards, install
from tokenreel.cache.codec import calibrate, codec_from_identity, codec_identity
from tokenreel.cache.errors import UsageError
from tokenreel.extract.backbone.base import FrameTokens
from tokenreel.extract.config import ExtractConfig
from tokenreel.extract.encode.identity import identity_for
from tokenreel.extract.encode.quantiser import EncodedView, Quantiser

NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, NO_GPU])]
CONFIG = ExtractConfig(
    backbone="vit_tiny_patch16_224", weights="random:0", image_size=(48, 80), blocks=(7,)
)
GRID = (3, 5)


def tokens_of(scale: float = 5.0) -> torch.Tensor:
    tokens = torch.randn(3, 15, 192, generator=torch.Generator().manual_seed(0)) * scale + 1
    tokens[0, 0] = 1.0
    return tokens


def quantiser_of(name: str, device: str = "cpu"):
    calibration = calibrate(name, {7: tokens_of().numpy()}, grid=GRID)
    codec = codec_from_identity(codec_identity(name, calibration), calibration)
    identity = identity_for(CONFIG.model_copy(update={"codec": name}), "0" * 64)
    return Quantiser(codec, identity, torch.device(device)), codec


def found_in(tokens: torch.Tensor) -> FrameTokens:
    return FrameTokens({7: tokens}, {7: tokens[:, 0]}, tokens[:, 1])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "name",
    [
        "int8",
        "fp16",
        "int4",
        "pool2+int8",
        "pool2+pool2+fp16",
        "pca:8+int8",
        "pca:40+int4",
        "pool2+pca:8",
    ],
)
def test_codes_of_the_device_are_the_bytes_of_numpy(name, device):
    quantiser, codec = quantiser_of(name, device)
    tokens = tokens_of()
    wanted = codec.encode(tokens.numpy()[1:], block=7, grid=GRID)
    outputs = quantiser.on_device(found_in(tokens.to(device)))
    view = quantiser.on_host({n: v.cpu().numpy() for n, v in outputs.items()}, slice(1, 3))
    assert view.encoded[7].codes.tobytes() == wanted.codes.tobytes()
    assert (view.encoded[7].scales is None) == (wanted.scales is None)
    arrays = [array for array in (wanted.codes, wanted.scales) if array is not None]
    assert view.num_bytes == sum(array.nbytes for array in arrays)
    if wanted.scales is not None:
        assert view.encoded[7].scales.tobytes() == wanted.scales.tobytes()
    np.testing.assert_array_equal(view.cls[7], tokens[1:, 0])
    np.testing.assert_array_equal(view.cls_normed, tokens[1:, 1])


@pytest.mark.parametrize("name", ["int8", "int4", "pca:8", "pca:8+int8"])
def test_a_token_without_content_has_the_bytes_of_numpy(name):
    quantiser, codec = quantiser_of(name)
    tokens = tokens_of()
    tokens[1, 4] = 0 if "pca" in name else torch.from_numpy(codec.steps[0][1].channels(7, 192)[1])
    wanted = codec.encode(tokens.numpy(), block=7, grid=GRID)
    outputs = {n: v.numpy() for n, v in quantiser.on_device(found_in(tokens)).items()}
    view = quantiser.on_host(outputs, slice(0, 3))
    assert view.encoded[7].codes.tobytes() == wanted.codes.tobytes()
    if wanted.scales is not None:
        assert view.encoded[7].scales.tobytes() == wanted.scales.tobytes()


def test_strings_count_their_bytes():
    strings = {"jpeg": [b"xyz", b""], "text": [b"z"]}
    assert EncodedView(encoded={}, cls={}, cls_normed=None, strings=strings).num_bytes == 4


@pytest.mark.parametrize("name", ["int8", "fp16", "int4", "pca:8+int8", "pca:8"])
@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_nan_and_infinity_are_named_by_block_frame_and_token(name, wrong):
    quantiser, _ = quantiser_of(name)
    tokens = tokens_of()
    tokens[2, 4, 9] = wrong
    outputs = {n: v.numpy() for n, v in quantiser.on_device(found_in(tokens)).items()}
    quantiser.on_host(outputs, slice(0, 2), first=60)
    with pytest.raises(ValueError, match="block 7, frame 62, token 4: NaN, infinity"):
        quantiser.on_host(outputs, slice(1, 3), first=61)


def test_a_value_beyond_float16_is_refused():
    quantiser, _ = quantiser_of("fp16")
    outputs = {n: v.numpy() for n, v in quantiser.on_device(found_in(tokens_of(1e6))).items()}
    with pytest.raises(ValueError, match="that fp16 cannot represent"):
        quantiser.on_host(outputs, slice(0, 3))


@pytest.mark.parametrize(
    "name", ["backwards+int8", "pool2+squares", "squares", "backwards+squares"]
)
def test_a_codec_of_another_package_gives_the_bytes_of_its_numpy(
    tmp_path, monkeypatch, caplog, name
):
    install(tmp_path, monkeypatch)
    caplog.set_level(logging.INFO, "tokenreel")
    quantiser, codec = quantiser_of(name)
    found = found_in(tokens_of())
    for _ in range(2):
        outputs = {n: v.numpy() for n, v in quantiser.on_device(found).items()}
        view = quantiser.on_host(outputs, slice(1, 3))
    wanted = codec.encode(tokens_of().numpy()[1:], block=7, grid=GRID)
    assert view.encoded[7].codes.tobytes() == wanted.codes.tobytes()
    assert ("codes/7" in outputs) == (name == "backwards+int8")
    lines = [r.getMessage() for r in caplog.records if "no torch implementation" in r.getMessage()]
    said = f"codec {name}: squares has no torch implementation, so tokens are encoded in numpy"
    assert lines == ([said] if "squares" in name else [])


def test_numpy_names_the_frames_that_it_cannot_encode(tmp_path, monkeypatch):
    install(tmp_path, monkeypatch)
    quantiser, _ = quantiser_of("squares")
    tokens = tokens_of()
    tokens[2, 4, 9] = 1e6
    outputs = {n: v.numpy() for n, v in quantiser.on_device(found_in(tokens)).items()}
    with pytest.raises(ValueError, match="frames 60 to 62: block 7: a value beyond"):
        quantiser.on_host(outputs, slice(0, 3), first=60)
    tokens[2, 4, 9] = torch.nan
    with pytest.raises(ValueError, match="block 7, frame 62, token 4: NaN, infinity"):
        quantiser.on_host(outputs, slice(0, 3), first=60)


def test_a_torch_step_that_cannot_be_imported_is_named(tmp_path, monkeypatch):
    install(tmp_path, monkeypatch)
    monkeypatch.setattr(Backwards, "torch_step", "tests.nowhere:X")
    with pytest.raises(UsageError, match=r"torch_step 'tests\.nowhere:X' cannot be imported"):
        quantiser_of("backwards+int8")
