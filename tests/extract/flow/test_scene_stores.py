"""Extraction of frames=scenes:FOLDER: a row for each scene, of tokens or of pictures."""

import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from tests.extract.extraction import CONFIG, copy_without_clips, differing, files_below
from tests.extract.scenes.films import COLOURS, write_film
from tests.programs import call
from tokenreel.cache.errors import UsageError
from tokenreel.cache.manifest import Clip, LabelSpan, Manifest
from tokenreel.cache.read.pictures import decode_jpegs, read_pictures, split_jpegs
from tokenreel.cache.read.store_reader import open_store
from tokenreel.cache.read.store_set import StoreSet
from tokenreel.cache.tools.copying import merge_store
from tokenreel.cache.tools.export import export_store
from tokenreel.cache.tools.verify import verify_store
from tokenreel.evaluate.commands.frozen import pool_store
from tokenreel.extract.backbone import torchvision_backbone
from tokenreel.extract.backbone.families import backbone_shape, build_backbone, load_weights
from tokenreel.extract.backbone.torchvision_backbone import TorchvisionFamily
from tokenreel.extract.backbone.weights import weights_sha256
from tokenreel.extract.config import ExtractConfig
from tokenreel.extract.encode.identity import build_identity, identity_for, made_with, store_name
from tokenreel.extract.flow import runner
from tokenreel.extract.flow.runner import extract_clips
from tokenreel.extract.frame_policy import check_list, frames_identity, frames_word
from tokenreel.extract.images.transforms import apply_transform, transform_parameters
from tokenreel.extract.preview.plan import (
    picture_bytes,
    planned_identity,
    store_size,
    survey_headers,
)
from tokenreel.extract.preview.show import look_at_clip
from tokenreel.extract.scene_list import Scene, csv_bytes
from tokenreel.extract.scenes.config import ScenesConfig
from tokenreel.extract.scenes.run import extract_scenes
from tokenreel.extract.video.decode import decode
from tokenreel.fuse.systems.mvformer.requirements import require_tokens
from tokenreel.pipeline.cli.extract import app
from tokenreel.pipeline.phases.extraction import config_of
from tokenreel.pipeline.recipes import get_recipe
from tokenreel.pipeline.tools.fidelity import measure_store

UNITS = {
    "a": [(0, 30), (30, 50), (50, 64)],  # frames
    "few": [(0, 5)],
    "one": [(0, 1)],
    "part": [(20, 30), (30, 50), (50, 55)],
}
CENTRES = {"a": [15, 40, 57], "few": [2], "one": [0], "part": [25, 40, 52]}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    root = tmp_path_factory.mktemp("films")
    write_film(root / "a.mp4", [30, 20, 14])
    write_film(root / "few.mp4", [5])
    write_film(root / "one.mp4", [1])
    clips = (
        Clip("a", "a.mp4", action="turn", spans=(LabelSpan(0.0, 1.2, 1),)),
        Clip("few", "few.mp4"),
        Clip("one", "one.mp4"),
        Clip("part", "a.mp4", start_seconds=0.8, stop_seconds=2.2),
    )
    return Manifest("toy", root, clips, phases={"turn": ("go", "stop")})


@pytest.fixture(scope="module")
def scenes(manifest, tmp_path_factory):
    out = tmp_path_factory.mktemp("scenes")
    report = extract_scenes(manifest, ScenesConfig(workers=1), out, progress=False)
    assert report.exit_status == 0
    return out


@pytest.fixture(scope="module")
def make(manifest, scenes, tmp_path_factory):
    """A function that makes a store of an extraction of the scenes, once each."""
    made = {}

    def store_of(**given):
        key = tuple(sorted(given.items()))
        if key not in made:
            path = tmp_path_factory.mktemp("stores") / "store"
            config = config_with(scenes, **given)
            report = extract_clips(manifest, config, path, progress=False)
            assert [str(failure) for failure in report.failed] == []
            made[key] = open_store(path)
        return made[key]

    return store_of


def config_with(scenes, **given):
    fields = CONFIG.model_dump() | {"codec": "fp16", "frames": f"scenes:{scenes}"} | given
    return ExtractConfig(**fields)


CLIPS = {"backbone": "torchvision:r2plus1d_18", "blocks": (3,), "image_size": 32}


def test_a_row_is_a_scene_with_its_start_and_stop(make):
    store = make()
    assert (store.identity.unit, store.identity.frames["policy"]) == ("scene", "scenes")
    for clip_id, units in UNITS.items():
        np.testing.assert_allclose(store.units(clip_id), np.array(units) / 25, atol=1e-9)
    assert store.labels("a").tolist() == [1, -1, -1]  # at the middle of each scene


