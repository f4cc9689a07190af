"""Clips that fail: nothing of other clips is lost, the reason is kept, nothing is tried unasked."""

import errno
import logging
import os
import pickle
import shutil
import signal
import threading
from dataclasses import replace

import numpy as np
import pytest

from tests.extract.extraction import CONFIG, content, copy_without_clips, differing, write_video
from tests.extract.flow.broken_decoders import (
    beat_for_ever,
    die_midway,
    open_too_many_files,
    tell_endpoint,
)
from tokenreel.cache.errors import ClipFailed, MachineError, TokenReelError
from tokenreel.cache.format.store_files import read_failures
from tokenreel.cache.manifest import Clip, Manifest
from tokenreel.cache.read.store_reader import open_store
from tokenreel.extract import signals as stopping
from tokenreel.extract.decode_pool import pool
from tokenreel.extract.decode_pool.worker import ClipFailure, MachineFailure, failure_of
from tokenreel.extract.encode import quantiser as encode
from tokenreel.extract.flow import commits, runner
from tokenreel.extract.flow.devices import machine_for
from tokenreel.extract.flow.gpus import merge_reports
from tokenreel.extract.flow.runner import extract_clips
from tokenreel.extract.report import ExtractReport
from tokenreel.extract.video.source import SourceFiles
from tokenreel.extract.video.types import VideoError

GOOD = (Clip("a", "a.mp4"), Clip("b", "b.mp4"))
TORN = Clip("torn", "torn.mkv")


