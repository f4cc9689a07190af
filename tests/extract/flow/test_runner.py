"""Extraction end to end: whole clips, the same bytes whatever ran beside them, failures by name."""

import dataclasses
import signal

import numpy as np
import pytest
import torch

from tests.extract.extraction import CONFIG, differing, write_video
from tests.extract.flow.broken_decoders import crash, hang
from tokenreel.cache.errors import TokenReelError, WrongIdentity
from tokenreel.cache.format.store_files import load_identity, read_failures
from tokenreel.cache.manifest import Clip, LabelSpan, Manifest
from tokenreel.extract.decode_pool import pool as decode_pool
from tokenreel.extract.decode_pool import worker
from tokenreel.extract.decode_pool.pool import DecodePool
from tokenreel.extract.decode_pool.worker import DecodeJob
from tokenreel.extract.encode.identity import build_identity, store_name
from tokenreel.extract.flow import runner
from tokenreel.extract.flow.devices import machine_for
from tokenreel.extract.flow.runner import extract_clips
from tokenreel.extract.images.augment import view_parameters
from tokenreel.extract.images.transforms import transform_parameters


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    root = tmp_path_factory.mktemp("videos")
    write_video(root / "a.mp4", 30)
    write_video(root / "b.mp4", 75)
    (root / "bad.mp4").write_text("no video")
    clips = (
        Clip("a", "a.mp4", action="turn", spans=(LabelSpan(0.2, 0.4, 1),)),
        Clip("b/part", "b.mp4", start_seconds=1.0, stop_seconds=2.0),
        Clip("bad", "bad.mp4"),
        Clip("late", "a.mp4", spans=(LabelSpan(0.0, 9.0, 0, where="l.csv:3"),)),
    )
    return Manifest("toy", root, clips, phases={"turn": ("go", "stop")})


@pytest.fixture(scope="module")
def done(manifest, tmp_path_factory):
    store = tmp_path_factory.mktemp("out") / "store"
    return extract_clips(manifest, CONFIG, store, progress=False), store


def test_good_clips_are_committed_and_bad_ones_listed_with_their_reason(done):
    report, store = done
    assert sorted(report.committed) == ["a", "b/part"]
    reasons = {failure.clip_id: (failure.stage, failure.reason) for failure in report.failed}
    assert reasons["bad"][0] == "open"
    assert "Invalid data" in reasons["bad"][1]
    assert reasons["late"][0] == "labels"
    assert "l.csv:3" in reasons["late"][1]
    assert [record["clip_id"] for record in read_failures(store)] == ["bad", "late"]
    assert report.num_frames == 30 + 25
    assert "2 committed, 0 skipped, 2 failed" in report.table()


def test_writer_whose_weights_changed_after_hashing_is_refused(done, manifest, monkeypatch):
    _, store = done
    whole = runner.build_backbone

    def broken(*args, **options):
        backbone = whole(*args, **options)
        backbone.model.blocks[2].mlp.fc2.weight[:8] *= 1.1
        return backbone

    assert extract_clips(manifest, CONFIG, store, progress=False).committed == []
    monkeypatch.setattr(runner, "build_backbone", broken)
    with pytest.raises(WrongIdentity, match=r"beyond 0\.001 \(float32\):\n  block 5: "):
        extract_clips(manifest, CONFIG, store, progress=False)


@pytest.mark.parametrize("pads", [False, True])
def test_backbone_changed_by_compilation_is_refused_by_its_new_store(
    manifest, tmp_path, monkeypatch, pads
):
    def compiled(backbone, machine, *, compiles):
        whole = backbone.model.blocks[2].forward
        backbone.model.blocks[2].forward = lambda *arguments, **options: (
            whole(*arguments, **options) * 1.01
        )
        return dataclasses.replace(machine, pads=pads)

    monkeypatch.setattr(runner, "prepare_backbone", compiled)
    with pytest.raises(WrongIdentity, match="computes other tokens of the store's fixed frames"):
        extract_clips(manifest, CONFIG, tmp_path / "store", progress=False)


def test_the_stores_identity_is_the_planned_one_and_a_calibration(done):
    identity, _ = load_identity(done[1])
    assert identity.codec["calibration_sha256"] is not None
    assert identity.before_calibration == build_identity(CONFIG)


def test_the_store_records_its_root_and_the_state_of_each_video(done, manifest):
    reader = pytest.importorskip("tokenreel.cache.read.store_reader")
    store = reader.open_store(done[1])
    assert store.facts.root == str(manifest.root)
    source = store.record("a").source
    status = (manifest.root / "a.mp4").stat()
    assert (source["num_bytes"], source["mtime_ns"]) == (status.st_size, status.st_mtime_ns)
    assert source["pixel_aspect"] in (None, [1, 1])
    assert (store.record("a").rules, store.identity.rules) == (2, 2)