def test_an_image_model_sees_the_centre_frame(make, manifest):
    store = make()
    for clip_id, wanted in CENTRES.items():
        assert store.frame_index(clip_id).tolist() == wanted
    picture = look_at_clip(store, "a", root=manifest.root)
    assert picture.unseen_reason == ""
    for image, colour in zip(picture.seen, COLOURS, strict=False):
        np.testing.assert_allclose(image.mean(axis=(0, 1)), colour, atol=5)


def model_of(config):
    shape = backbone_shape(config["backbone"], config["blocks"], config["image_size"])
    state = load_weights(config["backbone"], "random:0")
    return build_backbone(config["backbone"], state, shape), shape


def test_r2plus1d_sees_12_frames_of_each_scene_and_gives_one_vector(make, manifest):
    store = make(**CLIPS)
    assert (store.identity.frames_per_window, store.identity.grid) == (12, (1, 1))
    assert store.identity.transform["name"] == "torchvision-video"
    assert store.identity.transform["mean"] == [0.43216, 0.394666, 0.37645]
    backbone, _ = model_of(CLIPS)
    frames = [frame.pixels for frame in decode(manifest.root / "a.mp4")]
    for unit, (first, stop) in enumerate(UNITS["a"]):
        chosen = [first + int((2 * part + 1) * (stop - first) / 24) for part in range(12)]
        images = [apply_transform(frames[index], store.identity.transform) for index in chosen]
        wanted = backbone(torch.stack(images)).tokens[3][0].numpy()
        found = store.read("a").decode(3)[unit]
        np.testing.assert_allclose(found, wanted, rtol=2e-2, atol=2e-3)
    assert store.frame_index("a").tolist() == [1, 30, 50]  # the first of each 12


def test_a_scene_of_fewer_frames_than_12_repeats_some(make):
    store = make(**CLIPS)
    assert store.record("few").num_frames == 1
    assert np.isfinite(store.read("few").decode(3)).all()


def test_a_video_of_one_frame_is_a_scene_of_repeats_of_it(make, manifest):
    store = make(**CLIPS)
    backbone, _ = model_of(CLIPS)
    [frame] = decode(manifest.root / "one.mp4", least_frames=1)
    image = apply_transform(frame.pixels, store.identity.transform)
    wanted = backbone(torch.stack([image] * 12)).tokens[3][0].numpy()
    np.testing.assert_allclose(store.read("one").decode(3)[0], wanted, rtol=2e-2, atol=2e-3)


def test_the_pooled_vector_is_the_mean_of_the_map():
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 64, 64), np.uint8))
    maps, shape = model_of({"backbone": "resnet18", "blocks": (3,), "image_size": 64})
    pooled, of_pooled = model_of(
        {"backbone": "torchvision:resnet18", "blocks": (3,), "image_size": 64}
    )
    assert (shape.grid, of_pooled.grid) == ((2, 2), (1, 1))
    mean = maps(images).tokens[3].mean(dim=1)
    torch.testing.assert_close(pooled(images).tokens[3][:, 0], mean, rtol=1e-4, atol=1e-4)


def test_pictures_are_the_centre_frames_or_12_of_each_scene(make, manifest):
    frames = [frame.pixels for frame in decode(manifest.root / "a.mp4")]
    for pixels, count, sides in (("centre", 1, (48, 48)), ("all", 12, (128, 171))):
        store = make(pixels=pixels, image_size=48 if pixels == "centre" else None)
        assert (store.identity.blocks, store.identity.unit) == ((), "scene")
        found = read_pictures(store, "a")
        assert [pictures.shape for pictures in found] == [(count, *sides, 3)] * 3
        index = CENTRES["a"][1] if count == 1 else 30
        wanted = apply_transform(frames[index], store.identity.transform).permute(1, 2, 0).numpy()
        assert np.abs(found[1][0].astype(int) - wanted).mean() < 3
        assert store.record("a").byte_arrays == ("pixels",)


def test_a_string_of_pictures_is_jpegs_end_to_end(make):
    [data] = make(pixels="all", image_size=None).read_bytes("few", "pixels")
    pictures = split_jpegs(data)
    assert len(pictures) == 12
    assert b"".join(pictures) == data
    assert all(part[:2] == b"\xff\xd8" and part[-2:] == b"\xff\xd9" for part in pictures)
    [one] = make(pixels="centre", image_size=48).read_bytes("few", "pixels")
    assert split_jpegs(one) == [one]


