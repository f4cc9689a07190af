"""Training: what a run leaves behind, that it can be killed anywhere, and what it refuses."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from tests.fuse.tiny import tiny_config
from tokenreel.cache.embeddings import read_embeddings
from tokenreel.cache.errors import Damaged, TokenReelError, UsageError, WrongRecipe
from tokenreel.cache.reader import open_store
from tokenreel.fuse import run as run_module
from tokenreel.fuse.batches import Sampling, stream_batches
from tokenreel.fuse.config import (
    FuseConfig,
    OptimConfig,
    PoolingConfig,
)
from tokenreel.fuse.embed import pieces
from tokenreel.fuse.model import build_model
from tokenreel.fuse.source import TokenSource
from tokenreel.fuse.train import train


def run(config, store, out):
    return train(config, store=store, out=out, device="cpu", progress=False)


def test_a_run_leaves_metrics_a_checkpoint_and_the_embeddings_of_every_split(store, tmp_path):
    result = run(tiny_config(), store, tmp_path / "run")

    lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [0, 1, 2, 3]
    file = read_embeddings(result.embeddings)
    assert {clip.split for clip in file.clips} == {"train", "val"}
    records = open_store(store).records
    assert all(clip.num_frames == records[clip.clip_id].num_frames for clip in file.clips)
    assert file.provenance["store_fingerprint"] == open_store(store).fingerprint
    assert file.provenance["augmentation"] == "none"


def test_the_loss_goes_down(store, tmp_path):
    longer = tiny_config(optim=OptimConfig(lr=1e-2, epochs=25))
    run(longer, store, tmp_path / "run")
    lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


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


SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_train import tiny_config, run
from tokenreel.fuse.config import OptimConfig
config = tiny_config(optim=OptimConfig(lr=1e-2, epochs={epochs}, checkpoint_epochs=1))
run(config, Path({store!r}), Path({out!r}))
"""


def test_killed_at_random_moments_it_still_ends_with_the_same_checkpoint(store, tmp_path):
    config = tiny_config(optim=OptimConfig(lr=1e-2, epochs=60, checkpoint_epochs=1))
    run(config, store, tmp_path / "whole")
    tests = os.path.dirname(__file__)  # noqa: PTH120
    script = SCRIPT.format(tests=tests, epochs=60, store=str(store), out=str(tmp_path / "cut"))
    rng = np.random.default_rng(0)
    for _ in range(3):
        child = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
        for _ in range(600):
            if (tmp_path / "cut/metrics.jsonl").exists() or child.poll() is not None:
                break
            time.sleep(0.05)
        time.sleep(rng.uniform(0, 0.6))
        child.send_signal(signal.SIGKILL)
        child.wait()
    run(config, store, tmp_path / "cut")

    whole, cut = (tmp_path / side / "checkpoint.pt" for side in ("whole", "cut"))
    assert whole.read_bytes() == cut.read_bytes()


