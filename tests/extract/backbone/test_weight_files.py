"""Weights as people have them: containers, prefixes, several sets in a file, what is refused."""

import argparse
import gzip
import json
import logging
import os
import re
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from tests.extract.extraction import CONFIG
from tokenreel.cache.errors import UsageError, WrongIdentity
from tokenreel.extract.backbone.timm_backbone import backbone_shape, build_backbone
from tokenreel.extract.backbone.weight_files import read_model_config
from tokenreel.extract.backbone.weight_fit import _is_alike
from tokenreel.extract.backbone.weight_names import FORMS as FORMS_OF_NAMES
from tokenreel.extract.backbone.weight_names import rename
from tokenreel.extract.backbone.weights import (
    earlier_sha256,
    load_weights,
    weights_label,
    weights_sha256,
)
from tokenreel.extract.encode.identity import (
    build_identity,
    made_with,
    open_or_create,
    same_extraction,
)
from tokenreel.extract.preview.plan import planned_identity

MINI = "test_vit"  # 64 channels, 6 blocks, patches of 16
TINY = "vit_tiny_patch16_224"


@pytest.fixture(scope="module")
def state():
    return load_weights(MINI, "random:0")


@pytest.fixture(scope="module")
def wanted(state):
    return weights_sha256(state)


def under(prefix, state):
    return {f"{prefix}{name}": value for name, value in state.items()}


def other(state):
    return {name: value + 1 for name, value in state.items()}


def inside_blocks(word, state):
    return {re.sub(r"(blocks\.\d+\.)", rf"\1{word}.", name): v for name, v in state.items()}


def chunked(state, *, through):
    """Blocks in chunks of four, numbered through all chunks as in DINOv2, or anew in each."""

    def moved(match):
        block = int(match[1])
        return f"blocks.{block // 4}.{block if through else block % 4}."

    return {re.sub(r"blocks\.(\d+)\.", moved, name): value for name, value in state.items()}


