"""Every loss on a batch of a store: what reaches the model, and what batches it asks for."""

import logging

import numpy as np
import pytest
import torch

from tests.fuse.tiny import tiny_config, write_store
from tokenreel.cache.embeddings import read_embeddings
from tokenreel.cache.errors import UsageError
from tokenreel.cache.read.store_reader import open_store
from tokenreel.fuse.config import (
    CrossEntropyConfig,
    DataConfig,
    GtaConfig,
    LavConfig,
    LstpConfig,
    OptimConfig,
    SalConfig,
    SclConfig,
    TccConfig,
    TcnConfig,
    VspConfig,
)
from tokenreel.fuse.data.batches import make_batch, stream_batches
from tokenreel.fuse.data.epoch_plan import plan_epoch
from tokenreel.fuse.data.requirements import class_offsets
from tokenreel.fuse.distributed.world import World
from tokenreel.fuse.embed.embed import load_run
from tokenreel.fuse.losses import LOSSES, Loss
from tokenreel.fuse.systems.base import make_source, sampling_of
from tokenreel.fuse.systems.mvformer import model as mvformer
from tokenreel.fuse.systems.mvformer.model import _head_of, batch_loss, build_model
from tokenreel.fuse.systems.mvformer.requirements import pooled_dim, require_store
from tokenreel.fuse.train.train import train

CONFIGS = {
    "scl": SclConfig(),
    "scl-batch": SclConfig(negatives="batch"),
    "tcc": TccConfig(),
    "tcc-views": TccConfig(pairs="windows"),
    "tcn": TcnConfig(),
    "sal": SalConfig(),
    "lav": LavConfig(),
    "gta": GtaConfig(),
    "vsp": VspConfig(),
    "vsp-segments": VspConfig(segments=2),
    "vsp-phase": VspConfig(supervision="phase"),
    "vsp-frame": VspConfig(supervision="frame"),
    "cross_entropy": CrossEntropyConfig(),
}


@pytest.fixture(scope="module")
def two_actions(tmp_path_factory):
    return write_store(
        tmp_path_factory.mktemp("store") / "s", train=7, actions=("lift", "dance"), first_frames=9
    )


def prepare(path, config):
    source = make_source(open_store(path), [config], torch.device("cpu"))
    model = build_model(
        config,
        dim=pooled_dim(config, source.store),
        cls_dim=source.store.identity.dim,
        num_classes=source.num_classes,
    )
    clips = source.store.select(split="train")
    stream = stream_batches(source, clips, sampling_of(config), epochs=50)
    return source, model, clips, stream


def test_every_loss_has_a_case():
    assert {name.partition("-")[0] for name in CONFIGS} == set(LOSSES.ours)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_loss_fits_a_batch_and_reaches_every_weight(two_actions, name):
    temporal = tiny_config().temporal.with_(dropout=0.0)  # no chance in the losses
    config = tiny_config(loss=CONFIGS[name], temporal=temporal)
    _, model, _, stream = prepare(two_actions, config)
    _, batch = next(stream)
    stream.close()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        loss = batch_loss(model, batch, config, rng=np.random.default_rng(0))
        optimiser.zero_grad()
        loss.backward()
        assert [n for n, p in model.named_parameters() if p.grad is None] == []
        optimiser.step()
        losses.append(loss.item())

    assert np.mean(losses[-5:]) < np.mean(losses[:5])


def test_a_loss_is_told_which_frames_are_padding(two_actions, monkeypatch):
    config = tiny_config().with_(data=DataConfig(num_frames=20, batch_clips=2))
    _, model, _, stream = prepare(two_actions, config)
    _, batch = next(stream)
    stream.close()
    told = []
    watched = Loss(SclConfig, lambda inputs, _: told.append(inputs) or torch.zeros(()))
    monkeypatch.setattr("tokenreel.fuse.losses.scl.SCL", watched)

    batch_loss(model, batch, config, rng=np.random.default_rng(0))

    [inputs] = told
    is_padding = torch.zeros(inputs.valid.numel(), dtype=torch.bool)
    is_padding[inputs.padding] = True
    assert 0 < len(inputs.padding) == is_padding.sum()
    torch.testing.assert_close(is_padding.view_as(inputs.valid), ~inputs.valid)


