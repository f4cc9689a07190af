"""Runs in lock-step: each ends as it would have alone, and goes on from where it was stopped."""

import gc
import json
import weakref

import numpy as np
import pytest
import torch

from tests.fuse.tiny import scl, tiny_config, write_store
from tokenreel.cache.embeddings import read_embeddings
from tokenreel.cache.errors import TokenReelError, UsageError, WrongIdentity
from tokenreel.cache.read.store_reader import open_store
from tokenreel.fuse.config import (
    AugmentConfig,
    ClsConfig,
    DataConfig,
    LstpConfig,
    OptimConfig,
    TemporalConfig,
)
from tokenreel.fuse.data.placement import frame_bytes
from tokenreel.fuse.data.source import TokenSource
from tokenreel.fuse.kernels.cpu import loops
from tokenreel.fuse.systems.base import make_source
from tokenreel.fuse.systems.mvformer import model as mvformer
from tokenreel.fuse.systems.mvformer import shared_attention as shared_module
from tokenreel.fuse.systems.mvformer.shared_attention import attended_bytes
from tokenreel.fuse.train import run as run_module
from tokenreel.fuse.train import train as train_module
from tokenreel.fuse.train.lockstep import fit
from tokenreel.fuse.train.memory import most_frames, run_bytes, split_by_memory
from tokenreel.fuse.train.train import Job, train, train_together

SMALL = TemporalConfig(fc_width=8, hidden=8, heads=2, feed_forward=16, layers=1, embedding=4)


def some_configs():
    """Runs of one sampling that differ in all else, and one of another."""
    return {
        "plain": tiny_config(),
        "one-block": tiny_config(pooling=LstpConfig(blocks=(3,), num_entities=1, channels=4)),
        "cls": tiny_config(pooling=ClsConfig()),
        "colder": tiny_config(loss=scl(temperature=0.5)),
        "other-block": tiny_config(pooling=LstpConfig(blocks=(3,), value_passthrough=True)),
        "hidden": tiny_config(augment=AugmentConfig(dropout=0.3)),
        "disjoint": tiny_config(pooling=LstpConfig(disjoint=True, channels=8)),
        "longer": tiny_config(optim=OptimConfig(lr=3e-3, epochs=6, name="adamw")),
        "other-seed": tiny_config(seed=1),
        "other-order": in_order(1),
    }


def in_order(seed, **changes):
    """A run that takes clips and crops in an order of its own."""
    config = tiny_config(**changes)
    return config.with_(data=config.data.with_(seed=seed))


def together(configs, store, folder):
    jobs = [Job(config, store, folder / name) for name, config in configs.items()]
    return train_together(jobs, device="cpu", progress=False)


def losses_of(run):
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def assert_same_run(one, other):
    for name in ("metrics.jsonl", "checkpoint.pt"):
        if (one / name).exists() or (other / name).exists():
            assert (one / name).read_bytes() == (other / name).read_bytes(), name
    pairs = zip(
        read_embeddings(one / "embeddings.h5").clips,
        read_embeddings(other / "embeddings.h5").clips,
        strict=True,
    )
    for here, there in pairs:
        np.testing.assert_array_equal(here.embeddings, there.embeddings)


def test_every_run_ends_with_the_losses_weights_and_embeddings_of_the_same_run_alone(
    store, tmp_path
):
    configs = some_configs()
    results = together(configs, store, tmp_path / "together")
    assert [result.error for result in results] == [None] * len(configs)
    for name, config in configs.items():
        train(config, store=store, out=tmp_path / "alone" / name, device="cpu", progress=False)
        assert_same_run(tmp_path / "together" / name, tmp_path / "alone" / name)
    assert len(losses_of(tmp_path / "together/longer")) == 6
    plain = losses_of(tmp_path / "together/plain")
    for other in ("colder", "other-seed", "other-order"):
        assert losses_of(tmp_path / "together" / other) != plain


def test_models_that_are_not_trained_are_embedded_together_whatever_their_seeds(store, tmp_path):
    optim = OptimConfig(epochs=0)
    configs = {f"seed{seed}": tiny_config(seed=seed, optim=optim) for seed in range(2)}
    results = together(configs, store, tmp_path)
    assert [result.error for result in results] == [None] * 2
    one, other = (read_embeddings(result.embeddings).clips[0].embeddings for result in results)
    assert not np.allclose(one, other)


