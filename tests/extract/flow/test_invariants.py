"""What does not change a store: workers, shards, processes, where frames are resized, views."""

import multiprocessing
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.extract.extraction import CONFIG, differing, write_video
from tests.extract.flow.held import extract_long_clip
from tests.extract.flow.test_stage import chunk
from tests.programs import call
from tokenreel.cache.codec import codec_from_identity, codec_identity
from tokenreel.cache.errors import TokenReelError, UsageError
from tokenreel.cache.manifest import Clip, Manifest
from tokenreel.cache.read.store_reader import open_store
from tokenreel.extract.backbone.timm_backbone import backbone_shape, build_backbone
from tokenreel.extract.backbone.weights import load_weights
from tokenreel.extract.decode_pool.pool import DecodedChunk
from tokenreel.extract.encode.identity import build_identity
from tokenreel.extract.encode.quantiser import Quantiser
from tokenreel.extract.flow import gpus, runner
from tokenreel.extract.flow.batching import Batcher
from tokenreel.extract.flow.devices import is_place_free, machine_for, pick_gpus, prepare_backbone
from tokenreel.extract.flow.engine import Engine
from tokenreel.extract.flow.gpus import extract_on_gpus, merge_reports
from tokenreel.extract.flow.runner import extract_clips, prepare_store
from tokenreel.extract.report import ExtractReport


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    root = tmp_path_factory.mktemp("videos")
    for name, frames in (("a", 70), ("b", 21), ("c", 9), ("d", 13)):
        write_video(root / f"{name}.mp4", frames)
    clips = [Clip(name, f"{name}.mp4") for name in "abcd"]
    clips.append(Clip("a/part", "a.mp4", start_seconds=1.0, stop_seconds=2.0))
    return Manifest("toy", root, tuple(clips))


def as_on_a_gpu(resizes):
    def machine(config, **options):
        return replace(machine_for(config, **options), mixes=True, pads=True, resizes=resizes)

    return machine


def test_batches_across_clips_are_the_same_bytes_for_any_number_of_workers(
    manifest, tmp_path, monkeypatch
):
    for workers, resizes in ((1, False), (3, True)):
        monkeypatch.setattr(runner, "machine_for", as_on_a_gpu(resizes))
        config = CONFIG.model_copy(update={"workers": workers, "batch_frames": 7})
        store = tmp_path / str(workers)
        report = extract_clips(manifest, config, store, progress=False)
        assert len(report.committed) == 5
    assert differing(tmp_path / "1", tmp_path / "3") == []


@pytest.mark.parametrize("numeric", ["float32", "bfloat16"])
def test_the_store_is_the_same_bytes_for_any_number_of_threads(tmp_path, numeric):
    write_video(tmp_path / "a.mp4", 22)
    words = {"backbone": "deit_tiny_patch16_224", "image_size": 112, "numeric": numeric}
    config = CONFIG.model_copy(update=words | {"batch_frames": None})
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3, 5):  # torch's own products differ from three on, in bfloat16
            torch.set_num_threads(threads)
            clips = Manifest("toy", tmp_path, (Clip("a", "a.mp4"),))
            extract_clips(clips, config, tmp_path / str(threads), progress=False)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    for threads in (2, 3, 5):
        assert differing(tmp_path / "1", tmp_path / str(threads)) == []


@pytest.mark.parametrize(
    "threads", ["", *(pytest.param(n, marks=pytest.mark.slow) for n in ("1", "2", "3"))]
)
def test_the_store_is_the_same_bytes_for_any_omp_num_threads(tmp_path, threads):
    """Here with one thread in CI; without the variable, with as many as there are cores."""
    videos = tmp_path / "videos"
    videos.mkdir()
    write_video(videos / "a.mp4", 22)
    program = "from tokenreel.pipeline.cli.extract import main; main()"
    words = ["backbone=deit_tiny_patch16_224", "weights=random:0", "image_size=112", "blocks=11"]
    words += ["numeric=bfloat16", "device=cpu"]
    rest = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}

    def words_for(name):
        return ["run", "folder", "--root", str(videos), "--out", str(tmp_path / name), *words]

    status, printed = call("extract", *words_for("here"), cwd=tmp_path)  # 1 in CI
    assert status == 0, printed
    subprocess.run(
        [sys.executable, "-c", program, *words_for("other")],
        check=True,
        capture_output=True,
        timeout=600,
        env=rest | ({"OMP_NUM_THREADS": threads} if threads else {}),
    )
    assert differing(tmp_path / "other", tmp_path / "here") == []


