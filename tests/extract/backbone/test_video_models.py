"""Families of video models: shapes, files of weights, tokens of their blocks."""

from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from tokenreel.cache.errors import UsageError
from tokenreel.extract.backbone.families import (
    backbone_shape,
    build_backbone,
    check_weights,
    load_weights,
    pretrained_name,
)
from tokenreel.extract.backbone.torchvision_backbone import TorchvisionFamily, without_classifier
from tokenreel.extract.backbone.transformers_backbone import VideoMaeFamily, XClipFamily

NEEDS = pytest.mark.skipif(find_spec("transformers") is None, reason="no transformers")


@pytest.mark.parametrize(("family", "rows"), [("videomae", 2), ("xclip", 4)])
def test_shapes_of_video_models_are_known_without_weights(family, rows):
    shape = backbone_shape(f"{family}:tiny", (-1, 0), None)
    assert (shape.blocks, shape.grid, shape.dim) == ((0, 2), (4, 4), 32)
    assert (shape.frames_per_window, shape.rows_per_window, shape.has_cls) == (4, rows, False)
    for blocks in ((3,), (-4,), (0, -3)):
        with pytest.raises(UsageError, match=f"{family}:tiny has blocks 0 to 2"):
            backbone_shape(f"{family}:tiny", blocks, None)
    with pytest.raises(UsageError, match=r"32x36 does not divide into patches of 8x8"):
        backbone_shape(f"{family}:tiny", (0,), (32, 36))
    with pytest.raises(UsageError, match=f"{family}:tiny is for 32x32 pixels"):
        backbone_shape(f"{family}:tiny", (0,), (32, 40))
    with pytest.raises(UsageError, match=r"tny'.*did you mean tiny"):
        backbone_shape(f"{family}:tny", (0,), None)


def test_a_name_of_pretrained_weights_is_that_of_the_hub():
    assert pretrained_name("videomae:base") == "MCG-NJU/videomae-base-finetuned-kinetics"
    assert pretrained_name("xclip:base-patch16") == "microsoft/xclip-base-patch16"


def test_names_of_a_file_are_those_of_the_model_without_heads():
    state = {
        "videomae.encoder.layer.0.attention.attention.q_bias": 1,
        "encoder.layer.0.x": 2,
        "videomae.layernorm.weight": 3,
        "classifier.bias": 4,
        "decoder.x": 5,
    }
    assert VideoMaeFamily().read_file(state) == {
        "encoder.layer.0.attention.attention.query.bias": 1,
        "encoder.layer.0.x": 2,
    }
    state = {"vision_model.encoder.x": 1, "text_model.x": 2, "vision_model.post_layernorm.w": 3}
    assert XClipFamily().read_file(state) == {"encoder.x": 1}
    state = {"layer4.w": 1, "fc.bias": 2, "conv1.w": 3}
    assert list(without_classifier(state)) == ["conv1.w", "layer4.w"]
    assert TorchvisionFamily().read_file(state) == {"conv1.w": 3, "layer4.w": 1}


@NEEDS
@pytest.mark.parametrize("family", ["videomae", "xclip"])
def test_tokens_are_those_of_the_blocks_by_the_library(family, tmp_path):
    name = f"{family}:tiny"
    state = load_weights(name, "random:1")
    shape = backbone_shape(name, (0, 2), None)
    images = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8)
    backbone = build_backbone(name, state, shape)
    found = backbone(images)
    scaled = (images.float() / 255 - backbone.mean) / backbone.std
    model = backbone.model
    with torch.inference_mode():
        if family == "videomae":
            hidden = model(scaled.reshape(2, 4, 3, 32, 32), output_hidden_states=True).hidden_states
            wanted = {block: hidden[block + 1].reshape(4, 16, 32) for block in (0, 2)}
        else:
            hidden = model(scaled, output_hidden_states=True).hidden_states
            wanted = {block: hidden[block + 1][:, 1:] for block in (0, 2)}
    for block in (0, 2):
        assert torch.allclose(found.tokens[block], wanted[block], atol=1e-5)
    prefix = {"videomae": "videomae.", "xclip": "vision_model."}[family]
    save_file(
        {f"{prefix}{part}": value for part, value in state.items()}, tmp_path / "m.safetensors"
    )
    again = load_weights(name, str(tmp_path / "m.safetensors"))
    assert again.keys() == state.keys()
    assert all(torch.equal(again[part], state[part]) for part in state)
    check_weights(name, "pretrained")  # without a download
    other = load_weights(name, "random:2")
    torch.save({"teacher": state, "student": other}, tmp_path / "two.pth")
    chosen = load_weights(name, str(tmp_path / "two.pth"), "student")
    assert all(torch.equal(chosen[part], other[part]) for part in other)
    with pytest.raises(UsageError, match=r"weights_key='techer': .* has student, teacher"):
        load_weights(name, str(tmp_path / "two.pth"), "techer")


def test_torchvision_gives_the_pooled_last_stage(monkeypatch):
    pytest.importorskip("torchvision")
    shape = backbone_shape("torchvision:resnet18", (-1,), 64)
    assert (shape.blocks, shape.image_size, shape.dim, shape.grid) == ((3,), (64, 64), 512, (1, 1))
    assert backbone_shape("torchvision:r2plus1d_18", (3,), None).mean[0] == 0.43216
    for wrong, words in (
        ("resnet18", "gives the pooled output of its last"),
        ("resnt18", "resnet18"),
    ):
        with pytest.raises(UsageError, match=words):
            backbone_shape(f"torchvision:{wrong}", (2,), None)
    state = load_weights("torchvision:resnet18", "random:0")
    backbone = build_backbone("torchvision:resnet18", state, shape)
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    found = backbone(images).tokens[3]
    assert found.shape == (2, 1, 512)
    with torch.inference_mode():
        maps = torch.nn.Sequential(*list(backbone.model.children())[:-2])(
            (images.float() / 255 - backbone.mean) / backbone.std
        )
    assert torch.allclose(found[:, 0], maps.mean(dim=(2, 3)), atol=1e-4)
    asked = []

    def gone(*_, **__):
        asked.append(1)
        raise OSError("no network")

    monkeypatch.setattr("torchvision.models.resnet18", gone)
    check_weights("torchvision:resnet18", "pretrained")
    assert asked == []
    with pytest.raises(UsageError, match=r"could not load resnet18 \(OSError: no network\)"):
        load_weights("torchvision:resnet18", "pretrained")
    bare = SimpleNamespace(state_dict=lambda: {"fc.bias": 1, "conv1.weight": 2})
    monkeypatch.setattr("torchvision.models.resnet18", lambda **_: bare)
    assert load_weights("torchvision:resnet18", "pretrained") == {"conv1.weight": 2}


@NEEDS
def test_pretrained_weights_come_from_the_hub_without_their_head(monkeypatch):
    import transformers

    model = SimpleNamespace(state_dict=lambda: {"classifier.bias": 1, "embeddings.x": 2})
    asked = []
    monkeypatch.setattr(
        transformers.VideoMAEModel, "from_pretrained", lambda name: asked.append(name) or model
    )
    assert load_weights("videomae:base", "pretrained") == {"embeddings.x": 2}
    assert asked == ["MCG-NJU/videomae-base-finetuned-kinetics"]

    def gone(_):
        raise OSError("no network")

    monkeypatch.setattr(transformers.VideoMAEModel, "from_pretrained", gone)
    with pytest.raises(UsageError, match=r"cannot be loaded \(OSError: no network\)"):
        load_weights("videomae:base", "pretrained")
