"""Weights in the forms of other libraries give the block outputs that those libraries compute."""

import contextlib
import functools
import io
import json
import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import nn

from tokenreel.cache.errors import UsageError
from tokenreel.extract.backbone import weights as timm_weights
from tokenreel.extract.backbone.timm_backbone import backbone_shape, build_backbone
from tokenreel.extract.backbone.weights import load_weights, weights_sha256
from tokenreel.extract.config import ExtractConfig
from tokenreel.extract.encode.identity import build_identity

TOLERANCE = 1e-5
TINY = "vit_tiny_patch16_224"
MINI_SIGLIP = "vit_mini_patch16_siglip"
DEPTH = 3  # blocks of every model here: timm's are built as shallow


@dataclass
class Reference:
    """A small random model of another library, saved.

    Attributes:
        folder: where it is saved.
        images: normalised, (2, 3, S, S).
        blocks: output of each block before the final norm, prefix tokens first, (2, P + N, D).
        state: its tensors as the running library names them.
    """

    folder: Path
    images: torch.Tensor
    blocks: list[torch.Tensor]
    state: dict[str, torch.Tensor]


def sizes(dim, depth, heads, image, patch, *, ratio=4):
    return {
        "hidden_size": dim,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "intermediate_size": ratio * dim,
        "image_size": image,
        "patch_size": patch,
    }


def models():
    """Name, backbone of timm, side of the images, and the model of Hugging Face."""
    import transformers as hf

    tiny, small = sizes(192, DEPTH, 3, 32, 16), sizes(384, DEPTH, 6, 28, 14)
    third = sizes(192, DEPTH, 3, 48, 16) | {"num_register_tokens": 4}
    plus = sizes(384, DEPTH, 6, 48, 16) | {"num_register_tokens": 4}
    clip = hf.CLIPVisionConfig(**sizes(256, DEPTH, 4, 32, 16), hidden_act="gelu")
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text |= {"intermediate_size": 16, "vocab_size": 20, "bos_token_id": 1, "eos_token_id": 2}
    decoder = {"decoder_hidden_size": 32, "decoder_num_hidden_layers": 1}
    decoder |= {"decoder_num_attention_heads": 2, "decoder_intermediate_size": 32}
    siglip = hf.SiglipVisionConfig(**sizes(32, 2, 2, 32, 16), hidden_act="gelu")
    return {
        "ViT": (TINY, hf.ViTModel(hf.ViTConfig(**tiny))),
        "ViT classifier": (
            TINY,
            hf.ViTForImageClassification(hf.ViTConfig(**tiny, layer_norm_eps=1e-6)),
        ),
        "ViT without biases": (TINY, hf.ViTModel(hf.ViTConfig(**tiny, qkv_bias=False))),
        "DeiT": (
            "deit_tiny_distilled_patch16_224",
            hf.DeiTForImageClassificationWithTeacher(hf.DeiTConfig(**tiny)),
        ),
        "MAE": (TINY, hf.ViTMAEForPreTraining(hf.ViTMAEConfig(**tiny, **decoder, mask_ratio=0.0))),
        "DINOv2": ("vit_small_patch14_dinov2", hf.Dinov2Model(hf.Dinov2Config(**small))),
        "DINOv2 registers": (
            "vit_small_patch14_reg4_dinov2",
            hf.Dinov2WithRegistersModel(hf.Dinov2WithRegistersConfig(**small)),
        ),
        "DINOv3": ("vit_tiny_patch16_dinov3_qkvb", hf.DINOv3ViTModel(hf.DINOv3ViTConfig(**third))),
        "DINOv3 gated": (
            "vit_small_plus_patch16_dinov3_qkvb",
            hf.DINOv3ViTModel(hf.DINOv3ViTConfig(**plus, use_gated_mlp=True, hidden_act="silu")),
        ),
        "CLIP vision": ("vit_xsmall_patch16_clip_224", hf.CLIPVisionModel(clip)),
        "CLIP": (
            "vit_xsmall_patch16_clip_224",
            hf.CLIPModel(hf.CLIPConfig(vision_config=clip.to_dict(), text_config=text)),
        ),
        "SigLIP": (MINI_SIGLIP, hf.SiglipVisionModel(siglip)),
    }


NAMES = (
    "ViT",
    "ViT classifier",
    "ViT without biases",
    "DeiT",
    "MAE",
    "DINOv2",
    "DINOv2 registers",
    "DINOv3",
    "DINOv3 gated",
    "CLIP vision",
    "CLIP",
    "SigLIP",
)

