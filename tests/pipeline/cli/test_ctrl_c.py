"""Ctrl-C in the commands of scenes and tags: a last line that says so, 130, and resumption."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.extract.scenes.films import repeat_film, write_film
from tests.fuse.systems.stan.pixel_stores import write_scenes
from tests.programs import call
from tokenreel.fuse.runs.checkpoint import load_checkpoint

CLIPS = {**{f"train{i}": 3 for i in range(6)}, **{f"val{i}": 2 for i in range(6)}}
TAGS = {clip: ("dark", "bright")[number % 2 :][:1] for number, clip in enumerate(CLIPS)}
SMALL = ["encoder.width=8", "encoder.layers=1", "data.num_frames=3"]


def interrupted(program, *words, cwd, after):
    """Status and lines of a command that gets Ctrl-C as from a terminal, when a file is there."""
    code = f"from tokenreel.pipeline.cli.{program} import main; main()"
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with (cwd / "printed.txt").open("w+") as printed:
        child = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, words)],
            cwd=cwd,
            env=env,
            stdout=printed,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        while child.poll() is None and not any(cwd.glob(after)):
            time.sleep(0.02)
        os.killpg(child.pid, signal.SIGINT)  # its processes have it too
        status = child.wait(timeout=120)
        printed.seek(0)
        return status, printed.read().splitlines()


def require_one_line(lines):
    """The command ends with one line that says it was interrupted, and no traceback."""
    assert not any("Traceback" in line for line in lines), lines
    assert [line for line in lines if line.startswith("interrupted: ")] == lines[-1:], lines
    assert lines[-1].endswith("rerun the same command to resume")


def explain(tmp_path):
    stores = [f"--store={name}={tmp_path / name}" for name in ("spatial", "temporal")]
    return ["explain", tmp_path / "run", *stores, "--clips", ",".join(CLIPS), "--device", "cpu"]


@pytest.mark.slow  # seconds each to start a program
def test_scenes_are_found_by_the_next_run_after_ctrl_c(tmp_path):
    minute = write_film(tmp_path / "minute.mp4", [50] * 30, size=(32, 32))
    (tmp_path / "videos").mkdir()
    for name in ("a", "b", "c"):
        repeat_film(tmp_path / "videos" / f"{name}.mp4", minute, 60)
    words = ["scenes", "folder", "--root", "videos", "--out", "found", "workers=1"]
    status, lines = interrupted("extract", *words, cwd=tmp_path, after="found/videos/*.json")
    assert status == 130
    require_one_line(lines)
    assert not (tmp_path / "found" / "scenes.csv").exists()
    status, text = call("extract", *words, cwd=tmp_path)
    assert status == 0, text
    assert (tmp_path / "found" / "scenes.csv").read_text().count("\n") == 1 + 3 * 60 * 30


@pytest.mark.slow
def test_a_run_is_saved_at_ctrl_c_and_its_explanation_ends_with_one_line(tmp_path):
    for name in ("spatial", "temporal"):
        write_scenes(tmp_path / name, CLIPS, tags=TAGS)
    stores = [f"--store={name}={tmp_path / name}" for name in ("spatial", "temporal")]
    words = ["train", "stan", *SMALL, *stores, "--out", "run", "--device", "cpu"]
    long = [*words, "optim.epochs=20000"]
    status, lines = interrupted("fuse", *long, cwd=tmp_path, after="run/metrics.jsonl")
    assert status == 130
    require_one_line(lines)
    [step, *_] = load_checkpoint(tmp_path / "run" / "checkpoint.pt")["position"]
    assert step > 0
    (tmp_path / "run").rename(tmp_path / "stopped")
    status, text = call("fuse", *words, "optim.epochs=1", cwd=tmp_path)
    assert status == 0, text
    after = "run/explanations/*.png"
    status, lines = interrupted("fuse", *explain(tmp_path), cwd=tmp_path, after=after)
    assert status == 130
    require_one_line(lines)
    assert len(list((tmp_path / "run" / "explanations").glob("*.png"))) < len(CLIPS)
    status, text = call("fuse", *explain(tmp_path), cwd=tmp_path)
    assert status == 0, text
    assert len(list((tmp_path / "run" / "explanations").glob("*.png"))) == len(CLIPS)
