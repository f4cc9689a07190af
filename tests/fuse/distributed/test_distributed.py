"""Two processes train one model with the numbers of one process.

They are forked from one that has imported everything, with the variables that torchrun sets; the
slow tests start them by torchrun.
"""

import copy
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.ports import free_port
from tokenreel.cache.embeddings import read_embeddings
from tokenreel.fuse.data.batches import _share
from tokenreel.fuse.distributed import join
from tokenreel.fuse.distributed.global_layers import (
    GlobalBatchNorm,
    place_dropouts,
    share_layers,
)
from tokenreel.fuse.distributed.world import (
    ALONE,
    any_of,
    from_first,
    gather_clips,
)
from tokenreel.pipeline.cli.fuse import train as train_command
from tokenreel.pipeline.phases.training import train_recipe

WORDS = [  # batches of three clips over two processes: shares of two and one
    "data.num_frames=6",
    "data.batch_clips=3",
    "data.held_out=0.2",
    "pooling.num_entities=2",
    "pooling.channels=8",
    "temporal.fc_width=8",
    "temporal.hidden=8",
    "temporal.heads=2",
    "temporal.feed_forward=16",
    "temporal.layers=1",
    "temporal.embedding=4",
    "optim.name=adam",
    "optim.epochs=3",
    "optim.warmup_epochs=0",
    "optim.evaluate_epochs=1",
    # By default Adam moves a weight by the sign of its gradient, also of one that is zero but for
    # rounding errors; an eps above every gradient makes each step as small as the gradient.
    "optim.eps=1",
    "optim.lr=0.03",
]


OPTIONS = ["--standalone", "--no-python", "--nproc-per-node"]


FORKED = """
import os, sys
from tests.fuse.kills import in_one_thread
from tokenreel.pipeline.cli.fuse import main
port, processes, *words = sys.argv[1:]
def command(*more):
    sys.argv = ["fuse", *words, *more]
    try:
        main()
    except SystemExit as end:
        return end.code
in_one_thread(lambda: command("--out", "alone"))  # the last --out counts
children = []
for rank in range(int(processes)):
    children.append(os.fork())
    if children[-1] == 0:
        os.environ |= {"RANK": f"{rank}", "LOCAL_RANK": f"{rank}", "WORLD_SIZE": processes}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        sys.exit(command())
ends = [os.waitpid(child, 0)[1] for child in children]
sys.exit(any(ends))
"""


def options_of(store, out, recipe):
    named = [f"{name}={path}" for name, path in store.items()] if recipe != "sample" else [store]
    stores = [word for path in named for word in ("--store", str(path))]
    return [*stores, "--out", str(out), "--device", "cpu"]


def fork_processes(words, store, out, *, processes, recipe="sample"):
    """`fuse train` in forked processes."""
    command = [sys.executable, "-c", FORKED, str(free_port()), str(processes), "train", recipe]
    return subprocess.run(
        [*command, *words, *options_of(store, out, recipe)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), "OMP_NUM_THREADS": "1"},
        cwd=out.parent,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


