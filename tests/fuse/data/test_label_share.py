"""A share of the labels: draws that are nested, have every phase, and are those of the probe."""

import numpy as np
import pytest

from tests.fuse.tiny import tiny_config, write_store
from tokenreel.cache.embeddings import read_embeddings
from tokenreel.cache.errors import UsageError, WrongIdentity
from tokenreel.cache.read.store_reader import Store, open_store
from tokenreel.evaluate.data.clips import file_sha256, load_action
from tokenreel.evaluate.protocol import EvaluateConfig, resolve
from tokenreel.evaluate.tasks.labelled import choose_labelled
from tokenreel.fuse.config import CrossEntropyConfig, DataConfig, FuseConfig, OptimConfig
from tokenreel.fuse.data.label_share import draw_labelled
from tokenreel.fuse.data.requirements import training_clips
from tokenreel.fuse.systems.mvformer import model as mvformer
from tokenreel.fuse.systems.mvformer.model import batch_loss
from tokenreel.fuse.systems.mvformer.requirements import require_store
from tokenreel.fuse.train.train import Job, train, train_together


def config(share, **changes):
    data = DataConfig(num_frames=6, batch_clips=2, label_share=share)
    return tiny_config(loss=CrossEntropyConfig(), data=data, optim=OptimConfig(epochs=1), **changes)


def run(config, store, out):
    return train(config, store=store, out=out, device="cpu", progress=False)


@pytest.fixture(scope="module")
def two_actions(tmp_path_factory):
    path = tmp_path_factory.mktemp("labels") / "s"
    return write_store(path, train=24, val=4, actions=("lift", "dance"))


def some_labels(count, phases=5):
    rng = np.random.default_rng(1)
    return [rng.integers(-1, phases, 3) for _ in range(count)]


@pytest.mark.parametrize("seed", range(5))
def test_a_smaller_share_is_within_a_larger_one_and_has_every_phase(seed):
    labels, actions = some_labels(200), ["a", "b"] * 100
    labels[17] = np.array([9, -1, -1])  # the only clip of its phase
    draws = {
        share: draw_labelled(actions, labels, share=share, seed=seed) for share in (0.1, 0.5, 1)
    }
    assert set(draws[0.1]) < set(draws[0.5]) < set(draws[1])
    assert set(draws[1]) == {i for i, own in enumerate(labels) if (own >= 0).any()}
    assert 17 in draws[0.1]
    for action in ("a", "b"):
        own = {share: [i for i in draw if actions[i] == action] for share, draw in draws.items()}
        assert len(own[0.1]) == int(0.1 * len(own[1]))
        assert own[1][: len(own[0.5])] == own[0.5]
        phases = [set(np.concatenate([labels[i] for i in own[share]])) for share in (0.1, 1)]
        assert phases[0] - {-1} == phases[1] - {-1}


def test_another_seed_draws_other_clips():
    draws = [draw_labelled([""] * 50, some_labels(50), share=0.4, seed=seed) for seed in (0, 0, 1)]
    assert draws[0] == draws[1]
    assert set(draws[0]) != set(draws[2])


def test_a_run_sees_its_share_alone_and_the_probe_has_the_same_labels(
    two_actions, tmp_path, monkeypatch
):
    seen = set()

    def watched(model, batch, config, **rest):
        seen.update(batch.clip_ids)
        return batch_loss(model, batch, config, **rest)

    monkeypatch.setattr(mvformer, "batch_loss", watched)
    path = run(config(0.25, seed=3), two_actions, tmp_path / "run").embeddings
    file = read_embeddings(path)
    assert file.provenance["labelled_clips"] == "6 of 24, drawn with seed 3"
    assert len(file.clips) == 28
    [settings] = resolve(EvaluateConfig(), {})
    used = set()
    for action in ("lift", "dance"):
        side = load_action(path, file_sha256(path), action).train
        chosen = choose_labelled(side, settings, 0.25)
        used |= {side.clip_ids[i] for i in chosen}
    assert used == seen


def test_seeds_that_draw_other_clips_are_trained_on_their_own(two_actions, tmp_path, monkeypatch):
    seen = {0: set(), 1: set()}

    def watched(model, batch, config, **rest):
        seen[config.seed].update(batch.clip_ids)
        return batch_loss(model, batch, config, **rest)

    monkeypatch.setattr(mvformer, "batch_loss", watched)
    configs = [config(0.25, seed=seed) for seed in seen]
    jobs = [Job(one, two_actions, tmp_path / f"{one.seed}") for one in configs]
    train_together(jobs, device="cpu", progress=False)
    store = open_store(two_actions)
    for one in configs:
        assert seen[one.seed] == {clip.clip_id for clip in training_clips(one, store)}
    assert seen[0] != seen[1]


def test_a_whole_share_is_every_clip_in_the_stores_order(two_actions, tmp_path):
    store = open_store(two_actions)
    assert training_clips(config(1.0), store) == store.select(split="train")
    file = read_embeddings(run(config(1.0), two_actions, tmp_path / "run").embeddings)
    assert [clip.clip_id for clip in file.clips] == list(store.records)
    assert "labelled_clips" not in file.provenance


def test_a_share_without_one_of_the_phases_is_refused_with_its_name(
    two_actions, tmp_path, monkeypatch
):
    store = open_store(two_actions)
    lacks_b = {clip.clip_id for clip in store.records.values() if clip.action == "dance"}
    original = Store.labels

    def labels(self, clip_id):  # each clip of dance has one phase: the first three "a"
        if clip_id not in lacks_b:
            return original(self, clip_id)
        return np.full_like(original(self, clip_id), clip_id not in ("train1", "train3", "train5"))

    monkeypatch.setattr(Store, "labels", labels)
    told = r"label_share=0\.1 leaves 2 clips .*\(without: b of dance\): set a larger one"
    with pytest.raises(UsageError, match=told):
        run(config(0.1), two_actions, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    require_store(config(0.2), store)


def test_a_share_of_no_labels_is_refused_as_no_labels(tmp_path):
    store = write_store(tmp_path / "s", labelled=False)
    with pytest.raises(UsageError, match="has no labelled frame in the split train"):
        run(config(0.5), store, tmp_path / "run")


def test_a_loss_without_labels_has_no_share_of_them():
    with pytest.raises(ValueError, match=r"label_share=0\.5 is of .* labels, loss\.name=scl"):
        FuseConfig(data=DataConfig(label_share=0.5))


def test_a_run_of_another_share_is_another_run(two_actions, tmp_path):
    run(config(0.25), two_actions, tmp_path / "run")
    with pytest.raises(
        WrongIdentity, match=r"config\.data\.label_share: run has 0\.25, asked 0\.5"
    ):
        run(config(0.5), two_actions, tmp_path / "run")