def test_the_quality_is_part_of_the_identity(make):
    good = make(pixels="centre", image_size=48)
    poor = make(pixels="centre", image_size=48, jpeg_quality=20)
    assert good.identity.transform["jpeg"] == {"quality": 95, "subsampling": "4:2:0"}
    [(name, here, there)] = good.identity.differences(poor.identity)
    assert (name, here, there) == ("transform.jpeg.quality", 95, 20)
    sizes = [sum(map(len, store.read_bytes("a", "pixels"))) for store in (good, poor)]
    assert sizes[1] < 0.7 * sizes[0]


def test_stores_of_the_same_scenes_are_joined(make):
    stores = {"clips": make(**CLIPS), "frames": make()}
    joined = StoreSet(stores | {"pixels": make(pixels="all", image_size=None)})
    assert joined.first.record("a").num_frames == 3
    assert len(set(joined.fingerprints.values())) == 3


def test_the_code_of_the_page_reads_stores_side_by_side(make, tmp_path, monkeypatch):
    page = (Path(__file__).parents[3] / "docs" / "scenes.md").read_text()
    (tmp_path / "stores").mkdir()
    for name, given in (("clips", CLIPS), ("pixels", {"pixels": "all", "image_size": None})):
        (tmp_path / "stores" / name).symlink_to(make(**given).path)
    monkeypatch.chdir(tmp_path)
    found = {}
    [block] = re.findall(r"```python\n(.*?)```", page.replace("[0, 1]", "[0]"), re.DOTALL)
    exec(compile(block, "docs/scenes.md", "exec"), found)
    assert found["tokens"].shape == (3, 1, 512)
    assert [pictures.shape for pictures in found["pictures"]] == [(12, 128, 171, 3)]


def test_stores_verify_and_merge(make, tmp_path):
    for given in (CLIPS, {"pixels": "all", "image_size": None}):
        store = make(**given)
        assert verify_store(store.path, deep=True).problems == ()
        target = copy_without_clips(store.path, tmp_path / given.get("pixels", "tokens"))
        assert merge_store(store.path, target).copied == tuple(sorted(UNITS))
        assert differing(store.path, target) == []
        report = export_store(store.path, tmp_path / "exported", kind="npy")
        assert report.failed == []
    pictures = list((tmp_path / "exported").glob("a-*.pixels/*.bin"))
    assert [len(split_jpegs(path.read_bytes())) for path in pictures] == [12, 12, 12]


@pytest.mark.slow
def test_a_second_extraction_gives_the_same_bytes(make, manifest, scenes, tmp_path):
    given = {"pixels": "centre", "image_size": 48}
    store = make(**given)
    config = config_with(scenes, **given, workers=2)
    extract_clips(manifest, config, tmp_path / "again", progress=False)
    assert differing(store.path, tmp_path / "again") == []


def test_a_stopped_run_keeps_whole_segments_and_ends_in_the_same_bytes(tmp_path, monkeypatch):
    write_film(tmp_path / "a.mp4", [150], size=(32, 32))
    listed = tuple(Scene(k / 25, (k + 1) / 25, k / 25, 1) for k in range(150))
    (tmp_path / "scenes.csv").write_bytes(csv_bytes({"a.mp4": listed}))
    manifest = Manifest("toy", tmp_path, (Clip("a", "a.mp4"),))
    config = config_with(tmp_path / "scenes.csv", pixels="all", image_size=32)
    store, again = tmp_path / "store", tmp_path / "again"
    extract_clips(manifest, config, store, progress=False)
    copy_without_clips(store, again)
    add = runner.Flow._add

    def stop_soon(flow, chunk):
        add(flow, chunk)
        flow._stopping.event.set()

    with monkeypatch.context() as patch:
        patch.setattr(runner.Flow, "_add", stop_soon)
        report = extract_clips(manifest, config, again, progress=False)
    assert (report.stopped, report.committed, report.num_appended) == (True, [], 64)
    report = extract_clips(manifest, config, again, progress=False)
    assert (report.committed, report.num_appended) == (["a"], 150 - 64)
    assert differing(store, again) == []


COMMAND = "from tokenreel.pipeline.cli.extract import main; main()"


