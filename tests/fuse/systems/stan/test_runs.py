"""STAN from stores with tags to scores of clips: training, resume, lock-step, what is refused."""

import json
import logging

import numpy as np
import pytest

from tests.fuse.distributed.test_distributed import train_in_processes
from tests.fuse.tiny import write_store
from tokenreel.cache.embeddings import read_embeddings
from tokenreel.cache.errors import UsageError, WrongIdentity
from tokenreel.cache.read.store_reader import open_store
from tokenreel.cache.read.store_set import StoreSet
from tokenreel.evaluate.commands.suite import evaluate_files
from tokenreel.evaluate.protocol import EvaluateConfig
from tokenreel.fuse.config import OptimConfig
from tokenreel.fuse.embed.embed import embed_run
from tokenreel.fuse.runs.provenance import read_provenance
from tokenreel.fuse.systems.base import (
    make_source,
    require_stores,
    shapes_of,
    shapes_of_stores,
    system_of,
)
from tokenreel.fuse.systems.stan.config import StanConfig
from tokenreel.fuse.train import run as run_module
from tokenreel.fuse.train.train import Job, train, train_together
from tokenreel.pipeline.phases.training import train_recipe

TAGS = {  # of each clip: one that the first store shows, and one that the second does
    name: tuple(
        tag
        for tag, has in (("bright", number % 2), ("moving", number // 2 % 2), ("any", True))
        if has
    )
    for number, name in enumerate([*(f"train{i}" for i in range(8)), "val0", "val1"])
}


def shows(tag):
    return lambda clip_id, frame: 1.0 if tag in TAGS.get(clip_id, ()) else -1.0


def write_pair(folder, **changes):
    """A store that shows the tag bright alone, and one that shows moving alone."""
    fields = {"train": 8, "val": 2, "tags": TAGS, "drift": False, "noise": 0.1, "first_frames": 2}
    return {
        stream: write_store(
            folder / stream,
            **{**fields, "shift": shows(tag), "architecture": stream, "codec": codec, **changes},
        )
        for stream, tag, codec in (("spatial", "bright", "int8"), ("temporal", "moving", "fp16"))
    }


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    return write_pair(tmp_path_factory.mktemp("pair"))


def small(**changes):
    fields = {
        "data": StanConfig().data.with_(num_frames=5, batch_clips=4),
        "optim": OptimConfig(name="adamw", lr=3e-3, epochs=60, checkpoint_epochs=100),
        "encoder": {
            "kind": "transformer",
            "width": 16,
            "layers": 1,
            "heads": 2,
            "feed_forward": 16,
            "dropout": 0.0,
        },
        "head": {"widths": (16, 8), "dropout": 0.0},
    }
    return StanConfig(**{**fields, **changes})


def run(config, stores, out):
    return train(config, store=stores, out=out, device="cpu", progress=False)


def right(file, tag):
    """The share of training clips for which a tag is scored on the right side of a half."""
    column = file.class_names.index(tag)
    clips = [clip for clip in file.clips if clip.split == "train"]
    return np.mean([(clip.embeddings[0, column] > 0.5) == clip.targets[column] for clip in clips])


def test_two_streams_learn_the_tags_of_both_and_one_those_that_it_sees(stores, tmp_path):
    whole = read_embeddings(run(small(), stores, tmp_path / "both").embeddings)
    assert (whole.unit, whole.class_names) == ("clip", ("any", "bright", "moving"))
    clip = next(clip for clip in whole.clips if clip.clip_id == "train3")
    assert (clip.embeddings.shape, clip.targets.tolist()) == ((1, 3), [1, 1, 1])
    assert all(((x.embeddings > 0) & (x.embeddings < 1)).all() for x in whole.clips)
    assert [right(whole, tag) for tag in whole.class_names] == [1, 1, 1]
    alone = run(small(streams="spatial"), stores["spatial"], tmp_path / "spatial")
    lone = read_embeddings(alone.embeddings)
    assert right(lone, "bright") == 1


def test_a_number_of_a_clip_is_learned_and_judged_by_its_squared_error(tmp_path):
    numbers = {name: 1.5 if "bright" in tags else 4.0 for name, tags in TAGS.items()}
    tags = {name: (str(number),) for name, number in numbers.items()}
    stores = write_pair(tmp_path, tags=tags)
    result = run(small(loss="mse"), stores, tmp_path / "run")
    file = read_embeddings(result.embeddings)
    assert (file.unit, file.class_names) == ("clip", ())
    for clip in file.clips:
        assert clip.targets.tolist() == [numbers[clip.clip_id]]
        assert clip.embeddings.shape == (1, 1)
        assert abs(clip.embeddings[0, 0] - numbers[clip.clip_id]) < 0.5, clip.clip_id
    scores = evaluate_files(
        [result.embeddings], config=EvaluateConfig(), out=tmp_path / "table", progress=False
    ).scores
    found = {score.task: score.value for score in scores if score.status == "ok"}
    held_out = [clip for clip in file.clips if clip.split == "val"]
    errors = [(clip.embeddings[0, 0] - clip.targets[0]) ** 2 for clip in held_out]
    assert found["mse"] == pytest.approx(np.mean(errors), rel=1e-4)
    mean = np.mean([numbers[f"train{number}"] for number in range(8)])
    wanted = np.mean([(mean - clip.targets[0]) ** 2 for clip in held_out])
    assert found["mse-mean"] == pytest.approx(wanted)
    assert found["mse"] < found["mse-mean"] / 10


def test_numbers_are_no_classes_of_which_some_are_never_seen(tmp_path, caplog):
    tags = {"train0": ("1.5",), "train1": ("4.0",), "val0": ("2.25",), "val1": ("2.5",)}
    stores = write_pair(tmp_path, train=2, tags=tags)
    with caplog.at_level(logging.WARNING):
        run(small(loss="mse", optim=OptimConfig(epochs=1)), stores, tmp_path / "run")
    assert "cannot be learned" not in caplog.text


def test_the_first_number_is_the_mean_of_the_training_clips_alone(tmp_path):
    tags = {"train0": ("1.5",), "train1": ("4.0",), "train2": ("1.5",), "val0": ("1000.0",)}
    stores = write_pair(tmp_path, train=3, tags=tags)
    config = small(loss="mse", optim=OptimConfig(epochs=1))
    model = system_of(config).build(config, shapes_of_stores(StoreSet(stores), config))
    assert model.heads[0].leave.bias.item() == pytest.approx(7 / 3)
    source = make_source(StoreSet(stores), [config], run_device())
    model = system_of(config).build(config, shapes_of(source, config))
    assert model.heads[0].leave.bias.item() == pytest.approx(7 / 3)


@pytest.mark.parametrize(("clip", "tag"), [("val1", ("war",)), ("val1", ()), ("train1", ())])
def test_a_clip_without_a_number_is_refused_before_training(clip, tag, tmp_path, caplog):
    tags = {"train0": ("1.5",), "train1": ("4.0",), "val0": ("2.25",), "val1": ("3.0",)}
    stores = write_pair(tmp_path, train=2, tags=tags | {clip: tag})
    has = tag[0] if tag else "none"
    with pytest.raises(UsageError, match=rf"loss=mse predicts the number .*'{clip}' has {has}"):
        run(small(loss="mse"), stores, tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoint.pt").exists()
    assert "left out" not in caplog.text


def test_it_resumes_to_the_same_bytes_with_dropout(stores, tmp_path, monkeypatch):
    config = small(
        encoder={**small().encoder.model_dump(), "dropout": 0.5},
        optim=OptimConfig(name="adamw", lr=3e-3, epochs=3, checkpoint_minutes=0),
    )
    run(config, stores, tmp_path / "whole")
    save = run_module.Run.save

    def stop_after(self):
        save(self)
        if self.position == (1, 1):
            raise KeyboardInterrupt

    monkeypatch.setattr(run_module.Run, "save", stop_after)
    with pytest.raises(KeyboardInterrupt):
        run(config, stores, tmp_path / "cut")
    monkeypatch.setattr(run_module.Run, "save", save)
    run(config, stores, tmp_path / "cut")
    for name in ("checkpoint.pt", "metrics.jsonl"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes()


def test_rows_that_read_the_same_stores_train_in_lock_step_and_end_as_alone(stores, tmp_path):
    short = OptimConfig(name="adamw", lr=3e-3, epochs=2)
    configs = {
        "sum": small(optim=short),
        "gate": small(optim=short, fusion={"kind": "gate", "width": 8}),
        "distil": small(optim=short, fusion={"kind": "distil"}),
        "lstm": small(optim=short, encoder={"kind": "lstm", "width": 6, "layers": 2}),
        "average": small(optim=short, encoder={"kind": "average"}, fusion={"kind": "concat"}),
        "spatial": small(optim=short, streams="spatial"),
    }
    assert len({config.stream for config in configs.values()}) == 1
    jobs = [Job(config, stores, tmp_path / "step" / name) for name, config in configs.items()]
    found = train_together(jobs, device="cpu", progress=False)
    assert [result.error for result in found] == [None] * len(jobs)
    for name, config in configs.items():
        alone = run(config, stores, tmp_path / "alone" / name).path
        assert (alone / "checkpoint.pt").read_bytes() == (
            tmp_path / "step" / name / "checkpoint.pt"
        ).read_bytes(), name


def test_training_clips_are_drawn_by_the_seed_of_the_data_and_listed(stores, tmp_path):
    optim = OptimConfig(epochs=1)
    listed = {}
    for count, seed in ((3, 0), (5, 0), (3, 1)):
        config = small(optim=optim, seed=seed)
        config = config.with_(data=config.data.with_(num_train_clips=count))
        path = run(config, stores, tmp_path / f"{count}-{seed}").path
        listed[count, seed] = read_provenance(path)["training_clips"]
        assert len(listed[count, seed]) == count
    assert listed[3, 0] == listed[3, 1]  # whatever the seed of the run
    assert set(listed[3, 0]) < set(listed[5, 0])
    config = small().with_(data=small().data.with_(num_train_clips=9))
    with pytest.raises(UsageError, match=r"data.num_train_clips=9: .* has 8 training clips with t"):
        run(config, stores, tmp_path / "no")


def test_another_store_is_scored_in_the_columns_of_the_run(stores, tmp_path, caplog):
    path = run(small(optim=OptimConfig(epochs=1)), stores, tmp_path / "run").path
    tags = {"train0": ("other", "bright"), "train1": ("other",)}
    others = write_pair(tmp_path, tags=tags)
    with caplog.at_level(logging.WARNING):
        embed_run(path, others, tmp_path / "e.h5", device=run_device(), progress=False)
    assert "tags that it did not learn are left out: other (of 2 clips)" in caplog.text
    found = read_embeddings(tmp_path / "e.h5")
    assert found.class_names == ("any", "bright", "moving")
    assert found.clips[0].targets.tolist() == [0, 1, 0]


def run_device():
    import torch

    return torch.device("cpu")


def test_a_run_whose_clips_have_other_tags_since_is_another_run(tmp_path, stores):
    config = small(optim=OptimConfig(epochs=1))
    run(config, stores, tmp_path / "run")
    changed = write_pair(tmp_path, tags=TAGS | {"train0": ("moving",)})
    with pytest.raises(WrongIdentity, match="labels_sha256"):
        run(config, changed, tmp_path / "run")


def test_clips_without_tags_are_left_out_and_tags_of_no_training_clip_are_named(tmp_path, caplog):
    tags = {"train0": ("a",), "train1": ("b", "a"), "val0": ("c",)}
    stores = write_pair(tmp_path, train=3, tags=tags)
    with caplog.at_level(logging.WARNING):
        path = run(small(optim=OptimConfig(epochs=1)), stores, tmp_path / "run").path
    assert "1 of 3 training clips have no tag and are left out" in caplog.text
    assert "1 of 3 tags are of no training clip and cannot be learned: c" in caplog.text
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 1


@pytest.mark.parametrize(
    ("tags", "changes", "told"),
    [
        ({}, {}, r"learns the tags of clips, .* has none: list them in tags.csv"),
        ({"val0": ("a",)}, {}, r"has 1 tags, none of them of a training clip"),
        (
            {"train0": ("a", "b"), "train1": ("b",)},
            {"loss": "cross_entropy"},
            r"learns one tag a clip, 1 training clips of .* the first is 'train0' \(a, b\)",
        ),
        ({"train0": ("a",)}, {"feature": "cls"}, r"holds no CLS vectors: set feature=mean"),
    ],
)
def test_stores_that_lack_what_it_learns_are_refused(tmp_path, tags, changes, told):
    stores = write_pair(tmp_path, train=2, tags=tags, cls=False)
    with pytest.raises(UsageError, match=told):
        run(small(**changes), stores, tmp_path / "run")


def test_cls_vectors_are_read_in_place_of_tokens(stores, tmp_path):
    config = small(feature="cls", optim=OptimConfig(epochs=1))
    found = read_embeddings(run(config, stores, tmp_path / "run").embeddings)
    other = run(config.with_(feature="mean"), stores, tmp_path / "mean").embeddings
    pairs = zip(found.clips, read_embeddings(other).clips, strict=True)
    assert all((one.embeddings != two.embeddings).all() for one, two in pairs)


def test_a_store_of_pictures_is_refused_with_the_command_of_one_of_tokens(stores):
    store = open_store(stores["spatial"])
    store.identity = store.identity.model_copy(update={"blocks": ()})  # as one with pixels=centre
    config = small(streams="spatial")
    told = r"keeps pictures of scenes and no tokens: `extract run tiny --root VIDEOS frames=scenes:"
    with pytest.raises(UsageError, match=told):
        require_stores(config, store)
    assert config.describe(StoreSet({"tokens": store}))["blocks"] == []


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one_at_the_same_global_batch(stores, tmp_path):
    words = ["data.num_frames=4", "data.batch_clips=3", "optim.epochs=3", "optim.eps=1"]
    words += ["encoder.width=8", "encoder.layers=1", "head.widths=6,4", "optim.lr=0.03"]
    one, two = (tmp_path / name for name in ("one", "two"))
    train_recipe("stan", words, store=stores, out=one, device="cpu", progress=False)
    done = train_in_processes(words, stores, two, processes=2, recipe="stan")
    assert done.returncode == 0, done.stderr
    lines = [(path / "metrics.jsonl").read_text().splitlines() for path in (one, two)]
    for here, there in zip(*lines, strict=True):
        assert json.loads(here) == pytest.approx(json.loads(there), rel=1e-5)
    pairs = zip(
        *(read_embeddings(path / "embeddings.h5").clips for path in (one, two)), strict=True
    )
    for here, there in pairs:
        np.testing.assert_allclose(here.embeddings, there.embeddings, atol=1e-5)
