"""What only a GPU can show: run it first where there is one, with `-m gpu tests/extract`."""

import os
import random
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

from tests.extract.encode.test_quantiser import found_in, quantiser_of, tokens_of
from tests.extract.extraction import CONFIG, differing, official_dino, shards, write_video
from tokenreel.cache.errors import UsageError
from tokenreel.cache.manifest import Clip, Manifest
from tokenreel.cache.read.store_reader import open_store
from tokenreel.cache.write.canary import TOLERANCE, canary_errors, make_canary
from tokenreel.extract.backbone.timm_backbone import backbone_shape, build_backbone
from tokenreel.extract.backbone.weights import load_weights
from tokenreel.extract.flow import runner
from tokenreel.extract.flow.devices import is_place_free, machine_for, prepare_backbone
from tokenreel.extract.flow.gpus import extract_on_gpus
from tokenreel.extract.flow.runner import extract_clips, prepare_store

DEVICE = "cuda"
TINY = "vit_tiny_patch16_224"
CODECS = ["int8", "fp16", "int4", "pool2+int8", "pool2+pool2+fp16", "pca:8+int8", "pca:40+int4"]

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def tiny(device, numeric="float32", size=64):
    shape = backbone_shape(TINY, (3, 11), size)
    return build_backbone(
        TINY, load_weights(TINY, "random:0"), shape, numeric=numeric, device=device
    )


def images_of(count, size=64):
    draw = torch.Generator().manual_seed(count)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=draw)


def relative(found, wanted):
    found, wanted = found.cpu().double(), wanted.cpu().double()
    return ((found - wanted).norm() / wanted.norm()).item()


def test_float32_tokens_are_those_of_the_cpu():
    images = images_of(5)
    wanted, found = tiny("cpu")(images), tiny(DEVICE)(images.to(DEVICE))
    for block in (3, 11):
        assert relative(found.tokens[block], wanted.tokens[block]) <= 1e-5
        assert relative(found.cls[block], wanted.cls[block]) <= 1e-5
    assert relative(found.cls_normed, wanted.cls_normed) <= 1e-5


def test_the_blocks_equal_those_of_official_dino():
    tiny(DEVICE)  # makes float32 exact in this process
    backbone, golden = official_dino()
    with torch.inference_mode():
        found = backbone.to(DEVICE).run(golden["x"].to(DEVICE))
    for block, wanted in enumerate(golden["block_outputs_no_norm"]):
        assert relative(found.tokens[block], wanted[:, 1:]) <= 1e-5
        assert relative(found.cls[block], wanted[:, 0]) <= 1e-5


@pytest.mark.parametrize("compiles", [False, True])
@pytest.mark.parametrize("numeric", ["float32", "bfloat16"])
def test_tokens_stay_within_the_tolerance_of_their_numeric(numeric, compiles):
    backbone, images = tiny(DEVICE, numeric), images_of(16)
    machine = replace(machine_for(CONFIG.model_copy(update={"device": DEVICE})), batch_frames=16)
    prepare_backbone(backbone, machine, compiles=compiles)
    wanted = {block: values.numpy() for block, values in tiny("cpu")(images).tokens.items()}
    found = backbone(images.to(DEVICE)).tokens
    canary = make_canary(images.numpy(), wanted)
    errors = canary_errors(canary, {block: values.cpu().numpy() for block, values in found.items()})
    assert max(errors.values()) <= TOLERANCE[numeric], errors


def test_the_batch_size_does_not_matter_within_1e_5():
    backbone, images = tiny(DEVICE), images_of(33).to(DEVICE)
    whole = backbone(images).tokens[11]
    for size in (1, 5, 16):
        parts = torch.cat([backbone(part).tokens[11] for part in images.split(size)])
        assert relative(parts, whole) <= 1e-5


@pytest.mark.parametrize("compiles", [False, True])
@pytest.mark.parametrize("numeric", ["float32", "bfloat16"])
def test_a_frames_place_in_a_batch_changes_nothing(numeric, compiles):
    backbone = tiny(DEVICE, numeric, size=224)
    machine = replace(machine_for(CONFIG.model_copy(update={"device": DEVICE})), batch_frames=64)
    assert prepare_backbone(backbone, machine, compiles=compiles).mixes
    assert is_place_free(backbone, machine)


@pytest.mark.parametrize("name", CODECS)
def test_a_compiled_quantiser_gives_the_bytes_of_numpy(name, caplog):
    quantiser, codec = quantiser_of(name, DEVICE)
    quantiser.compile(found_in(tokens_of().to(DEVICE)))
    assert [r.getMessage() for r in caplog.records if r.name.startswith("tokenreel")] == []
    tokens = tokens_of(7.0)
    tokens[1, 2] = 0
    tokens[2, 3] *= 1e-20
    wanted = codec.encode(tokens.numpy(), block=7, grid=(3, 5))
    outputs = quantiser.on_device(found_in(tokens.to(DEVICE)))
    view = quantiser.on_host({n: v.cpu().numpy() for n, v in outputs.items()}, slice(0, 3))
    assert view.encoded[7].codes.tobytes() == wanted.codes.tobytes()
    if wanted.scales is not None:
        assert view.encoded[7].scales.tobytes() == wanted.scales.tobytes()
    tokens[2, 4, 9] = float("nan")
    outputs = quantiser.on_device(found_in(tokens.to(DEVICE)))
    with pytest.raises(ValueError, match="block 7, frame 2, token "):
        quantiser.on_host({n: v.cpu().numpy() for n, v in outputs.items()}, slice(0, 3))