def test_runs_that_draw_the_same_batches_read_them_once(store, tmp_path, monkeypatch):
    reads = []
    original = TokenSource.read
    monkeypatch.setattr(
        TokenSource, "read", lambda self, pieces: reads.append(1) or original(self, pieces)
    )
    counts = {}
    for name, num_runs in (("one", 1), ("three", 3)):
        configs = {
            f"{name}{i}": tiny_config(seed=i, loss=scl(temperature=0.1 + i))
            for i in range(num_runs)
        }
        reads.clear()
        together(configs, store, tmp_path)
        counts[name] = len(reads)
    assert counts["one"] == counts["three"]


@pytest.mark.parametrize(("blocks", "times"), [((1,), 1), ((3,), 2)])
def test_what_stays_in_memory_is_read_once_for_all_orders(
    store, tmp_path, monkeypatch, blocks, times
):
    reads = []
    original = TokenSource._read
    monkeypatch.setattr(
        TokenSource,
        "_read",
        lambda self, pieces, **k: (
            reads.extend(p.clip_id for p in pieces) or original(self, pieces, **k)
        ),
    )
    pooling = LstpConfig(num_entities=2, channels=8, blocks=(1,))
    configs = {f"seed{i}": in_order(i, pooling=pooling) for i in range(3)}
    other = LstpConfig(num_entities=2, channels=8, blocks=blocks)
    configs["other"] = in_order(0, pooling=other)
    results = together(configs, store, tmp_path)
    assert [result.error for result in results] == [None] * 4
    assert {reads.count(f"train{i}") for i in range(5)} == {times}


def test_a_run_may_train_on_what_another_has_embedded(store, tmp_path):
    data = DataConfig(num_frames=3, batch_clips=2)  # a batch is no longer than the longest clip
    configs = {
        "untrained": tiny_config(data=data, optim=OptimConfig(epochs=0)),
        "trained": tiny_config(data=data),
    }
    assert [result.error for result in together(configs, store, tmp_path)] == [None, None]
    train(configs["trained"], store=store, out=tmp_path / "alone", device="cpu", progress=False)
    assert_same_run(tmp_path / "trained", tmp_path / "alone")


def test_runs_that_attend_over_the_same_tokens_read_them_once(store, tmp_path, monkeypatch):
    passes = []
    for name in ("attend", "attend_backward"):
        loop = getattr(loops, name)
        monkeypatch.setattr(loops, name, lambda *some, loop=loop: passes.append(1) or loop(*some))
    counts = {}
    for name, num_runs in (("one", 1), ("three", 3)):
        runs = {f"{name}{i}": tiny_config(loss=scl(temperature=0.1 + i)) for i in range(num_runs)}
        source = make_source(open_store(store), list(runs.values()), torch.device("cpu"))
        made = []
        for run, config in runs.items():
            (tmp_path / run).mkdir()
            made.append(run_module.Run(config, source, tmp_path / run))
        passes.clear()
        assert fit(made, source, progress=False) == {}
        counts[name] = len(passes)
    assert counts["one"] == counts["three"] > 0


def test_stopped_in_the_middle_each_goes_on_and_ends_the_same(store, tmp_path, monkeypatch):
    configs = {name: some_configs()[name] for name in ("plain", "cls", "longer")}
    together(configs, store, tmp_path / "whole")
    original, taken = run_module.Run.descend, []

    def stop_at_step_20(self, batch):
        taken.append(self)
        if len(taken) == 20:
            raise KeyboardInterrupt
        return original(self, batch)

    monkeypatch.setattr(run_module.Run, "descend", stop_at_step_20)
    with pytest.raises(KeyboardInterrupt):
        together(configs, store, tmp_path / "cut")
    monkeypatch.setattr(run_module.Run, "descend", original)
    # One of them is trained to its end alone: lock-step waits for whoever is behind.
    train(configs["cls"], store=store, out=tmp_path / "cut/cls", device="cpu", progress=False)
    results = together(configs, store, tmp_path / "cut")
    assert [result.was_done for result in results] == [False, True, False]
    for name in configs:
        assert_same_run(tmp_path / "whole" / name, tmp_path / "cut" / name)