@pytest.mark.parametrize("kills", [1, pytest.param(10, marks=pytest.mark.slow)])
def test_an_extraction_of_scenes_killed_at_any_moment_ends_in_the_same_files(tmp_path, kills):
    listed = {}
    for name, count in (("a.mp4", 150), ("b.mp4", 70)):
        write_film(tmp_path / name, [count], size=(32, 32))
        listed[name] = tuple(Scene(k / 25, (k + 1) / 25, k / 25, 1) for k in range(count))
    (tmp_path / "scenes.csv").write_bytes(csv_bytes(listed))
    whole, killed = tmp_path / "whole", tmp_path / "killed"

    def words(out):
        named = [f"frames=scenes:{tmp_path / 'scenes.csv'}", "pixels=all", "image_size=32"]
        return ["run", "folder", "--root", str(tmp_path), "--out", str(out), "workers=1", *named]

    assert call("extract", *words(whole), cwd=tmp_path)[0] == 0
    num_files = sum(path.is_file() for path in (whole / "clips").rglob("*"))
    draw, num_killed = random.Random(0), 0
    while num_killed < kills:
        present = len(files_of(killed))
        if present == num_files:  # all was done: begin anew
            shutil.rmtree(killed)
            present = 0
        moment = draw.randrange(present, num_files)
        job = subprocess.Popen(
            [sys.executable, "-c", COMMAND, *words(killed)],
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while job.poll() is None and len(files_of(killed)) < moment:
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.2))
        num_killed += job.poll() is None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(job.pid, signal.SIGKILL)  # its decode processes, too
        job.wait()
    assert call("extract", *words(killed), cwd=tmp_path)[0] == 0
    assert files_of(killed) == files_of(whole)
    assert verify_store(killed, deep=True).problems == ()


def files_of(store):
    """Every file of the clips, as far as it is there; no unfinished ones."""
    found = {}
    for path in files_below(store / "clips"):
        name = str(path.relative_to(store))
        with contextlib.suppress(OSError):
            if ".tmp" not in name:
                found[name] = path.read_bytes()
    return found


def test_scenes_of_another_version_of_the_video_are_refused(manifest, scenes, tmp_path):
    for name in ("a.mp4", "few.mp4", "one.mp4"):
        (tmp_path / name).write_bytes((manifest.root / name).read_bytes())
    write_film(tmp_path / "a.mp4", [30, 34])
    moved = Manifest("toy", tmp_path, manifest.clips, phases=manifest.phases)
    config = config_with(scenes)
    report = extract_clips(moved, config, tmp_path / "store", progress=False)
    assert (sorted(report.committed), report.exit_status) == (["few", "one"], 3)
    assert {failure.clip_id for failure in report.failed} == {"a", "part"}
    assert "its scenes are of another version of the video" in report.failed[0].reason
    assert "`extract scenes DATASET --changed replace`" in report.failed[0].reason


def copied(scenes, folder, old, new):
    """The scenes with one line of the list changed by hand."""
    folder.mkdir()
    for name in ("scenes.csv", "scenes.json"):
        (folder / name).write_bytes((scenes / name).read_bytes())
    text = (folder / "scenes.csv").read_text()
    assert old in text
    (folder / "scenes.csv").write_text(text.replace(old, new))
    return folder


def test_a_list_edited_by_hand_is_another_identity_and_is_followed(manifest, scenes, tmp_path):
    edited = copied(scenes, tmp_path / "edited", "a.mp4,0,0.0,1.2,0.6", "a.mp4,0,0.0,1.2,0.2")
    config = config_with(edited)
    assert frames_identity(config) != frames_identity(config_with(scenes))
    extract_clips(manifest, config, tmp_path / "store", progress=False)
    assert open_store(tmp_path / "store").frame_index("a").tolist() == [5, 40, 57]


def test_a_scene_beyond_the_video_fails_its_clips(manifest, scenes, tmp_path):
    edited = copied(scenes, tmp_path / "edited", "2.0,2.56,2.28", "2.0,9.5,2.28")
    report = extract_clips(manifest, config_with(edited), tmp_path / "store", progress=False)
    assert {failure.clip_id for failure in report.failed} == {"a"}
    assert "a scene from 2 to 9.5 s, but the frames are from 0.000 to 2.560 s" in str(
        report.failed[0]
    )