HEAD = {"head.mlp.0.weight": torch.zeros(4, 4), "head.last_layer.weight_g": torch.zeros(4, 1)}
DECODER = {"mask_token": torch.zeros(1, 1, 64), "decoder_pos_embed": torch.zeros(1, 101, 32)}
DECODER |= {"decoder_blocks.0.norm1.weight": torch.zeros(32), "decoder_pred.bias": torch.zeros(3)}
FORMS = {
    "timm with its classifier": lambda s: s | {"head.weight": torch.ones(3, 64)},
    "DINO training": lambda s: {
        "student": under("module.backbone.", other(s)),
        "teacher": under("backbone.", s) | HEAD,
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]},
        "epoch": 100,
        "args": argparse.Namespace(arch="vit_tiny", output_dir=Path("out")),
    },
    "DINOv2 teacher": lambda s: {
        "teacher": under("backbone.", s | {"mask_token": torch.zeros(1, 64)})
        | {"dino_head.mlp.0.weight": torch.zeros(4, 4), "ibot_head.mlp.0.bias": torch.zeros(4)}
    },
    "DINOv2 training, both networks": lambda s: {
        "model": under("teacher.backbone.", s) | under("student.backbone.", other(s)),
        "iteration": 5,
    },
    "MAE with its decoder": lambda s: {"model": s | DECODER},
    "ema alone": lambda s: {"model_ema": s, "epoch": 3},
    "model before ema": lambda s: {"model": s, "model_ema": other(s)},
    "compiled": lambda s: {"state_dict": under("module._orig_mod.", s)},
    "compiled block by block": lambda s: under("_orig_mod.", inside_blocks("_orig_mod", s)),
    "FSDP": lambda s: {"model": inside_blocks("_fsdp_wrapped_module", s)},
    "Lightning": lambda s: {
        "state_dict": under("model.", s) | {"loss.queue": torch.zeros(2, 2)},
        "hyper_parameters": {"lr": 0.1},
        "pytorch-lightning_version": "2.5",
    },
    "MoCo": lambda s: {
        "state_dict": under("module.base_encoder.", s)
        | {"module.predictor.0.weight": torch.zeros(2, 2)}
    },
    "blocks in chunks": lambda s: {"teacher": under("backbone.", chunked(s, through=True))},
    "blocks in chunks, numbered anew": lambda s: chunked(s, through=False),
    "a timm tower in open_clip": lambda s: (
        under("visual.trunk.", s)
        | {"text.token_embedding.weight": torch.zeros(3, 4), "logit_scale": torch.ones(())}
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_the_same_weights_has_one_hash(tmp_path, state, wanted, form):
    torch.save(FORMS[form](state), tmp_path / "w.pth")
    assert weights_sha256(load_weights(MINI, str(tmp_path / "w.pth"))) == wanted


def test_tensors_that_are_not_used_are_counted_in_one_line(tmp_path, state, caplog):
    torch.save(FORMS["DINOv2 teacher"](state), tmp_path / "counted.pth")
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            load_weights(MINI, str(tmp_path / "counted.pth"))
    lines = [line for line in caplog.messages if "counted.pth" in line]
    assert len(lines) == 1
    assert "from teacher.backbone" in lines[0]
    assert "3 tensors not used (backbone.mask_token, dino_head" in lines[0]


def shards(folder, state):
    names = sorted(state)
    parts = {"model-00001-of-00002.safetensors": names[:9]}
    parts["model-00002-of-00002.safetensors"] = names[9:]
    for file, held in parts.items():
        save_file({name: state[name] for name in held}, folder / file)
    places = {name: file for file, held in parts.items() for name in held}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return index


CONTAINERS = {
    "w.safetensors": lambda s, path: save_file(s, path),
    "torch_named.safetensors": lambda s, path: torch.save(s, path),
    "safetensors_named.bin": lambda s, path: save_file(s, path),
    "old.pth": lambda s, path: torch.save(s, path, _use_new_zipfile_serialization=False),
    "folder/model.safetensors": lambda s, path: save_file(s, path),
    "folder/pytorch_model.bin": lambda s, path: torch.save(s, path),
    "folder/checkpoint.pth": lambda s, path: torch.save(s, path),
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_every_container_is_read(tmp_path, state, wanted, container):
    path = tmp_path / container
    path.parent.mkdir(exist_ok=True)
    CONTAINERS[container](state, path)
    given = path.parent if container.startswith("folder") else path
    assert weights_sha256(load_weights(MINI, str(given))) == wanted


def test_sharded_safetensors_are_read_by_folder_and_by_index(tmp_path, state, wanted):
    index = shards(tmp_path, state)
    for path in (tmp_path, index):
        assert weights_sha256(load_weights(MINI, str(path))) == wanted
    with pytest.raises(UsageError, match=r"one of several files .*give their folder or weights="):
        load_weights(MINI, str(tmp_path / "model-00001-of-00002.safetensors"))


@pytest.mark.parametrize("name", ["../w.safetensors", "absent.safetensors"])
def test_an_index_that_names_a_file_outside_its_folder_or_none_is_refused(tmp_path, state, name):
    save_file(state, tmp_path / "w.safetensors")
    (tmp_path / "inner").mkdir()
    index = tmp_path / "inner" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys(state, name)}))
    with pytest.raises(UsageError, match="is not a file in its folder"):
        load_weights(MINI, str(index))


def test_a_tensor_that_is_in_no_shard_is_missed(tmp_path, state):
    index = shards(tmp_path, state)
    held = json.loads(index.read_text())
    held["weight_map"]["blocks.9.norm"] = "model-00001-of-00002.safetensors"
    index.write_text(json.dumps(held))
    with pytest.raises(UsageError, match=r"1 tensors are in no file, the first 'blocks.9.norm'"):
        load_weights(MINI, str(index))