def test_a_batch_beyond_the_memory_says_which_would_fit():
    backbone = tiny(DEVICE)
    machine = replace(machine_for(CONFIG.model_copy(update={"device": DEVICE})), batch_frames=4096)
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(0.002)
    try:
        with pytest.raises(UsageError, match=r"4096 frames at a time: batch_frames=2048"):
            prepare_backbone(backbone, machine, compiles=False)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    root = tmp_path_factory.mktemp("videos")
    sizes = [(70, 64, 48), (21, 48, 64), (9, 320, 180), (13, 64, 48), (2, 66, 50), (90, 128, 96)]
    for number, (frames, width, height) in enumerate(sizes):
        write_video(root / f"{number}.mp4", frames, width=width, height=height)
    clips = [Clip(str(number), f"{number}.mp4") for number in range(len(sizes))]
    clips.append(Clip("part", "0.mp4", start_seconds=1.0, stop_seconds=2.0))
    return Manifest("toy", root, tuple(clips))


def config_on(device, **changes):
    return CONFIG.model_copy(update={"device": device, "batch_frames": 16} | changes)


def test_many_clips_through_the_pipeline_are_those_of_the_cpu_to_a_level(manifest, tmp_path):
    for views in (0, 2):
        empty, cpu = tmp_path / f"empty{views}", tmp_path / f"cpu{views}"
        prepare_store(manifest, config_on("cpu", views=views), empty)
        shutil.copytree(empty, cpu)
        extract_clips(manifest, config_on("cpu", views=views), cpu, progress=False)
        report = extract_clips(manifest, config_on(DEVICE, views=views), empty, progress=False)
        assert len(report.committed) == 7
        assert report.peak_device_bytes > 0
        assert report.seconds["backbone"] > 0
        wanted, found = open_store(cpu), open_store(empty)
        for clip in ("0", "1", "2", "3", "4", "5", "part"):
            for view in range(views + 1):
                one, other = (s.read(clip, blocks=[5], view=view).codes[5] for s in (wanted, found))
                levels = np.abs(one.astype(np.int16) - other.astype(np.int16))
                assert levels.max() <= 1
                assert (levels > 0).mean() < 0.01
            np.testing.assert_array_equal(found.frame_index(clip), wanted.frame_index(clip))
            np.testing.assert_array_equal(found.times_seconds(clip), wanted.times_seconds(clip))


@pytest.mark.parametrize("how", [{}, {"numeric": "bfloat16", "compile_backbone": True}])
def test_workers_processes_and_where_frames_are_resized_change_no_byte(
    manifest, tmp_path, monkeypatch, how
):
    config = config_on(DEVICE, **how)
    empty = tmp_path / "empty"
    prepare_store(manifest, config, empty)
    stores = [Path(shutil.copytree(empty, tmp_path / str(number))) for number in range(4)]
    one = config.model_copy(update={"workers": 1})
    assert len(extract_clips(manifest, one, stores[0], progress=False).committed) == 7
    extract_clips(manifest, config.model_copy(update={"workers": 3}), stores[1], progress=False)
    extract_on_gpus((f"{DEVICE}:0", f"{DEVICE}:0"), manifest, config, stores[2], progress=False)

    def in_the_workers(config, **options):
        return replace(machine_for(config, **options), resizes=False)

    monkeypatch.setattr(runner, "machine_for", in_the_workers)
    extract_clips(manifest, config, stores[3], progress=False)
    for store in stores[1:]:
        assert differing(stores[0], store) == []


def test_run_killed_or_stopped_and_resumed_writes_the_same_store(tmp_path):
    root = tmp_path / "videos"
    root.mkdir()
    for name, frames in (("long", 2500), ("b", 90), ("c", 70)):
        write_video(root / f"{name}.mp4", frames, width=128, height=96)
    call = "from tokenreel.pipeline.cli.extract import main; main()"
    words = ["backbone=vit_tiny_patch16_224", "weights=random:0", "image_size=96", "blocks=1,11"]
    words += ["codec=fp16", f"device={DEVICE}", "batch_frames=16", "numeric=bfloat16"]

    def start(store):
        command = [sys.executable, "-c", call, "run", "folder", "--root", str(root)]
        return subprocess.Popen(
            [*command, "--out", str(store), *words],
            env=dict(os.environ),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def finish(store):
        process = start(store)
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output

    finish(tmp_path / "whole")
    store, draw = tmp_path / "store", random.Random(1)
    for number, how in enumerate((signal.SIGKILL, signal.SIGTERM, signal.SIGKILL)):
        process, deadline = start(store), time.monotonic() + 300
        while len(shards(store)) <= 2 * number:
            if process.poll() is not None:  # it was faster
                break
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.2))
        begun = time.monotonic()
        process.send_signal(how)
        process.communicate(timeout=60)
        assert time.monotonic() - begun < 30
    finish(store)
    assert differing(store, tmp_path / "whole") == []
