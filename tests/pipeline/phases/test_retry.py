"""`extract run` and `extract retry`: what is listed, what is tried, and with which status."""

import shutil

import pytest
from typer.testing import CliRunner

from tests.extract.extraction import write_video
from tokenreel.cache.errors import UsageError
from tokenreel.cache.format.store_files import read_failures
from tokenreel.pipeline.cli.extract import app
from tokenreel.pipeline.phases.extraction import retry_store

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


def test_a_clip_that_is_gone_from_the_data_set_cannot_be_tried(folder, tmp_path):
    store = tmp_path / "store"
    status, _ = call("run", "folder", *WORDS, "--root", folder, "--out", store)
    assert status == 3
    (folder / "text.mp4").unlink()
    with pytest.raises(UsageError, match="has no clip 'text"):
        retry_store(store, ["device=cpu"], root=folder)