def torn(source, target):
    """The first two thirds of a video whose header promises all of it."""
    data = source.read_bytes()
    target.write_bytes(data[: len(data) * 2 // 3])


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("videos")
    write_video(root / "a.mp4", 21)
    write_video(root / "b.mp4", 75)
    write_video(root / "whole.mkv", 150)
    torn(root / "whole.mkv", root / "torn.mkv")
    return root


@pytest.fixture(scope="module")
def good(root, tmp_path_factory):
    store = tmp_path_factory.mktemp("out") / "good"
    extract_clips(Manifest("toy", root, GOOD), CONFIG, store, progress=False)
    return store


def mixing(config, **options):
    machine = machine_for(config, **options)
    return replace(machine, mixes=True, pads=True, resizes=True)


@pytest.mark.parametrize("mixes", [False, True])
def test_a_clip_that_fails_midway_loses_nothing_of_the_others(
    root, good, tmp_path, mixes, monkeypatch
):
    if mixes:  # as on a GPU: its frames share batches with those of other clips
        monkeypatch.setattr(runner, "machine_for", mixing)
        alone = copy_without_clips(good, tmp_path / "alone")
        extract_clips(Manifest("toy", root, GOOD), CONFIG, alone, progress=False)
        good = alone
    store = copy_without_clips(good, tmp_path / "store")  # the calibration of the good clips
    config = CONFIG.model_copy(update={"workers": 2})
    report = extract_clips(Manifest("toy", root, (TORN, *GOOD)), config, store, progress=False)
    assert sorted(report.committed) == ["a", "b"]
    (record,) = read_failures(store)
    assert (record["clip_id"], record["stage"]) == ("torn", "decode")
    assert record["details"]["decoder"] == "pyav"
    assert record["details"]["frame"] > 60
    assert differing(store, good) == []


@pytest.fixture
def failed(root, tmp_path):
    """A store with one clip in quarantine, and the manifest."""
    folder = tmp_path / "videos"
    shutil.copytree(root, folder)
    manifest = Manifest("toy", folder, (GOOD[0], TORN))
    store = tmp_path / "failed"
    report = extract_clips(manifest, CONFIG, store, progress=False)
    assert report.exit_status == 3
    return store, manifest


def test_clips_in_quarantine_are_reported_and_not_retried_without_retries(failed, caplog):
    store, manifest = failed
    with caplog.at_level(logging.WARNING):
        again = extract_clips(manifest, CONFIG, store, progress=False)
    assert (again.committed, again.failed) == ([], [])
    assert [failure.clip_id for failure in again.quarantined] == ["torn"]
    assert again.exit_status == 3
    assert "in quarantine, not retried: torn: decode" in caplog.text
    assert "1 in quarantine" in again.table()
    assert "extract retry" in again.table()
    (record,) = read_failures(store)
    assert record["attempts"] == 1
    shutil.copy(manifest.root / "whole.mkv", manifest.root / "torn.mkv")
    retried = extract_clips(manifest, CONFIG, store, progress=False, retries=True)
    assert retried.committed == ["torn"]
    assert retried.exit_status == 0
    assert read_failures(store) == []


def test_a_retry_that_fails_counts_the_attempts(failed):
    store, manifest = failed
    report = extract_clips(manifest, CONFIG, store, progress=False, retries=True)
    assert [failure.clip_id for failure in report.failed] == ["torn"]
    (record,) = read_failures(store)
    assert record["attempts"] == 2


def test_too_many_failures_end_the_run_and_leave_no_claim(root, tmp_path):
    config = CONFIG.model_copy(update={"max_failures": 0})
    manifest = Manifest("toy", root, (TORN, *GOOD))
    with pytest.raises(TokenReelError, match="1 clips failed, more than max_failures=0"):
        extract_clips(manifest, config, tmp_path / "store", progress=False)
    assert list((tmp_path / "store" / "claims").iterdir()) == []


def test_a_decode_process_has_the_environment_of_now_and_not_of_the_first_one(monkeypatch):
    monkeypatch.setattr(pool, "serve", tell_endpoint)
    for address in ("http://127.0.0.1:1", None, "http://127.0.0.1:2"):
        if address is None:
            monkeypatch.delenv("AWS_ENDPOINT_URL")
        else:
            monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        process = pool.DecodeProcess(64)
        try:
            assert process.pipe.recv() == address
        finally:
            process.close(kill=True)


def test_sigterm_while_no_frame_arrives_abandons_the_clip_without_a_failure(
    root, tmp_path, monkeypatch
):
    monkeypatch.setattr(pool, "serve", beat_for_ever)
    monkeypatch.setattr(stopping, "GRACE_SECONDS", 0.2)
    config = CONFIG.model_copy(update={"codec": "fp16"})
    store = tmp_path / "store"
    told = []

    def tell(self, *arguments, **options):
        if not told:
            told.append(threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)))
            told[0].start()
        return give(self, *arguments, **options)

    give = pool.DecodeProcess.give
    monkeypatch.setattr(pool.DecodeProcess, "give", tell)
    try:
        report = extract_clips(Manifest("toy", root, GOOD), config, store, progress=False)
    finally:
        for timer in told:  # else its signal would end the tests where the run fails before
            timer.cancel()
            timer.join()
    assert report.stopped
    assert (report.committed, report.failed, read_failures(store)) == ([], [], [])
    assert list((store / "claims").iterdir()) == []


def test_max_failures_ends_a_run_before_every_clip_is_in_quarantine(tmp_path):
    clips = tuple(Clip(f"c{number:02d}", f"{number}.mp4") for number in range(30))
    config = CONFIG.model_copy(update={"max_failures": 2, "codec": "fp16"})
    with pytest.raises(TokenReelError, match="3 clips failed, more than max_failures=2"):
        extract_clips(Manifest("toy", tmp_path, clips), config, tmp_path / "s", progress=False)
    assert len(read_failures(tmp_path / "s")) == 3


@pytest.mark.parametrize("mixes", [False, True])
def test_second_attempt_uses_the_other_decoder_and_restarts_the_clip(
    root, good, tmp_path, monkeypatch, mixes
):
    pytest.importorskip("decord")
    monkeypatch.setattr(pool, "serve", die_midway)
    if mixes:
        monkeypatch.setattr(runner, "machine_for", mixing)
    store = copy_without_clips(good, tmp_path / "store")
    report = extract_clips(Manifest("toy", root, GOOD), CONFIG, store, progress=False)
    assert sorted(report.committed) == ["a", "b"]
    one, other = open_store(store), open_store(good)
    assert one.records["b"].source["decoder"] == "decord"
    assert one.records["a"].source["decoder"] == "pyav"
    frames = np.arange(75)
    if not mixes:  # another size of the last batch may change the last bits
        np.testing.assert_array_equal(
            one.read("b", frames).codes[5], other.read("b", frames).codes[5]
        )
    np.testing.assert_array_equal(one.frame_index("b"), frames)