def test_frames_are_decoded_once_for_all_views_and_views_differ(manifest, tmp_path, monkeypatch):
    whole, decoded = runner.DecodePool.__iter__, []

    def counting(self):
        for found in whole(self):
            if isinstance(found, DecodedChunk):
                decoded.append(len(found.pts))
            yield found

    store = tmp_path / "store"
    config = CONFIG.model_copy(update={"views": 4, "codec": "fp16"})
    with monkeypatch.context() as patched:
        patched.setattr(runner.DecodePool, "__iter__", counting)
        extract_clips(manifest, config, store, progress=False)
    assert sum(decoded) == 70 + 21 + 9 + 13 + 25
    opened = open_store(store)
    assert opened.identity.num_views == 5
    views = [opened.read("b", blocks=[5], view=view).codes[5] for view in range(5)]
    assert all(view.shape == views[0].shape for view in views)
    for one in range(5):
        for other in range(one):
            assert (views[one] != views[other]).any()
    alone = tmp_path / "alone"
    extract_clips(
        manifest, config.model_copy(update={"views": 1, "workers": 2}), alone, progress=False
    )
    again = open_store(alone).read("b", blocks=[5], view=1).codes[5]
    np.testing.assert_array_equal(again, views[1])  # seeded by clip and view, by nothing else


class Unquantised(Quantiser):
    """Hands the tokens on as they are."""

    def on_device(self, found):
        return {f"tokens/{block}": tokens for block, tokens in found.tokens.items()}


def tokens_through_the_engine(images, batch_frames, *, pads):
    config = CONFIG.model_copy(update={"batch_frames": batch_frames})
    shape = backbone_shape(config.backbone, config.blocks, config.image_size)
    state = load_weights(config.backbone, config.weights)
    backbone = build_backbone(config.backbone, state, shape)
    machine = replace(machine_for(config), pads=pads)
    identity = build_identity(config)
    codec = codec_from_identity(codec_identity("fp16"), {})
    quantiser = Unquantised(codec, identity, torch.device("cpu"))
    rows = {}

    def emit(found):
        for place in range(found.piece.num_frames):
            tokens = found.views[0]["tokens/5"][found.rows][place]
            rows[found.piece.first + place] = np.array(tokens)
        found.done()

    batcher = Batcher(
        batch_frames=batch_frames, buffer_bytes=batch_frames * 3 * 32 * 32, mixes=True, pins=False
    )
    with Engine(
        machine, backbone, quantiser, identity, emit=emit, release=batcher.release
    ) as engine:
        part = chunk(0, len(images), shape=(1, 3, 32, 32))
        part.images[:, 0] = images
        for batch in (*batcher.add(part, first=0, wanted=slice(0, None)), *batcher.rest()):
            engine.run.put(batch)
    return np.stack([rows[place] for place in range(len(images))])


def test_any_batch_size_gives_the_tokens_within_1e_5():
    images = np.random.default_rng(0).integers(0, 256, (23, 3, 32, 32), np.uint8)
    wanted = tokens_through_the_engine(images, 1, pads=False)
    size = np.linalg.norm(wanted)
    for batch_frames, pads in ((3, False), (8, True), (23, False), (64, True)):
        found = tokens_through_the_engine(images, batch_frames, pads=pads)
        assert np.linalg.norm(found - wanted) <= 1e-5 * size


