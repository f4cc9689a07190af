"""The backbone: official block outputs, weights and their hash."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer

from tokenreel.cache.codec import calibrate, codec_from_recipe, codec_recipe
from tokenreel.cache.errors import UsageError
from tokenreel.extract.backbone import Backbone, BackboneShape, backbone_shape, build_backbone
from tokenreel.extract.encode import encode_tokens
from tokenreel.extract.weights import load_weights, weights_sha256

GOLDEN = Path(__file__).parents[1] / "golden"
TINY = "vit_tiny_patch16_224"


def tiny(blocks=(3, 11), size=64):
    state = load_weights(TINY, "random:0")
    return build_backbone(TINY, state, backbone_shape(TINY, blocks, size))


def test_tokens_are_the_outputs_of_the_blocks_before_the_final_norm():
    backbone, kept = tiny(), {}
    for block in (3, 11):
        backbone.model.blocks[block].register_forward_hook(
            lambda _, __, out, block=block: kept.__setitem__(block, out)
        )
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    found = backbone(images)
    for block in (3, 11):
        torch.testing.assert_close(found.tokens[block], kept[block][:, 1:])
        torch.testing.assert_close(found.cls[block], kept[block][:, 0])
    torch.testing.assert_close(found.cls_normed, backbone.model.norm(kept[11])[:, 0])


def test_the_blocks_equal_those_of_official_dino():
    golden = np.load(GOLDEN / "dino_vit_small.npz")
    prefix = "small/state/"
    state = {k.removeprefix(prefix): torch.from_numpy(golden[k]) for k in golden if prefix in k}
    width, depth = state["pos_embed"].shape[-1], len(golden["small/block_outputs_no_norm"])
    hidden = len(state["blocks.0.mlp.fc1.bias"])
    model = VisionTransformer(
        img_size=32, patch_size=8, embed_dim=width, depth=depth, num_classes=0,
        num_heads=golden["small/dino_last_selfattention"].shape[1], mlp_ratio=hidden / width,
    )  # fmt: skip
    model.load_state_dict(state)
    shape = BackboneShape(tuple(range(depth)), (4, 4), width, (32, 32), True)
    found = Backbone(model, shape, numeric="float32").run(torch.from_numpy(golden["small/x"]))
    for block in range(depth):
        wanted = torch.from_numpy(golden["small/block_outputs_no_norm"][block])
        torch.testing.assert_close(found.tokens[block], wanted[:, 1:], rtol=0, atol=1e-5)
        torch.testing.assert_close(found.cls[block], wanted[:, 0], rtol=0, atol=1e-5)
    normed = torch.from_numpy(golden["small/dino_forward_cls"])
    torch.testing.assert_close(found.cls_normed, normed, rtol=0, atol=1e-5)


def test_registers_are_not_among_the_spatial_tokens():
    name = "vit_small_patch14_reg4_dinov2"
    shape = backbone_shape(name, (-1,), 28)
    state = load_weights(name, "random:1")
    found = build_backbone(name, state, shape)(torch.zeros(1, 3, 28, 28, dtype=torch.uint8))
    assert shape.blocks == (11,)
    assert found.tokens[11].shape == (1, 4, 384)


@pytest.mark.parametrize(("block", "side", "dim"), [(3, 2, 2048), (2, 4, 1024)])
def test_a_resnet_gives_its_map_and_its_freeze_point(block, side, dim):
    shape = backbone_shape("resnet50", (block,), 64)
    state = load_weights("resnet50", "random:0")
    found = build_backbone("resnet50", state, shape)(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
    assert shape.grid == (side, side)
    assert found.tokens[block].shape == (1, side * side, dim)
    assert found.cls_normed is None


def test_the_batch_size_does_not_matter_within_1e_5():
    backbone = tiny()
    images = torch.randint(0, 256, (5, 3, 64, 64), dtype=torch.uint8)
    whole = backbone(images).tokens[11]
    parts = torch.cat([backbone(image[None]).tokens[11] for image in images])
    assert (whole - parts).norm() <= 1e-5 * whole.norm()


def test_random_weights_depend_on_the_seed_alone():
    one, same, other = (load_weights(TINY, f"random:{seed}") for seed in (0, 0, 1))
    assert weights_sha256(one) == weights_sha256(same) != weights_sha256(other)


def test_a_file_has_the_hash_of_its_tensors_without_the_classifier(tmp_path):
    state = load_weights(TINY, "random:0")
    torch.save({"teacher": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "w.pth")
    assert weights_sha256(load_weights(TINY, str(tmp_path / "w.pth"))) == weights_sha256(state)


def test_weights_that_cannot_be_had_name_the_other_ways(monkeypatch):
    def offline(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(UsageError, match=r"no network.*weights=FILE.*random:SEED"):
        load_weights(TINY, "pretrained")
    with pytest.raises(UsageError, match="no such file"):
        load_weights(TINY, "nowhere.pth")
    with pytest.raises(UsageError, match="whole number"):
        load_weights(TINY, "random:x")


def test_a_block_that_is_not_there_is_refused():
    with pytest.raises(UsageError, match="has blocks 0 to 11"):
        backbone_shape(TINY, (12,), None)


@pytest.mark.parametrize("name", ["int8", "fp16", "int4"])
def test_encoding_on_the_device_gives_the_bytes_of_the_codec(name):
    tokens = torch.randn(3, 16, 24, generator=torch.Generator().manual_seed(0)) * 5 + 1
    tokens[0, 0] = 1.0
    calibration = calibrate(name, {7: tokens.numpy()}, grid=(4, 4))
    codec = codec_from_recipe(codec_recipe(name, calibration), calibration)
    wanted = codec.encode(tokens.numpy(), block=7, grid=(4, 4))
    found = encode_tokens(codec, tokens, block=7, grid=(4, 4))
    assert found.codes.tobytes() == wanted.codes.tobytes()
    if wanted.scales is not None:
        assert found.scales.tobytes() == wanted.scales.tobytes()
