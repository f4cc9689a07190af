"""A run that is killed, told to stop, or finds its checkpoint torn."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.fuse.tiny import tiny_config, write_store
from tokenreel.cache.embeddings import read_embeddings
from tokenreel.cache.errors import Damaged, TokenReelError, WrongIdentity
from tokenreel.fuse.config import CrossEntropyConfig, OptimConfig
from tokenreel.fuse.runs.checkpoint import load_checkpoint
from tokenreel.fuse.systems.mvformer import model as mvformer
from tokenreel.fuse.train import run as run_module
from tokenreel.fuse.train.train import train


def run(config, store, out):
    return train(config, store=store, out=out, device="cpu", progress=False)


def test_a_run_that_was_stopped_ends_with_the_bytes_of_one_that_was_not(
    store, tmp_path, monkeypatch
):
    run(tiny_config(), store, tmp_path / "whole")
    original = run_module.Run.end_epoch

    def stop_in_epoch_2(self):
        epoch = self.position[0]
        mean = original(self)
        if epoch == 2:
            raise KeyboardInterrupt
        return mean

    monkeypatch.setattr(run_module.Run, "end_epoch", stop_in_epoch_2)
    with pytest.raises(KeyboardInterrupt):
        run(tiny_config(), store, tmp_path / "cut")
    monkeypatch.setattr(run_module.Run, "end_epoch", original)
    run(tiny_config(), store, tmp_path / "cut")

    for name in ("checkpoint.pt", "metrics.jsonl"):
        whole, cut = (tmp_path / side / name for side in ("whole", "cut"))
        assert whole.read_bytes() == cut.read_bytes()
    whole, cut = (read_embeddings(tmp_path / side / "embeddings.h5") for side in ("whole", "cut"))
    for one, other in zip(whole.clips, cut.clips, strict=True):
        np.testing.assert_array_equal(one.embeddings, other.embeddings)


KILLED = """
import json, os, sys
from pathlib import Path
from tests.fuse.kills import fork, in_one_thread
from tokenreel.fuse.config import FuseConfig
from tokenreel.fuse.train.train import train
config, store, whole, cut, moments = sys.argv[1:]

def run(out):
    train(FuseConfig.model_validate_json(config), store=Path(store), out=Path(out), device="cpu",
          progress=False)

in_one_thread(lambda: run(whole))
for number, moment in enumerate(json.loads(moments)):
    if not os.WIFSIGNALED(fork(lambda: run(cut), folder=cut, moment=moment)):
        sys.exit(f"kill {number}, {moment!r}, never came")