BACKBONES = (
    TINY,
    "deit_tiny_distilled_patch16_224",
    "vit_small_patch14_dinov2",
    "vit_small_patch14_reg4_dinov2",
    "vit_tiny_patch16_dinov3_qkvb",
    "vit_small_plus_patch16_dinov3_qkvb",
    "vit_xsmall_patch16_clip_224",
)


def block_outputs(model, depth, run):
    """What each block of the first stack of so many blocks gives while `run` runs."""
    blocks = next(m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == depth)
    kept = []
    hooks = [
        block.register_forward_hook(
            lambda _, __, out: kept.append(out[0] if isinstance(out, tuple) else out)
        )
        for block in blocks
    ]
    with torch.no_grad():
        run()
    for hook in hooks:
        hook.remove()
    return kept


def reference(model, name, folder):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in model.eval().parameters():  # norms, scales and biases too
            value.add_(torch.randn(value.shape, generator=generator) * 0.02)
    vision = model.vision_model if name == "CLIP" else model
    config = vision.config
    images = torch.randn(2, 3, config.image_size, config.image_size, generator=generator)
    if name == "MAE":  # it shuffles patches by noise: none here
        order = torch.arange((config.image_size // config.patch_size) ** 2).float()
        blocks = block_outputs(
            model.vit,
            config.num_hidden_layers,
            lambda: model.vit(images, noise=order.expand(2, -1)),
        )
    else:
        blocks = block_outputs(
            vision, config.num_hidden_layers, lambda: vision(pixel_values=images)
        )
    model.save_pretrained(folder)
    return Reference(folder, images, blocks, dict(model.state_dict()))


def mini_siglip(pretrained=False, **options):
    from timm.models.vision_transformer import VisionTransformer

    shape = {"patch_size": 16, "embed_dim": 32, "depth": 2, "num_heads": 2}
    shape |= {name: options[name] for name in ("num_classes", "img_size") if name in options}
    model = VisionTransformer(class_token=False, global_pool="map", **shape)
    model.pretrained_cfg = {"input_size": (3, 224, 224), "mean": (0.5,) * 3, "std": (0.5,) * 3}
    return model


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("references")
    found = {}
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stderr(io.StringIO()),  # bars of progress
        torch.random.fork_rng(),
    ):
        warnings.simplefilter("ignore")  # transformers' own
        torch.manual_seed(0)
        for name, (backbone, model) in models().items():
            place = folder / name.replace(" ", "_")
            found[name] = (backbone, reference(model, name, place))
    return found


@pytest.fixture
def shallow(monkeypatch):
    """Let timm build its backbones of these tests with DEPTH blocks."""
    entries = timm.models._registry._model_entrypoints
    for name in BACKBONES:
        monkeypatch.setitem(entries, name, functools.partial(entries[name], depth=DEPTH))
    monkeypatch.setitem(entries, MINI_SIGLIP, mini_siglip)
    for kept in (timm_weights._architecture, backbone_shape):
        kept.cache_clear()
    yield
    for kept in (timm_weights._architecture, backbone_shape):
        kept.cache_clear()


@pytest.fixture
def references(saved, shallow):
    """Name -> backbone, Reference."""
    return saved


def tokens_of(backbone, path, images):
    state = load_weights(backbone, str(path))
    depth = len({name.split(".")[1] for name in state if name.startswith("blocks.")})
    shape = backbone_shape(backbone, tuple(range(depth)), images.shape[-1])
    built = build_backbone(backbone, state, shape)
    with torch.no_grad():
        return built.run(images), built.model.num_prefix_tokens


def assert_equal_blocks(backbone, path, images, blocks):
    found, num_prefix = tokens_of(backbone, path, images)
    assert len(blocks) == len(found.tokens)
    for number, wanted in enumerate(blocks):
        tokens = found.tokens[number]
        torch.testing.assert_close(tokens, wanted[:, num_prefix:], rtol=0, atol=TOLERANCE)
        if found.cls:
            torch.testing.assert_close(found.cls[number], wanted[:, 0], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_of_hugging_face_gives_its_block_outputs(references, name):
    backbone, made = references[name]
    assert_equal_blocks(backbone, made.folder, made.images, made.blocks)


@pytest.mark.parametrize("name", ["ViT classifier", "DINOv3", "CLIP"])
def test_names_of_the_running_library_give_the_same_weights(references, name, tmp_path):
    backbone, made = references[name]
    torch.save(made.state, tmp_path / "w.pth")
    found = weights_sha256(load_weights(backbone, str(tmp_path / "w.pth")))
    assert found == weights_sha256(load_weights(backbone, str(made.folder)))


def test_positions_of_a_larger_image_are_interpolated(references):
    backbone, made = references["ViT"]
    state = load_weights(backbone, str(made.folder))
    tokens = build_backbone(backbone, state, backbone_shape(backbone, (0,), 64))
    found = tokens.run(torch.zeros(1, 3, 64, 64)).tokens[0]
    assert state["pos_embed"].shape[1] == 1 + 4
    assert found.shape == (1, 16, 192)
    assert found.isfinite().all()


def test_the_epsilon_of_config_json_is_part_of_the_weights(references, tmp_path):
    made = references["ViT"][1]
    config = json.loads((made.folder / "config.json").read_text())
    assert config["layer_norm_eps"] == 1e-12
    (tmp_path / "model.safetensors").write_bytes((made.folder / "model.safetensors").read_bytes())
    alone, folder = (load_weights(TINY, str(path)) for path in (tmp_path, made.folder))
    assert folder.keys() - alone.keys() == {"norm_eps"}
    (tmp_path / "config.json").write_text(json.dumps(config | {"layer_norm_eps": 1e-6}))
    assert load_weights(TINY, str(tmp_path)).keys() == alone.keys()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_attention_heads": 8}, "says 8 heads of attention, vit_xsmall_.* has 4"),
        ({"hidden_act": "quick_gelu"}, "says hidden_act=quick_gelu, vit_xsmall_.* computes GELU"),
        ({"hidden_act": "relu"}, "says hidden_act=relu, vit_xsmall_.* computes GELU"),
        ({"hidden_act": "laplace"}, "says hidden_act=laplace, vit_xsmall_.* computes GELU"),
    ],
)
def test_a_config_of_another_architecture_is_refused(references, tmp_path, changes, message):
    backbone, made = references["CLIP vision"]
    config = json.loads((made.folder / "config.json").read_text()) | changes
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "w.safetensors").write_bytes((made.folder / "model.safetensors").read_bytes())
    with pytest.raises(UsageError, match=message):
        load_weights(backbone, str(tmp_path / "w.safetensors"))


