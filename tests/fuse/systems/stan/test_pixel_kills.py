"""`fuse train stan-small` in a small size, killed at any moment: files as of a run left alone."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuse.systems.stan.pixel_stores import write_pixel_store, write_scenes

KILLED = """
import json, os, sys
from pathlib import Path
from tests.fuse.kills import fork, in_one_thread
from tokenreel.pipeline.phases.training import train_recipe
words, stores, whole, cut, moments = sys.argv[1:]

def run(out):
    named = {name: Path(path) for name, path in json.loads(stores).items()}
    train_recipe("stan-small", json.loads(words), store=named, out=Path(out), device="cpu",
                 progress=False)

in_one_thread(lambda: run(whole))
for number, moment in enumerate(json.loads(moments)):
    if not os.WIFSIGNALED(fork(lambda: run(cut), folder=cut, moment=moment)):
        sys.exit(f"kill {number}, {moment!r}, never came")
run(cut)
"""
SCENES = {f"train{i}": 3 for i in range(4)} | {"test0": 2}
TAGS = {clip: ("a", "b")[number % 2 :] for number, clip in enumerate(SCENES)}
WORDS = ["spatial_cnn.name=small", "spatial_cnn.weights=random:0", "encoder.width=8"]
WORDS += ["encoder.layers=1", "head.widths=6,4", "data.num_frames=3", "optim.checkpoint_minutes=0"]


@pytest.mark.parametrize(
    ("kills", "epochs"), [(1, 2), pytest.param(10, 30, marks=pytest.mark.slow)]
)
def test_killed_at_random_moments_it_ends_with_the_same_bytes(tmp_path, kills, epochs):
    stores = {
        "spatial_pixels": write_pixel_store(tmp_path / "pixels", SCENES, tags=TAGS),
        "temporal": write_scenes(tmp_path / "tokens", SCENES, tags=TAGS),
    }
    chance = random.Random(1)
    moments = json.dumps([chance.randint(1, min(30, 3 * epochs)) for _ in range(kills)])
    words = json.dumps([*WORDS, f"optim.epochs={epochs}"])
    named = json.dumps({name: str(path) for name, path in stores.items()})
    sides = [tmp_path / "whole" / "run", tmp_path / "cut" / "run"]  # of one name
    command = [sys.executable, "-c", KILLED, words, named, *map(str, sides), moments]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[4])}
    killed = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert killed.returncode == 0, killed.stderr
    for name in ("checkpoint.pt", "metrics.jsonl", "embeddings.h5", "run.json"):
        whole, cut = (side / name for side in sides)
        assert whole.read_bytes() == cut.read_bytes(), name
    assert not list(sides[1].glob(".tmp-*.*"))  # half-written files