def train_in_processes(words, store, out, *, processes, recipe="sample"):
    """`fuse train` under torchrun."""
    fuse = [shutil.which("fuse", path=str(Path(sys.executable).parent)), "train", recipe]
    torchrun = [sys.executable, "-m", "torch.distributed.run", *OPTIONS, str(processes)]
    return subprocess.run(
        [*torchrun, *fuse, *words, *options_of(store, out, recipe)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


def test_what_is_trained_here_is_the_command_of_the_readme_and_of_the_help():
    command = f"torchrun {' '.join(OPTIONS)} N fuse train RECIPE --store STORE"
    assert command in (Path(__file__).parents[3] / "README.md").read_text().splitlines()
    assert command in map(str.strip, train_command.__doc__.splitlines())


@pytest.mark.parametrize(
    ("words", "start"),
    [
        pytest.param([], fork_processes, id="scl"),
        pytest.param([], train_in_processes, marks=pytest.mark.slow, id="scl-torchrun"),
        pytest.param(
            ["loss.name=sal"], train_in_processes, marks=pytest.mark.slow, id="sal-torchrun"
        ),
    ],
)
def test_two_processes_give_the_numbers_of_one_at_the_same_global_batch(
    store, tmp_path, words, start
):
    words = [*words, *WORDS]
    train_recipe("sample", words, store=store, out=tmp_path / "one", device="cpu", progress=False)
    done = start(words, store, tmp_path / "two", processes=2)
    assert done.returncode == 0, done.stderr
    one, two = (
        [json.loads(x) for x in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    )
    assert len(one) == len(two) == 3
    for here, there in zip(one, two, strict=True):
        assert here == pytest.approx(there, rel=1e-5)
    assert one[0]["loss"] > 1.01 * one[-1]["loss"]
    one, two = (
        torch.load(tmp_path / name / "checkpoint.pt", weights_only=True) for name in ("one", "two")
    )
    assert one["position"] == two["position"] == [3, 0]
    # float32 sums of two halves, over three epochs of weights about 0.1 to 1
    torch.testing.assert_close(two["model"], one["model"], rtol=1e-5, atol=1e-5)
    pairs = zip(
        read_embeddings(tmp_path / "one/embeddings.h5").clips,
        read_embeddings(tmp_path / "two/embeddings.h5").clips,
        strict=True,
    )
    for here, there in pairs:
        np.testing.assert_allclose(here.embeddings, there.embeddings, atol=1e-5)


@pytest.mark.slow
def test_a_folder_of_another_run_ends_both_processes_with_the_field(store, tmp_path):
    out = tmp_path / "run"
    train_recipe("sample", [*WORDS, "seed=1"], store=store, out=out, device="cpu", progress=False)
    done = train_in_processes(WORDS, store, out, processes=2)
    assert done.returncode == 1
    assert done.stderr.count("config.seed: run has 1, asked 0") == 2


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


@pytest.mark.parametrize("rows", [1, 2, 6])  # of a clip: its frames, its views
def test_the_dropouts_of_the_processes_draw_what_one_process_draws(rows):
    x = torch.randn(5 * rows, 4, 3)
    alone = torch.nn.Sequential(torch.nn.Dropout(0.4), torch.nn.Dropout(0.4))
    torch.manual_seed(0)
    wanted, parts = alone(x), []
    share_layers(alone)
    for place in (slice(0, 3), slice(3, 3), slice(3, 5)):
        torch.manual_seed(0)
        place_dropouts(alone, 5, place)
        parts.append(alone(x[place.start * rows : place.stop * rows]))
    torch.testing.assert_close(torch.cat(parts), wanted)
    assert (wanted == 0).any()
    assert torch.equal(alone.eval()(x), x)


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 5), (4, 3, 2, 5), (4, 3, 2, 3, 2)])
def test_a_batch_norm_of_all_processes_is_that_of_torch_for_any_shape(shape):
    kinds = {2: torch.nn.BatchNorm1d, 3: torch.nn.BatchNorm1d, 4: torch.nn.BatchNorm2d}
    alone = kinds.get(len(shape), torch.nn.BatchNorm3d)(3)
    torch.nn.init.normal_(alone.weight)
    shared = torch.nn.Sequential(copy.deepcopy(alone))
    share_layers(shared)
    assert isinstance(shared[0], GlobalBatchNorm)
    x = torch.randn(shape)
    given = [x.clone().requires_grad_() for _ in range(2)]
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    try:
        found = [norm(part) for norm, part in zip((alone, shared), given, strict=True)]
        for out in found:
            out.pow(3).sum().backward()
    finally:
        torch.distributed.destroy_process_group()
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(given[0].grad, given[1].grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(alone.running_var, shared[0].running_var, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(alone.eval()(x), shared.eval()(x), rtol=1e-5, atol=1e-5)


def test_what_processes_on_gpus_send_goes_by_way_of_their_own(monkeypatch):
    done = []
    given = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    for name, value in {**given, "MASTER_ADDR": "here", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: done.append(str(device)))
    monkeypatch.setattr(join, "_connect", lambda ranks, seconds: done.append("connect"))
    monkeypatch.setattr(join, "_greet", lambda *_: ("here", "here"))
    monkeypatch.setattr(
        torch.distributed,
        "init_process_group",
        lambda backend, rank, world_size, **_: done.append((backend, rank, world_size)),
    )
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: done.append("left"))
    with join.world_from_torchrun(torch.device("cuda:1")) as world:
        assert (world.rank, world.size) == (1, 2)
    assert done == ["cuda:1", "connect", ("nccl", 1, 2), "left"]