def test_backbone_that_depends_on_the_place_in_a_batch_is_detected(caplog):
    shape = backbone_shape(CONFIG.backbone, CONFIG.blocks, 32)
    backbone = build_backbone(CONFIG.backbone, load_weights(CONFIG.backbone, "random:0"), shape)
    machine = replace(machine_for(CONFIG), mixes=True)
    assert is_place_free(backbone, machine)
    assert prepare_backbone(backbone, machine, compiles=False).mixes
    whole = backbone.model.blocks[2].forward

    def minding(tokens, *arguments, **options):
        tokens = whole(tokens, *arguments, **options)
        place = torch.arange(len(tokens)).reshape(-1, 1, 1)
        return tokens * (1 + 1e-6 * (place == 5))

    backbone.model.blocks[2].forward = minding
    changed = prepare_backbone(backbone, machine, compiles=False)
    assert (changed.mixes, changed.resizes) == (False, False)
    assert "depend on a frame's place in a batch" in caplog.text


def test_two_processes_share_the_clips_of_one_store(manifest, tmp_path):
    alone = tmp_path / "alone"
    extract_clips(manifest, CONFIG, alone, progress=False)
    shared = tmp_path / "shared"
    prepare_store(manifest, CONFIG, shared)
    report = extract_on_gpus(pick_gpus("cpu,cpu"), manifest, CONFIG, shared, progress=False)
    assert sorted(report.committed) == ["a", "a/part", "b", "c", "d"]
    assert report.skipped == []
    assert report.num_frames == 138
    assert differing(shared, alone) == []


@pytest.fixture
def forked(monkeypatch):
    """Let processes that share a store fork from the server of decode processes, torch imported."""
    context = multiprocessing.get_context("forkserver")
    monkeypatch.setattr(gpus.multiprocessing, "get_context", lambda _: context)


def test_too_many_failures_in_one_process_end_the_others_too(forked, tmp_path, monkeypatch):
    monkeypatch.setattr(gpus, "_extract", extract_long_clip)
    clips = [Clip(f"c{number}", f"{number}.mp4") for number in range(4)]
    write_video(tmp_path / "long.mp4", 400)
    manifest = Manifest("toy", tmp_path, (*clips, Clip("long", "long.mp4")))
    config = CONFIG.model_copy(update={"codec": "fp16", "max_failures": 3})
    with pytest.raises(TokenReelError, match="4 clips failed, more than max_failures=3"):
        extract_on_gpus(("cpu", "cpu"), manifest, config, tmp_path / "store", progress=False)
    assert open_store(tmp_path / "store").records == {}  # the long clip was under way, or not begun
    assert list((tmp_path / "store" / "claims").iterdir()) == []


def test_error_of_a_process_is_raised_by_the_parent(forked, manifest, tmp_path):
    config = CONFIG.model_copy(update={"weights": "nowhere.pth"})
    with pytest.raises(UsageError, match=r"nowhere\.pth"):
        extract_on_gpus(("cpu", "cpu"), manifest, config, tmp_path / "store", progress=False)


def test_reports_of_processes_count_each_clip_once():
    one = ExtractReport(committed=["a"], skipped=["b", "z"], num_frames=3, num_bytes=5)
    other = ExtractReport(committed=["b"], skipped=["a", "z"], num_frames=4, num_bytes=6)
    one.seconds["total"], other.seconds["total"] = 2.0, 3.0
    total = merge_reports([one, other])
    assert (total.committed, total.skipped) == (["a", "b"], ["z"])
    assert (total.num_frames, total.num_bytes, total.seconds["total"]) == (7, 11, 3.0)


@pytest.mark.parametrize("words", ["0", "x", "-1", "1.5", "cpu,0"])
def test_pick_gpus_refuses_other_words(words):
    with pytest.raises(UsageError, match="--gpus is all, how many, or numbers"):
        pick_gpus(words)


@pytest.mark.parametrize(
    ("words", "count"), [("all", 2), ("2", 2), ("0,1", 2), ("1", 1), ("1,", 1)]
)
def test_pick_gpus_accepts_a_count_or_numbers(words, count, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert len(pick_gpus(words)) == count
    assert pick_gpus("1,")[0] == "cuda:1"
    with pytest.raises(UsageError, match="torch sees 2 CUDA devices"):
        pick_gpus("3")


def test_pick_gpus_all_without_a_gpu_is_an_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UsageError, match="torch sees 0 CUDA devices"):
        pick_gpus("all")