def test_a_video_without_scenes_is_left_out_and_counted(manifest, scenes, tmp_path, caplog):
    write_film(tmp_path / "new.mp4", [20])
    for name in ("a.mp4", "few.mp4"):
        (tmp_path / name).write_bytes((manifest.root / name).read_bytes())
    clips = (*manifest.clips[1:2], Clip("new", "new.mp4"))
    more = Manifest("toy", tmp_path, clips)
    check_list(config_with(scenes), more)
    assert "has 2 video(s) of which toy has no clip, such as a.mp4" in caplog.text
    report = extract_clips(more, config_with(scenes), tmp_path / "store", progress=False)
    assert (report.committed, report.num_unlisted) == (["few"], 1)
    with pytest.raises(UsageError, match="no listed scene is in a clip of toy"):
        check_list(config_with(scenes), Manifest("toy", tmp_path, clips[1:]))


def test_pixels_go_with_scenes_and_without_views(scenes):
    with pytest.raises(ValueError, match="give frames=scenes:FOLDER, which `extract scenes` makes"):
        ExtractConfig(pixels="centre")
    with pytest.raises(ValueError, match="views is 0"):
        config_with(scenes, pixels="all", views=2)
    with pytest.raises(ValueError, match="scenes:FOLDER"):
        ExtractConfig(frames="scenes:")


def test_what_needs_tokens_refuses_a_store_of_pictures(make, manifest, tmp_path):
    store = make(pixels="centre", image_size=48)
    for use in (
        lambda: look_at_clip(store, "a", root=manifest.root),
        lambda: pool_store(store.path, tmp_path),
        lambda: measure_store(store.path, clips=2, progress=False),
        lambda: require_tokens(get_recipe("folder").fuse, store),
    ):
        with pytest.raises(UsageError, match=r"keeps no tokens, only bytes \(pixels\)"):
            use()


def test_a_store_of_tokens_names_the_command_that_keeps_pictures(make):
    with pytest.raises(UsageError, match="extract run DATASET frames=scenes:FOLDER pixels=centre"):
        read_pictures(make(), "a")


def test_the_plan_is_within_5_percent_of_the_pictures_written(make, manifest, scenes):
    given = {"pixels": "all", "image_size": None}
    store, config = make(**given), config_with(scenes, **given)
    survey = survey_headers(manifest, config)
    assert survey.clip_frames == {"a": 36, "few": 12, "one": 12, "part": 36}
    each = picture_bytes(manifest, config, seconds=60)
    planned = store_size(
        planned_identity(config), "jpeg", list(survey.clip_frames.values()), picture_bytes=each
    )
    files = [p for p in (store.path / "clips").rglob("*") if p.is_file() and p.name != "zarr.json"]
    written = sum(path.stat().st_size for path in files)
    assert planned.num_bytes == pytest.approx(written, rel=0.05)
    assert planned.num_files == len([p for p in (store.path / "clips").rglob("*") if p.is_file()])


