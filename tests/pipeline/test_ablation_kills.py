"""`fuse ablate` killed at random moments and typed again: table and runs of an unkilled one.

The process that is killed is forked from one that has imported everything, so that the kills hit
planning, training, embedding and evaluation, not imports.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuse.tiny import write_store

ROOT = Path(__file__).parents[2]

KILLED = """
import contextlib, os, random, signal, sys, time
import torch
torch.set_num_threads(1)  # a forked child has no threads of its parent
import tokenreel.pipeline.ablation
from tokenreel.pipeline.cli.fuse import app
kills, words = int(sys.argv[1]), ["ablate", *sys.argv[2:]]

def type_it(folder):
    child = os.fork()
    if child == 0:
        os.makedirs(folder, exist_ok=True)
        os.chdir(folder)
        with open("printed.txt", "w") as file, contextlib.redirect_stdout(file):
            app(words, standalone_mode=False)
        os._exit(0)
    return child

assert os.waitpid(type_it("warm"), 0)[1] == 0  # the first takes longer
start = time.monotonic()
assert os.waitpid(type_it("whole"), 0)[1] == 0
seconds = time.monotonic() - start
chance = random.Random(kills)
for number in range(kills):
    child = type_it("cut")
    time.sleep(seconds * chance.uniform(0.02, 0.8 / kills))
    os.kill(child, signal.SIGKILL)
    if not os.WIFSIGNALED(os.waitpid(child, 0)[1]):
        sys.exit(f"done after {number} kills: more epochs")
assert os.waitpid(type_it("cut"), 0)[1] == 0
"""

WORDS = [
    "sample", "loss.temperature=0.1,0.5", "data.num_frames=6", "data.batch_clips=2",
    "pooling.channels=8", "temporal.hidden=8", "temporal.heads=2", "temporal.fc_width=8",
    "temporal.feed_forward=8", "temporal.layers=1", "temporal.embedding=4",
    "optim.checkpoint_minutes=5e-4", "--seeds", "2", "--device", "cpu", "--out", "table",
]  # fmt: skip


def kill_and_type_again(tmp_path, *, kills, epochs):
    store = write_store(tmp_path / "s", val=3)
    words = [*WORDS, f"optim.epochs={epochs}", "--store", str(store)]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(kills), *words], cwd=tmp_path, capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, text=True,
        timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    made = sorted(
        path.relative_to(whole)
        for name in ("checkpoint.pt", "metrics.jsonl", "printed.txt", "ablation.*", "results.csv")
        for path in whole.rglob(name)
    )
    assert len(made) == 4 * 2 + 4
    for path in made:
        assert (cut / path).read_bytes() == (whole / path).read_bytes(), path


def test_killed_twice_a_table_ends_as_that_of_an_unkilled_command(tmp_path):
    kill_and_type_again(tmp_path, kills=2, epochs=25)


@pytest.mark.slow
def test_killed_twenty_times_a_table_ends_as_that_of_an_unkilled_command(tmp_path):
    kill_and_type_again(tmp_path, kills=20, epochs=200)