@pytest.mark.parametrize("dynamic", ["separate", "first", "average"])
@pytest.mark.parametrize("static", [0, 2])
@pytest.mark.parametrize("disjoint", [False, True])
def test_frames_that_views_share_have_the_dynamic_entities_of_their_own_view(
    two_actions, dynamic, static, disjoint
):
    pooling = LstpConfig(
        num_entities=static, num_dynamic=3, dynamic=dynamic, disjoint=disjoint, channels=8
    )
    config = tiny_config(pooling=pooling)
    _, model, _, stream = prepare(two_actions, config)
    _, batch = next(stream)
    stream.close()
    tokens, cls = batch.frames.tokens(), batch.frames.cls

    found = model.pool_windows(tokens, cls, batch.gather)

    assert found.shape == (4, 6, static + 3, 8)
    for sequence, frames in zip(found, batch.gather.flatten(0, 1), strict=True):
        alone = cls[frames]
        wanted = model.pool(tokens[frames], alone, None, model.sequence_context(alone))
        torch.testing.assert_close(sequence, wanted)


def test_batches_by_action_hold_one_action_and_every_clip_that_has_a_partner(tmp_path):
    path = write_store(tmp_path / "s", train=9, actions=("a", "b", "a", "c", "b", "a"))
    config = tiny_config(loss=TccConfig())  # a: 5 clips, b: 3, c: 1
    source, _, clips, stream = prepare(path, config)
    stream.close()
    orders = set()
    for epoch in range(20):
        plan = plan_epoch(clips, sampling_of(config), epoch)
        assert all(len({clips[n].action for n in batch}) == 1 < len(batch) for batch in plan)
        orders.add(tuple(clips[batch[0]].action for batch in plan))
        seen = sorted(number for batch in plan for number in batch)
        assert seen == [n for n, clip in enumerate(clips) if clip.action != "c"]
    assert len(orders) > 2  # actions come mixed
    assert source.num_classes == 2


@pytest.mark.parametrize(("pairs", "is_told"), [("action", True), ("views", False)])
def test_clips_without_a_partner_of_their_action_are_counted(tmp_path, caplog, pairs, is_told):
    caplog.set_level(logging.INFO)
    path = write_store(tmp_path / "s", train=4, actions=("lift", "lift", "dance", ""))
    config = tiny_config(loss=TccConfig(pairs=pairs), optim=OptimConfig(epochs=1))
    train(config, store=path, out=tmp_path / "run", device="cpu", progress=False)
    told = "2 of 4 clips are in no step: no other is of their action" in caplog.text
    assert told == is_told


def test_runs_share_batches_unless_one_wants_one_action_in_each():
    scl, vsp, tcc = (sampling_of(tiny_config(loss=CONFIGS[n])) for n in ("scl", "vsp", "tcc"))

    assert scl == vsp != tcc


def test_phases_are_classes_of_their_own_action_unless_all_share_them(two_actions):
    class Record:
        def __init__(self, action, phases):
            self.action, self.phases = action, phases

    class Fake:
        def __init__(self, *records):
            self.records = dict(enumerate(records))

    lift, dance = Record("lift", ("up", "down")), Record("dance", ("a", "b", "c"))
    assert class_offsets(Fake(lift, dance, lift)) == ({"dance": 0, "lift": 3}, 5)
    assert class_offsets(open_store(two_actions)) == ({"lift": 0, "dance": 0}, 2)


def test_losses_without_their_labels_are_refused_before_training(tmp_path):
    path = write_store(tmp_path / "s", train=3, actions=("a", "b", "c"))

    with pytest.raises(UsageError, match=r"loss.name=lav aligns two clips of one action"):
        require_store(tiny_config(loss=LavConfig()), open_store(path))
    require_store(tiny_config(loss=LavConfig(pairs="windows")), open_store(path))


