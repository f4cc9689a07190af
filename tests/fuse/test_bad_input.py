"""What a store or a run cannot do for a config: told before training, with what to type."""

import json
import logging

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from tests.fuse.tiny import tiny_config, write_store
from tokenreel.cache.embeddings import read_embeddings
from tokenreel.cache.errors import Damaged, UsageError, WrongIdentity
from tokenreel.cache.read.store_reader import open_store
from tokenreel.cache.read.store_set import StoreSet
from tokenreel.fuse.config import (
    AugmentConfig,
    ClsConfig,
    CrossEntropyConfig,
    DataConfig,
    FuseConfig,
    LstpConfig,
    OptimConfig,
    TccConfig,
    VspConfig,
)
from tokenreel.fuse.embed.embed import embed_run
from tokenreel.fuse.runs.provenance import describe_run
from tokenreel.fuse.runs.run_folder import RunFolder, RunLocked
from tokenreel.fuse.systems import base
from tokenreel.fuse.systems.base import System
from tokenreel.fuse.systems.mvformer import model as mvformer
from tokenreel.fuse.systems.mvformer.model import batch_loss
from tokenreel.fuse.systems.mvformer.requirements import require_store
from tokenreel.fuse.train.train import Job, train, train_together

CPU = torch.device("cpu")


