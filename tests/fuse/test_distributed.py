"""Two processes under torchrun train one model with the numbers of one process."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.fuse.tiny import tiny_config
from tokenreel.cache.embeddings import read_embeddings
from tokenreel.fuse.batches import _share
from tokenreel.fuse.config import DataConfig, FuseConfig, OptimConfig
from tokenreel.fuse.distributed import ALONE, any_of, from_first, gather_clips
from tokenreel.fuse.train import train

ROOT = Path(__file__).parents[2]

SCRIPT = """
import json, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from tokenreel.fuse.config import FuseConfig
from tokenreel.fuse.train import train
config, store, out = sys.argv[1:]
train(FuseConfig.model_validate_json(config), store=Path(store), out=Path(out), device="cpu",
      progress=False)
"""


def train_in_processes(config, store, out, *, processes):
    """What torchrun does, without the seconds of its own start; returns the processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {
        **os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port), "WORLD_SIZE": str(processes),
    }  # fmt: skip
    command = [sys.executable, "-c", SCRIPT, config.model_dump_json(), str(store), str(out)]
    children = [
        subprocess.Popen(
            command, env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE, text=True,
        )
        for rank in range(processes)
    ]  # fmt: skip
    return [(child.communicate(timeout=240)[1], child.returncode) for child in children]


def config_of(**changes) -> FuseConfig:
    """Batches of three clips over two processes: shares of two and one.  No dropout."""
    tiny = tiny_config()
    return tiny.model_copy(
        update={
            "data": DataConfig(num_frames=6, batch_clips=3, held_out=0.2),
            "temporal": tiny.temporal.model_copy(update={"dropout": 0.0}),
            "optim": OptimConfig(lr=1e-2, epochs=3, checkpoint_epochs=1, evaluate_epochs=1),
            **changes,
        }
    )


def test_two_processes_give_the_numbers_of_one_at_the_same_global_batch(store, tmp_path):
    config = config_of()
    train(config, store=store, out=tmp_path / "one", device="cpu", progress=False)
    for errors, status in train_in_processes(config, store, tmp_path / "two", processes=2):
        assert status == 0, errors
    lines = {
        name: [json.loads(x) for x in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    }
    assert len(lines["one"]) == len(lines["two"]) == 3
    for one, two in zip(lines["one"], lines["two"], strict=True):
        assert one["loss"] == pytest.approx(two["loss"], rel=1e-4)
        # A bias before a batch norm has a gradient of rounding errors, and Adam takes their sign.
        assert one["held_out_loss"] == pytest.approx(two["held_out_loss"], rel=1e-2)
    one, two = (
        torch.load(tmp_path / name / "checkpoint.pt", weights_only=True) for name in ("one", "two")
    )
    assert one["position"] == two["position"] == [3, 0]
    for name, value in one["model"].items():
        if name.endswith("weight") or "running_var" in name:
            # Adam moves by the sign of a gradient, also where it is all rounding errors.
            same = torch.isclose(two["model"][name], value, rtol=1e-3, atol=1e-4)
            assert same.float().mean() >= 0.98, name
    pairs = zip(
        read_embeddings(tmp_path / "one/embeddings.h5").clips,
        read_embeddings(tmp_path / "two/embeddings.h5").clips,
        strict=True,
    )
    for here, there in pairs:
        np.testing.assert_allclose(here.embeddings, there.embeddings, atol=1e-2)


@pytest.mark.slow
def test_a_folder_of_another_run_ends_both_processes_with_the_field(store, tmp_path):
    train(config_of(seed=1), store=store, out=tmp_path / "run", device="cpu", progress=False)
    for errors, status in train_in_processes(config_of(), store, tmp_path / "run", processes=2):
        assert status == 1
        assert "config.seed: run has 1, asked 0" in errors


@pytest.mark.parametrize(("count", "world"), [(5, 2), (1, 2), (7, 3), (4, 4)])
def test_the_shares_of_the_processes_are_the_whole_batch_in_order(count, world):
    shares = [_share(count, rank, world) for rank in range(world)]
    assert [n for share in shares for n in range(count)[share]] == list(range(count))
    sizes = [len(range(count)[share]) for share in shares]
    assert max(sizes) - min(sizes) <= 1


def test_one_process_needs_no_group():
    x = torch.randn(3, 2)
    assert gather_clips(x, 3, slice(0, 3), ALONE) is x
    assert any_of(True, ALONE, x.device)
    assert from_first({"a": 1}, ALONE) == {"a": 1}