def test_labels_and_times_are_stored(done):
    reader = pytest.importorskip("tokenreel.cache.read.store_reader")
    store = reader.open_store(done[1])
    assert store.labels("a").tolist() == [-1] * 5 + [1] * 5 + [-1] * 20
    assert store.frame_index("b/part").tolist() == list(range(25, 50))
    np.testing.assert_allclose(store.times_seconds("b/part")[[0, -1]], [1.0, 1.96])


def test_a_second_run_skips_what_is_committed(manifest, done):
    again = extract_clips(manifest, CONFIG, done[1], progress=False)
    assert sorted(again.skipped) == ["a", "b/part"]
    assert again.committed == []


@pytest.mark.parametrize("workers", [1, 3])
def test_the_store_is_the_same_bytes_for_any_number_of_workers(manifest, done, tmp_path, workers):
    config = CONFIG.model_copy(update={"workers": workers})
    extract_clips(manifest, config, tmp_path / "store", progress=False)
    assert differing(tmp_path / "store", done[1]) == []


def test_on_a_cpu_there_is_a_decode_process_for_each_thread_of_the_backbone(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    assert machine_for(CONFIG).workers == 4
    assert machine_for(CONFIG, processes=2).workers == 2
    assert machine_for(CONFIG.model_copy(update={"workers": 3})).workers == 3


def test_shards_together_make_the_same_clips(manifest, done, tmp_path):
    for part in range(2):
        extract_clips(manifest, CONFIG, tmp_path / "store", progress=False, shard=(part, 2))
    assert differing(tmp_path / "store", done[1]) == []


def test_a_store_of_another_identity_is_refused_field_by_field(manifest, done):
    config = CONFIG.model_copy(update={"weights": "random:1", "fps": 5.0})
    with pytest.raises(WrongIdentity, match=r"(?s)frames.*weights_sha256"):
        extract_clips(manifest, config, done[1], progress=False)


def test_too_many_failures_end_the_run(manifest, tmp_path):
    config = CONFIG.model_copy(update={"max_failures": 0})
    with pytest.raises(TokenReelError, match="max_failures=0"):
        extract_clips(manifest, config, tmp_path / "store", progress=False)


def test_store_name_contains_random_weights_and_the_final_fingerprint(done):
    identity, _ = load_identity(done[1])
    assert store_name("toy", CONFIG) == "toy-test_vit-random0-"
    assert (
        store_name("toy", CONFIG, identity) == store_name("toy", CONFIG) + identity.fingerprint[:12]
    )


@pytest.mark.parametrize(
    ("body", "timeout_seconds", "exit_code", "reason"),
    [
        (hang, 0.3, -signal.SIGKILL, "no heartbeat for 0.3 s; killed"),
        (crash, 300.0, -signal.SIGSEGV, "the decode process died (exit -11)"),
    ],
)
def test_a_decode_process_that_hangs_or_dies_is_replaced_and_the_clip_fails(
    monkeypatch, tmp_path, body, timeout_seconds, exit_code, reason
):
    processes, begin = [], decode_pool.DecodeProcess.__init__

    def recorded(self, slot_bytes):
        begin(self, slot_bytes)
        processes.append(self.process)

    monkeypatch.setattr(decode_pool.DecodeProcess, "__init__", recorded)
    monkeypatch.setattr(decode_pool, "serve", body)
    monkeypatch.setattr(decode_pool, "START_SECONDS", 0.0)
    job = DecodeJob(
        tmp_path / "a.mp4",
        None,
        None,
        None,
        "pyav",
        transform_parameters("dino-256-224", 32),
        view_parameters(0, 0),
        "a",
        8,
    )
    with DecodePool(
        [job], slot_shape=(8, 1, 3, 32, 32), workers=1, timeout_seconds=timeout_seconds
    ) as pool:
        (end,) = list(pool)
        assert [process.exitcode for process in processes[:2]] == [exit_code, exit_code]
    assert end.failure is not None
    assert (end.attempt.number, end.attempt.decoder) == (2, "decord")
    assert list(end.reasons) == [f"pyav: {reason}", f"decord: {reason}"]
    assert CONFIG.timeout_seconds > worker.BEAT_SECONDS


@pytest.mark.parametrize(("num_videos", "num_clips"), [(40, 7), (3, 50)])
def test_shards_partition_the_clips_and_split_no_video_if_there_are_many(
    tmp_path, num_videos, num_clips
):
    clips = tuple(
        Clip(f"{video}/{number}", f"{video}.mp4")
        for video in range(num_videos)
        for number in range(num_clips)
    )
    manifest = Manifest("toy", tmp_path, clips)
    shards = [runner.clips_of_shard(manifest, (part, 5)) for part in range(5)]
    together = [clip for shard in shards for clip in shard]
    assert sorted(together, key=lambda clip: clip.clip_id) == sorted(
        clips, key=lambda clip: clip.clip_id
    )
    readers = [
        sum(any(clip.video == f"{video}.mp4" for clip in shard) for shard in shards)
        for video in range(num_videos)
    ]
    assert (max(readers) == 1) == (num_videos == 40)
    lengths = [len(shard) for shard in shards]
    assert max(lengths) - min(lengths) <= num_clips // 5
