"""Training: what a run leaves behind, that it can be killed anywhere, and what it refuses."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.fuse.tiny import scl, tiny_config, write_store
from tokenreel.cache.embeddings import read_embeddings
from tokenreel.cache.errors import TokenReelError, UsageError, WrongIdentity
from tokenreel.cache.read.store_reader import open_store
from tokenreel.fuse.config import (
    POOLINGS,
    DataConfig,
    FuseConfig,
    LstpConfig,
    OptimConfig,
)
from tokenreel.fuse.data.batches import make_batch, stream_batches
from tokenreel.fuse.data.frames import Piece
from tokenreel.fuse.systems.base import make_source, sampling_of
from tokenreel.fuse.systems.mvformer import model as mvformer
from tokenreel.fuse.systems.mvformer.embed import pieces
from tokenreel.fuse.systems.mvformer.model import FusionModel, batch_loss, build_model
from tokenreel.fuse.systems.mvformer.requirements import pooled_dim
from tokenreel.fuse.train import run as run_module
from tokenreel.fuse.train.train import Job, train, train_together

GOLDEN = Path(__file__).parents[2] / "golden"


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


def test_held_out_clips_are_not_trained_on_and_their_loss_comes_every_n_epochs(
    store, tmp_path, monkeypatch
):
    config = tiny_config(
        data=DataConfig(num_frames=6, batch_clips=2, held_out=0.4),
        optim=OptimConfig(lr=1e-2, epochs=4, evaluate_epochs=2),
    )
    seen = {"descend": set(), "observe": set()}
    for name, clips in seen.items():
        original = getattr(run_module.Run, name)
        monkeypatch.setattr(
            run_module.Run,
            name,
            lambda self, batch, original=original, clips=clips: (
                clips.update(batch.clip_ids),
                original(self, batch),
            )[1],
        )
    run(config, store, tmp_path / "run")
    assert (len(seen["descend"]), len(seen["observe"])) == (3, 2)
    assert seen["descend"].isdisjoint(seen["observe"])
    lines = [json.loads(x) for x in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert ["held_out_loss" in line for line in lines] == [False, True, False, True]


def test_a_loss_on_held_out_clips_does_not_change_what_is_trained(store, tmp_path):
    data = DataConfig(num_frames=6, batch_clips=2, held_out=0.4)
    states = []
    for every in (0, 1):
        optim = OptimConfig(lr=1e-2, epochs=3, evaluate_epochs=every)
        run(tiny_config(data=data, optim=optim), store, tmp_path / f"{every}")
        states.append(torch.load(tmp_path / f"{every}/checkpoint.pt", weights_only=True)["model"])
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=0, atol=0)


def test_held_out_clips_are_asked_for_with_the_epochs_between_them():
    with pytest.raises(ValueError, match=r"evaluate_epochs needs held-out clips"):
        FuseConfig(optim=OptimConfig(evaluate_epochs=1))


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
    source = make_source(open_store(store), [config], torch.device("cpu"))
    clips = source.store.select(split="train")
    model = build_model(
        config, dim=pooled_dim(config, source.store), cls_dim=source.store.identity.dim
    )
    _, batch = next(stream_batches(source, clips, sampling_of(config), epochs=1))
    tokens = batch.frames.tokens()

    once = model.pool(tokens, None, None)[batch.gather.flatten(0, 1)]
    every = model.pool(tokens[batch.gather.flatten()], None, None)

    assert len(tokens) < batch.gather.numel()
    torch.testing.assert_close(once.flatten(0, 1), every)


def test_a_step_on_distinct_frames_is_the_step_on_every_position_batch_norms_included(store):
    config = tiny_config()
    source = make_source(open_store(store), [config], torch.device("cpu"))
    clips = source.store.select(split="train")
    _, batch = next(stream_batches(source, clips, sampling_of(config), epochs=1))
    every = replace(
        batch,
        frames=source.read(
            [
                Piece(clip, 0, frames)
                for clip, views in zip(batch.clip_ids, batch.steps.numpy(), strict=True)
                for frames in views.reshape(-1, 1)
            ]
        ),
        gather=torch.arange(batch.gather.numel()).view(batch.gather.shape),
    )
    found = []
    for one in (batch, every):
        model = build_model(
            config, dim=pooled_dim(config, source.store), cls_dim=source.store.identity.dim
        ).train()
        torch.manual_seed(0)
        loss = batch_loss(model, one, config, rng=np.random.default_rng(0))
        loss.backward()
        found.append((loss.detach(), model))
    assert len(batch.frames.tokens()) < 0.8 * len(every.frames.tokens())
    torch.testing.assert_close(found[0][0], found[1][0])
    parameters = zip(found[0][1].parameters(), found[1][1].parameters(), strict=True)
    for here, there in parameters:
        torch.testing.assert_close(here.grad, there.grad, rtol=1e-4, atol=1e-5)
    buffers = zip(found[0][1].named_buffers(), found[1][1].named_buffers(), strict=True)
    for (name, here), (_, there) in buffers:
        torch.testing.assert_close(here, there, msg=name)


def test_tokens_from_memory_and_from_the_disk_are_those_of_the_store(store):
    frames = np.array([1, 4, 5])
    tokens = {}
    for placement in ("ram", "disk"):
        source = make_source(
            open_store(store), [tiny_config()], torch.device("cpu"), placement=placement
        )
        tokens[placement] = source.frames("train0", frames).tokens()
    torch.testing.assert_close(tokens["ram"], tokens["disk"], rtol=0, atol=0)
    stored = source.store.read("train0", frames)
    together = np.concatenate([stored.decode(1), stored.decode(3)], axis=-1)
    np.testing.assert_allclose(tokens["ram"].numpy(), together, atol=1e-5)


def test_an_untrained_model_needs_no_training(store, tmp_path):
    config = tiny_config(optim=OptimConfig(epochs=0))
    file = read_embeddings(run(config, store, tmp_path / "untrained").embeddings)
    assert file.provenance["model"] == "untrained"
    lengths = [np.linalg.norm(clip.embeddings, axis=1) for clip in file.clips]
    np.testing.assert_allclose(np.concatenate(lengths), 1, atol=1e-5)


@pytest.mark.parametrize("kind", ["mean", "max", "cls", "fixed_width"])
def test_every_pooling_trains(store, tmp_path, kind):
    config = tiny_config(pooling=POOLINGS[kind]())
    run(config, store, tmp_path / kind)


@pytest.mark.parametrize("case", "abcdefg")
def test_long_clips_are_embedded_in_pieces_as_the_official_code_cuts_them(case):
    with np.load(GOLDEN / "get_embeddings_chunking.npz") as file:
        golden = {name: file[f"{case}/{name}"] for name in ("T", "frames_per_batch", "embs")}
        kept = file[f"{case}/labels_in"] >= 0
    rows = [  # what its model gave: frame, mean and length of its piece, place in it
        (frame, (cut.start + cut.stop - 1) / 2, cut.stop - cut.start, frame - cut.start)
        for cut in pieces(int(golden["T"]), int(golden["frames_per_batch"]))
        for frame in range(cut.start, cut.stop)
    ]
    np.testing.assert_array_equal(np.array(rows)[kept], golden["embs"])


def test_another_config_in_the_same_folder_is_refused_with_the_field(store, tmp_path):
    run(tiny_config(), store, tmp_path / "run")
    with pytest.raises(WrongIdentity, match=r"config\.seed: run has 0, asked 1"):
        run(tiny_config(seed=1), store, tmp_path / "run")


def test_a_run_from_before_orders_had_a_seed_took_clips_in_that_of_its_own(store, tmp_path):
    data = tiny_config().data
    own = tiny_config(seed=1, data=data.with_(seed=1))
    run(own, store, tmp_path / "run")
    path = tmp_path / "run/run.json"
    about = json.loads(path.read_bytes())
    del about["config"]["data"]["seed"]
    path.write_text(json.dumps(about))

    assert run(own, store, tmp_path / "run").was_done
    with pytest.raises(WrongIdentity, match=r"config\.data\.seed: run has 1, asked 0"):
        run(tiny_config(seed=1, data=data), store, tmp_path / "run")


def test_other_clips_of_the_same_recipe_are_refused_in_the_same_folder(
    store, smaller_store, tmp_path
):
    run(tiny_config(), store, tmp_path / "run")
    with pytest.raises(WrongIdentity, match="store_clips_sha256"):
        run(tiny_config(), smaller_store, tmp_path / "run")


def test_a_gradient_that_is_not_finite_names_its_clips(store, tmp_path, monkeypatch):
    def broken(model, batch, config, **rest):
        weight = next(model.parameters()).flatten()[0]
        return (weight - weight.detach()).abs().sqrt()  # 0, with a gradient of infinity

    monkeypatch.setattr(mvformer, "batch_loss", broken)
    with pytest.raises(TokenReelError, match=r"its gradient (nan|inf), on clips train\d"):
        run(tiny_config(), store, tmp_path / "run")
    assert not (tmp_path / "run/checkpoint.pt").exists()


def test_a_block_that_the_store_lacks_is_refused_with_the_command(store, tmp_path):
    config = tiny_config(pooling=LstpConfig(blocks=(1, 11), channels=8))
    with pytest.raises(UsageError, match=r"holds \[1, 3\]: `extract run tiny .* blocks=1,3,11 "):
        run(config, store, tmp_path / "run")


def test_a_loss_that_is_not_finite_names_its_clips(store, tmp_path, monkeypatch):
    def broken(model, batch, config, **rest):
        return next(model.parameters()).sum() * float("nan")

    monkeypatch.setattr(mvformer, "batch_loss", broken)
    with pytest.raises(
        TokenReelError, match=r"the loss of epoch 0 is nan, its gradient nan, on clips train\d"
    ):
        run(tiny_config(), store, tmp_path / "run")


def test_embeddings_that_are_not_finite_name_their_clips(store, tmp_path, monkeypatch):
    project = FusionModel.project

    def broken(self, embeddings):
        return project(self, embeddings) * float("inf")

    monkeypatch.setattr(FusionModel, "project", broken)
    told = r"the loss of epoch 0 is undefined \(embeddings: \d+ of 96 .*, on clips train\d"
    with pytest.raises(TokenReelError, match=told):
        run(tiny_config(), store, tmp_path / "run")


def test_a_held_out_loss_that_is_not_finite_names_its_clips(store, tmp_path, monkeypatch):
    seen = []

    def broken(model, batch, config, **rest):
        loss = batch_loss(model, batch, config, **rest)
        seen.extend([] if model.training else batch.clip_ids)
        return loss if model.training or config.loss.temperature == 0.5 else loss * float("inf")

    monkeypatch.setattr(mvformer, "batch_loss", broken)
    config = tiny_config(
        data=DataConfig(num_frames=6, batch_clips=2, held_out=0.4),
        optim=OptimConfig(lr=1e-2, epochs=4, evaluate_epochs=2),
    )
    other = config.with_(loss=scl(temperature=0.5))
    jobs = [Job(config, store, tmp_path / "bad"), Job(other, store, tmp_path / "good")]
    bad, good = train_together(jobs, device="cpu", progress=False)
    words = f"bad: the held-out loss of epoch 1 is inf, on clips {', '.join(seen[:2])}: look"
    assert words in str(bad.error)
    assert good.error is None


def test_a_run_of_one_action_sees_and_embeds_the_clips_of_that_action_alone(tmp_path, monkeypatch):
    path = write_store(tmp_path / "s", train=6, val=3, actions=("lift", "dance"))
    data = DataConfig(num_frames=6, batch_clips=2)
    seen: dict[str, set[str]] = {"lift": set(), "dance": set()}

    def watched(model, batch, config, **rest):
        seen[config.data.action].update(batch.clip_ids)
        return batch_loss(model, batch, config, **rest)

    monkeypatch.setattr(mvformer, "batch_loss", watched)
    jobs = [
        Job(tiny_config(data=data.with_(action=action)), path, tmp_path / action) for action in seen
    ]
    results = train_together(jobs, device="cpu", progress=False)

    assert seen == {"lift": {"train0", "train2", "train4"}, "dance": {"train1", "train3", "train5"}}
    embedded = [
        {clip.clip_id for clip in read_embeddings(result.embeddings).clips} for result in results
    ]
    assert embedded == [seen["lift"] | {"val0", "val2"}, seen["dance"] | {"val1"}]


def test_models_of_different_actions_that_are_embedded_together_get_their_own_clips(tmp_path):
    path = write_store(tmp_path / "s", train=4, val=2, actions=("lift", "dance"))
    untrained = [  # they need no stream, so they are one group
        tiny_config(data=DataConfig(num_frames=6, action=action), optim=OptimConfig(epochs=0))
        for action in ("lift", "dance", None)
    ]
    jobs = [Job(config, path, tmp_path / str(n)) for n, config in enumerate(untrained)]
    embedded = [
        {clip.clip_id for clip in read_embeddings(result.embeddings).clips}
        for result in train_together(jobs, device="cpu", progress=False)
    ]
    lift, dance = {"train0", "train2", "val0"}, {"train1", "train3", "val1"}
    assert embedded == [lift, dance, lift | dance]


@pytest.mark.slow  # half a minute of compiling
@pytest.mark.filterwarnings("default")  # of the compiler, which are not ours
def test_a_compiled_run_has_the_losses_of_a_plain_one_and_its_weights_are_plain(store, tmp_path):
    found = {}
    for compiled in (False, True):
        optim = OptimConfig(lr=1e-3, epochs=2, eps=1e-3, compile=compiled)
        out = tmp_path / str(compiled)
        run(tiny_config(optim=optim), store, out)
        state = torch.load(out / "checkpoint.pt", weights_only=True)["model"]
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        found[compiled] = [line["loss"] for line in lines], set(state)
    np.testing.assert_allclose(found[True][0], found[False][0], rtol=1e-4)
    assert found[True][1] == found[False][1]


def test_a_gradient_that_overflows_in_another_process_leaves_the_step_out_in_this_one(
    store, tmp_path, monkeypatch
):
    config = tiny_config(optim=OptimConfig(lr=1e-2, epochs=1, precision="float16"))
    source = make_source(open_store(store), [config], torch.device("cpu"))
    clips = source.store.select(split="train")
    trained = run_module.Run(config, source, tmp_path)
    trained.scaler = torch.amp.GradScaler("cpu", init_scale=8.0)  # none overflows in this process
    batch = make_batch(source, clips, [0, 1], trained.sampling, 0)

    def add_those_of_another(model, _world):
        next(model.parameters()).grad += torch.inf

    monkeypatch.setattr(run_module, "sum_gradients", add_those_of_another)
    before = [p.clone() for p in trained.model.parameters()]
    trained.step(batch)

    torch.testing.assert_close(list(trained.model.parameters()), before, rtol=0, atol=0)
    assert trained.scaler.get_scale() == 4