@pytest.mark.parametrize(
    "given",
    [{"pixels": "all", "image_size": None}, CLIPS],
    ids=["pictures", "tokens"],
)
def test_extract_plan_prints_the_bytes_of_a_clip_within_5_percent(
    given, manifest, scenes, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    config = config_with(scenes, **given)
    films = replace(manifest, clips=tuple(Clip(n, f"{n}.mp4") for n in ("a", "few", "one")))
    extract_clips(films, config, tmp_path / "store", progress=False)
    files = [p for p in (tmp_path / "store" / "clips").rglob("*") if p.is_file()]
    written = sum(path.stat().st_size for path in files) / 3
    keys = [f"{key}={value}" for key, value in given.items() if value and key != "blocks"]
    keys += ["blocks=3", "codec=fp16", "weights=random:0"] if "backbone" in given else []
    words = ["plan", "folder", "--root", str(manifest.root), "--seconds", "0.3"]
    done = CliRunner().invoke(app, [*words, f"frames=scenes:{scenes}", *keys])
    assert done.exit_code == 0, done.output
    head, row = (
        next(line for line in done.output.splitlines() if line.startswith(name))
        for name in ("codec ", "jpeg " if "pixels" in given else "fp16 ")
    )
    place = re.split(r"\s{2,}", head).index("bytes/clip")
    assert int(re.split(r"\s{2,}", row)[place]) == pytest.approx(written, rel=0.05)


def test_the_config_of_a_store_is_read_back_from_it(make, scenes):
    for given in ({}, {"pixels": "all", "image_size": None}):
        store = make(**given)
        found = config_of(store.identity, store.made_with)
        assert build_identity(found).has_tokens_of(store.identity.before_calibration)
        assert found.frames == f"scenes:{scenes}"
    assert frames_word(store.identity.frames, "F") == "scenes:F"
    assert store_name("toy", config_with(scenes, **given)) == "toy-pixels-all-"


def test_torchvision_models_have_the_parameters_of_the_paper():
    for name, count in (("r2plus1d_18", 31_300_125), ("resnet18", 11_176_512)):
        model = TorchvisionFamily().model(name)
        assert sum(p.numel() for p in model.parameters()) == count


def test_torchvision_refuses_other_names_and_blocks():
    with pytest.raises(UsageError, match=r"r2plus1d'.*did you mean r2plus1d_18"):
        backbone_shape("torchvision:r2plus1d", (3,), None)
    with pytest.raises(UsageError, match=r"blocks=\[1\]: torchvision:resnet18 gives the pooled"):
        backbone_shape("torchvision:resnet18", (1,), None)


def test_pretrained_weights_that_cannot_be_loaded_say_what_to_give(monkeypatch):
    def offline(**_):
        raise OSError("no network\nof any kind")

    monkeypatch.setattr(torchvision_backbone, "_function", lambda _: offline)
    with pytest.raises(UsageError, match=r"load resnet18 \(OSError: no network\); .*FILE"):
        load_weights("torchvision:resnet18", "pretrained")


@pytest.mark.parametrize(
    ("backbone", "name"),
    [
        (
            "torchvision:r2plus1d_18",
            "R2Plus1D_18_Weights.KINETICS400_V1 (r2plus1d_18-91a641e6.pth)",
        ),
        ("torchvision:resnet18", "ResNet18_Weights.IMAGENET1K_V1 (resnet18-f37072fd.pth)"),
        ("resnet18", "resnet18.a1_in1k (timm/resnet18.a1_in1k)"),
        ("vit_small_patch16_224.dino", "vit_small_patch16_224.dino (timm/vit_small_patch16_224.d"),
        ("videomae:base", "MCG-NJU/videomae-base-finetuned-kinetics"),
    ],
)
def test_a_store_says_which_weights_the_word_pretrained_was_beside_their_hash(backbone, name):
    fields = {"backbone": backbone, "blocks": (-1,), "device": "cpu"}
    config = ExtractConfig(**fields, weights="pretrained")
    made = made_with(config, "toy", torch.device("cpu"))
    assert made["weights"] == "pretrained"
    assert made["pretrained"].startswith(name)
    assert ("torchvision" in made["versions"]) == backbone.startswith("torchvision:")
    assert ("transformers" in made["versions"]) == backbone.startswith("videomae:")
    other = ExtractConfig(**fields, weights="random:0")
    assert "pretrained" not in made_with(other, "toy", torch.device("cpu"))
    first, second = ({"w": torch.full((3,), value)} for value in (1.0, 2.0))
    hashes = {identity_for(config, weights_sha256(s)).fingerprint for s in (first, second)}
    assert len(hashes) == 2  # two versions of a library's weights are two stores


def test_weights_of_torchvision_are_taken_with_their_classifier(tmp_path):
    from torchvision.models import resnet18

    torch.manual_seed(0)
    model = resnet18(weights=None)
    torch.save(model.state_dict(), tmp_path / "resnet18.pth")
    state = load_weights("torchvision:resnet18", str(tmp_path / "resnet18.pth"))
    assert torch.equal(state["layer4.1.conv2.weight"], model.layer4[1].conv2.weight)
    assert not any(name.startswith("fc.") for name in state)


def test_the_transform_of_kinetics_is_that_of_torchvision():
    from torchvision.models.video import R2Plus1D_18_Weights

    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 256, (90, 160, 3), np.uint8)
    preset = R2Plus1D_18_Weights.KINETICS400_V1.transforms()
    wanted = preset(torch.from_numpy(pixels).permute(2, 0, 1)[None])[:, 0]
    parameters = transform_parameters("torchvision-video", 112, mean=preset.mean, std=preset.std)
    assert parameters["resized"] == [128, 171]
    image = apply_transform(pixels, parameters).float() / 255
    mean, std = (torch.tensor(parameters[name])[:, None, None] for name in ("mean", "std"))
    torch.testing.assert_close((image - mean) / std, wanted, atol=1e-5, rtol=0)


def test_a_picture_that_is_damaged_is_refused(make):
    [data] = make(pixels="centre", image_size=48).read_bytes("few", "pixels")
    from tokenreel.cache.errors import Damaged

    for wrong, what in ((b"", "empty"), (b"GIF89a", "no JPEG at byte 0"), (data[:-9], "cut short")):
        with pytest.raises(Damaged, match=what):
            decode_jpegs(wrong)