def run(config, store, out):
    return train(config, store=store, out=out, device="cpu", progress=False)


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A store without CLS, labels or actions."""
    path = tmp_path_factory.mktemp("bare") / "s"
    return write_store(path, cls=False, labelled=False, actions=("",), phases=())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            tiny_config(pooling=LstpConfig(blocks=(1, 7))),
            r"holds \[1, 3\]: `extract run tiny .* blocks=1,3,7 .* --out STORE` makes",
        ),
        (
            tiny_config(pooling=LstpConfig(blocks=(3, -1))),
            r"pooling\.blocks names a block twice: \(3, 3\)",
        ),
        (
            tiny_config(pooling=LstpConfig(blocks=(1, -3))),
            r"pooling\.blocks counts -3 from the last, \S+ holds \[1, 3\]",
        ),
        (
            tiny_config(pooling=ClsConfig()),
            r"no CLS tokens, tiny has none: `extract run tiny .*backbone=vit_\S+ .* --out STORE`",
        ),
        (
            tiny_config(pooling=LstpConfig(num_dynamic=1)),
            r"no CLS tokens",
        ),
        (
            tiny_config(loss=CrossEntropyConfig()),
            r"loss\.name=cross_entropy learns phases, \S+ has 0: `extract run tiny .* --out "
            r"STORE` of clips with labels .*tokenreel data check",
        ),
        (
            tiny_config(loss=VspConfig(supervision="phase")),
            r"loss\.name=vsp learns phases, \S+ has 0: .*tokenreel data check",
        ),
        (
            tiny_config(loss=TccConfig()),
            r"tcc aligns two clips of one action, .* no known action: `extract run tiny .* --out ",
        ),
        (
            tiny_config(data=DataConfig(num_frames=6, action="jump")),
            r"no clip of the action data\.action=jump \(it has: none\): `extract run .* --out ",
        ),
        (
            tiny_config(data=DataConfig(num_frames=6, views="all")),
            r"data\.views=all wants augmented views.*`extract run tiny .* views=2 --out STORE`",
        ),
    ],
    ids=[
        "blocks",
        "layer-twice",
        "layer-below-the-first",
        "cls",
        "dynamic",
        "labels",
        "phases",
        "actions",
        "action",
        "views",
    ],
)
def test_what_a_store_lacks_is_told_with_the_command_before_a_folder_is_made(
    bare, tmp_path, config, message
):
    with pytest.raises(UsageError, match=message):
        run(config, bare, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_phases_without_a_labelled_frame_teach_nothing(tmp_path):
    store = open_store(write_store(tmp_path / "s", labelled=False))
    with pytest.raises(UsageError, match="has no labelled frame in the split train"):
        require_store(tiny_config(loss=CrossEntropyConfig()), store)


def test_a_split_without_clips_is_told_and_an_untrained_model_needs_none(tmp_path):
    store = write_store(tmp_path / "s", train=0)
    told = (
        r"no clips of the split train: nothing to train on \(its splits: \{'val': 2\}\); `extract"
    )
    with pytest.raises(UsageError, match=told):
        run(tiny_config(), store, tmp_path / "run")
    run(tiny_config(optim=OptimConfig(epochs=0)), store, tmp_path / "untrained")


def test_one_video_cannot_be_split_into_trained_and_held_out(tmp_path):
    store = write_store(tmp_path / "s", train=1)
    config = tiny_config(data=DataConfig(num_frames=6, held_out=0.5))
    with pytest.raises(UsageError, match=r"data\.held_out=0\.5: .* none can be held out"):
        run(config, store, tmp_path / "run")


def test_held_out_clips_come_by_action_too_and_two_of_one_are_needed(tmp_path, monkeypatch):
    store = write_store(tmp_path / "s", train=9, actions=("lift", "dance", "jump"))
    seen = []

    def watched(model, batch, config, **rest):
        seen.append((model.training, batch.actions))
        return batch_loss(model, batch, config, **rest)

    monkeypatch.setattr(mvformer, "batch_loss", watched)
    data = DataConfig(num_frames=6, batch_clips=2, held_out=0.5)
    often = OptimConfig(epochs=1, evaluate_epochs=1)
    run(tiny_config(loss=TccConfig(), data=data, optim=often), store, tmp_path / "run")
    assert {training for training, _ in seen} == {True, False}
    assert all(len(set(actions)) == 1 < len(actions) for _, actions in seen)
    few = data.with_(held_out=0.2)
    with pytest.raises(UsageError, match=r"no two of the 2 held-out clips have one action"):
        run(tiny_config(loss=TccConfig(), data=few, optim=often), store, tmp_path / "few")
    most = data.with_(held_out=0.8)
    with pytest.raises(UsageError, match=r"no two of the 2 left clips have one action"):
        run(tiny_config(loss=TccConfig(), data=most, optim=often), store, tmp_path / "most")


def test_short_clips_are_padded_and_counted(store, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    run(tiny_config(data=DataConfig(num_frames=10, batch_clips=2)), store, tmp_path / "run")
    assert "2 of 5 clips are shorter than 10 frames and are padded" in caplog.text


def test_a_run_of_another_model_cannot_be_started_from_and_the_fields_are_listed(store, tmp_path):
    run(tiny_config(), store, tmp_path / "first")
    first = {"init": str(tmp_path / "first")}
    wider = tiny_config(pooling=LstpConfig(num_entities=3, channels=8), **first)
    with pytest.raises(WrongIdentity, match=r"pooling\.num_entities: it has 2, asked 3"):
        run(wider, store, tmp_path / "second")
    heads = tiny_config().temporal.with_(heads=4, dropout=0.2)
    as_wide = tiny_config(temporal=heads, **first)  # all weights fit
    with pytest.raises(WrongIdentity, match=r"temporal\.heads: it has 2, asked 4"):
        run(as_wide, store, tmp_path / "third")


def test_a_run_goes_on_from_the_weights_of_another_on_another_store(store, smaller_store, tmp_path):
    run(tiny_config(), store, tmp_path / "first")
    config = tiny_config(
        init=str(tmp_path / "first"),
        optim=OptimConfig(epochs=1, lr=1e-12),
        data=DataConfig(num_frames=10, batch_clips=2),  # positions have no weights
    )
    run(config, smaller_store, tmp_path / "second")
    first, second = (
        torch.load(tmp_path / name / "checkpoint.pt", weights_only=True)["model"]
        for name in ("first", "second")
    )
    for name, value in first.items():
        if "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(second[name], value, atol=1e-6, rtol=0)


def test_a_run_of_a_version_with_other_fields_is_told_with_file_field_and_commit(store, tmp_path):
    run(tiny_config(), store, tmp_path / "run")
    path = tmp_path / "run" / "run.json"
    about = json.loads(path.read_text())
    del about["config"]["loss"]["name"]
    about["config"]["pooling"]["num_slots"] = 3
    path.write_text(json.dumps(about | {"commit": "abc123"}))

    with pytest.raises(Damaged) as told:
        embed_run(tmp_path / "run", store, tmp_path / "e.h5", device=CPU, progress=False)

    for words in (
        f"{path}: this version does not know the config of the run",
        "config.loss: Unable to extract tag using discriminator 'name'",
        "config.pooling.num_slots: Extra inputs are not permitted",
        "the version that trained it (commit abc123), or train it again with another --out",
    ):
        assert words in str(told.value)
    with pytest.raises(WrongIdentity, match=r"config\.pooling\.num_slots: run has 3, asked None"):
        run(tiny_config(), store, tmp_path / "run")


def test_a_run_from_before_a_field_existed_goes_on_with_its_default(store, tmp_path):
    run(tiny_config(), store, tmp_path / "run")
    path = tmp_path / "run" / "run.json"
    about = json.loads(path.read_text())
    del about["config"]["data"]["views"]
    path.write_text(json.dumps(about))

    assert run(tiny_config(), store, tmp_path / "run").was_done
    other = DataConfig(num_frames=6, batch_clips=2, sampling="uniform")
    with pytest.raises(WrongIdentity, match=r"config\.data\.sampling: run has 'paper', asked"):
        run(tiny_config(data=other), store, tmp_path / "run")


def test_a_run_may_take_the_weights_of_another_as_they_are(store, smaller_store, tmp_path):
    augment = AugmentConfig(dropout=0.1)
    run(tiny_config(augment=augment), store, tmp_path / "first")
    config = tiny_config(init=str(tmp_path / "first"), optim=OptimConfig(epochs=0))
    result = run(config, smaller_store, tmp_path / "second")
    (tmp_path / "first/checkpoint.pt").unlink()  # the second has its own
    embed_run(tmp_path / "second", store, tmp_path / "again.h5", device=CPU, progress=False)
    files = [tmp_path / "first/embeddings.h5", result.embeddings, tmp_path / "again.h5"]
    first, second, again = (
        {clip.clip_id: clip.embeddings for clip in read_embeddings(file).clips} for file in files
    )
    for name in ("train0", "train1", "train2"):  # the same clips in both stores
        np.testing.assert_array_equal(second[name], first[name])
    np.testing.assert_array_equal(again["val1"], first["val1"])
    about = read_embeddings(result.embeddings).provenance
    assert (about["model"], about["augmentation"]) == ("mvformer", "of tokens: dropout 0.1")


def test_no_blocks_are_required_where_cls_is_pooled(store, tmp_path):
    config = tiny_config(pooling=ClsConfig(), optim=OptimConfig(epochs=1))
    result = run(config, store, tmp_path / "run")
    embed_run(tmp_path / "run", store, tmp_path / "again.h5", device=CPU, progress=False)
    first, again = (read_embeddings(f).clips[0] for f in (result.embeddings, tmp_path / "again.h5"))
    np.testing.assert_array_equal(first.embeddings, again.embeddings)


def test_a_store_that_has_all_is_taken(store):
    require_store(tiny_config(), open_store(store))


def test_an_action_that_the_store_lacks_is_told_with_the_nearest(tmp_path):
    path = write_store(tmp_path / "s", actions=("lift", "dance"))
    config = tiny_config(data=DataConfig(num_frames=6, action="dances"))
    with pytest.raises(UsageError, match=r"did you mean dance\? \(it has: dance, lift\)"):
        run(config, path, tmp_path / "run")
    one_clip = write_store(tmp_path / "t", train=3, actions=("lift", "lift", "dance"))
    config = tiny_config(data=DataConfig(num_frames=6, action="dance"), loss=TccConfig())
    with pytest.raises(UsageError, match=r"tcc aligns two clips of one action.*\{'dance': 1\}"):
        run(config, one_clip, tmp_path / "run")


def test_what_only_training_needs_is_not_asked_of_a_store_that_is_embedded(store, bare, tmp_path):
    config = tiny_config(
        loss=CrossEntropyConfig(),
        data=DataConfig(num_frames=6, batch_clips=2),
        optim=OptimConfig(epochs=1),
    )
    run(config, store, tmp_path / "run")
    embed_run(tmp_path / "run", bare, tmp_path / "unlabelled.h5", device=CPU, progress=False)
    without_train = write_store(tmp_path / "val", train=0)
    embed_run(tmp_path / "run", without_train, tmp_path / "val.h5", device=CPU, progress=False)
    assert [c.clip_id for c in read_embeddings(tmp_path / "val.h5").clips] == ["val0", "val1"]


def test_a_run_of_one_action_does_not_embed_a_store_without_it(tmp_path):
    two = write_store(tmp_path / "two", train=4, actions=("lift", "dance"))
    data = DataConfig(num_frames=6, batch_clips=2, action="lift")
    run(tiny_config(data=data, optim=OptimConfig(epochs=1)), two, tmp_path / "run")
    other = write_store(tmp_path / "other", actions=("jump",))
    with pytest.raises(UsageError, match=r"no clip of the action data\.action=lift"):
        embed_run(tmp_path / "run", other, tmp_path / "e.h5", device=CPU, progress=False)


@pytest.mark.parametrize(
    "values",
    [
        {"optim": {"lr": float("inf")}},
        {"data": {"alpha": float("inf")}},
        {"loss": {"name": "scl", "temperature": float("inf")}},
        {"loss": {"name": "sal", "hidden": (128, 0)}},
        {"loss": {"name": "vsp", "segments": 2, "supervision": "phase"}},
        {"seed": 2**63},
        {"pooling": {"blocks": ()}},
    ],
    ids=str,
)
def test_a_value_that_no_run_could_have_is_refused_where_it_is_given(values):
    with pytest.raises(ValidationError):
        FuseConfig.model_validate(values)


@pytest.mark.parametrize(
    ("loss", "fewest"),
    [
        ({"name": "tcn"}, 4),
        ({"name": "sal"}, 5),
        ({"name": "vsp"}, 3),
        ({"name": "vsp", "segments": 5}, 15),
        ({"name": "vsp", "supervision": "phase"}, 3),
    ],
    ids=str,
)
def test_sequences_too_short_for_a_loss_are_refused_with_what_it_needs(tmp_path, loss, fewest):
    told = f"loss.name={loss['name']} learns from .*{fewest} frames"
    with pytest.raises(ValidationError, match=f"{told} or more: data.num_frames={fewest - 1} is"):
        FuseConfig.model_validate({"loss": loss, "data": {"num_frames": fewest - 1}})
    config = FuseConfig.model_validate({"loss": loss, "data": {"num_frames": fewest * 2}})
    enough = write_store(tmp_path / "enough", train=1, first_frames=fewest)
    require_store(config, open_store(enough))
    short = write_store(tmp_path / "short", train=1, first_frames=fewest - 1)
    with pytest.raises(UsageError, match=f"{told} of a clip or more, .* has {fewest - 1}: `extr"):
        require_store(config, open_store(short))


def test_one_clip_is_no_batch_for_a_loss_that_aligns_two():
    one = {"batch_clips": 1}
    with pytest.raises(ValidationError, match=r"tcc aligns two .* data\.batch_clips=1 holds one"):
        FuseConfig.model_validate({"loss": {"name": "tcc"}, "data": one})
    FuseConfig.model_validate({"loss": {"name": "tcc", "pairs": "windows"}, "data": one})


def test_a_run_reads_the_blocks_it_was_trained_on_where_another_store_has_more(store, tmp_path):
    run(tiny_config(), store, tmp_path / "run")
    more = write_store(tmp_path / "more", blocks=(1, 3, 5))
    embed_run(tmp_path / "run", more, tmp_path / "e.h5", device=CPU, progress=False)
    assert {clip.embeddings.shape[1] for clip in read_embeddings(tmp_path / "e.h5").clips} == {4}
    fewer = write_store(tmp_path / "fewer", blocks=(1,))
    with pytest.raises(
        UsageError, match=r"wants \[1, 3\], \S+ holds \[1\]: `extract run tiny --root VIDEOS b"
    ):
        embed_run(tmp_path / "run", fewer, tmp_path / "f.h5", device=CPU, progress=False)


def test_weights_of_a_run_on_a_store_of_other_blocks_do_not_fit_and_it_is_said(store, tmp_path):
    run(tiny_config(), store, tmp_path / "first")
    more = write_store(tmp_path / "more", blocks=(1, 3, 5))
    told = (
        r"init=\S+ pools other blocks:\n  blocks: it has \[1, 3\], asked \[1, 3, 5\]\nset pooling"
    )
    with pytest.raises(WrongIdentity, match=told):
        run(tiny_config(init=str(tmp_path / "first")), more, tmp_path / "second")


def test_a_store_without_clips_is_told_whatever_is_asked_of_it(store, tmp_path):
    empty = write_store(tmp_path / "empty", train=0, val=0)
    run(tiny_config(), store, tmp_path / "run")
    with pytest.raises(UsageError, match=r"has no clips: `extract run tiny .* --out STORE`"):
        embed_run(tmp_path / "run", empty, tmp_path / "e.h5", device=CPU, progress=False)


@pytest.mark.parametrize(
    ("clips", "told"),
    [
        ({"train": 0, "val": 0}, "has no clips: `extract run tiny"),
        ({"train": 0, "val": 2}, "has no clips of the split train"),
    ],
)
def test_a_system_that_requires_nothing_still_needs_clips_to_train_on(
    clips, told, tmp_path, monkeypatch
):
    class Anything(System):
        def requirements(self, config, stores):
            pass

    monkeypatch.setattr(base, "system_of", lambda config: Anything())
    store = open_store(write_store(tmp_path / "store", **clips))
    with pytest.raises(UsageError, match=told):
        base.require_stores(tiny_config(), store)


def test_a_folder_that_is_none_and_a_run_that_is_none_are_told(store, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="file is a file, a run is a folder: use another --out"):
        run(tiny_config(), store, tmp_path / "file")
    with pytest.raises(UsageError, match=r"nowhere is no run, it has no run\.json"):
        embed_run(tmp_path / "nowhere", store, tmp_path / "e.h5", device=CPU, progress=False)


@pytest.mark.parametrize("word", ["tpu", "mps", "", "cuda:", "cpu:0"])
def test_a_device_that_is_none_is_told(store, tmp_path, word):
    with pytest.raises(UsageError, match="is none of auto, cpu, cuda or cuda:N"):
        train(tiny_config(), store=store, out=tmp_path / "run", device=word)


@pytest.mark.parametrize(("text", "told"), [("{", "torn .*; delete the run"), ("[]", r"but \[\]")])
def test_a_description_of_a_run_that_is_none_is_damage(store, tmp_path, text, told):
    run(tiny_config(), store, tmp_path / "run")
    (tmp_path / "run/run.json").write_text(text)
    with pytest.raises(Damaged, match=rf"run\.json: .*{told}"):
        run(tiny_config(), store, tmp_path / "run")


def test_a_folder_in_which_a_process_works_is_left_alone_and_the_other_runs_go_on(store, tmp_path):
    taken = Job(tiny_config(), store, tmp_path / "taken")
    free = Job(tiny_config(seed=1), store, tmp_path / "free")
    with RunFolder(taken.out, describe_run(taken.config, StoreSet({"tokens": store}), {})):
        first, second = train_together([taken, free], device="cpu", progress=False)
    assert isinstance(first.error, RunLocked)
    assert "taken is in use" in str(first.error)
    assert not (taken.out / "checkpoint.pt").exists()
    assert second.error is None
    assert train_together([taken], device="cpu", progress=False)[0].error is None