def test_a_clip_whose_tokens_cannot_be_encoded_fails_alone(root, good, tmp_path, monkeypatch):
    whole = encode.Quantiser.on_host

    def broken(self, outputs, rows, *, first=0):
        if first == 64:
            raise ValueError("block 1, frame 64, token 0: NaN or infinity")
        return whole(self, outputs, rows, first=first)

    monkeypatch.setattr(encode.Quantiser, "on_host", broken)
    store = copy_without_clips(good, tmp_path / "store")
    report = extract_clips(Manifest("toy", root, GOOD), CONFIG, store, progress=False)
    assert report.committed == ["a"]
    assert [str(failure) for failure in report.failed] == [
        "b: encode: block 1, frame 64, token 0: NaN or infinity"
    ]
    kept = {name for name in content(good) if "/a-" in name}
    assert not [name for name in differing(store, good) if name in kept]


def test_disk_error_ends_the_run_and_releases_all_claims(root, tmp_path, monkeypatch):
    def full(self, *arguments, **options):
        raise TokenReelError("no space left")

    monkeypatch.setattr(commits.ClipCommits, "write", full)
    with pytest.raises(TokenReelError, match="no space left"):
        extract_clips(Manifest("toy", root, GOOD), CONFIG, tmp_path / "store", progress=False)
    assert list((tmp_path / "store" / "claims").iterdir()) == []


def test_report_can_be_pickled():
    report = ExtractReport(failed=[ClipFailed("c", stage="decode", reason="torn")], num_frames=3)
    found = pickle.loads(pickle.dumps(report))
    assert str(found.failed[0]) == "c: decode: torn"
    assert found.failed[0].stage == "decode"
    found.wrote(2, 10)
    assert (found.num_frames, found.num_appended, found.num_bytes) == (3, 2, 10)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_a_limit_of_this_process_ends_the_run_and_puts_no_clip_in_quarantine(
    root, tmp_path, monkeypatch, number
):
    def limited(*_, **__):
        try:
            raise OSError(number, os.strerror(number))
        except OSError as error:
            raise VideoError("cannot be opened", stage="open") from error

    monkeypatch.setattr(SourceFiles, "examine", limited)
    monkeypatch.setattr("tokenreel.cache.errors.is_memory_short", lambda: True)
    with pytest.raises(MachineError, match=f"cannot be opened: {os.strerror(number)}; "):
        extract_clips(Manifest("toy", root, GOOD), CONFIG, tmp_path / "store", progress=False)
    assert read_failures(tmp_path / "store") == []


def test_too_many_open_files_in_a_decode_process_end_the_run_and_fail_no_clip(
    root, tmp_path, monkeypatch
):
    monkeypatch.setattr(pool, "serve", open_too_many_files)
    config = CONFIG.model_copy(update={"codec": "fp16"})
    with pytest.raises(MachineError, match=r"Too many open files; .*ulimit -n") as raised:
        extract_clips(Manifest("toy", root, GOOD), config, tmp_path / "store", progress=False)
    assert raised.value.exit_status == 6
    assert read_failures(tmp_path / "store") == []
    assert list((tmp_path / "store" / "claims").iterdir()) == []


