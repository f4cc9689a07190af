"""Inputs as people have them, from command to store: pictures, links, names, a few clips."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.extract.extraction import differing, write_video
from tests.programs import call
from tokenreel.cache.read.store_reader import open_store
from tokenreel.cache.tools.verify import verify_store

SMALL = ["backbone=test_vit", "weights=random:0", "image_size=32", "blocks=1,5", "device=cpu"]
SMALL += ["numeric=float32", "workers=1"]


def run(root: Path, out: Path, *words: object) -> tuple[int, str]:
    return call("extract", "run", "folder", "--root", root, "--out", out, *SMALL, *words, cwd=root)


def write_pictures(folder: Path, count: int, *, first: int = 1) -> None:
    folder.mkdir(parents=True)
    for number in range(first, first + count):
        pixels = np.random.default_rng(number).integers(0, 255, (12, 16, 3), np.uint8)
        Image.fromarray(pixels).resize((64, 48)).save(folder / f"img_{number}.png")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    write_pictures(root / "train" / "walk", 12)
    write_pictures(root / "val" / "gap", 2)
    (root / "val" / "gap" / "img_2.png").rename(root / "val" / "gap" / "img_4.png")
    (root / "labels.csv").write_text(
        "video,start_seconds,stop_seconds,phase\ntrain/walk,0,0.5,0\ntrain/walk,0.5,1.2,1\n"
    )
    status, text = run(root, root / "store", "picture_fps=10")
    return root, status, text


def test_folders_of_pictures_are_extracted_with_their_times_and_labels(pictures):
    root, status, text = pictures
    assert status == 3
    assert "val/gap: open: 2 picture(s) are missing between img_1.png and img_4.png" in text
    store = open_store(root / "store")
    record = store.record("train/walk")
    np.testing.assert_allclose(store.times_seconds("train/walk"), np.arange(12) / 10)
    np.testing.assert_array_equal(store.labels("train/walk"), np.repeat([0, 1], [5, 7]))
    container = record.source["container"]
    assert (container["container"], container["codec"]) == ("pictures", "png")
    assert container["picture_fps"] == 10
    sizes = [path.stat().st_size for path in (root / "train" / "walk").iterdir()]
    assert record.source["num_bytes"] == sum(sizes)
    assert verify_store(root / "store", deep=True).exit_status == 0


def test_folders_of_pictures_are_planned_and_shown(pictures):
    root, _, _ = pictures
    status, text = call(
        *("extract", "plan", "folder", "--root", root, "--out", root / "plan", *SMALL),
        *("picture_fps=10", "--seconds", "0.3"),
        cwd=root,
    )
    assert status == 3
    assert "1 clips, 12 frames" in text
    status, text = call(
        *("extract", "show", "train/walk", "--store", root / "store", "--root", root),
        *("--frames", 3, "--out", root / "walk.picture"),
        cwd=root,
    )
    assert status == 0
    assert "without frames" not in text


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    root = tmp_path_factory.mktemp("videos")
    for number, name in enumerate(["train/a", "train/b", "train/c", "val/a", "val/b"]):
        (root / name).parent.mkdir(exist_ok=True)
        write_video(root / f"{name}.mp4", 6 + number)
    return root


def test_the_first_clips_of_each_split_and_then_the_others_are_the_same_store(videos):
    status, text = run(videos, videos / "few", "codec=int8", "--limit", 1)
    assert status == 0
    assert "2 committed, 0 skipped, 0 failed, 3 left out by --limit" in text
    assert sorted(open_store(videos / "few").records) == ["train/a.mp4", "val/a.mp4"]
    assert run(videos, videos / "few", "codec=int8")[0] == 0
    assert run(videos, videos / "all", "codec=int8")[0] == 0
    assert differing(videos / "few", videos / "all") == []
    status, text = call(
        *("extract", "plan", "folder", "--root", videos, *SMALL, "--limit", 2, "--seconds", "0.3"),
        cwd=videos,
    )
    assert status == 0
    assert "4 clips" in text
    assert "1 clips left out by --limit" in text


def test_links_are_extracted_on_request(videos, tmp_path):
    root = tmp_path / "subset"
    (root / "train").mkdir(parents=True)
    (root / "train" / "x.mp4").symlink_to(videos / "train" / "a.mp4")
    (root / "val").symlink_to(videos / "val")
    status, text = run(root, tmp_path / "store", "codec=fp16")
    assert status == 2
    assert "--follow-links takes such links" in text
    status, text = run(root, tmp_path / "store", "codec=fp16", "--follow-links")
    assert status == 0
    assert sorted(open_store(tmp_path / "store").records) == [
        *("train/x.mp4", "val/a.mp4", "val/b.mp4"),
    ]


def test_a_folder_that_may_not_be_entered_ends_with_status_3(videos, tmp_path, monkeypatch):
    scans = os.scandir

    def refuse(path="."):
        if os.fspath(path) == os.fspath(videos / "val"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scans(path)

    monkeypatch.setattr(os, "scandir", refuse)
    status, text = run(videos, tmp_path / "store", "codec=fp16", "--limit", 1)
    assert status == 3
    assert "cannot be read: val: permission denied" in text


def test_where_no_clip_can_be_decoded_for_calibration_files_and_reasons_are_named(tmp_path):
    for name in ("a.mp4", "b.avi"):
        (tmp_path / name).touch()
    (tmp_path / "c.mkv").write_bytes(bytes(1000))
    status, text = run(tmp_path, tmp_path / "store", "codec=int8")
    assert status == 3
    assert "codec=int8 is calibrated on frames, but no clip could be decoded:" in text
    assert "a.mp4: pyav: is empty (0 bytes)" in text
    assert "b.avi: pyav: is empty (0 bytes)" in text
    assert "c.mkv: " in text
    assert not (tmp_path / "store").exists()


def test_a_codec_is_calibrated_on_other_clips_where_the_chosen_ones_fail(tmp_path):
    for number in range(16):
        (tmp_path / f"{number:02}.mp4").touch()
    write_video(tmp_path / "03.mp4", 6)
    status, text = run(tmp_path, tmp_path / "store", "codec=int8")
    assert status == 3
    assert "1 committed, 0 skipped, 15 failed" in text


def test_a_program_has_the_names_of_clips_in_an_ascii_locale(tmp_path):
    root = tmp_path / "caf\u00e9"
    root.mkdir()
    (root / "caf\u00e9.mp4").touch()
    (root / "clips.csv").write_text("video,action\ncaf\u00e9.mp4,\u6f22\u5b57\n", encoding="utf-8")
    environment = os.environ | {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    code = "from tokenreel.pipeline.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "data", "check", "folder", "--root", root],
        env=environment,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "\u6f22\u5b57: 1 train" in done.stdout.decode()
    assert f"folder in {root}" in done.stdout.decode()
