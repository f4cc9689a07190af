"""`make extract` as it is typed, on a FineGym in its real format; the words of `make demo`."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.extract.extraction import differing
from tests.pipeline.datasets.miniatures import make_finegym
from tests.programs import call
from tokenreel.cache.read.store_reader import open_store
from tokenreel.cache.tools.verify import verify_store

REPOSITORY = Path(__file__).parents[2]
OPTIONS = "backbone=test_vit weights=random:0 image_size=32 blocks=1,5 device=cpu"


def make_extract(venv, root, out):
    """Call `make extract` with an environment in place of the one that it would make."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    (venv / ".ready").touch()
    words = [f"VENV={venv}", "DATASET=finegym", f"ROOT={root}", f"OUT={out}"]
    job = subprocess.run(
        ["make", "extract", *words, f"OPTIONS={OPTIONS}"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    return job.returncode, job.stdout + job.stderr


def call_extract(root, out):
    """Call `extract` with the words of `make extract`, in this process."""
    words = ["run", "finegym", "--root", root, "--out", out, *OPTIONS.split()]
    return call("extract", *words, cwd=REPOSITORY)


def test_make_extract_writes_every_event_of_finegym_and_then_finds_nothing_to_do(tmp_path):
    root, store, venv = tmp_path / "gym videos", tmp_path / "store", tmp_path / "venv"
    make_finegym(root)
    venv.mkdir()
    (venv / "bin").symlink_to(Path(sys.executable).parent)
    status, output = make_extract(venv, root, store)
    assert status == 0, output
    assert "9 committed, 0 skipped, 0 failed" in output
    assert verify_store(store, deep=True).problems == ()
    opened = open_store(store)
    for clip_id, record in opened.records.items():  # an event begins a frame after its second
        start, stop = (int(part[:6]) for part in clip_id.split("_E_")[1].split("_")[:2])
        wanted = list(range(25 * start + 1, 25 * stop))
        assert opened.frame_index(clip_id).tolist() == wanted
        assert record.num_frames == len(wanted)
    assert sum((opened.labels(clip_id) >= 0).sum() for clip_id in opened.records) == 176

    before = tmp_path / "before"
    shutil.copytree(store, before)
    status, output = call_extract(root, store)
    assert status == 0, output
    assert "0 committed, 9 skipped, 0 failed" in output
    assert differing(store, before) == []


def test_extract_fails_where_a_video_does_and_keeps_the_events_of_the_others(tmp_path):
    root, store = tmp_path / "videos", tmp_path / "store"
    make_finegym(root)
    (root / "videos" / "video_-0001.mp4").write_text("no video")
    status, output = call_extract(root, store)
    assert status == 3
    assert "4 committed, 0 skipped, 5 failed" in output
    assert {clip_id[:17] for clip_id in open_store(store).records} == {"train/video_-0000"}


def test_make_extract_fails_where_the_command_does(tmp_path):
    extract = tmp_path / "venv" / "bin" / "extract"
    extract.parent.mkdir(parents=True)
    extract.write_text('#!/bin/sh\necho "$@"\nexit 3\n')
    extract.chmod(0o755)
    status, output = make_extract(tmp_path / "venv", "the videos", "store")
    assert status == 2  # of make
    assert f"run finegym --root the videos --out store {OPTIONS}" in output.splitlines()
    assert "Error 3" in output


@pytest.mark.parametrize(
    ("words", "typed"),
    [
        ([], "tokenreel demo"),
        (["WEIGHTS=pretrained"], "tokenreel demo weights='pretrained'"),
        (["WEIGHTS=my files/a.pth", "BACKBONE=x"], "demo weights='my files/a.pth' backbone='x'"),
    ],
)
def test_make_demo_passes_weights_and_backbone_on(words, typed, tmp_path):
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    (tmp_path / ".ready").touch()
    line = ["make", "-n", "--no-print-directory", "demo", f"VENV={tmp_path}", *words]
    done = subprocess.run(line, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert " ".join(done.stdout.split()).endswith(typed)