run(cut)
"""


@pytest.mark.parametrize(
    ("kills", "epochs"), [(5, 20), pytest.param(10, 40, marks=pytest.mark.slow)]
)
def test_killed_at_random_moments_it_still_ends_with_the_same_bytes(store, tmp_path, kills, epochs):
    optim = OptimConfig(lr=1e-2, epochs=epochs, checkpoint_minutes=0)  # after every step
    config = tiny_config(optim=optim)
    chance = random.Random(0)
    moments = json.dumps([chance.randint(1, 40) for _ in range(kills)])
    sides = [tmp_path / "whole", tmp_path / "cut"]
    command = [sys.executable, "-c", KILLED, config.model_dump_json(), store, *sides, moments]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    killed = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert killed.returncode == 0, killed.stderr
    for name in ("checkpoint.pt", "metrics.jsonl"):
        whole, cut = (side / name for side in sides)
        assert whole.read_bytes() == cut.read_bytes()
    assert not list(sides[1].glob(".tmp-*.*"))  # half-written files


@pytest.fixture
def default_ctrl_c():
    """Ctrl-C as a terminal's process has it; the tests' own may ignore it."""
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, former)


@pytest.mark.usefixtures("default_ctrl_c")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_told_to_stop_it_saves_and_goes_on_to_the_same_bytes(
    store, tmp_path, monkeypatch, number, status
):
    run(tiny_config(), store, tmp_path / "whole")
    original, steps = run_module.Run.descend, []

    def told_in_step_5(self, batch):
        steps.append(self.position)
        if len(steps) == 5:
            os.kill(os.getpid(), number)
        return original(self, batch)

    monkeypatch.setattr(run_module.Run, "descend", told_in_step_5)
    former = signal.getsignal(number)
    with pytest.raises(SystemExit) as stopped:
        run(tiny_config(), store, tmp_path / "cut")
    assert stopped.value.code == status
    assert signal.getsignal(number) is former
    assert not (tmp_path / "cut/embeddings.h5").exists()
    state = torch.load(tmp_path / "cut/checkpoint.pt", weights_only=True)
    assert state["position"] == [2, 1]  # two steps an epoch: the step that it came in is taken
    run(tiny_config(), store, tmp_path / "cut")
    assert len(steps) == 8  # none is taken twice
    for name in ("checkpoint.pt", "metrics.jsonl", "embeddings.h5"):
        whole, cut = (tmp_path / side / name for side in ("whole", "cut"))
        if name == "embeddings.h5":  # its provenance names the run
            whole, cut = (read_embeddings(path) for path in (whole, cut))
            for one, other in zip(whole.clips, cut.clips, strict=True):
                np.testing.assert_array_equal(one.embeddings, other.embeddings)
        else:
            assert whole.read_bytes() == cut.read_bytes()


@pytest.mark.usefixtures("default_ctrl_c")
def test_a_second_ctrl_c_ends_at_once(store, tmp_path, monkeypatch):
    def stuck(self, batch):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("it went on")

    monkeypatch.setattr(run_module.Run, "descend", stuck)
    with pytest.raises(KeyboardInterrupt):
        run(tiny_config(), store, tmp_path / "cut")
    assert not (tmp_path / "cut").exists()  # nothing was made, and the lock is gone


def test_told_to_stop_in_its_last_step_it_saves_and_ends_too(store, tmp_path, monkeypatch):
    original = run_module.Run.descend

    def told_at_the_end(self, batch):
        if self.position == (3, 1):
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, batch)

    monkeypatch.setattr(run_module.Run, "descend", told_at_the_end)
    with pytest.raises(SystemExit, match="143"):
        run(tiny_config(), store, tmp_path / "run")
    assert load_checkpoint(tmp_path / "run/checkpoint.pt")["position"] == [4, 0]
    assert not (tmp_path / "run/embeddings.h5").exists()
    assert run(tiny_config(), store, tmp_path / "run").embeddings.exists()


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_trains_and_goes_on_with_its_scale(store, tmp_path, precision, monkeypatch):
    optim = OptimConfig(lr=1e-3, epochs=3, checkpoint_epochs=1, precision=precision)
    config = tiny_config(optim=optim)
    run(config, store, tmp_path / "whole")
    original = run_module.Run.save

    def stop_after(self):
        original(self)
        if self.position == (2, 0):
            raise KeyboardInterrupt

    monkeypatch.setattr(run_module.Run, "save", stop_after)
    with pytest.raises(KeyboardInterrupt):
        run(config, store, tmp_path / "cut")
    monkeypatch.setattr(run_module.Run, "save", original)
    run(config, store, tmp_path / "cut")
    whole, cut = (tmp_path / side / "checkpoint.pt" for side in ("whole", "cut"))
    assert whole.read_bytes() == cut.read_bytes()
    state = torch.load(whole, weights_only=True)
    assert bool(state["scaler"]) == (precision == "float16")
    assert all(value.isfinite().all() for value in state["model"].values())


def test_a_gradient_that_is_never_finite_ends_a_run_in_float16_too(store, tmp_path, monkeypatch):
    def broken(model, batch, config, **rest):
        weight = next(model.parameters()).flatten()[0]
        return (weight - weight.detach()).abs().sqrt()  # 0, with a gradient of infinity

    monkeypatch.setattr(mvformer, "batch_loss", broken)
    config = tiny_config(optim=OptimConfig(epochs=20, precision="float16"))
    with pytest.raises(TokenReelError, match=r"epoch 8 is 0.0, its gradient nan, on clips train"):
        run(config, store, tmp_path / "run")  # two steps an epoch: 2^16 is halved to 1 in 16


def test_the_gradient_of_a_step_is_clipped(store, tmp_path, monkeypatch):
    norms = []
    original = torch.optim.Adam.step

    def look(self, *arguments, **options):
        gradients = [p.grad for group in self.param_groups for p in group["params"]]
        norms.append(torch.cat([g.flatten() for g in gradients if g is not None]).norm().item())
        return original(self, *arguments, **options)

    monkeypatch.setattr(torch.optim.Adam, "step", look)
    optim = OptimConfig(lr=1e-3, epochs=2, clip_grad_norm=0.01)
    run(tiny_config(optim=optim), store, tmp_path / "run")
    assert max(norms) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("kept", [slice(0, 100), slice(0, 0), slice(7, 300)])
def test_a_torn_checkpoint_is_named(store, tmp_path, kept):
    run(tiny_config(), store, tmp_path / "run")
    (tmp_path / "run/embeddings.h5").unlink()
    checkpoint = tmp_path / "run/checkpoint.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[kept])
    with pytest.raises(Damaged, match=r"checkpoint\.pt: not a checkpoint"):
        run(tiny_config(), store, tmp_path / "run")


def test_a_checkpoint_with_one_bit_turned_is_named(store, tmp_path):
    run(tiny_config(), store, tmp_path / "run")
    path = tmp_path / "run/checkpoint.pt"
    whole = path.read_bytes()
    weight = load_checkpoint(path)["model"]["temporal.leave.weight"].numpy().tobytes()
    folder = whole.index(b"PK\x01\x02") + 38  # of the first part: marks a folder
    for place, bit in ((whole.index(weight) + 2, 1), (folder, 16)):
        altered = bytearray(whole)
        altered[place] ^= bit
        path.write_bytes(altered)
        with pytest.raises(Damaged, match=r"checkpoint\.pt: not a checkpoint \(altered"):
            load_checkpoint(path)


@pytest.mark.parametrize("has_about", [True, False])
def test_a_checkpoint_of_another_run_is_refused_with_the_field(store, tmp_path, has_about):
    for seed in (0, 1):
        run(tiny_config(seed=seed), store, tmp_path / f"{seed}")
    (tmp_path / "0/checkpoint.pt").replace(tmp_path / "1/checkpoint.pt")
    (tmp_path / "1/embeddings.h5").unlink()
    if not has_about:
        (tmp_path / "1/run.json").unlink()
    with pytest.raises(WrongIdentity, match=r"another run:\n  config\.seed: it has 0, asked 1"):
        run(tiny_config(seed=1), store, tmp_path / "1")


def test_another_model_that_the_same_weights_fit_cannot_start_from_them(store, tmp_path):
    run(tiny_config(), store, tmp_path / "first")
    for heads in (2, 4):
        temporal = tiny_config().temporal.with_(heads=heads, dropout=0.2)
        config = tiny_config(temporal=temporal, init=str(tmp_path / "first"))
        if heads == 2:
            run(config, store, tmp_path / "second")
        else:
            with pytest.raises(WrongIdentity, match=r"temporal\.heads: it has 2, asked 4"):
                run(config, store, tmp_path / "third")


def test_other_labels_are_refused_where_a_run_learns_from_them(store, tmp_path):
    turned = write_store(tmp_path / "turned", phases=("b", "a"))
    run(tiny_config(), store, tmp_path / "plain")
    assert run(tiny_config(), turned, tmp_path / "plain").was_done
    supervised = tiny_config(loss=CrossEntropyConfig())
    run(supervised, store, tmp_path / "supervised")
    with pytest.raises(WrongIdentity, match="labels_sha256: run has"):
        run(supervised, turned, tmp_path / "supervised")
    about = tmp_path / "supervised/run.json"
    (tmp_path / "supervised/embeddings.h5").unlink()
    earlier = {k: v for k, v in json.loads(about.read_text()).items() if k != "labels_sha256"}
    about.write_text(json.dumps(earlier))  # as a version before this wrote it
    assert run(supervised, store, tmp_path / "supervised").embeddings.exists()


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b"{}", b"[" * 100_000, b'{"pid": NaN}'])
def test_a_damaged_lock_is_a_dead_processs_and_one_line_names_it(store, tmp_path, caplog, data):
    run(tiny_config(), store, tmp_path / "run")
    lock = tmp_path / "run/lock.json"
    lock.write_bytes(data)
    os.utime(lock, (1e9, 1e9))
    caplog.clear()
    assert run(tiny_config(), store, tmp_path / "run").was_done
    [line] = [text for text in caplog.messages if str(lock) in text]
    assert line.endswith("taken for the claim of a dead writer, and replaced")
    assert not lock.exists()


@pytest.mark.parametrize("data", [b"[" * 100_000, b"[]", b'{"seed": NaN}', b'{"a": 1, "a": 1}'])
def test_a_damaged_description_of_a_run_is_named(store, tmp_path, data):
    run(tiny_config(), store, tmp_path / "run")
    (tmp_path / "run/run.json").write_bytes(data)
    with pytest.raises(Damaged, match=r"run/run\.json: ") as found:
        run(tiny_config(), store, tmp_path / "run")
    assert found.value.exit_status == 5
