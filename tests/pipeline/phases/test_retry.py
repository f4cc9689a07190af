"""`extract run` and `extract retry`: what is listed, what is tried, and with which status."""

import os
import shutil

import pytest
from typer.testing import CliRunner

from tests.extract.extraction import write_video
from tokenreel.cache.errors import UsageError
from tokenreel.cache.format.store_files import load_identity, read_failures
from tokenreel.pipeline.cli.extract import app
from tokenreel.pipeline.phases.extraction import config_of, retry_store

WORDS = ["backbone=test_vit", "weights=random:0", "image_size=32", "blocks=1,5", "device=cpu"]


def call(*words):
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    return result.exit_code, result.output


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "videos"
    root.mkdir()
    write_video(root / "good.mp4", 12)
    write_video(tmp_path / "whole.mp4", 80)
    (root / "torn.mp4").write_bytes((tmp_path / "whole.mp4").read_bytes()[:-2000])
    (root / "text.mp4").write_text("no video")
    return root


def test_quarantine_from_the_first_run_to_the_last(folder, tmp_path):
    store = tmp_path / "store"
    run = ["run", "folder", *WORDS, "--root", folder, "--out", store]
    status, output = call(*run)
    assert status == 3
    assert "1 committed, 0 skipped, 2 failed" in output
    assert "memory " in output
    assert len([line for line in output.splitlines() if line.startswith("failed: ")]) == 2
    status, output = call(*run)
    assert status == 3
    assert "0 committed, 1 skipped, 0 failed, 2 in quarantine" in output
    assert "in quarantine: text" in output
    shutil.copy(tmp_path / "whole.mp4", folder / "torn.mp4")
    status, output = call("retry", store, "device=cpu", "--root", folder)
    assert status == 3
    assert "1 committed, 0 skipped, 1 failed" in output
    (record,) = read_failures(store)
    assert record["attempts"] == 2
    shutil.copy(tmp_path / "whole.mp4", folder / "text.mp4")
    status, output = call("retry", store, "device=cpu", "--root", folder)
    assert (status, read_failures(store)) == (0, [])
    status, output = call("retry", store, "--root", folder)
    assert status == 0
    assert "0 committed" in output
    (folder / "text.mp4").unlink()
    assert call(*run)[0] == 0


def test_the_retry_that_status_prints_finds_the_videos_where_they_were(
    folder, tmp_path, monkeypatch
):
    (folder / "torn.mp4").unlink()
    store = tmp_path / "store"
    assert call("run", "folder", *WORDS, "--root", folder, "--out", store)[0] == 3
    shutil.copy(tmp_path / "whole.mp4", folder / "text.mp4")
    monkeypatch.chdir(tmp_path)
    status, output = call("retry", store)
    assert (status, read_failures(store)) == (0, []), output
    assert "1 committed, 0 skipped, 0 failed" in output


def test_a_run_tries_a_failed_clip_again_once_its_video_or_labels_changed(folder, tmp_path):
    store = tmp_path / "store"
    run = ["run", "folder", *WORDS, "--root", folder, "--out", store]
    (folder / "labels.csv").write_text(
        "video,start_seconds,stop_seconds,phase\ngood.mp4,0,99,0\n", encoding="utf-8"
    )
    assert "0 committed, 0 skipped, 3 failed" in call(*run)[1]
    os.utime(folder / "text.mp4", ns=(0, 0))  # not even a hash is known of a file without video
    shutil.copy(tmp_path / "whole.mp4", folder / "torn.mp4")
    output = call(*run)[1]
    assert "1 committed, 0 skipped, 1 failed, 1 in quarantine" in output
    assert "2 clip(s) in quarantine were tried again: their videos, ranges or labels" in output
    (folder / "labels.csv").write_text(
        "video,start_seconds,stop_seconds,phase\ngood.mp4,0,0.2,0\n", encoding="utf-8"
    )
    (folder / "text.mp4").unlink()
    (folder / "text.mp4").symlink_to("torn.mp4")
    output = call(*run, "--follow-links")[1]
    assert "2 committed, 1 skipped, 0 failed" in output
    assert "2 clip(s) in quarantine were tried again" in output
    assert read_failures(store) == []


def test_a_video_with_the_bytes_that_failed_stays_in_quarantine(folder, tmp_path):
    write_video(tmp_path / "whole.mkv", 80)
    (folder / "torn.mp4").unlink()
    (folder / "torn.mkv").write_bytes((tmp_path / "whole.mkv").read_bytes()[:-2000])
    store = tmp_path / "store"
    run = ["run", "folder", *WORDS, "--root", folder, "--out", store]
    call(*run)
    os.utime(folder / "torn.mkv", ns=(0, 0))  # its decoding failed, so its hash is known
    status, output = call(*run)
    assert status == 3
    assert "0 committed, 1 skipped, 0 failed, 2 in quarantine" in output
    assert "tried again" not in output


def test_a_store_that_says_nonsense_of_its_extraction_is_told_by_field(folder, tmp_path):
    store = tmp_path / "store"
    call("run", "folder", *WORDS, "--root", folder, "--out", store)
    identity, attributes = load_identity(store)
    message = r"does not say how it was extracted: weights: Input should be a valid string$"
    with pytest.raises(UsageError, match=message):
        config_of(identity, {**attributes["made_with"], "weights": 5})


def test_a_clip_that_is_gone_from_the_data_set_cannot_be_tried(folder, tmp_path):
    store = tmp_path / "store"
    status, _ = call("run", "folder", *WORDS, "--root", folder, "--out", store)
    assert status == 3
    (folder / "text.mp4").unlink()
    with pytest.raises(UsageError, match="has no clip 'text"):
        retry_store(store, ["device=cpu"], root=folder)
