"""Maps of clips: T frames evenly in time through image and video models; crops of a test."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file

from tests.extract.extraction import CONFIG, copy_without_clips, differing, write_video
from tokenreel.cache.errors import UsageError
from tokenreel.cache.manifest import Clip, Manifest
from tokenreel.cache.read.store_reader import open_store
from tokenreel.cache.tools.import_features import import_features, read_statement
from tokenreel.cache.tools.verify import verify_store
from tokenreel.extract.backbone.families import (
    backbone_shape,
    build_backbone,
    check_weights,
    load_weights,
)
from tokenreel.extract.config import ExtractConfig
from tokenreel.extract.encode.identity import build_identity
from tokenreel.extract.flow.runner import extract_clips
from tokenreel.extract.images.transforms import apply_transform
from tokenreel.extract.preview.show import look_at_clip
from tokenreel.extract.video.decode import decode
from tokenreel.fuse.data.requirements import extract_command
from tokenreel.pipeline.phases.extraction import config_of

NEEDS = pytest.mark.skipif(find_spec("transformers") is None, reason="no transformers")
VIDEO = ExtractConfig(
    backbone="videomae:tiny",
    weights="random:0",
    blocks=(0, 2),
    codec="fp16",
    frames="uniform:8",
    device="cpu",
)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    root = tmp_path_factory.mktemp("videos")
    for number in range(3):
        write_video(root / f"{number}.mp4", 20 + 7 * number)
    clips = tuple(Clip(f"c{n}", f"{n}.mp4") for n in range(3))
    return Manifest("toy", root, clips)


def reference(family, state):
    """The library's own model with the weights of a family's tiny one."""
    import transformers

    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 64, "image_size": 32, "patch_size": 8, "num_frames": 4}
    config, model = {
        "videomae": (transformers.VideoMAEConfig, transformers.VideoMAEModel),
        "xclip": (transformers.XCLIPVisionConfig, transformers.XCLIPVisionModel),
    }[family]
    made = model(config(**sizes)).eval()
    answer = made.load_state_dict(state, strict=False)
    assert not answer.unexpected_keys
    assert all(name.startswith("post_layernorm") for name in answer.missing_keys)
    return made


def reference_tokens(family, model, images):
    """Block -> (windows, rows, N, D) of normalised images (windows, 4, 3, 32, 32)."""
    with torch.inference_mode():
        given = images if family == "videomae" else images.flatten(0, 1)
        states = model(pixel_values=given, output_hidden_states=True).hidden_states[1:]
    if family == "videomae":
        return [state.unflatten(1, (2, 16)) for state in states]
    return [state[:, 1:].unflatten(0, (-1, 4)) for state in states]


@NEEDS
@pytest.mark.parametrize("family", ["videomae", "xclip"])
def test_tokens_of_a_video_model_are_those_of_its_library(family):
    name = f"{family}:tiny"
    shape = backbone_shape(name, (0, -1), None)
    rows = 2 if family == "videomae" else 4
    assert (shape.blocks, shape.grid, shape.dim) == ((0, 2), (4, 4), 32)
    assert (shape.frames_per_window, shape.rows_per_window) == (4, rows)
    state = load_weights(name, "random:0")
    backbone = build_backbone(name, state, shape)
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (12, 3, 32, 32), np.uint8))
    found = backbone(images).tokens
    scaled = (images.float() / 255 - backbone.mean) / backbone.std
    wanted = reference_tokens(family, reference(family, state), scaled.unflatten(0, (3, 4)))
    for block in (0, 2):
        assert found[block].shape == (3 * rows, 16, 32)
        assert (found[block] - wanted[block].flatten(0, 1)).abs().max() < 1e-5


@NEEDS
def test_a_clip_map_of_videomae_has_a_row_for_each_two_frames(manifest, tmp_path):
    extract_clips(manifest, VIDEO, tmp_path / "store", progress=False)
    store = open_store(tmp_path / "store")
    assert (store.identity.unit, store.identity.transform["name"]) == ("window", "cover")
    state = load_weights(VIDEO.backbone, VIDEO.weights)
    model = reference("videomae", state)
    shape = backbone_shape(VIDEO.backbone, VIDEO.blocks, None)
    backbone = build_backbone(VIDEO.backbone, state, shape)
    for number, clip in enumerate(manifest.clips):
        frames = [frame.pixels for frame in decode(manifest.root / clip.video)]
        count = len(frames)
        kept = [int((n + 0.5) * count / 8) for n in range(8)]
        images = torch.stack([apply_transform(frames[k], store.identity.transform) for k in kept])
        scaled = (images.float() / 255 - backbone.mean) / backbone.std
        wanted = reference_tokens("videomae", model, scaled.unflatten(0, (2, 4)))
        read = store.read(f"c{number}")
        for block in (0, 2):
            assert read.decode(block).shape == (4, 16, 32)
            error = np.abs(read.decode(block) - wanted[block].flatten(0, 1).numpy())
            assert error.max() < 4e-3  # float16
    assert verify_store(tmp_path / "store", deep=True).problems == ()
    picture = look_at_clip(store, "c0", root=manifest.root, num_frames=4)
    assert picture.unseen_reason == ""


@NEEDS
def test_frames_that_fill_no_window_are_refused_not_repeated():
    config = VIDEO.model_copy(update={"frames": "uniform:6"})
    with pytest.raises(UsageError, match="sees 4 frames at once: give frames=uniform:4, or a mul"):
        build_identity(config)


@NEEDS
def test_a_clip_map_is_the_same_bytes_whoever_makes_which_part(manifest, tmp_path):
    whole = tmp_path / "whole"
    extract_clips(manifest, VIDEO, whole, progress=False)
    parts = copy_without_clips(whole, tmp_path / "parts")
    for shard in (0, 1):
        extract_clips(manifest, VIDEO, parts, shard=(shard, 2), progress=False)
    assert differing(whole, parts) == []


@NEEDS
@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("videomae:bas", {}, "did you mean base"),
        ("xclip:tiny", {"blocks": (3,)}, "xclip:tiny has blocks 0 to 2"),
        ("videomae:tiny", {"image_size": 36}, "does not divide into patches"),
        ("videomae:tiny", {"image_size": 64}, "videomae:tiny is for 32x32 pixels"),
    ],
)
def test_a_wrong_name_block_or_size_is_refused(name, options, reason):
    values = {"blocks": (0,), "image_size": None} | options
    with pytest.raises(UsageError, match=reason):
        backbone_shape(name, **values)


@NEEDS
@pytest.mark.parametrize("family", ["videomae", "xclip"])
def test_a_file_of_the_library_is_read_with_its_heads_and_older_names(tmp_path, family):
    state = load_weights(f"{family}:tiny", "random:3")
    if family == "videomae":
        held = {
            f"videomae.{name}".replace("query.bias", "q_bias").replace("value.bias", "v_bias"): v
            for name, v in state.items()
        }
        held |= {"fc_norm.weight": torch.ones(32), "classifier.weight": torch.ones(5, 32)}
    else:
        held = {f"vision_model.{name}": value for name, value in state.items()}
        held |= {"mit.position_embedding": torch.ones(1, 4, 32), "logit_scale": torch.ones(())}
    save_file({name: v.contiguous() for name, v in held.items()}, tmp_path / "w.safetensors")
    found = load_weights(f"{family}:tiny", str(tmp_path / "w.safetensors"))
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) for name in state)
    check_weights(f"{family}:tiny", "pretrained")  # without a download
    save_file({"other": torch.ones(2)}, tmp_path / "x.safetensors")
    with pytest.raises(UsageError, match="do not fit"):
        load_weights(f"{family}:tiny", str(tmp_path / "x.safetensors"))


@pytest.mark.parametrize(
    ("name", "size", "grid", "mean"),
    [
        ("vit_base_patch16_clip_224.openai", None, 14, 0.4815),
        ("vit_large_patch14_clip_224.openai", None, 16, 0.4815),
        ("deit3_large_patch16_224.fb_in1k", None, 14, 0.485),
        ("vit_base_patch16_224.dino", None, 14, 0.485),
        ("vit_base_patch14_dinov2.lvd142m", 224, 16, 0.485),
        ("vit_base_patch16_dinov3.lvd1689m", 224, 14, 0.485),
    ],
)
def test_the_image_models_of_clip_maps_have_their_grid_and_means(name, size, grid, mean):
    shape = backbone_shape(name, (-1,), size)
    assert (shape.grid, shape.has_cls) == ((grid, grid), True)
    assert shape.mean[0] == pytest.approx(mean, abs=1e-3)
    assert (shape.frames_per_window, shape.rows_per_window) == (1, 1)


@pytest.mark.parametrize(
    "name",
    [
        "vit_small_patch16_dinov3",
        pytest.param("deit3_small_patch16_224", marks=pytest.mark.slow),
        pytest.param("vit_small_patch14_dinov2", marks=pytest.mark.slow),
    ],
)
def test_tokens_of_an_image_model_are_the_outputs_of_its_blocks(name):
    size = 28 if "14" in name else 32
    shape = backbone_shape(name, (-1,), size)
    backbone = build_backbone(name, load_weights(name, "random:0"), shape)
    images = torch.from_numpy(
        np.random.default_rng(0).integers(0, 256, (2, 3, size, size), np.uint8)
    )
    outputs = []
    with backbone.model.blocks[-1].register_forward_hook(lambda *seen: outputs.append(seen[2])):
        found = backbone(images)
    spatial = outputs[0][:, -shape.grid[0] * shape.grid[1] :]
    assert (found.tokens[shape.blocks[0]] - spatial).abs().max() < 1e-5
    assert (found.cls[shape.blocks[0]] - outputs[0][:, 0]).abs().max() < 1e-5


@pytest.fixture(scope="module")
def crops(manifest, tmp_path_factory):
    store = tmp_path_factory.mktemp("out") / "crops"
    config = CONFIG.model_copy(update={"codec": "fp16", "frames": "uniform:3", "crops": 3})
    extract_clips(manifest, config, store, progress=False)
    return open_store(store), config


def test_three_crops_are_three_views_of_the_same_frames(manifest, crops):
    store, config = crops
    identity = store.identity
    assert (identity.num_views, identity.num_crops, identity.num_augmented) == (3, 3, 0)
    assert [view["name"] for view in identity.views] == ["clean", "crop-first", "crop-last"]
    state = load_weights(config.backbone, config.weights)
    shape = backbone_shape(config.backbone, config.blocks, config.image_size)
    backbone = build_backbone(config.backbone, state, shape)
    frames = [frame.pixels for frame in decode(manifest.root / "0.mp4")]
    for view, place in enumerate(("centre", "first", "last")):
        images = torch.stack(
            [apply_transform(frames[k], identity.transform, place=place) for k in (3, 10, 16)]
        )
        wanted = backbone(images).tokens[5].numpy()
        found = store.read("c0", view=view).decode(5)
        assert np.abs(found - wanted).max() < 5e-3
    differs = np.abs(store.read("c0", view=1).decode(5) - store.read("c0", view=2).decode(5))
    assert differs.max() > 2e-2
    picture = look_at_clip(store, "c0", root=manifest.root, num_frames=3, view=2)
    assert picture.unseen_reason == ""


def test_a_store_of_crops_says_how_it_was_made(crops):
    store, config = crops
    made = config_of(store.identity, store.made_with)
    assert (made.crops, made.views) == (3, 0)
    assert build_identity(made.model_copy(update={"weights": "random:0"})).views == (
        build_identity(config).views
    )
    assert " crops=3 " in extract_command(store)
    assert " crops=" not in extract_command(store, views="2")


def test_crops_go_with_neither_augmented_views_nor_a_preset_that_does_not_crop():
    with pytest.raises(ValidationError, match="takes neither views= nor pixels="):
        ExtractConfig(crops=3, views=2)
    wrong = CONFIG.model_copy(update={"crops": 3, "transform": "stretch"})
    with pytest.raises(UsageError, match="give transform=dino-256-224 or transform=cover, not str"):
        build_identity(wrong)


def test_segments_of_a_test_are_every_kth_frame_of_a_longer_map(manifest, tmp_path):
    """Frames at the centres of 6 parts: the even ones are of parts of 3, a quarter part early."""
    config = CONFIG.model_copy(update={"codec": "fp16", "frames": "uniform:6"})
    extract_clips(manifest, config, tmp_path / "store", progress=False)
    index = open_store(tmp_path / "store").frame_index("c0")
    assert index[0::2].tolist() == [1, 8, 15]
    assert index[1::2].tolist() == [5, 11, 18]


def test_maps_of_others_are_imported_as_rows_of_a_grid(tmp_path):
    maps = np.random.default_rng(0).normal(size=(4, 2 * 3, 8)).astype(np.float32)
    (tmp_path / "features").mkdir()
    np.save(tmp_path / "features" / "clip.npy", maps)
    (tmp_path / "about.toml").write_text(
        'dataset = "mine"\narchitecture = "uniformerv2-l"\nblocks = [3]\ngrid = [2, 3]\ndim = 8\n'
        f'weights_sha256 = "{"0" * 64}"\nimage_size = [32, 48]\nfps = 25\nunit = "slot"\n'
        'frames = {policy = "uniform", count = 8}\nrows_per_window = 4\nframes_per_window = 8\n'
        'transform = {name = "cover"}\n'
    )
    statement = read_statement(tmp_path / "about.toml")
    import_features(tmp_path / "features", tmp_path / "store", statement)
    store = open_store(tmp_path / "store")
    assert (store.identity.grid, store.identity.unit) == ((2, 3), "slot")
    (clip_id,) = store.records
    assert np.abs(store.read(clip_id).decode(3) - maps).max() < 4e-3
