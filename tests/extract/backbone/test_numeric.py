"""In which precision the backbone computes, and by whose kernels: what may differ, and how much."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.extract.extraction import CONFIG, differing, write_video
from tokenreel.cache.errors import WrongIdentity
from tokenreel.cache.format.store_files import load_identity
from tokenreel.cache.manifest import Clip, Manifest
from tokenreel.cache.write.canary import TOLERANCE, canary_errors, make_canary
from tokenreel.extract.backbone.cpu_threads import in_parts
from tokenreel.extract.backbone.timm_backbone import Backbone, backbone_shape, build_backbone
from tokenreel.extract.backbone.weights import load_weights
from tokenreel.extract.flow import devices
from tokenreel.extract.flow.devices import compile_blocks, machine_for, prepare_backbone
from tokenreel.extract.flow.runner import extract_clips

HALF = {"numeric": "bfloat16", "compile_backbone": True}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    root = tmp_path_factory.mktemp("videos")
    write_video(root / "a.mp4", 21)
    write_video(root / "b.mp4", 9)
    return Manifest("toy", root, (Clip("a", "a.mp4"), Clip("b", "b.mp4")))


def tokens_of(name, numeric, images):
    shape = backbone_shape(name, (0, -1), images.shape[-1])
    state = load_weights(name, "random:0")
    backbone = in_parts(build_backbone(name, state, shape, numeric=numeric), threads=2)
    return {block: tokens.numpy() for block, tokens in backbone(images).tokens.items()}


@pytest.mark.parametrize(("name", "size"), [("test_vit", 32), ("deit_tiny_patch16_224", 112)])
def test_tokens_in_bfloat16_are_those_in_float32_within_the_stated_tolerance(name, size):
    draw = np.random.default_rng(0)
    images = torch.from_numpy(draw.integers(0, 256, (6, 3, size, size), np.uint8))
    canary = make_canary(images.numpy(), tokens_of(name, "float32", images))
    errors = canary_errors(canary, tokens_of(name, "bfloat16", images))
    assert len(errors) == 2
    for error in errors.values():
        assert TOLERANCE["float32"] < error <= TOLERANCE["bfloat16"]


def test_store_of_one_numeric_refuses_the_other(manifest, tmp_path):
    store = tmp_path / "store"
    extract_clips(manifest, CONFIG, store, progress=False)
    with pytest.raises(WrongIdentity, match="numeric: store has 'float32', wanted 'bfloat16'"):
        extract_clips(manifest, CONFIG.model_copy(update=HALF), store, progress=False)


def test_compile_backbone_is_ignored_on_cpu_with_a_log_line(
    manifest, tmp_path, caplog, monkeypatch
):
    def never(*arguments):
        raise AssertionError("nothing is compiled on a CPU")

    monkeypatch.setattr(devices, "compile_blocks", never)
    for compiles in (False, True):
        config = CONFIG.model_copy(update=HALF | {"compile_backbone": compiles})
        with caplog.at_level(logging.INFO, logger="tokenreel"):
            report = extract_clips(manifest, config, tmp_path / f"{compiles}", progress=False)
        assert len(report.committed) == 2
    lines = [line for line in caplog.messages if "compile" in line]
    assert lines == ["compile_backbone is ignored on cpu: only for GPUs"]
    assert differing(tmp_path / "True", tmp_path / "False") == ["zarr.json"]  # says how it was made
    identity, _ = load_identity(tmp_path / "True")
    assert identity.numeric == "bfloat16"


def backbone_of(numeric):
    shape = backbone_shape(CONFIG.backbone, CONFIG.blocks, 32)
    state = load_weights(CONFIG.backbone, CONFIG.weights)
    return build_backbone(CONFIG.backbone, state, shape, numeric=numeric)


def test_backbone_runs_uncompiled_with_a_warning_without_a_compiler(caplog, monkeypatch, tmp_path):
    from torch._inductor import config

    monkeypatch.setattr(config.cpp, "cxx", ("no-such-compiler",))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    backbone, images = backbone_of("bfloat16"), torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    wanted = backbone(images)
    compile_blocks(backbone, images)
    (line,) = [r.getMessage() for r in caplog.records if r.name.startswith("tokenreel")]
    assert line.startswith("the backbone runs uncompiled and slower: ")
    assert torch.equal(backbone(images).tokens[5], wanted.tokens[5])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("numeric", ["float32", "bfloat16"])
def test_compiled_blocks_stay_within_the_tolerance_of_their_numeric(numeric):
    machine = replace(machine_for(CONFIG.model_copy(update={"device": "cuda"})), batch_frames=8)
    backbone = backbone_of(numeric).to("cuda")
    images = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8, device="cuda")

    def tokens(backbone: Backbone):
        return {block: found.cpu().numpy() for block, found in backbone(images).tokens.items()}

    canary = make_canary(images.cpu().numpy(), tokens(backbone))
    prepare_backbone(backbone, machine, compiles=True)
    for error in canary_errors(canary, tokens(backbone)).values():
        assert error <= TOLERANCE[numeric]
