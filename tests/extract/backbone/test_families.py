"""Families of backbones, their windows and their threads, on a family of a few numbers."""

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from torch import nn

from tokenreel.cache.errors import UsageError
from tokenreel.extract.backbone import cpu_threads, families
from tokenreel.extract.backbone.base import BackboneShape, WindowFamily, use_exact_products
from tokenreel.extract.backbone.cpu_threads import in_parts, num_threads
from tokenreel.extract.backbone.families import (
    backbone_label,
    backbone_shape,
    build_backbone,
    check_family,
    check_weights,
    load_weights,
    pretrained_name,
    split_backbone,
)
from tokenreel.extract.backbone.weight_names import NORM_EPS

SHAPE = BackboneShape(
    (0,), (1, 2), 3, (4, 4), False, mean=(0.5, 0, 0), std=(0.5, 1, 1), frames_per_window=3
)


class Means(WindowFamily):
    """A row of a window: the mean of its frames in both halves, times a weight."""

    def shape(self, name, blocks, image_size):
        return replace(SHAPE, blocks=tuple(blocks))

    def model(self, name):
        return nn.Sequential(nn.Linear(3, 3, bias=False), nn.Dropout(0.5))

    def run(self, model, images, shape):
        halves = images.mean(dim=(1, 3)).unflatten(2, (2, 2)).mean(dim=3).transpose(1, 2)
        return {0: model(halves)[:, None]}


@pytest.fixture(autouse=True)
def family(monkeypatch):
    known = families.BACKBONES
    ours = {**known.ours, "means": "tests.extract.backbone.test_families:Means"}
    monkeypatch.setattr(families, "BACKBONES", replace(known, ours=ours))


def images_of(count, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, 4, 4), dtype=torch.uint8, generator=draw)


def built(numeric="float32", weight=None):
    state = {"0.weight": torch.eye(3) if weight is None else weight}
    return build_backbone("means:a", state, SHAPE, numeric=numeric)


def test_names_are_of_a_family_or_of_timm():
    assert split_backbone("vit_x") == split_backbone("timm:vit_x") == ("timm", "vit_x")
    assert split_backbone("a:b:c") == ("a", "b:c")
    assert backbone_label("a:b/c") == "a-b-c"
    check_family("videomae:anything")
    with pytest.raises(UsageError, match="no backbone family 'tim', did you mean timm"):
        check_family("tim:vit_x")


def test_a_family_hands_over_what_it_is_given(tmp_path):
    assert backbone_shape("means:a", (2, 5), None).blocks == (2, 5)
    state = load_weights("means:a", "random:3")
    torch.save({"one": state, "two": {"0.weight": torch.zeros(3, 3)}}, tmp_path / "w.pth")
    file = str(tmp_path / "w.pth")
    assert (load_weights("means:a", file, "two")["0.weight"] == 0).all()
    check_weights("means:a", file, "one")
    for check in (check_weights, load_weights):
        with pytest.raises(UsageError, match=r"weights_key='three': .* has one, two"):
            check("means:a", file, "three")
        with pytest.raises(UsageError, match="weights=pretrained: backbone 'a' has none"):
            check("means:a", "pretrained")
    torch.save({"0.weight": torch.zeros(2, 3)}, tmp_path / "w.pth")
    with pytest.raises(UsageError, match=r"do not fit 'a': 0\.weight is missing, unexpected"):
        load_weights("means:a", file)
    assert pretrained_name("means:a") == ""
    assert pretrained_name("xclip:tiny") == "microsoft/xclip-tiny"


def test_pixels_are_normalised_and_nothing_is_trained():
    images, backbone = images_of(6), built()
    found = backbone(images)
    levels = images.float() / 255
    levels[:, 0] = (levels[:, 0] - 0.5) / 0.5
    wanted = levels.unflatten(0, (2, 3)).mean(dim=(1, 3)).unflatten(2, (2, 2)).mean(dim=3)
    assert torch.allclose(found.tokens[0], wanted.transpose(1, 2), atol=1e-6)  # no dropout
    assert not found.tokens[0].requires_grad
    assert not any(part.requires_grad for part in backbone.parameters())
    assert found.tokens[0].is_inference()
    assert (found.cls, found.cls_normed) == ({}, None)
    low = built("bfloat16")(images).tokens[0]
    assert low.dtype == torch.float32
    assert 0 < (low - found.tokens[0]).abs().max() < 0.02