def test_a_head_on_the_whole_batch_counts_its_share_in_each_process(two_actions):
    _, model, _, stream = prepare(two_actions, tiny_config(loss=SalConfig()))
    stream.close()
    x = torch.randn(3, 12)
    alone, shared = _head_of(model, World()), _head_of(model, World(1, 4))

    torch.testing.assert_close(alone(x), shared(x))
    whole = torch.autograd.grad(alone(x).sum(), model.projection.parameters())
    part = torch.autograd.grad(shared(x).sum(), model.projection.parameters())
    for one, other in zip(whole, part, strict=True):
        torch.testing.assert_close(one / 4, other)


@pytest.mark.parametrize("dynamic", ["separate", "first", "average"])
def test_a_clip_is_embedded_with_the_dynamic_entities_of_its_pieces(two_actions, tmp_path, dynamic):
    pooling = LstpConfig(num_entities=1, num_dynamic=2, dynamic=dynamic, channels=8)
    config = tiny_config(pooling=pooling, optim=OptimConfig(epochs=1), embed_frames=8)
    result = train(config, store=two_actions, out=tmp_path / "run", device="cpu", progress=False)
    embedded = {clip.clip_id: clip for clip in read_embeddings(result.embeddings).clips}
    source = make_source(open_store(two_actions), [config], torch.device("cpu"))
    model = load_run(tmp_path / "run", lambda _: source).model.eval()

    found = embedded["train1"].embeddings  # 12 frames: two pieces of 6
    for cut in (np.arange(6), np.arange(6, 12)):
        frames = source.frames("train1", cut)
        entities = model.pool_windows(frames.tokens(), frames.cls, torch.arange(6)[None, None])
        with torch.inference_mode():
            wanted = model.fuse(entities)[0]
        np.testing.assert_allclose(found[cut], wanted, atol=1e-5)


def test_a_supervised_run_embeds_a_store_with_other_phases(two_actions, tmp_path):
    config = tiny_config(loss=CrossEntropyConfig(), optim=OptimConfig(epochs=1))
    train(config, store=two_actions, out=tmp_path / "run", device="cpu", progress=False)
    other = make_source(open_store(two_actions), [config], torch.device("cpu"))
    other.num_classes = 7

    model = load_run(tmp_path / "run", lambda _: other).model

    assert model.projection.out_features == 2


@pytest.mark.parametrize("name", CONFIGS)
def test_the_gradients_of_two_processes_add_up_to_those_of_one(two_actions, name, monkeypatch):
    config = tiny_config(loss=CONFIGS[name])
    source, model, clips, stream = prepare(two_actions, config)
    stream.close()
    model.eval()  # batch norms of two processes are tested with two processes
    numbers, sampling = plan_epoch(clips, sampling_of(config), 0)[0], sampling_of(config)

    def gradients(world):
        batch = make_batch(
            source, clips, numbers, sampling, 0, rank=world.rank, world=world.size
        ).to(torch.device("cpu"))
        loss = batch_loss(model, batch, config, rng=np.random.default_rng(0), world=world)
        return loss.item(), torch.autograd.grad(loss, list(model.parameters()))

    gathered = []
    monkeypatch.setattr(mvformer, "gather_clips", lambda own, *_: gathered.append(own) or own)
    whole_loss, whole = gradients(World())
    everything = gathered[0].detach()
    monkeypatch.setattr(
        mvformer,
        "gather_clips",
        lambda own, _, at, __: torch.cat([everything[: at.start], own, everything[at.stop :]]),
    )
    losses, parts = zip(*(gradients(World(rank, 2)) for rank in range(2)), strict=True)

    assert losses == pytest.approx([whole_loss] * 2, rel=1e-5)
    for (label, _), one, *shares in zip(model.named_parameters(), whole, *parts, strict=True):
        torch.testing.assert_close(sum(shares), one, rtol=1e-4, atol=1e-6, msg=label)
