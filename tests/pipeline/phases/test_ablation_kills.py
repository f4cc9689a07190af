"""`fuse ablate` killed at many moments and typed again: table and runs of an unkilled one.

The process that is killed is forked from one that has imported everything.
"""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuse.tiny import write_store

ROOT = Path(__file__).parents[3]

KILLED = """
import contextlib, json, os, sys
import torch
torch.set_num_threads(1)  # a forked child has no threads of its parent
from tests.fuse.kills import fork
import scipy.stats, torch.utils.tensorboard  # and all that a child would import
import tokenreel.evaluate.methods.pairs, tokenreel.fuse.kernels.cpu.compiled
import tokenreel.fuse.systems.mvformer.embed, tokenreel.fuse.train.train
import tokenreel.pipeline.launch.tables.local, tokenreel.pipeline.recipes.extraction
from tokenreel.pipeline.cli.fuse import app
moments, words = json.loads(sys.argv[1]), ["ablate", *sys.argv[2:]]

def type_it(where, moment=None):
    def do():
        os.makedirs(where, exist_ok=True)
        os.chdir(where)
        with open("printed.txt", "w") as file, contextlib.redirect_stdout(file):
            app(words, standalone_mode=False)
    return fork(do, folder="table", moment=moment)

assert type_it("whole") == 0, "the unkilled one failed"
for number, moment in enumerate(moments):
    if not os.WIFSIGNALED(type_it("cut", moment)):
        sys.exit(f"kill {number}, {moment!r}, never came")
assert type_it("cut") == 0, "the last one failed"
"""

WORDS = [
    "sample",
    "loss.temperature=0.1,0.5",
    "data.num_frames=6",
    "data.batch_clips=2",
    "pooling.channels=8",
    "temporal.hidden=8",
    "temporal.heads=2",
    "temporal.fc_width=8",
    "temporal.feed_forward=8",
    "temporal.layers=1",
    "temporal.embedding=4",
    "optim.checkpoint_minutes=0",
    "--seeds",
    "2",
    "--device",
    "cpu",
    "--out",
    "table",
]


def kill_and_type_again(tmp_path, *, moments, epochs):
    store = write_store(tmp_path / "s", val=3)
    words = [*WORDS, f"optim.epochs={epochs}", "--store", str(store)]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, json.dumps(moments), *words],
        cwd=tmp_path,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        text=True,
        timeout=600,
        check=False,
    )
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


# 58: an epoch is in the metrics of one run, and not in its checkpoint.
def test_killed_in_each_phase_a_table_ends_as_that_of_an_unkilled_command(tmp_path):
    moments = [58, "embeddings.h5", "ablation.csv"]
    kill_and_type_again(tmp_path, moments=moments, epochs=4)


@pytest.mark.slow
def test_killed_twenty_times_a_table_ends_as_that_of_an_unkilled_command(tmp_path):
    chance = random.Random(20)
    moments = [chance.randint(1, 120) for _ in range(14)]
    names = ["checkpoint.pt", "embeddings.h5", "results.csv", "ablation.csv", "ablation.txt"]
    kill_and_type_again(tmp_path, moments=[*moments, *names, 3], epochs=100)