def test_one_whose_loss_is_not_finite_leaves_and_the_others_end_as_alone(
    store, tmp_path, monkeypatch
):
    original = mvformer.batch_loss

    def broken(model, batch, config, **rest):
        loss = original(model, batch, config, **rest)
        return loss * float("nan") if config.loss.temperature == 0.5 else loss

    train(tiny_config(), store=store, out=tmp_path / "alone", device="cpu", progress=False)
    monkeypatch.setattr(mvformer, "batch_loss", broken)
    good, bad = together(
        {name: some_configs()[name] for name in ("plain", "colder")}, store, tmp_path
    )
    assert good.error is None
    assert_same_run(tmp_path / "plain", tmp_path / "alone")
    assert isinstance(bad.error, TokenReelError)
    assert "colder: the loss of epoch 0 is nan" in str(bad.error)
    assert "on clips train" in str(bad.error)
    assert not bad.embeddings.exists()


def test_one_that_failed_holds_no_batch(store, tmp_path, monkeypatch):
    def broken(model, batch, config, **rest):
        raise UsageError("this batch has no loss")

    monkeypatch.setattr(mvformer, "batch_loss", broken)
    read, held = TokenSource.read, []

    def noted(self, pieces):
        found = read(self, pieces)
        held.extend(weakref.ref(part.untyped_storage()) for part in found.codes.values())
        return found

    monkeypatch.setattr(TokenSource, "read", noted)
    [bad] = together({"bad": tiny_config()}, store, tmp_path)
    gc.collect()
    assert isinstance(bad.error, UsageError)
    assert held
    assert not any(memory() is not None for memory in held)


def test_runs_that_could_not_read_leave_the_memory_to_the_next(tmp_path, monkeypatch):
    path = write_store(tmp_path / "s")
    [shard] = path.glob("clips/*/train3-*/views/0/tokens/1/c/0/0/0")
    shard.write_bytes(b"\1" + shard.read_bytes()[1:])
    sources = []

    class Noted(TokenSource):
        def __init__(self, *args, **options):
            gc.collect()
            assert not any(source() is not None for source in sources)
            sources.append(weakref.ref(self))
            super().__init__(*args, **options)

    monkeypatch.setattr("tokenreel.fuse.data.source.TokenSource", Noted)
    poolings = [
        LstpConfig(blocks=(1,)),
        LstpConfig(blocks=(1, 3)),
        LstpConfig(num_dynamic=1),
    ]
    configs = {f"{i}": in_order(i, pooling=one) for i, one in enumerate(poolings)}
    results = together(configs, path, tmp_path)
    assert len(sources) == 3
    assert all("frame 0 of the clip is damaged" in str(result.error) for result in results)


def test_one_whose_loss_cannot_be_computed_leaves_and_the_others_end_as_alone(
    store, tmp_path, monkeypatch
):
    original = mvformer.batch_loss

    def broken(model, batch, config, **rest):
        if config.loss.temperature == 0.5:
            raise UsageError("this batch has no loss")
        return original(model, batch, config, **rest)

    configs = {name: some_configs()[name] for name in ("plain", "colder", "longer")}
    train(configs["plain"], store=store, out=tmp_path / "alone", device="cpu", progress=False)
    monkeypatch.setattr(mvformer, "batch_loss", broken)
    results = together(configs, store, tmp_path)
    assert [str(result.error) for result in results] == ["None", "this batch has no loss", "None"]
    assert_same_run(tmp_path / "plain", tmp_path / "alone")


def test_a_run_that_cannot_start_is_told_and_the_others_go_on(store, tmp_path):
    train(tiny_config(seed=4), store=store, out=tmp_path / "taken", device="cpu", progress=False)
    results = together(
        {
            "taken": tiny_config(),
            "no-block": tiny_config(pooling=LstpConfig(blocks=(11,))),
            "no-start": tiny_config(init=str(tmp_path / "nowhere")),
            "good": tiny_config(),
        },
        store,
        tmp_path,
    )
    kinds = [type(result.error) for result in results]
    assert kinds == [WrongIdentity, UsageError, UsageError, type(None)]
    assert "config.seed: run has 4, asked 0" in str(results[0].error)
    assert "name the folder of a trained run" in str(results[2].error)


