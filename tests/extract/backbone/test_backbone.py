"""The backbone: official block outputs, weights and their hash."""

import pytest
import timm
import torch

from tests.extract.extraction import official_dino
from tokenreel.cache.errors import UsageError
from tokenreel.extract.backbone.timm_backbone import backbone_shape, build_backbone
from tokenreel.extract.backbone.weights import load_weights, weights_sha256
from tokenreel.extract.config import ExtractConfig
from tokenreel.extract.encode.identity import identity_for

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
    backbone, golden = official_dino()
    found = backbone.run(golden["x"])
    for block, wanted in enumerate(golden["block_outputs_no_norm"]):
        torch.testing.assert_close(found.tokens[block], wanted[:, 1:], rtol=0, atol=1e-5)
        torch.testing.assert_close(found.cls[block], wanted[:, 0], rtol=0, atol=1e-5)
    normed = golden["dino_forward_cls"]
    torch.testing.assert_close(found.cls_normed, normed, rtol=0, atol=1e-5)


VITS = [  # name, height and width
    (TINY, (32, 48)),
    ("vit_small_patch14_reg4_dinov2", (28, 56)),  # CLS and four registers
    ("vit_tiny_patch16_dinov3_qkvb", (48, 32)),  # CLS, registers and rotary positions
    ("deit_tiny_distilled_patch16_224", (32, 48)),  # CLS and a token of distillation
    ("eva02_tiny_patch14_224", (28, 42)),
    ("vit_wee_patch16_reg1_gap_256", (32, 48)),  # a register, no CLS
    ("vit_tiny_r_s16_p8_224", (64, 96)),  # patches of a ResNet's map
]


@pytest.mark.parametrize(("name", "size"), VITS, ids=[name for name, _ in VITS])
def test_any_vit_gives_its_blocks_spatial_tokens_on_its_own_grid(name, size):
    shape = backbone_shape(name, (1, -1), size)
    backbone = build_backbone(name, load_weights(name, "random:1"), shape)
    model, kept = backbone.model, {}
    for block in shape.blocks:
        model.blocks[block].register_forward_hook(
            lambda _, __, out, block=block: kept.__setitem__(block, out)
        )
    found = backbone(torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8))
    rows, columns = shape.grid
    assert shape.image_size == size
    assert (rows > columns) == (size[0] > size[1])
    for block in shape.blocks:
        assert kept[block].shape[1] == model.num_prefix_tokens + rows * columns
        wanted = kept[block][:, model.num_prefix_tokens :]
        torch.testing.assert_close(found.tokens[block], wanted, rtol=0, atol=0)
        assert found.tokens[block].shape == (2, rows * columns, shape.dim)
    assert shape.has_cls == ("gap" not in name)
    if shape.has_cls:
        torch.testing.assert_close(found.cls[1], kept[1][:, 0], rtol=0, atol=0)
        normed = model.norm(kept[shape.blocks[-1]])[:, 0]
        torch.testing.assert_close(found.cls_normed, normed)
    else:
        assert found.cls == {}
        assert found.cls_normed is None


@pytest.mark.parametrize("name", [TINY, "resnet18"])
def test_tokens_are_ordered_by_rows_of_the_grid(name):
    patch, size = (16, (48, 80)) if name == TINY else (32, (96, 160))
    shape = backbone_shape(name, (0,) if name == TINY else (3,), size)
    backbone = build_backbone(name, load_weights(name, "random:0"), shape)
    grey = torch.full((1, 3, *size), 128, dtype=torch.uint8)
    dotted = grey.clone()
    row, column = 1, 3
    dotted[:, :, row * patch : (row + 1) * patch, column * patch : (column + 1) * patch] = 255
    one, other = (backbone(images).tokens[shape.blocks[0]] for images in (grey, dotted))
    assert shape.grid == (3, 5)
    assert int((one - other).norm(dim=-1).argmax()) == row * shape.grid[1] + column


@pytest.mark.parametrize("size", [(64, 64), (70, 100), (224, 224)])
def test_resnet_gives_its_last_map_and_its_freeze_point(size):
    name = "resnet50"
    state, kept = load_weights(name, "random:0"), {}
    images = torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8)
    found = {}
    for block, layer in [(2, "layer3"), (3, "layer4")]:
        shape = backbone_shape(name, (block,), size)
        backbone = build_backbone(name, state, shape)
        model = backbone.model
        getattr(model, layer).register_forward_hook(
            lambda _, __, out, block=block: kept.__setitem__(block, out)
        )
        found[block] = backbone(images)
        tokens, (rows, columns) = found[block].tokens[block], shape.grid
        assert tokens.shape == (1, rows * columns, shape.dim)
        as_map = tokens.transpose(1, 2).reshape(1, shape.dim, rows, columns)
        torch.testing.assert_close(as_map, kept[block], rtol=0, atol=0)
        assert found[block].cls_normed is None
    assert found[2].tokens[2].shape[-1] == 1024
    if size == (224, 224):
        assert found[3].tokens[3].shape == (1, 49, 2048)
        assert found[2].tokens[2].shape == (1, 196, 1024)
    with torch.no_grad():  # a last block that is trained takes the freeze point's map
        torch.testing.assert_close(model.layer4(kept[2]), kept[3], rtol=1e-4, atol=1e-4)


