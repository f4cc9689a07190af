"""Any system in the training loop: a tiny one of two stages, two stores and scores of clips."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from typer.testing import CliRunner

import tokenreel
import tokenreel.fuse
from tests.fuse.tiny import tiny_config, write_store
from tests.fuse.two_stage import OPTIM, TwoStage, TwoStageConfig
from tokenreel.cache.embeddings import read_embeddings
from tokenreel.cache.errors import UsageError, WrongIdentity
from tokenreel.cache.read.store_reader import open_store
from tokenreel.cache.read.store_set import StoreSet
from tokenreel.fuse.config import SYSTEMS, DataConfig, FuseConfig, parse_config
from tokenreel.fuse.embed.embed import embed_run
from tokenreel.fuse.runs.checkpoint import load_checkpoint
from tokenreel.fuse.runs.provenance import read_provenance
from tokenreel.fuse.systems.base import (
    Stage,
    StreamShape,
    System,
    make_source,
    sampling_of,
    shapes_of,
    wanted_of,
)
from tokenreel.fuse.train import run as run_module
from tokenreel.fuse.train.train import Job, train, train_together
from tokenreel.pipeline.cli.fuse import app as fuse

ACTIONS = ("act", "dance")


@pytest.fixture(autouse=True)
def two_stage(monkeypatch):
    monkeypatch.setitem(SYSTEMS.ours, "two-stage", "tests.fuse.two_stage:TwoStage")


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Two stores of the same clips: another backbone and another codec."""
    folder = tmp_path_factory.mktemp("stores")
    return {
        "frames": write_store(folder / "a", actions=ACTIONS),
        "clips": write_store(folder / "b", actions=ACTIONS, codec="int4", architecture="other"),
    }


def run(stores, out, **changes):
    return train(TwoStageConfig(**changes), store=stores, out=out, device="cpu", progress=False)


def same_bytes(one, other):
    for name in ("checkpoint.pt", "metrics.jsonl"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def test_a_system_of_two_stages_trains_one_after_the_other(stores, tmp_path):
    result = run(stores, tmp_path / "run")
    lines = [json.loads(line) for line in (result.path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["epoch"], line["stage"]) for line in lines] == [
        (0, "align"),
        (1, "align"),
        (2, "classify"),
        (3, "classify"),
    ]
    rates = [line["lr"] for line in lines]
    assert rates[:2] == rates[2:]  # each stage has its own schedule
    assert load_checkpoint(result.path / "checkpoint.pt")["position"] == [4, 0]


def test_a_stage_trains_its_own_parameters_with_the_settings_of_their_groups(stores, tmp_path):
    whole = run(stores, tmp_path / "whole")
    first = run(stores, tmp_path / "first", optim=OPTIM.with_(epochs=0))
    states = [load_checkpoint(one.path / "checkpoint.pt") for one in (whole, first)]
    for name, value in states[0]["model"].items():
        assert torch.equal(value, states[1]["model"][name]) == (not name.startswith("head."))
    weight, bias = states[0]["optimiser"]["param_groups"]
    assert weight["lr"] == pytest.approx(bias["lr"] / 10)
    assert (weight["weight_decay"], bias["weight_decay"]) == (OPTIM.weight_decay, 0.0)


@pytest.mark.parametrize("place", [(0, 2), (1, 1), (2, 0), (2, 2), (3, 1)])
def test_it_resumes_in_either_stage_to_the_same_bytes(stores, tmp_path, place, monkeypatch):
    often = {name: OPTIM.with_(checkpoint_minutes=0) for name in ("optim", "align")}
    run(stores, tmp_path / "whole", **often)
    save = run_module.Run.save

    def stop_after(self):
        save(self)
        if self.position == place:
            raise KeyboardInterrupt

    monkeypatch.setattr(run_module.Run, "save", stop_after)
    with pytest.raises(KeyboardInterrupt):
        run(stores, tmp_path / "cut", **often)
    monkeypatch.setattr(run_module.Run, "save", save)
    run(stores, tmp_path / "cut", **often)
    same_bytes(tmp_path / "whole", tmp_path / "cut")


def test_runs_in_lock_step_end_as_alone_whatever_the_epochs_of_a_stage(stores, tmp_path):
    longer = TwoStageConfig(align=OPTIM.with_(epochs=3), seed=1)
    configs = {"a": TwoStageConfig(), "b": longer}
    for name, config in configs.items():
        train(config, store=stores, out=tmp_path / "alone" / name, device="cpu", progress=False)
    jobs = [Job(config, stores, tmp_path / name) for name, config in configs.items()]
    jobs.append(Job(tiny_config(), stores["frames"], tmp_path / "c"))  # of another system
    assert [one.error for one in train_together(jobs, device="cpu", progress=False)] == [None] * 3
    for name in configs:
        same_bytes(tmp_path / "alone" / name, tmp_path / name)


class Plain(System):
    """A system that has the defaults."""

    config = TwoStageConfig


@pytest.mark.parametrize("size", [2, 3])
def test_a_system_steps_through_all_clips_a_batch_at_a_time(size):
    config = TwoStageConfig(data=DataConfig(num_frames=4, batch_clips=size))
    batches = Plain().batches(range(6), config, np.random.default_rng(0))
    assert [len(batch) for batch in batches] == [size] * (6 // size)
    assert sorted(clip for batch in batches for clip in batch) == list(range(6))
    assert Plain().stages(config) == [Stage("train", config)]


def test_each_model_is_embedded_by_its_own_config(monkeypatch):
    monkeypatch.setattr(Plain, "embed", lambda self, model, config, source, record: (model, config))
    pairs = [("model", TwoStageConfig()), ("other", TwoStageConfig(hidden=5))]
    assert list(Plain().embed_each(pairs, None, None)) == pairs


def test_a_system_without_groups_of_its_own_trains_what_is_not_frozen():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))
    model[0].requires_grad_(False)
    trained = Plain().parameters(model, TwoStageConfig())
    assert [id(one) for one in trained] == [id(one) for one in model[1].parameters()]


