"""Backbones that see several frames: the rows of a store, their time, restarts."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.extract.backbone.plugin import Movement, install
from tests.extract.extraction import copy_without_clips, differing, write_video
from tokenreel.cache.errors import UsageError
from tokenreel.cache.format.layout import SEGMENT
from tokenreel.cache.manifest import Clip, LabelSpan, Manifest
from tokenreel.cache.read.store_reader import open_store
from tokenreel.cache.tools.verify import verify_store
from tokenreel.extract.backbone.families import (
    backbone_shape,
    build_backbone,
    check_family,
    load_weights,
)
from tokenreel.extract.config import ExtractConfig
from tokenreel.extract.encode.identity import (
    build_identity,
    open_or_create,
    require_same_tokens,
    store_name,
)
from tokenreel.extract.flow import runner
from tokenreel.extract.flow.runner import extract_clips
from tokenreel.extract.flow.windows import Windows
from tokenreel.extract.images.transforms import apply_transform
from tokenreel.extract.preview.plan import planned_identity, store_size, survey_headers
from tokenreel.extract.preview.show import look_at_clip
from tokenreel.extract.video.decode import decode

CONFIG = ExtractConfig(
    backbone="movement:4x2", weights="random:0", blocks=(0,), codec="fp16", device="cpu"
)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    root = tmp_path_factory.mktemp("videos")
    write_video(root / "a.mp4", 30)
    write_video(root / "long.mp4", 150)
    clips = (
        Clip("a", "a.mp4", action="turn", spans=(LabelSpan(0.0, 0.4, 1),)),
        Clip("long", "long.mp4"),
    )
    return Manifest("toy", root, clips, phases={"turn": ("go", "stop")})


@pytest.fixture(autouse=True)
def plugin(tmp_path, monkeypatch):
    install(tmp_path, monkeypatch)


def wanted_tokens(manifest, video, config):
    """Rows computed from decoded frames, window by window."""
    transform = planned_identity(config).transform
    frames = [frame.pixels for frame in decode(manifest.root / video)]
    shape = backbone_shape(config.backbone, config.blocks, None)
    frames += [frames[-1]] * (-len(frames) % shape.frames_per_window)
    images = torch.stack([apply_transform(pixels, transform) for pixels in frames])
    state = load_weights(config.backbone, config.weights)
    return build_backbone(config.backbone, state, shape)(images).tokens[0].numpy()


@pytest.mark.parametrize("name", ["4x2", "12x1", "3x3", "5x7", "1x1"])
def test_rows_of_a_store_are_those_of_its_windows(manifest, tmp_path, name):
    config = CONFIG.model_copy(update={"backbone": f"movement:{name}", "batch_frames": 10})
    report = extract_clips(manifest, config, tmp_path / "store", progress=False)
    assert sorted(report.committed) == ["a", "long"]
    store = open_store(tmp_path / "store")
    frames, rows = map(int, name.split("x"))
    identity = store.identity
    assert (identity.frames_per_window, identity.rows_per_window) == (frames, rows)
    assert identity.unit == ("frame" if name == "1x1" else "window")
    assert report.num_repeated == -30 % frames + -150 % frames
    for clip_id, video in (("a", "a.mp4"), ("long", "long.mp4")):
        wanted = wanted_tokens(manifest, video, config)
        found = store.read(clip_id).decode(0)
        assert found.shape == wanted.shape
        np.testing.assert_allclose(found, wanted, rtol=2e-3, atol=2e-3)
        pts, stops = store.pts(clip_id), store.stop_pts(clip_id)
        np.testing.assert_array_equal(pts[1:], stops[:-1])  # no gap, no overlap
        assert (stops > pts).all()
    assert verify_store(tmp_path / "store", deep=True).problems == ()
    survey = survey_headers(manifest, config)
    size = store_size(planned_identity(config), "fp16", list(survey.clip_frames.values()))
    files = [p for p in (tmp_path / "store/clips").rglob("*") if p.is_file()]
    assert size.num_files == len(files)
    assert size.num_bytes == sum(p.stat().st_size for p in files if p.name != "zarr.json")


def test_rows_part_the_time_of_their_window_and_are_labelled_in_their_middle(manifest, tmp_path):
    extract_clips(manifest, CONFIG, tmp_path / "store", progress=False)
    store = open_store(tmp_path / "store")
    frame = int(store.pts("a")[2]) // 4  # ticks: the second window starts at frame 4
    half = [2 * frame * row for row in range(16)]
    half[15] = 28 * frame + frame  # the last window has two frames, so its rows are short
    assert store.pts("a").tolist() == half
    assert store.stop_pts("a").tolist() == [*half[1:], 30 * frame]
    assert store.frame_index("a").tolist() == [*range(0, 30, 2), 29]
    # 0.4 s is frame 10: row 4 is of frames 8 and 9, row 5 of 10 and 11
    assert store.labels("a").tolist() == [1] * 5 + [-1] * 11
    picture = look_at_clip(store, "a", root=manifest.root, num_frames=16)
    assert picture.unseen_reason == ""


def test_shards_and_a_stopped_run_give_the_same_bytes(manifest, tmp_path, monkeypatch):
    store = tmp_path / "store"
    extract_clips(manifest, CONFIG, store, progress=False)
    again = copy_without_clips(store, tmp_path / "again")
    add, count = runner.Flow._add, 0

    def stop_soon(flow, chunk):
        nonlocal count
        count += 1
        add(flow, chunk)
        if count == 8:
            flow._stopping.event.set()

    with monkeypatch.context() as patch:
        patch.setattr(runner.Flow, "_add", stop_soon)
        report = extract_clips(manifest, CONFIG, again, progress=False)
    assert report.stopped
    assert report.num_appended > SEGMENT / 2
    assert len(open_store(again).records) < 2
    report = extract_clips(manifest, CONFIG, again, progress=False)
    assert "long" in report.committed
    assert 0 < report.num_appended < 76 + 16
    assert differing(store, again) == []


def test_windows_know_what_completes_a_segment():
    for windows in (Windows(), Windows(4, 2), Windows(12, 1), Windows(5, 7)):
        for frames in range(0, 40 * windows.frames, windows.frames):
            room = windows.room(frames)
            rows, after = windows.rows_of(frames), windows.rows_of(frames + room)
            assert room % windows.frames == 0
            assert after - after % SEGMENT >= rows
            assert room == 0 or windows.rows_of(frames + room - windows.frames) % SEGMENT != 0


def test_frames_of_a_clip_fill_windows_and_a_scene_is_one_row(monkeypatch):
    of_8, of_6 = (CONFIG.model_copy(update={"frames": f"uniform:{count}"}) for count in (8, 6))
    assert build_identity(of_8).frames["count"] == 8
    with pytest.raises(UsageError, match="sees 4 frames at once: give frames=uniform:4, or a mult"):
        build_identity(of_6)
    policy = "tokenreel.extract.encode.identity.frames_identity"
    monkeypatch.setattr(policy, lambda config: {"policy": "scenes"})
    with pytest.raises(UsageError, match="a row is a scene, but the backbone gives 2 rows"):
        build_identity(CONFIG)


def test_a_codec_is_calibrated_on_whole_windows_that_repeat_the_last_frame(tmp_path):
    config = CONFIG.model_copy(update={"codec": "int8"})
    planned, shape = build_identity(config), backbone_shape(config.backbone, config.blocks, None)
    backbone = build_backbone(config.backbone, load_weights(config.backbone, "random:0"), shape)
    images = np.random.default_rng(0).integers(0, 256, (9, 3, 32, 32), np.uint8)
    common = {"config": config, "dataset": "toy", "backbone": backbone}
    identity, found = open_or_create(tmp_path / "9", planned, samples=images, **common)
    require_same_tokens(tmp_path / "9", identity, backbone, batch_frames=48)
    whole = np.concatenate([images, images[8:].repeat(3, axis=0)])
    _, wanted = open_or_create(tmp_path / "12", planned, samples=whole, **common)
    assert sorted(found) == sorted(wanted) == ["mean/0", "sd/0"]
    for name, values in wanted.items():
        np.testing.assert_array_equal(found[name], values)


def test_a_family_that_gives_another_shape_than_it_says_is_refused(manifest, tmp_path):
    config = CONFIG.model_copy(update={"backbone": "liar:4x2"})
    with pytest.raises(UsageError, match=r"Liar: block 0 is \(1, 3, 16, 16\), but its shape says"):
        extract_clips(manifest, config, tmp_path / "store", progress=False)


def test_weights_of_a_family_are_a_seed_or_a_file_of_its_names(tmp_path):
    state = load_weights("movement:4x2", "random:3")
    assert {name: tuple(value.shape) for name, value in state.items()} == {
        "bias": (16,),
        "weight": (16, 3, 8, 8),
    }
    torch.save(state, tmp_path / "w.pth")
    again = load_weights("movement:4x2", str(tmp_path / "w.pth"))
    assert all(torch.equal(again[name], value) for name, value in state.items())
    torch.save({"weight": state["weight"]}, tmp_path / "part.pth")
    with pytest.raises(UsageError, match="do not fit '4x2': bias is missing"):
        load_weights("movement:4x2", str(tmp_path / "part.pth"))
    with pytest.raises(UsageError, match="weights=pretrained: backbone '4x2' has none"):
        load_weights("movement:4x2", "pretrained")


def test_names_of_families():
    assert ExtractConfig(backbone="timm:vit_tiny_patch16_224").backbone == "vit_tiny_patch16_224"
    assert store_name("toy", CONFIG, build_identity(CONFIG)).startswith("toy-movement-4x2-random0-")
    with pytest.raises(UsageError, match="no backbone family 'movment', did you mean movement"):
        check_family("movment:4x2")
    with pytest.raises(UsageError, match="FAMILY:NAME"):
        load_weights("vit_tiny_patch16_225", "random:0")


def test_a_family_whose_shape_promises_cls_vectors_is_refused():
    family = Movement()
    shape = replace(family.shape("1x1", (0,), None), has_cls=True)
    state = family.load_weights("1x1", "random:0")
    with pytest.raises(UsageError, match="Movement: the shape of '1x1' says has_cls=True"):
        family.build("1x1", state, shape, numeric="float32", device="cpu")