def test_resnet_maps_of_different_sizes_are_refused():
    with pytest.raises(UsageError, match="maps of resnet50 differ in shape"):
        backbone_shape("resnet50", (2, 3), None)


def test_images_are_normalised_as_the_model_was_trained():
    shape = backbone_shape("vit_tiny_patch16_224.augreg_in21k", (11,), 32)
    assert shape.mean == shape.std == (0.5, 0.5, 0.5)
    assert backbone_shape("vit_small_patch16_224.dino", (11,), 32).mean == (0.485, 0.456, 0.406)
    backbone = build_backbone(TINY, load_weights(TINY, "random:0"), shape)
    white = torch.full((1, 3, 32, 32), 255, dtype=torch.uint8)
    torch.testing.assert_close(
        backbone(white).tokens[11], backbone.run(torch.ones(1, 3, 32, 32)).tokens[11]
    )


def test_identity_records_normalisation_grid_and_image_size_of_the_model():
    config = ExtractConfig(
        backbone="vit_tiny_patch16_224.augreg_in21k",
        weights="random:0",
        blocks=(-1,),
        image_size=(32, 48),
        numeric="float32",
    )
    identity = identity_for(config, "0" * 64)
    assert identity.transform["mean"] == identity.transform["std"] == [0.5, 0.5, 0.5]
    assert identity.transform["image_size"] == [32, 48]
    assert (identity.image_size, identity.grid, identity.blocks) == ((32, 48), (2, 3), (11,))
    square = identity_for(config.model_copy(update={"image_size": 32}), "0" * 64)
    assert square.transform["image_size"] == 32
    resnet = config.model_copy(update={"backbone": "resnet50", "blocks": (2,)})
    identity = identity_for(resnet, "0" * 64)
    assert (identity.grid, identity.dim, identity.cls) == ((2, 3), 1024, "none")


@pytest.mark.parametrize(
    ("name", "size", "reason"),
    [
        ("swin_tiny_patch4_window7_224", None, "neither a ResNet nor a ViT with patch tokens"),
        ("cait_xxs24_224", None, "neither a ResNet nor a ViT with patch tokens"),
        ("vit_tiny_patch16_225", None, "near names: .*vit_tiny_patch"),
        (TINY, (32, 40), "32x40 does not divide into patches of 16x16"),
        (TINY, 40, "40x40 does not divide into patches of 16x16"),
    ],
)
def test_impossible_backbone_is_refused_with_the_reason(name, size, reason):
    with pytest.raises(UsageError, match=reason):
        backbone_shape(name, (-1,), size)


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


def test_unavailable_weights_name_the_alternatives(monkeypatch):
    def offline(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(UsageError, match=r"no network.*weights=FILE.*random:SEED"):
        load_weights(TINY, "pretrained")
    with pytest.raises(UsageError, match="no such file"):
        load_weights(TINY, "nowhere.pth")
    with pytest.raises(UsageError, match="whole number"):
        load_weights(TINY, "random:x")


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_file_without_weights_is_refused_without_advice_to_trust_it(tmp_path, name):
    (tmp_path / name).write_text("no weights")
    with pytest.raises(UsageError, match=r"is not a file of tensors: [^\n]*$") as caught:
        load_weights(TINY, str(tmp_path / name))
    assert "weights_only" not in str(caught.value)


def test_unknown_block_is_refused():
    with pytest.raises(UsageError, match="has blocks 0 to 11"):
        backbone_shape(TINY, (12,), None)


@pytest.mark.parametrize("weights", ["random:0", "pretrained"])
def test_weights_of_an_unknown_backbone_end_with_near_names(weights):
    with pytest.raises(
        UsageError, match=r"backbone='vit_tny_patch16_224' is no model of timm; .*vit_tiny"
    ):
        load_weights("vit_tny_patch16_224", weights)


def test_a_norm_after_pooling_is_never_run_and_no_weight():
    name = "vit_pwee_patch16_reg1_gap_256"
    assert "fc_norm.weight" in timm.create_model(name, num_classes=0).state_dict()
    state = load_weights(name, "random:0")
    assert not [key for key in state if key.startswith(("fc_norm", "head"))]