def test_a_video_that_asks_for_more_memory_than_there_is_fails_alone(
    root, good, tmp_path, monkeypatch
):
    videos = tmp_path / "videos"
    shutil.copytree(root, videos)
    data = bytearray((videos / "a.mp4").read_bytes())
    place = data.index(b"stsz") + 12  # the number of frames in the header: 2 ** 29
    data[place : place + 4] = (2**29).to_bytes(4, "big")
    (videos / "greedy.mp4").write_bytes(data)
    store = copy_without_clips(good, tmp_path / "store")
    manifest = Manifest("toy", videos, (Clip("greedy", "greedy.mp4"), *GOOD))
    report = extract_clips(manifest, CONFIG, store, progress=False)
    assert sorted(report.committed) == ["a", "b"]
    assert [failure.clip_id for failure in report.failed] == ["greedy"]


@pytest.mark.parametrize("is_short", [True, False])
def test_memory_that_a_decoder_lacks_is_the_machines_where_memory_is_short(monkeypatch, is_short):
    monkeypatch.setattr("tokenreel.cache.errors.is_memory_short", lambda: is_short)
    error = VideoError("cannot be read", frame=3)
    error.__cause__ = OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
    message = failure_of(error)
    assert isinstance(message, MachineFailure if is_short else ClipFailure)
    assert message.reason.startswith("cannot be read")
    of_python = failure_of(MemoryError())
    assert of_python == ClipFailure("decode", "not enough memory to decode it", None, final=False)


def test_the_status_of_a_stopped_run_says_whether_clips_are_missing():
    failed = [ClipFailed("c", stage="decode", reason="torn")]
    done = ExtractReport(committed=["a"], failed=failed, num_clips=2, signal=signal.SIGINT)
    assert (done.num_missing, done.exit_status) == (0, 3)  # it came when all was done
    for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 143)):
        report = ExtractReport(committed=["a"], failed=failed, num_clips=3, signal=number)
        assert (report.num_missing, report.exit_status) == (1, status)
        assert "stopped early, 1 clips missing; rerun to resume" in report.table()
        with pytest.raises(SystemExit, match=str(status)):
            report.require_reached()
    assert ExtractReport(signal=signal.SIGTERM).exit_status == 143  # before the clips were counted
    assert ExtractReport(committed=["a"], num_clips=3).exit_status == 3
    parts = [
        ExtractReport(committed=["a"], skipped=["b"], num_clips=3),
        ExtractReport(committed=["b"], skipped=["a"], num_clips=3),
    ]
    merged = merge_reports(parts)
    assert (merged.num_clips, merged.num_missing) == (3, 1)


def test_no_count_is_lost_where_processes_share_the_clips():
    later = {"num_over_limit", "signal"}  # known to the process that merges
    counts = {
        name: number
        for number, (name, value) in enumerate(vars(ExtractReport()).items(), 1)
        if type(value) is int and name not in later
    }
    merged = merge_reports([ExtractReport(**counts)])
    assert {name: getattr(merged, name) for name in counts} == counts
    both = merge_reports([ExtractReport(num_unlisted=3, num_frames=5)] * 2)
    assert (both.num_unlisted, both.num_frames) == (3, 10), "each looks at all clips"


def test_a_clip_that_resumes_within_a_batch_has_the_bytes_of_one_run(tmp_path, monkeypatch):
    write_video(tmp_path / "long.mp4", 150)
    manifest = Manifest("toy", tmp_path, (Clip("long", "long.mp4"),))
    config = CONFIG.model_copy(update={"batch_frames": 48})  # 64 frames are a segment on disk
    extract_clips(manifest, config, tmp_path / "whole", progress=False)
    write = commits.ClipCommits.write

    def stop_in_the_third(self, entry, encode, attempt, *, first, count):
        if first == 96:
            raise MachineError("the disk is full")
        write(self, entry, encode, attempt, first=first, count=count)

    with monkeypatch.context() as patch:
        patch.setattr(commits.ClipCommits, "write", stop_in_the_third)
        with pytest.raises(MachineError, match="the disk is full"):
            extract_clips(manifest, config, tmp_path / "store", progress=False)
    report = extract_clips(manifest, config, tmp_path / "store", progress=False)
    assert (report.committed, report.num_appended) == (["long"], 150 - 64)
    assert differing(tmp_path / "store", tmp_path / "whole") == []