def test_a_family_that_gives_another_shape_or_cls_is_refused():
    wide = replace(SHAPE, dim=4)
    with pytest.raises(UsageError, match=r"Means: block 0 is \(1, 1, 2, 3\), but its shape says"):
        Means().build("a", {"0.weight": torch.eye(3)}, wide, numeric="float32", device="cpu")(
            images_of(3)
        )
    with pytest.raises(UsageError, match="Means: block 7 is None"):
        Means().build(
            "a",
            {"0.weight": torch.eye(3)},
            replace(SHAPE, blocks=(7,)),
            numeric="float32",
            device="cpu",
        )(images_of(3))
    with pytest.raises(UsageError, match="says has_cls=True, but a WindowFamily gives no CLS"):
        Means().build("a", {}, replace(SHAPE, has_cls=True), numeric="float32", device="cpu")


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("three_threads")
def test_parts_are_whole_windows_of_at_most_four_frames(monkeypatch):
    backbone, given = built(), []
    whole = backbone(images_of(15)).tokens[0]
    parts = in_parts(backbone, threads=2)
    run = type(backbone).run

    def seen(self, images):
        given.append((len(images), torch.get_num_threads()))
        return run(self, images)

    monkeypatch.setattr(type(backbone), "run", seen)
    found = parts(images_of(15))
    assert torch.equal(found.tokens[0], whole)
    assert given == [(3, 1)] * 5  # of three frames; each thread computes alone
    with ThreadPoolExecutor(1) as new:
        assert [new.submit(torch.get_num_threads).result(), torch.get_num_threads()] == [3, 3]
    assert found.cls_normed is None
    assert parts.run(images_of(3).float()).tokens[0].shape == (1, 2, 3)


def test_a_gpu_is_not_split_and_tf32_is_switched_off(monkeypatch):
    class OnGpu:
        device = torch.device("cuda", 0)

    assert isinstance(in_parts(OnGpu(), threads=2), OnGpu)
    chosen = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    settings = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [setting.allow_tf32 for setting in settings]
    try:
        for setting in settings:
            setting.allow_tf32 = True
        use_exact_products("cpu")
        assert [setting.allow_tf32 for setting in settings] == [True, True]
        use_exact_products("cuda:1")
        assert [setting.allow_tf32 for setting in settings] == [False, False]
    finally:
        for setting, value in zip(settings, before, strict=True):
            setting.allow_tf32 = value
    assert chosen == [1]


def test_threads_are_this_process_share_and_never_more_than_sixteen(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 40)
    assert [num_threads(processes) for processes in (1, 2, 5, 100)] == [16, 16, 8, 1]
    assert cpu_threads.PART_FRAMES == 4


SMALL = "test_vit"  # of timm: 64 channels, 6 blocks, patches of 16


def test_blocks_and_sizes_of_timm_are_checked():
    shape = backbone_shape(SMALL, (-1, 0), 32)
    assert (shape.blocks, shape.grid, shape.has_cls) == ((0, 5), (2, 2), True)
    assert backbone_shape(SMALL, (0,), (32, 64)).grid == (2, 4)
    usual = backbone_shape(SMALL, (0,), None)
    assert (usual.image_size, usual.grid) == ((160, 160), (10, 10))
    for blocks in ((6,), (-7,), (0, -6)):
        with pytest.raises(UsageError, match=f"{SMALL} has blocks 0 to 5"):
            backbone_shape(SMALL, blocks, 32)
    for size in ((32, 40), (40, 32)):
        with pytest.raises(UsageError, match=f"{size[0]}x{size[1]} does not divide into patches"):
            backbone_shape(SMALL, (0,), size)
    with pytest.raises(UsageError, match="maps of resnet18 differ in shape; choose one"):
        backbone_shape("resnet18", (2, 3), 64)
    last = backbone_shape("resnet18", (3,), 64)
    assert (last.dim, last.grid, last.has_cls, last.std[0]) == (512, (2, 2), False, 0.229)


def test_tokens_of_timm_are_before_the_norm_and_the_cls_apart(caplog):
    state = load_weights(SMALL, "random:0")
    shape = backbone_shape(SMALL, (2, 5), 32)
    eps = {NORM_EPS: torch.tensor(0.5)}
    with caplog.at_level(logging.INFO):
        plain, soft = (build_backbone(SMALL, {**state, **more}, shape) for more in ({}, eps))
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    found = plain(images)
    model = plain.model
    scaled = (images.float() / 255 - plain.mean) / plain.std
    with torch.inference_mode():
        tokens, outputs = model.patch_embed(scaled), {}
        tokens = model.norm_pre(model._pos_embed(tokens))
        for number, block in enumerate(model.blocks):
            tokens = outputs[number] = block(tokens)
        normed = model.norm(tokens)
    for block in (2, 5):
        assert torch.allclose(found.tokens[block], outputs[block][:, 1:], atol=1e-5)
        assert torch.allclose(found.cls[block], outputs[block][:, 0], atol=1e-5)
    assert torch.allclose(found.cls_normed, normed[:, 0], atol=1e-5)
    norms = [part.eps for part in soft.model.modules() if isinstance(part, nn.LayerNorm)]
    assert set(norms) == {0.5}
    assert "position embeddings of 100 patches are interpolated to 2 x 2" in caplog.text
    with pytest.raises(UsageError, match="the weights do not fit test_vit: missing"):
        build_backbone(SMALL, {name: v for name, v in state.items() if "norm1" not in name}, shape)
    with pytest.raises(UsageError, match=r"unexpected \['extra'\]"):
        build_backbone(SMALL, {**state, "extra": torch.zeros(1)}, shape)
    maps = build_backbone("resnet18", load_weights("resnet18", "random:0"), last_stage())
    assert maps(images_of(1).repeat(1, 1, 16, 16)).tokens[3].shape == (1, 4, 512)


def last_stage():
    return backbone_shape("resnet18", (3,), 64)