def test_the_same_seed_gives_the_same_numbers_and_another_does_not(store, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(tiny_config(seed=seed), store, tmp_path / name)
    a, b, c = ((tmp_path / name / "metrics.jsonl").read_text() for name in "abc")
    assert a == b != c


def test_a_finished_run_is_not_trained_again(store, tmp_path):
    first = run(tiny_config(), store, tmp_path / "run")
    before = first.embeddings.stat().st_mtime_ns

    second = run(tiny_config(), store, tmp_path / "run")

    assert (first.was_done, second.was_done) == (False, True)
    assert second.embeddings.stat().st_mtime_ns == before


def test_pooling_distinct_frames_equals_pooling_every_position(store):
    config = tiny_config()
    source = TokenSource(open_store(store), [config], torch.device("cpu"))
    clips = source.store.select(split="train")
    model = build_model(config, dim=source.dim(config), cls_dim=source.cls_dim)
    _, batch = next(stream_batches(source, clips, Sampling(0, config.data), epochs=1))
    tokens = batch.frames.tokens()

    once = model.pool(tokens, None, None)[batch.gather.flatten(0, 1)]
    every = model.pool(tokens[batch.gather.flatten()], None, None)

    assert len(tokens) < batch.gather.numel()
    torch.testing.assert_close(once.flatten(0, 1), every)


def test_tokens_from_memory_and_from_the_disk_are_those_of_the_store(store):
    frames = np.array([1, 4, 5])
    tokens = {}
    for placement in ("ram", "disk"):
        source = TokenSource(
            open_store(store), [tiny_config()], torch.device("cpu"), placement=placement
        )
        tokens[placement] = source.frames("train0", frames).tokens()
    torch.testing.assert_close(tokens["ram"], tokens["disk"], rtol=0, atol=0)
    stored = source.store.read("train0", frames)
    together = np.concatenate([stored.decode(1), stored.decode(3)], axis=-1)
    np.testing.assert_allclose(tokens["ram"].numpy(), together, atol=1e-5)


def test_frozen_tokens_and_an_untrained_model_need_no_training(store, tmp_path):
    frozen = FuseConfig(model="frozen", pooling=PoolingConfig(kind="mean"))
    untrained = tiny_config(optim=OptimConfig(epochs=0))
    for name, config in (("frozen", frozen), ("untrained", untrained)):
        file = read_embeddings(run(config, store, tmp_path / name).embeddings)
        assert file.provenance["model"] == name
        lengths = [np.linalg.norm(clip.embeddings, axis=1) for clip in file.clips]
        np.testing.assert_allclose(np.concatenate(lengths), 1, atol=1e-5)


@pytest.mark.parametrize("kind", ["mean", "max", "cls", "fixed_width"])
def test_every_pooling_trains(store, tmp_path, kind):
    config = tiny_config(pooling=PoolingConfig(kind=kind, num_entities=2, channels=8))
    run(config, store, tmp_path / kind)


def test_long_clips_are_embedded_in_pieces_as_the_official_code_cuts_them():
    assert pieces(5, 5) == [slice(0, 5)]
    assert [p.stop - p.start for p in pieces(2500, 1000)] == [834, 834, 832]


def test_another_config_in_the_same_folder_is_refused_with_the_field(store, tmp_path):
    run(tiny_config(), store, tmp_path / "run")
    with pytest.raises(WrongRecipe, match=r"config\.seed: run has 0, asked 1"):
        run(tiny_config(seed=1), store, tmp_path / "run")


def test_other_clips_of_the_same_recipe_are_refused_in_the_same_folder(
    store, smaller_store, tmp_path
):
    run(tiny_config(), store, tmp_path / "run")
    with pytest.raises(WrongRecipe, match="store_clips_sha256"):
        run(tiny_config(), smaller_store, tmp_path / "run")


def test_a_gradient_that_is_not_finite_names_its_clips(store, tmp_path, monkeypatch):
    def broken(model, batch, config, **rest):
        weight = next(model.parameters()).flatten()[0]
        return (weight - weight.detach()).abs().sqrt()  # 0, with a gradient of infinity

    monkeypatch.setattr(run_module, "batch_loss", broken)
    with pytest.raises(TokenReelError, match=r"its gradient (nan|inf), on clips train\d"):
        run(tiny_config(), store, tmp_path / "run")
    assert not (tmp_path / "run/checkpoint.pt").exists()


def test_a_block_that_the_store_lacks_is_refused_with_the_command(store, tmp_path):
    config = tiny_config(pooling=PoolingConfig(blocks=(1, 11), channels=8))
    with pytest.raises(UsageError, match=r"holds \[1, 3\]: `extract run tiny blocks=1,3,11 "):
        run(config, store, tmp_path / "run")


def test_a_loss_that_is_not_finite_names_its_clips(store, tmp_path, monkeypatch):
    def broken(model, batch, config, **rest):
        return next(model.parameters()).sum() * float("nan")

    monkeypatch.setattr(run_module, "batch_loss", broken)
    with pytest.raises(
        TokenReelError, match=r"the loss of epoch 0 is nan, its gradient nan, on clips train\d"
    ):
        run(tiny_config(), store, tmp_path / "run")


@pytest.mark.parametrize("kept", [slice(0, 100), slice(0, 0), slice(7, 300)])
def test_a_torn_checkpoint_is_named(store, tmp_path, kept):
    run(tiny_config(), store, tmp_path / "run")
    (tmp_path / "run/embeddings.h5").unlink()
    checkpoint = tmp_path / "run/checkpoint.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[kept])
    with pytest.raises(Damaged, match=r"checkpoint\.pt: not a checkpoint"):
        run(tiny_config(), store, tmp_path / "run")