def test_what_any_stage_reads_is_read_and_the_first_store_always(stores, monkeypatch):
    wanted = TwoStage.wanted

    def of_the_last_stage(self, config, stores):
        found = wanted(self, config, stores)
        return {"clips": found["clips"]} if config.stage == "classify" else {}

    monkeypatch.setattr(TwoStage, "wanted", of_the_last_stage)
    joined = StoreSet({name: open_store(path) for name, path in stores.items()})
    found = dict(wanted_of([TwoStageConfig()], joined))
    assert list(found) == ["frames", "clips"]
    assert (found["frames"].blocks, found["clips"].blocks) == ((), (3,))


def test_a_model_is_built_for_the_sizes_of_each_store_and_its_classes(stores, tmp_path):
    narrow = write_store(
        tmp_path / "narrow", actions=ACTIONS, codec="pool2+int8", blocks=(2,), dim=4
    )
    joined = StoreSet({"frames": open_store(stores["frames"]), "clips": open_store(narrow)})
    shapes = shapes_of(make_source(joined, [TwoStageConfig()], torch.device("cpu")))
    assert shapes.streams == {
        "frames": StreamShape((1, 3), 8, (2, 3)),
        "clips": StreamShape((2,), 4, (1, 2)),
    }
    assert (shapes.first.dim, shapes.num_classes) == (8, 2)


@pytest.mark.parametrize(("lacking", "kind"), [(0, "ram"), (1, "disk")])
def test_the_codes_of_all_stores_are_within_the_bound(stores, lacking, kind):
    joined = StoreSet({name: open_store(path) for name, path in stores.items()})
    configs, cpu = [TwoStageConfig()], torch.device("cpu")
    whole = make_source(joined, configs, cpu, memory_bytes=10**9)
    bytes_of = {name: source.placement.num_bytes for name, source in whole.streams.items()}
    assert min(bytes_of.values()) > 1
    most = sum(bytes_of.values()) - lacking
    bounded = make_source(joined, configs, cpu, memory_bytes=most)
    kinds = {name: source.placement.kind for name, source in bounded.streams.items()}
    assert kinds == {"frames": "ram", "clips": kind}


def test_scores_of_a_clip_are_one_row(stores, tmp_path):
    found = read_embeddings(run(stores, tmp_path / "run").embeddings)
    assert found.unit == "clip"
    assert len(found.clips) == 7
    assert {clip.embeddings.shape for clip in found.clips} == {(1, 2)}


def test_every_store_is_in_the_provenance_and_is_required_again(stores, tmp_path):
    path = run(stores, tmp_path / "run").path
    about = read_provenance(path)["stores"]
    assert set(about) == {"frames", "clips"}
    assert about["frames"]["fingerprint"] != about["clips"]["fingerprint"]
    assert about["clips"]["identity"]["architecture"] == "other"

    cpu = torch.device("cpu")
    embed_run(path, stores, tmp_path / "again.h5", device=cpu, progress=False)
    ends = [read_embeddings(file).clips for file in (path / "embeddings.h5", tmp_path / "again.h5")]
    for one, other in zip(*ends, strict=True):
        np.testing.assert_array_equal(one.embeddings, other.embeddings)

    told = r"reads the stores clips, frames, given one store: give --store clips=PATH --store fr"
    with pytest.raises(UsageError, match=told):
        embed_run(path, stores["frames"], tmp_path / "no.h5", device=cpu, progress=False)
    swapped = {"frames": stores["frames"], "clips": stores["frames"]}
    with pytest.raises(WrongIdentity, match=r"architecture: run has 'other', store has 'tiny'"):
        embed_run(path, swapped, tmp_path / "no.h5", device=cpu, progress=False)
    with pytest.raises(WrongIdentity, match=r"stores\.clips: run has"):
        run(swapped, path)