@pytest.mark.parametrize("changes", [{"rope_theta": 50.0}, {"rope_parameters": {"rope_theta": 50}}])
def test_rotary_positions_of_another_base_are_refused(references, tmp_path, changes):
    backbone, made = references["DINOv3"]
    config = json.loads((made.folder / "config.json").read_text())
    (tmp_path / "model.safetensors").write_bytes((made.folder / "model.safetensors").read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(UsageError, match=r"says rope_theta=50, the base .* has 100"):
        load_weights(backbone, str(tmp_path))


def test_a_model_of_other_registers_is_refused_with_the_one_that_fits(references):
    made = references["DINOv2 registers"][1]
    with pytest.raises(UsageError, match=r"left over 1 \(embeddings.register_tokens\)") as caught:
        load_weights("vit_small_patch14_dinov2", str(made.folder))
    assert "try backbone=vit_small_patch14_reg4_dinov2" in str(caught.value)


def as_open_clip(state):
    """The names of OpenAI and open_clip for the tensors of a timm CLIP."""
    renamed = {}
    swaps = {
        "patch_embed.proj.": "conv1.",
        "pos_embed": "positional_embedding",
        "cls_token": "class_embedding",
        "norm_pre.": "ln_pre.",
        "blocks.": "transformer.resblocks.",
        "attn.qkv.": "attn.in_proj_",
        "attn.proj.": "attn.out_proj.",
        "norm1.": "ln_1.",
        "norm2.": "ln_2.",
        "mlp.fc1.": "mlp.c_fc.",
        "mlp.fc2.": "mlp.c_proj.",
    }
    for name, value in state.items():
        new = "ln_post." + name.removeprefix("norm.") if name.startswith("norm.") else name
        for old, word in swaps.items():
            new = new.replace(old, word)
        squeezed = name in ("cls_token", "pos_embed")
        renamed[f"visual.{new}"] = value.squeeze() if squeezed else value
    return renamed


def test_open_clip_has_the_hash_of_the_same_clip_of_hugging_face(references, tmp_path):
    backbone, made = references["CLIP"]
    state = load_weights(backbone, str(made.folder))
    text = {"transformer.resblocks.0.ln_1.weight": torch.ones(4), "logit_scale": torch.ones(())}
    text |= {"positional_embedding": torch.ones(77, 4), "visual.proj": torch.ones(256, 8)}
    torch.save({"state_dict": as_open_clip(state) | text}, tmp_path / "w.pt")
    found = load_weights(backbone, str(tmp_path / "w.pt"))
    assert weights_sha256(found) == weights_sha256(state)


def as_dinov3_hub(state):
    """The names of facebookresearch/dinov3 for tensors of timm's DINOv3."""
    renamed = {"storage_tokens": state["reg_token"], "mask_token": torch.zeros(1, 192)}
    renamed["rope_embed.periods"] = torch.ones(16)
    for name, value in state.items():
        if name.endswith("q_bias"):
            start = name.removesuffix("q_bias")
            garbage = torch.full_like(value, torch.nan)  # never added: the mask is 0 there
            parts = [value, garbage, state[f"{start}v_bias"]]
            renamed[f"{start}qkv.bias"] = torch.cat(parts)
            ones = torch.ones_like(value)
            renamed[f"{start}qkv.bias_mask"] = torch.cat([ones, 0 * ones, ones])
        elif not name.endswith(("v_bias", "reg_token")):
            renamed[name.replace("gamma_1", "ls1.gamma").replace("gamma_2", "ls2.gamma")] = value
    return renamed


def test_the_hub_file_of_dinov3_has_the_hash_of_the_same_of_hugging_face(references, tmp_path):
    backbone, made = references["DINOv3"]
    state = load_weights(backbone, str(made.folder))
    torch.save(as_dinov3_hub(state), tmp_path / "w.pth")
    found = load_weights(backbone, str(tmp_path / "w.pth"))
    assert weights_sha256(found) == weights_sha256(state)


def test_the_hub_file_of_dinov2_with_registers_is_that_of_hugging_face(references, tmp_path):
    backbone, made = references["DINOv2 registers"]
    state, saved = (
        load_weights(backbone, str(made.folder)),
        load_file(made.folder / "model.safetensors"),
    )
    hub = {name.replace("reg_token", "register_tokens"): value for name, value in state.items()}
    hub["cls_token"] = saved["embeddings.cls_token"]
    hub["pos_embed"] = saved["embeddings.position_embeddings"]
    torch.save(hub | {"mask_token": torch.zeros(1, 384)}, tmp_path / "w.pth")
    found = load_weights(backbone, str(tmp_path / "w.pth"))
    assert weights_sha256(found) == weights_sha256(state)


def test_a_vit_of_torchvision_gives_its_block_outputs(shallow, tmp_path):
    from torchvision.models import VisionTransformer

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = VisionTransformer(
            image_size=32, patch_size=16, num_layers=DEPTH, num_heads=3, hidden_dim=192, mlp_dim=768
        ).eval()
        images = torch.randn(2, 3, 32, 32)
    kept = []
    for layer in model.encoder.layers:
        layer.register_forward_hook(lambda _, __, out: kept.append(out))
    with torch.no_grad():
        model(images)
    torch.save(model.state_dict(), tmp_path / "w.pth")
    assert_equal_blocks(TINY, tmp_path / "w.pth", images, kept)


@pytest.mark.skipif(
    not os.environ.get("TOKENREEL_WEIGHTS"), reason="TOKENREEL_WEIGHTS names no DINOv2 ViT-S/14"
)
def test_three_forms_of_real_weights_are_one_store():
    given = Path(os.environ["TOKENREEL_WEIGHTS"])
    folder = given if (given / "hf").is_dir() else given.parent
    folder = folder.parent if folder.name == "hf" else folder
    forms = ("dinov2_vits14_pretrain.pth", "dinov2_teacher_checkpoint.pth", "hf")
    config = ExtractConfig(backbone="vit_small_patch14_dinov2", image_size=112)
    identities = [
        build_identity(config.model_copy(update={"weights": str(folder / form)})) for form in forms
    ]
    assert len({identity.fingerprint for identity in identities}) == 1
    images = torch.randn(1, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    tokens = [tokens_of(config.backbone, folder / form, images)[0].tokens[11] for form in forms]
    assert torch.equal(tokens[0], tokens[1])
    assert torch.equal(tokens[0], tokens[2])