def test_a_store_that_is_damaged_fails_its_runs_and_not_those_of_another(store, tmp_path):
    broken = write_store(tmp_path / "broken")
    for shard in broken.rglob("tokens/*/c/**/*"):
        if shard.is_file():
            data = bytearray(shard.read_bytes())
            data[len(data) // 3] ^= 0xFF
            shard.write_bytes(data)
    jobs = [Job(tiny_config(), broken, tmp_path / "a"), Job(tiny_config(), store, tmp_path / "b")]
    bad, good = train_together(jobs, device="cpu", progress=False)
    assert isinstance(bad.error, TokenReelError)
    assert good.error is None
    assert good.embeddings.exists()


def test_memory_decides_how_many_train_at_a_time(store, tmp_path, monkeypatch):
    configs = {f"r{i}": tiny_config(loss=scl(temperature=0.1 + i)) for i in range(4)}
    sizes = []
    original = train_module.fit
    monkeypatch.setattr(
        train_module,
        "fit",
        lambda runs, *a, **k: sizes.append(len(runs)) or original(runs, *a, **k),
    )
    monkeypatch.setattr(train_module, "available_memory_bytes", lambda: 2 * 2.5 * 16_000)
    monkeypatch.setattr(train_module, "run_bytes", lambda *_, **__: 16_000)
    jobs = [Job(config, store, tmp_path / name) for name, config in configs.items()]
    train_together(jobs, device="cpu", placement="disk", progress=False)
    assert sizes == [2, 2]


def test_what_runs_attended_to_is_counted(store, tmp_path, monkeypatch):
    held = []
    original = shared_module._attend

    def attend(models, tokens):
        shared = original(models, tokens)
        for pooled, scores, _ in shared.outputs:
            held.append((2 * pooled.nbytes + scores.nbytes, len(tokens.codes[0])))  # its gradient
        return shared

    monkeypatch.setattr(shared_module, "_attend", attend)
    configs = {f"r{i}": tiny_config(seed=i) for i in range(2)}
    together(configs, store, tmp_path)
    opened = open_store(store)
    most = most_frames(configs["r0"], opened)
    source = make_source(opened, list(configs.values()), torch.device("cpu"), frames_at_once=most)
    counted = attended_bytes(configs["r0"], source)
    assert {num_bytes * most == counted * frames for num_bytes, frames in held} == {True}
    assert max(frames for _, frames in held) <= most
    assert run_bytes(configs["r0"], source) > counted
    for changes in (
        {"pooling": ClsConfig()},
        {"pooling": LstpConfig(disjoint=True)},
        {"augment": AugmentConfig(dropout=0.3)},
        {"optim": OptimConfig(epochs=0)},
    ):
        assert attended_bytes(tiny_config(**changes), source) == 0, changes


def test_a_list_is_cut_where_it_no_longer_fits():
    assert split_by_memory([], room=1) == [[]]
    assert split_by_memory([5, 5, 5], room=10) == [[0, 1], [2]]
    assert split_by_memory([50], room=10) == [[0]]


def test_a_run_whose_batch_does_not_fit_fails_alone(store, tmp_path):
    big = tiny_config(data=DataConfig(num_frames=40, batch_clips=5))
    small, opened = tiny_config(), open_store(store)
    memory = frame_bytes(opened, opened.identity.blocks) * (most_frames(big, opened) - 10)
    jobs = [Job(big, store, tmp_path / "big"), Job(small, store, tmp_path / "small")]
    failed, done = train_together(jobs, device="cpu", memory_bytes=memory, progress=False)
    assert "are read at once" in str(failed.error)
    assert done.error is None


def test_two_runs_in_one_folder_are_refused(store, tmp_path):
    jobs = [Job(tiny_config(seed=s), store, tmp_path / "run") for s in (0, 1)]
    with pytest.raises(ValueError, match="two runs in one folder"):
        train_together(jobs, device="cpu", progress=False)


def test_a_gpu_is_refused_where_there_is_none(store, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(UsageError, match="no CUDA device here; use cpu or auto"):
        train_together([Job(tiny_config(), store, tmp_path)], device="cuda", progress=False)