def test_a_part_of_the_weights_of_another_run_is_taken(stores, tmp_path):
    first = run(stores, tmp_path / "first")
    second = run(stores, tmp_path / "second", init=str(first.path), align=OPTIM.with_(epochs=0))
    states = [load_checkpoint(one.path / "checkpoint.pt")["model"] for one in (first, second)]
    for name in states[0]:
        assert torch.equal(states[0][name], states[1][name]) == (not name.startswith("head."))
    with pytest.raises(WrongIdentity, match=r"another model:\n  clips\.bias: it has \(4,\), asked"):
        run(stores, tmp_path / "third", init=str(first.path), hidden=5)


def test_a_system_is_trained_by_its_name_from_the_command_line(stores, tmp_path):
    words = [f"--store={name}={path}" for name, path in stores.items()]
    out = tmp_path / "run"
    result = CliRunner().invoke(
        fuse, ["train", "two-stage", "align.epochs=1", *words, "--out", str(out)]
    )
    assert result.exit_code == 0, result.output
    assert parse_config(read_provenance(out)["config"]) == TwoStageConfig(
        align=OPTIM.with_(epochs=1)
    )
    result = CliRunner().invoke(fuse, ["embed", str(out), *words])
    assert result.exit_code == 0, result.output
    assert (out / "embeddings-a.h5").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["two-stag"], r"no recipe 'two-stag', did you mean two-stage\?.*tokenreel\.sys"),
        (["two-stage"], r"system two-stage has no data set: give --store"),
        (
            ["sample", "system=two-stage"],
            r"system=two-stage: recipe sample is of mvformer: type `fu",
        ),
        (
            ["sample", "--store=frames=A", "--store=B"],
            r"--store frames=A --store B: of several stores each has a name",
        ),
        (["sample", "--store=a=A", "--store=a=B"], r"--store a=PATH is given twice"),
    ],
)
def test_wrong_words_are_told(words, told):
    result = CliRunner().invoke(fuse, ["train", *words])
    assert isinstance(result.exception, UsageError)
    assert re.search(told, str(result.exception))


def test_runs_share_a_stream_where_all_but_the_optimiser_is_the_same():
    config = TwoStageConfig()
    first = sampling_of(config)
    assert sampling_of(config.with_(optim=OPTIM.with_(lr=0.5))) == first
    assert sampling_of(config.with_(hidden=5)) != first
    assert sampling_of(tiny_config(data=config.data)) != first  # another system draws otherwise


def test_stores_that_a_system_refuses_are_refused_before_a_run_begins(stores, tmp_path):
    with pytest.raises(UsageError, match="system=two-stage reads the stores frames and clips"):
        run({**stores, "more": stores["clips"]}, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_system_of_one_store_refuses_several(stores, tmp_path):
    told = r"system=mvformer reads one store, 2 were given \(frames, clips\): give one --store"
    with pytest.raises(UsageError, match=told):
        train(tiny_config(), store=stores, out=tmp_path / "run", device="cpu", progress=False)


def test_stores_that_do_not_hold_the_same_clips_are_refused_with_the_first_three(tmp_path):
    stores = {"a": write_store(tmp_path / "a", train=7), "b": write_store(tmp_path / "b", train=2)}
    words = [f"--store={name}={path}" for name, path in stores.items()]
    result = CliRunner().invoke(fuse, ["train", "two-stage", *words])
    told = str(result.exception)
    assert told.count("is only in a") == 3
    assert "and 2 more" in told


def test_the_system_of_a_config_is_found_and_is_that_of_mv_former_without():
    assert isinstance(parse_config({}), FuseConfig)
    assert isinstance(parse_config({"system": "two-stage"}), TwoStageConfig)
    with pytest.raises(UsageError, match=r"no system 'mvforme', did you mean mvformer\?.*tokenre"):
        parse_config({"system": "mvforme"})
    with pytest.raises(ValidationError):
        parse_config({"system": "two-stage", "pooling": {}})


@pytest.mark.parametrize("room", ["train", "runs", "embed", "distributed", "data"])
def test_the_training_loop_knows_no_system(room):
    folder = Path(tokenreel.fuse.__file__).parent / room
    for path in folder.glob("*.py"):
        found = re.findall(r"pooling|temporal|lstp|mvformer", path.read_text(), re.IGNORECASE)
        assert found == [], path


def test_the_library_trains_and_embeds_on_stores_by_name(stores, tmp_path):
    result = tokenreel.train_model(
        stores, tmp_path / "run", recipe="two-stage", device="cpu", progress=False
    )
    file = tokenreel.embed_store(result.path, stores, device="cpu", progress=False)
    assert read_embeddings(file).unit == "clip"