def test_a_folder_with_several_files_or_none_asks_for_one(tmp_path, state):
    with pytest.raises(UsageError, match="holds no weights"):
        load_weights(MINI, str(tmp_path))
    for name in ("a.pth", "b.pth"):
        torch.save(state, tmp_path / name)
    with pytest.raises(UsageError, match=r"holds 2 files of weights \(a.pth, b.pth\)"):
        load_weights(MINI, str(tmp_path))


class Bomb:
    """Unpickled freely, it would make a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (os.mkdir, (self.path,))


def test_nothing_in_a_checkpoint_is_run(tmp_path, state):
    torch.save({"model": state, "args": Bomb(tmp_path / "made")}, tmp_path / "w.pth")
    with pytest.raises(UsageError, match=r"an object of \w+.mkdir, which is not loaded"):
        load_weights(MINI, str(tmp_path / "w.pth"))
    assert not (tmp_path / "made").exists()


def settings_of(module, name, base):
    """An object of a class of a package that is not installed when it is read."""
    kind = type(name, (base,), {"__module__": module, "__qualname__": name})
    packages = {}
    for end in range(1, module.count(".") + 2):
        path = ".".join(module.split(".")[:end])
        packages[path] = types.ModuleType(path)
    setattr(packages[module], name, kind)
    made = kind()
    made.__dict__["lr"] = 0.1
    return made, packages


@pytest.mark.parametrize(
    ("module", "name", "base"),
    [
        ("omegaconf.dictconfig", "DictConfig", object),
        ("yacs.config", "CfgNode", dict),
        ("pytorch_lightning.utilities.parsing", "AttributeDict", dict),
    ],
)
def test_settings_of_known_classes_need_no_package(tmp_path, state, wanted, module, name, base):
    settings, packages = settings_of(module, name, base)
    with pytest.MonkeyPatch.context() as patch:
        for path, package in packages.items():
            patch.setitem(sys.modules, path, package)
        torch.save({"state_dict": state, "hyper_parameters": settings}, tmp_path / "w.ckpt")
    assert module not in sys.modules
    assert weights_sha256(load_weights(MINI, str(tmp_path / "w.ckpt"))) == wanted


def test_settings_of_other_classes_are_refused_by_name(tmp_path, state):
    settings, packages = settings_of("lab.config", "Options", object)
    with pytest.MonkeyPatch.context() as patch:
        for path, package in packages.items():
            patch.setitem(sys.modules, path, package)
        torch.save({"model": state, "args": settings}, tmp_path / "w.pth")
    with pytest.raises(UsageError, match=r"an object of lab.config.Options, which is not loaded"):
        load_weights(MINI, str(tmp_path / "w.pth"))


def test_two_tensors_of_one_name_are_refused(tmp_path, state):
    twice = state | {"_orig_mod.norm.bias": torch.ones(64)}
    torch.save(twice, tmp_path / "w.pth")
    with pytest.raises(UsageError, match=r"_orig_mod.norm.bias is norm.bias too"):
        load_weights(MINI, str(tmp_path / "w.pth"))


def test_a_whole_module_is_refused_with_how_to_save_its_tensors(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "w.pth")
    with pytest.raises(UsageError, match=r"torch.nn.modules.linear.Linear.*model.state_dict\(\)"):
        load_weights(MINI, str(tmp_path / "w.pth"))


def test_weights_key_chooses_the_student(tmp_path, state, wanted):
    path = str(tmp_path / "w.pth")
    torch.save(FORMS["DINO training"](state), path)
    chosen = weights_sha256(load_weights(MINI, path, "student"))
    assert chosen == weights_sha256(other(state)) != wanted
    assert weights_sha256(load_weights(MINI, path, "teacher")) == wanted
    assert weights_sha256(load_weights(MINI, path, "student.module.backbone")) == chosen
    assert weights_label(path, "student") == "w.pth:student"
    with pytest.raises(UsageError, match=r"weights_key='ema' names .* there are student.module.ba"):
        load_weights(MINI, path, "ema")
    config = CONFIG.model_copy(update={"weights": path, "weights_key": "student"})
    assert build_identity(config).weights_sha256 == chosen
    about = made_with(config, "folder", torch.device("cpu"))
    assert (about["weights"], about["weights_key"]) == ("w.pth:student", "student")


def test_where_several_sets_fit_equally_well_one_must_be_chosen(tmp_path, state, wanted):
    path = str(tmp_path / "w.pth")
    both = under("module.base_encoder.", state)
    torch.save(both | under("module.momentum_encoder.", other(state)), path)
    with pytest.raises(UsageError, match=r"2 sets .* weights_key=module.base_encoder or weights_k"):
        load_weights(MINI, path)
    assert weights_sha256(load_weights(MINI, path, "base_encoder")) == wanted
    torch.save(both | under("module.momentum_encoder.", state), path)  # equal: no choice to make
    assert weights_sha256(load_weights(MINI, path)) == wanted


@pytest.mark.parametrize("weights", ["pretrained", "random:0"])
def test_weights_key_without_a_file_is_refused(weights):
    with pytest.raises(UsageError, match=f"weights_key='x' chooses within a file; .*{weights}"):
        load_weights(MINI, weights, "x")


def test_weights_of_another_size_are_named_in_one_line(tmp_path):
    small = load_weights("vit_small_patch16_224", "random:0")
    torch.save(small, tmp_path / "w.pth")
    with pytest.raises(UsageError) as caught:
        load_weights("vit_base_patch16_224", str(tmp_path / "w.pth"))
    assert str(caught.value).endswith(
        "the tensors do not fit vit_base_patch16_224: the file has 384 channels, "
        "vit_base_patch16_224 needs 768: it looks like ViT-S/16; "
        "try backbone=vit_small_patch16_224; nearest form: timm"
    )
    with pytest.raises(UsageError, match=r"has patches of 16 pixels, vit_small_patch32_224 of 32"):
        load_weights("vit_small_patch32_224", str(tmp_path / "w.pth"))


def test_a_bias_that_a_model_lacks_is_left_out_where_it_is_zero_alone(tmp_path, state):
    path = tmp_path / "w.pt"
    torch.save(dict(state) | {"blocks.0.adapter.bias": torch.zeros(64)}, path)
    assert load_weights(MINI, str(path)).keys() == state.keys()
    torch.save(dict(state) | {"blocks.0.adapter.bias": torch.full((64,), 0.5)}, path)
    with pytest.raises(UsageError, match=r"left over 1 \(blocks.0.adapter.bias\)"):
        load_weights(MINI, str(path))


def test_tensors_that_are_missing_and_left_over_are_listed(tmp_path, state):
    held = dict(state) | {"blocks.0.adapter.weight": torch.ones(2, 2)}
    del held["blocks.3.attn.qkv.bias"], held["cls_token"]
    torch.save({"model": held}, tmp_path / "w.pth")
    with pytest.raises(UsageError) as caught:
        load_weights(MINI, str(tmp_path / "w.pth"))
    assert str(caught.value).endswith(
        "missing 2 (blocks.3.attn.qkv.bias, cls_token); left over 1 (blocks.0.adapter.weight); "
        "nearest form: timm in model"
    )
    assert "\n" not in str(caught.value)


def test_names_of_no_backbone_are_shown(tmp_path):
    torch.save({"lstm.weight_ih": torch.zeros(2, 2)}, tmp_path / "w.pth")
    with pytest.raises(UsageError, match=r"not those of a backbone \(1 tensors, lstm.weight_ih\)"):
        load_weights(MINI, str(tmp_path / "w.pth"))


def test_weights_with_nan_are_refused(tmp_path, state):
    held = dict(state) | {"norm.bias": torch.full((64,), torch.nan)}
    torch.save(held, tmp_path / "w.pth")
    with pytest.raises(UsageError, match=r"norm.bias holds NaN or infinity"):
        load_weights(MINI, str(tmp_path / "w.pth"))


@pytest.mark.parametrize(
    ("convert", "message"),
    [
        (lambda v: (10 * v).to(torch.int8), "is int8, not floating point: quantised weights are"),
        (lambda v: v > 0, "is bool, not floating point"),
        (lambda v: v.to(torch.complex64), "is complex64, not floating point"),
        (lambda v: v.double() * 1e300, "holds NaN or infinity, or numbers beyond float32"),
    ],
    ids=["int8", "bool", "complex", "beyond float32"],
)
def test_weights_that_are_no_numbers_of_a_backbone_are_refused(tmp_path, state, convert, message):
    torch.save({name: convert(value) for name, value in state.items()}, tmp_path / "w.pth")
    with pytest.raises(UsageError, match=message):
        load_weights(MINI, str(tmp_path / "w.pth"))


def zipped(path, member, data):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, data)


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("w.pth", lambda p: p.write_bytes(b""), "it is empty"),
        ("w.safetensors", lambda p: p.write_bytes(b""), "it is empty"),
        ("w.safetensors", lambda p: p.write_text("version https://git-lfs.github.com/"), "Git LFS"),
        ("w.bin", lambda p: p.write_text("version https://git-lfs.github.com/"), "`git lfs pull`"),
        ("w.pth", lambda p: p.write_text("\n<!DOCTYPE html>"), "it is a web page"),
        ("w.pth", lambda p: p.write_text("text\n"), "it is a text file"),
        ("w.txt", lambda p: p.write_text("no\ttensors, but \u00e4"), "it is a text file"),
        ("w.npz", lambda p: np.savez(p, a=np.zeros(3)), "an .npz of NumPy: save the tensors by"),
        ("w.pth", lambda p: p.write_bytes(gzip.compress(b"x")), "compressed: unpack it first"),
        ("w.zip", lambda p: zipped(p, "dino.pth", b"x"), "a zip archive of dino.pth: unpack it"),
        ("~/w.pth", lambda p: None, "a shell leaves ~ after = as it is"),
    ],
    ids=["empty", "empty st", "lfs st", "lfs", "html", "text", "UTF-8", "npz", "gz", "zip", "home"],
)
def test_files_of_another_kind_are_named(tmp_path, name, make, message):
    path = tmp_path / name if name[0] != "~" else Path(name)
    make(path)
    with pytest.raises(UsageError, match=message):
        load_weights(MINI, str(path))


def test_a_checkpoint_that_is_cut_short_is_said_to_be(tmp_path, state):
    torch.save(state, tmp_path / "w.pth")
    data = (tmp_path / "w.pth").read_bytes()
    (tmp_path / "w.pth").write_bytes(data[: len(data) // 2])
    with pytest.raises(UsageError, match="it is cut short: load it again"):
        load_weights(MINI, str(tmp_path / "w.pth"))


def test_a_plan_checks_the_weights(tmp_path):
    with pytest.raises(UsageError, match="weights='dino': no such file"):
        planned_identity(CONFIG.model_copy(update={"weights": "dino"}))
    torch.save(load_weights("test_vit2", "random:0"), tmp_path / "w.pth")
    with pytest.raises(UsageError, match="do not fit test_vit"):
        planned_identity(CONFIG.model_copy(update={"weights": str(tmp_path / "w.pth")}))
    planned_identity(CONFIG.model_copy(update={"weights": "pretrained"}))  # without a download


TINY_RANDOM_0 = "5180376068066942d0790b5e2766b4d68be31ed17c14ce391ca57795db149d58"
AS_BEFORE = {  # hashes that commit 225475a gave
    "plain": (lambda s: s | {"head.weight": torch.ones(3, 192)}, TINY_RANDOM_0),
    "DINO": (
        lambda s: {
            "teacher": under("module.backbone.", s),
            "student": under("module.backbone.", other(s)),
        },
        TINY_RANDOM_0,
    ),
    "model and ema": (lambda s: {"model": s, "model_ema": other(s)}, TINY_RANDOM_0),
    "half": (
        lambda s: {name: value.half() for name, value in s.items()},
        "05ccbe6475127c65b6bf079e72036cb910c0ea25eb3e6e38bcbc5df98c8fce0e",
    ),
}


@pytest.mark.parametrize("form", AS_BEFORE)
def test_hashes_of_files_that_loaded_before_are_unchanged(tmp_path, form):
    build, digest = AS_BEFORE[form]
    torch.save(build(load_weights(TINY, "random:0")), tmp_path / "w.pth")
    assert weights_sha256(load_weights(TINY, str(tmp_path / "w.pth"))) == digest


def test_hashes_of_a_resnet_and_of_dinov2_by_its_mask_token_are_known(tmp_path):
    resnet = load_weights("resnet18", "random:0") | {"fc.weight": torch.ones(2, 512)}
    torch.save(resnet, tmp_path / "r.pth")
    digest = "15b6fd976371557115b413e2df898358414e3d09ab6c87b382d2caef9abaf655"
    assert weights_sha256(load_weights("resnet18", str(tmp_path / "r.pth"))) == digest
    dinov2 = load_weights("vit_small_patch14_dinov2", "random:0")
    torch.save(dinov2 | {"mask_token": torch.zeros(1, 384)}, tmp_path / "d.pth")
    loaded = load_weights("vit_small_patch14_dinov2", str(tmp_path / "d.pth"))
    assert weights_sha256(loaded) == weights_sha256(dinov2)
    before = "a957c905bc37bbda662296735aca98c3aaf6a9ea84db9dc9106c294ffdba6ef6"
    assert earlier_sha256(str(tmp_path / "d.pth")) == before


def test_a_store_whose_hash_counts_the_mask_token_is_still_the_same_extraction(tmp_path, state):
    path = tmp_path / "w.pth"
    torch.save(state | {"mask_token": torch.zeros(1, 64)}, path)
    config = CONFIG.model_copy(update={"weights": str(path), "codec": "fp16"})
    planned = build_identity(config)
    earlier = planned.model_copy(update={"weights_sha256": earlier_sha256(str(path))})
    assert planned != earlier
    assert same_extraction(earlier, planned, config) == earlier
    shape = backbone_shape(config.backbone, config.blocks, config.image_size)
    backbone = build_backbone(config.backbone, state, shape)
    common = {"config": config, "dataset": "folder", "backbone": backbone, "samples": None}
    made, _ = open_or_create(tmp_path / "s", earlier, **common)
    assert open_or_create(tmp_path / "s", planned, **common)[0] == made
    torch.save(other(state), path)
    with pytest.raises(WrongIdentity, match="weights_sha256"):
        open_or_create(tmp_path / "s", build_identity(config), **common)


def tokens(backbone, state, size):
    shape = backbone_shape(backbone, (0, -1), size)
    images = torch.rand(2, 3, *shape.image_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return build_backbone(backbone, state, shape).run(images).tokens


def test_half_precision_weights_give_finite_tokens_of_their_values(tmp_path, state):
    half = {name: value.half() for name, value in state.items()}
    torch.save(half, tmp_path / "w.pth")
    found = tokens(MINI, load_weights(MINI, str(tmp_path / "w.pth")), 160)
    wanted = tokens(MINI, {name: value.float() for name, value in half.items()}, 160)
    for block, values in found.items():
        torch.testing.assert_close(values, wanted[block], rtol=0, atol=0)


def test_positions_of_another_number_of_patches_are_interpolated_with_a_line(state, caplog):
    with caplog.at_level(logging.INFO):
        tokens(MINI, state, 160)
        assert not any("interpolated" in line for line in caplog.messages)
        tokens(MINI, state, 32)
    assert "position embeddings of 100 patches are interpolated to 2 x 2" in caplog.messages


@pytest.mark.parametrize(
    ("name", "given", "wanted", "is_alike"),
    [
        ("pos_embed", (1, 197, 64), (1, 50, 64), True),
        ("pos_embed", (2, 197, 64), (1, 50, 64), False),
        ("pos_embed", (1, 197, 32), (1, 50, 64), False),
        ("norm.weight", (64,), (64,), True),
        ("norm.weight", (1, 197, 64), (1, 50, 64), False),
    ],
)
def test_only_the_number_of_positions_may_be_another(name, given, wanted, is_alike):
    assert _is_alike(name, given, wanted) == is_alike


def test_weights_stay_as_they_were_read_though_their_file_changes(tmp_path, state):
    path = tmp_path / "w.pth"
    torch.save(state, path)
    found = load_weights(MINI, str(path))
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    for name, value in found.items():
        assert torch.equal(value, state[name]), name


def test_releases_without_weights_key_had_no_hash_for_one(tmp_path, state):
    path = tmp_path / "w.pth"
    torch.save({"teacher": state}, path)
    assert earlier_sha256(str(path)) is not None
    assert earlier_sha256(str(path), "teacher") is None


def test_positions_with_and_without_a_row_for_cls_are_the_same_sum(tmp_path, state):
    path = tmp_path / "w.pth"
    bare = dict(state)
    bare["cls_token"] = state["cls_token"] + state["pos_embed"][:, :1]
    bare["pos_embed"] = state["pos_embed"][:, 1:]
    torch.save(bare, path)
    found = tokens(MINI, load_weights(MINI, str(path)), 160)
    for block, values in tokens(MINI, state, 160).items():
        torch.testing.assert_close(found[block], values, rtol=0, atol=1e-5)
    torch.save(state | {"pos_embed": torch.zeros(1, 15, 64)}, path)
    with pytest.raises(UsageError, match="its 15 position embeddings are not those of a square"):
        load_weights(MINI, str(path))


def test_a_row_for_cls_is_added_in_full_precision(tmp_path, state):
    half = {name: value.half() for name, value in state.items()}
    half["cls_token"] = torch.ones(1, 1, 64).half()
    tiny = torch.full((1, 1, 64), 2.0**-12).half()  # too small for half precision beside 1
    patches = torch.zeros(1, 100, 64).half()
    form, model = FORMS_OF_NAMES[0], timm.create_model(MINI, no_embed_class=True, num_classes=0)
    found = rename(half | {"pos_embed": torch.cat([tiny, patches], dim=1)}, form, "", model)
    assert torch.equal(found.state["cls_token"], torch.full((1, 1, 64), 1 + 2.0**-12))


def test_weights_key_is_a_whole_path_before_it_is_a_part_of_one(tmp_path, state, wanted):
    path = tmp_path / "w.pth"
    torch.save({"student": {"ema": other(state)}, "ema": state}, path)
    assert weights_sha256(load_weights(MINI, str(path), "ema")) == wanted
    assert weights_sha256(load_weights(MINI, str(path), "student.ema")) != wanted


def test_of_several_sets_that_do_not_fit_the_nearest_is_described(tmp_path, state):
    names = sorted(state)
    path = tmp_path / "w.pth"
    sets = {"far": {name: state[name] for name in names[9:]}}
    sets |= {"near": {name: state[name] for name in names[2:]}}
    sets |= {"further": {name: state[name] for name in names[20:]}}
    torch.save(sets, path)
    with pytest.raises(UsageError, match=r"missing 2 \(.*nearest form: timm in near$"):
        load_weights(MINI, str(path))


def test_dictionaries_are_searched_four_deep(tmp_path, state, wanted):
    path = tmp_path / "w.pth"
    torch.save({"a": {"b": {"c": {"d": state}}}}, path)
    assert weights_sha256(load_weights(MINI, str(path))) == wanted
    torch.save({"a": {"b": {"c": {"d": {"e": state}}}}}, path)
    with pytest.raises(UsageError, match="the names are not those of a backbone"):
        load_weights(MINI, str(path))


def test_a_sparse_tensor_is_no_part_of_a_backbone(tmp_path, state, wanted):
    path = tmp_path / "w.pth"
    torch.save(state | {"graph": torch.eye(3).to_sparse()}, path)
    assert weights_sha256(load_weights(MINI, str(path))) == wanted


@pytest.mark.parametrize("is_sharded", [False, True])
def test_of_both_kinds_in_a_folder_safetensors_are_read(tmp_path, state, wanted, is_sharded):
    torch.save(other(state), tmp_path / "pytorch_model.bin")
    if is_sharded:
        shards(tmp_path, state)
    else:
        save_file(state, tmp_path / "model.safetensors")
    assert weights_sha256(load_weights(MINI, str(tmp_path))) == wanted


def test_config_json_is_that_of_the_vision_model_and_beside_a_file_too(tmp_path):
    config = {"num_attention_heads": 12, "vision_config": {"num_attention_heads": 8}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").touch()
    for path in (tmp_path, tmp_path / "model.safetensors"):
        assert read_model_config(path) == {"num_attention_heads": 8}


class Names:
    """A model that has tensors of some names and nothing else."""

    def __init__(self, **shapes):
        self.shapes = {name.replace("__", "."): shape for name, shape in shapes.items()}

    def state_dict(self):
        return {name: torch.zeros(shape) for name, shape in self.shapes.items()}


def test_one_matrix_of_queries_keys_and_values_is_split_in_this_order():
    start = "blocks.0.attn."
    parts = {f"blocks__0__attn__{part}_proj__weight": (2, 2) for part in "qkv"}
    whole = torch.arange(12.0).reshape(6, 2)
    found = rename({f"{start}qkv.weight": whole}, FORMS_OF_NAMES[0], "", Names(**parts))
    for number, part in enumerate("qkv"):
        expected = whole[2 * number : 2 * number + 2]
        assert torch.equal(found.state[f"{start}{part}_proj.weight"], expected)


def test_one_matrix_of_pooling_is_query_then_key_and_value_as_torch_has_it():
    torch.manual_seed(0)
    attention = torch.nn.MultiheadAttention(4, 1, bias=False)
    model = Names(attn_pool__latent=(1, 1, 4), attn_pool__q__weight=(4, 4))
    model.shapes["attn_pool.kv.weight"] = (8, 4)
    given = {"attn_pool.in_proj_weight": attention.in_proj_weight.detach()}
    state = rename(given, FORMS_OF_NAMES[0], "", model).state
    query, frames = torch.randn(1, 4), torch.randn(5, 4)
    keys, values = (frames @ state["attn_pool.kv.weight"].T).chunk(2, dim=1)
    scores = query @ state["attn_pool.q.weight"].T @ keys.T / 2
    pooled = scores.softmax(-1) @ values @ attention.out_proj.weight.T
    torch.testing.assert_close(attention(query, frames, frames)[0], pooled)


def test_a_gated_layer_of_dinov3_computes_what_its_release_computes():
    torch.manual_seed(0)
    layer = timm.layers.SwiGLU(4, 6)
    state = {f"w{number}.weight": torch.randn(6, 4) for number in (1, 2)}
    state |= {"w3.weight": torch.randn(4, 6)}
    state |= {f"w{number}.bias": torch.randn(size) for number, size in ((1, 6), (2, 6), (3, 4))}
    shapes = {name: tuple(value.shape) for name, value in layer.state_dict().items()}
    model = Names(**{f"blocks.0.mlp.{name}": shape for name, shape in shapes.items()})
    given = {f"blocks.0.mlp.{name}": value for name, value in state.items()}
    found = rename(given, FORMS_OF_NAMES[0], "", model).state
    layer.load_state_dict({name.removeprefix("blocks.0.mlp."): v for name, v in found.items()})
    x = torch.randn(3, 4)

    def linear(number, value):
        return value @ state[f"w{number}.weight"].T + state[f"w{number}.bias"]

    expected = linear(3, torch.nn.functional.silu(linear(1, x)) * linear(2, x))
    torch.testing.assert_close(layer(x), expected)
