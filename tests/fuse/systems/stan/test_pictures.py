"""Rows of STAN that train their CNN from the pictures of scenes."""

import hashlib
import json
import re

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from tests.fuse.distributed.test_distributed import fork_processes
from tests.fuse.systems.stan.pixel_stores import jpeg, write_pixel_store, write_scenes
from tokenreel.cache.embeddings import read_embeddings
from tokenreel.cache.errors import Damaged, UsageError, WrongIdentity
from tokenreel.cache.read.pictures import decode_jpegs
from tokenreel.cache.read.store_reader import open_store
from tokenreel.cache.read.store_set import StoreSet
from tokenreel.evaluate.commands.suite import evaluate_files
from tokenreel.evaluate.protocol import EvaluateConfig
from tokenreel.fuse.config import OptimConfig
from tokenreel.fuse.data.frames import Frames, Piece
from tokenreel.fuse.data.placement import choose_placement, jpeg_bytes
from tokenreel.fuse.embed.embed import embed_run
from tokenreel.fuse.runs.checkpoint import load_checkpoint
from tokenreel.fuse.systems.base import make_source, require_stores, system_of
from tokenreel.fuse.systems.stan import cnn_library, pictures
from tokenreel.fuse.systems.stan.config import CnnConfig, PicturesConfig, StanConfig
from tokenreel.fuse.systems.stan.pictures import (
    SceneCnn,
    SmallCnn,
    centre_crops,
    draw_crops,
    load_first_weights,
)
from tokenreel.fuse.train import run as run_module
from tokenreel.fuse.train.train import Job, train, train_together
from tokenreel.pipeline.cli import fuse
from tokenreel.pipeline.override import apply_overrides
from tokenreel.pipeline.phases.training import train_recipe

CPU = torch.device("cpu")
SMALL = {"name": "small", "weights": "random:0"}
SCENES = {**{f"train{i}": 3 for i in range(5)}, "train5": 1, "val0": 3, "val1": 1}
TAGS = {
    clip: (("bright",) if number % 2 else ("dark",)) + ("any",)
    for number, clip in enumerate(SCENES)
}


def level(clip_id, scene):
    return 190 if "bright" in TAGS[clip_id] else 60


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Tokens and pictures of both streams: what all rows of a table read."""
    top = tmp_path_factory.mktemp("stores")
    fields = {"tags": TAGS, "colour": level}
    return {
        "spatial_pixels": write_pixel_store(top / "centre", SCENES, **fields),
        "temporal_pixels": write_pixel_store(
            top / "all", SCENES, kind="all", frames=4, size=(20, 28), **fields
        ),
    }


def small(**changes):
    fields = {
        "data": StanConfig().data.with_(num_frames=3, batch_clips=2),
        "optim": OptimConfig(name="adamw", lr=3e-3, epochs=2),
        "spatial_cnn": SMALL,
        "temporal_cnn": SMALL,
        "encoder": {
            "kind": "transformer",
            "width": 16,
            "layers": 1,
            "heads": 2,
            "feed_forward": 16,
            "dropout": 0.1,
        },
        "head": {"widths": (16, 8), "dropout": 0.0},
    }
    return StanConfig(**{**fields, **changes})


def spatial(**changes):
    return small(streams="spatial", temporal_cnn={"name": "none"}, **changes)


def run(config, stores, out, **options):
    return train(config, store=stores, out=out, device="cpu", progress=False, **options)


def make_model(config, stores):
    source = make_source(StoreSet(stores), [config], CPU, placement="disk")
    from tokenreel.fuse.systems.base import shapes_of

    return system_of(config).build(config, shapes_of(source)), source


def test_crops_lie_in_the_pictures_and_have_the_areas_that_are_drawn():
    config = PicturesConfig(least_area=0.25)
    crops = draw_crops(np.random.default_rng(0), 4000, (30, 40), 24, config)
    for first, length in ((crops.top, 30), (crops.left, 40)):
        assert first.min() == 0
        assert (first + crops.side).max() == length
    assert (crops.side.min(), crops.side.max()) == (12, 24)
    assert (crops.side / 24).__pow__(2).mean() == pytest.approx(0.625, abs=0.01)
    assert crops.mirrored.mean() == pytest.approx(0.5, abs=0.03)
    still = PicturesConfig(least_area=1, flip=False)
    whole = draw_crops(np.random.default_rng(0), 50, (24, 24), 24, still)
    assert not whole.mirrored.any()
    assert (whole.top.any(), whole.left.any(), set(whole.side)) == (False, False, {24})
    centre = centre_crops(2, (30, 41), 24)
    assert [centre.top.tolist(), centre.left.tolist(), centre.side.tolist()] == [
        [3, 3],
        [8, 8],
        [24, 24],
    ]


def test_a_cnn_sees_the_normalised_crop_of_each_picture_mirrored_alike():
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (2, 3, 12, 16, 3), np.uint8))
    cnn = SceneCnn(CnnConfig(**SMALL))
    crops = centre_crops(2, (12, 16), cnn.side((12, 16)))
    crops.mirrored[1] = True
    found = cnn._cut(images, crops)
    plain = images.numpy()[:, :, :, 2:14]
    plain[1] = plain[1, :, :, ::-1]
    wanted = (plain / 255 - 0.5) / 0.25
    np.testing.assert_allclose(found.numpy().transpose(0, 1, 3, 4, 2), wanted, atol=1e-5)


def test_a_smaller_crop_is_resized_to_what_the_cnn_sees():
    ramp = torch.arange(32, dtype=torch.uint8)[:, None, None].expand(32, 32, 3)
    cnn = SceneCnn(CnnConfig(**SMALL))
    crops = centre_crops(1, (32, 32), 32)
    crops.top[0], crops.left[0], crops.side[0] = 8, 8, 16
    found = cnn._cut(ramp[None, None], crops)[0, 0, 0] * 0.25 * 255 + 0.5 * 255
    assert found.shape == (32, 32)
    np.testing.assert_allclose(found[2:-2, 0], np.arange(2, 30) / 2 + 8 - 0.25, atol=1e-3)


def test_a_cnn_of_single_pictures_gives_the_mean_of_its_vectors():
    config = CnnConfig(name="resnet18", weights="random:3")
    cnn = SceneCnn(config).eval()
    assert sum(p.numel() for p in cnn.parameters()) == 11_176_512
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (2, 3, 40, 36, 3), np.uint8))
    crops = centre_crops(2, (40, 36), cnn.side((40, 36)))
    with torch.inference_mode():
        whole = cnn(images, crops)
        each = [cnn(images[:, place : place + 1], crops) for place in range(3)]
    torch.testing.assert_close(whole, torch.stack(each).mean(dim=0), rtol=1e-4, atol=1e-5)
    assert cnn.side((256, 300)) == 224
    torch.manual_seed(9)
    again = SceneCnn(config)
    assert torch.equal(again.net.conv1.weight, cnn.net.conv1.weight)  # of its seed alone
    named = dict(cnn.net.named_modules())
    assert cnn.last_map in named


def test_a_stream_learns_a_tag_that_its_pictures_show_and_moves_the_cnn(stores, tmp_path):
    config = spatial(optim=OptimConfig(name="adamw", lr=5e-3, epochs=12))
    result = run(config, stores["spatial_pixels"], tmp_path / "run")
    found = read_embeddings(result.embeddings)
    assert (found.unit, found.class_names) == ("clip", ("any", "bright", "dark"))
    for clip in found.clips:
        assert (clip.embeddings[0, 1] > 0.5) == bool(clip.targets[1]), clip.clip_id
    state = load_checkpoint(result.path / "checkpoint.pt")["model"]
    first = SceneCnn(CnnConfig(**SMALL)).state_dict()
    moved = [name for name in first if not torch.equal(first[name], state[f"cnns.spatial.{name}"])]
    assert len(moved) == len(first)  # every weight, and the statistics of the batch norms
    described = json.loads((result.path / "run.json").read_text())
    told = "crops of scenes, 60% of the area or more, half of them mirrored"
    assert described["augmentation"] == told
    assert described["first_weights_sha256"] == {"spatial": "random:0"}


def test_pictures_are_cut_by_the_seed_of_the_run_and_by_epoch_and_not_in_evaluation(stores):
    config = small()
    model, source = make_model(config, stores)
    gather = torch.tensor([[0, 1, 1], [2, 3, 4]])
    frames = {
        name: stream.frames("train0", np.arange(3)) for name, stream in source.streams.items()
    }
    five = {
        name: Frames({}, {}, None, None, pictures=found.pictures[[0, 1, 2, 0, 1]])
        for name, found in frames.items()
    }

    def crops(seed, own=slice(0, 2), part=gather):
        rng = np.random.default_rng([seed, 0, 0])
        return model.draw_crops(five, part, num_clips=3, own=own, rng=rng)

    one, same, other = crops(0), crops(0), crops(1)
    for stream in ("spatial", "temporal"):
        assert len(one[stream].top) == 5
        assert np.array_equal(one[stream].side, same[stream].side)
        assert not np.array_equal(one[stream].side, other[stream].side)
    # the second clip alone, in a process that has the clips from the second on
    alone = crops(0, slice(1, 3), torch.tensor([[0, 1, 2], [3, 4, 4]]))
    assert np.array_equal(alone["temporal"].top[:3], one["temporal"].top[2:])
    centre = model.centre_crops(five)
    assert centre["spatial"].top.tolist() == [0] * 5
    assert centre["temporal"].left.tolist() == [4] * 5


def test_it_resumes_in_an_epoch_to_the_same_bytes(stores, tmp_path, monkeypatch):
    config = small(optim=OptimConfig(name="adamw", epochs=2, checkpoint_minutes=0))
    loaded = []
    monkeypatch.setattr(pictures, "load_first_weights", loaded.append)
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
    assert len(loaded) == 4  # of two CNNs, where a run begins and not where it resumes
    for name in ("checkpoint.pt", "metrics.jsonl"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes()


def test_pictures_are_trained_from_in_half_precision_with_a_loss_of_held_out_clips(
    stores, tmp_path
):
    optim = OptimConfig(epochs=1, precision="bfloat16", evaluate_epochs=1)
    config = small(optim=optim, data=small().data.with_(held_out=0.4))
    path = run(config, stores, tmp_path / "run").path
    [line] = (path / "metrics.jsonl").read_text().splitlines()
    assert 0 < json.loads(line)["held_out_loss"] < 2
    weights = load_checkpoint(path / "checkpoint.pt")["model"].values()
    assert {part.dtype for part in weights} == {torch.float32, torch.int64}


def test_where_the_pictures_stay_changes_no_byte(stores, tmp_path):
    ends = {
        placement: run(small(), stores, tmp_path / placement, placement=placement).path
        for placement in ("disk", "ram")
    }
    one, two = ((end / "checkpoint.pt").read_bytes() for end in ends.values())
    assert one == two


def test_rows_of_pictures_and_rows_of_tokens_train_in_lock_step_and_end_as_alone(stores, tmp_path):
    tokens = {
        "spatial": write_scenes(tmp_path / "s", SCENES, tags=TAGS),
        "temporal": write_scenes(tmp_path / "t", SCENES, tags=TAGS, dim=4),
        "spatial_pixels": stores["spatial_pixels"],
    }
    none = {"name": "none"}
    configs = {
        "small": small(temporal_cnn=none),
        "other seed": small(temporal_cnn=none, seed=1),
        "spatial": spatial(),
        "frozen": small(spatial_cnn=none, temporal_cnn=none),
    }
    assert len({config.stream for config in configs.values()}) == 1
    jobs = [Job(config, tokens, tmp_path / "step" / name) for name, config in configs.items()]
    found = train_together(jobs, device="cpu", progress=False)
    assert [result.error for result in found] == [None] * len(jobs)
    for name, config in configs.items():
        alone = run(config, tokens, tmp_path / "alone" / name).path
        assert (alone / "checkpoint.pt").read_bytes() == (
            tmp_path / "step" / name / "checkpoint.pt"
        ).read_bytes(), name


@pytest.mark.slow
@pytest.mark.parametrize("batch", [3, 1])  # of one clip: the second process has none
def test_two_processes_give_the_numbers_of_one_at_the_same_global_batch(tmp_path, batch):
    scenes = {f"train{i}": 3 for i in range(3)} | {"val0": 3}
    tags = {clip: ("a", "b")[number % 2 :] for number, clip in enumerate(scenes)}
    store = write_pixel_store(tmp_path / "store", scenes, tags=tags)
    words = ["streams=spatial", "data.num_frames=3", f"data.batch_clips={batch}"]
    words += [
        "optim.epochs=2",
        "optim.eps=1",
        "optim.lr=0.03",
        "encoder.width=8",
        "encoder.layers=1",
    ]
    words += ["head.widths=6,4", "spatial_cnn.name=small", "spatial_cnn.weights=random:0"]
    named = {"spatial": store}
    one, two = (tmp_path / name for name in ("one", "two"))
    train_recipe("stan", words, store=named, out=one, device="cpu", progress=False)
    done = fork_processes(words, named, two, processes=2, recipe="stan")
    assert done.returncode == 0, done.stderr
    lines = [(path / "metrics.jsonl").read_text().splitlines() for path in (one, two)]
    for here, there in zip(*lines, strict=True):
        assert json.loads(here) == pytest.approx(json.loads(there), rel=1e-5)
    states = [load_checkpoint(path / "checkpoint.pt")["model"] for path in (one, two)]
    torch.testing.assert_close(*states, rtol=1e-4, atol=1e-5)


def test_a_store_without_pictures_is_refused_with_the_command_that_makes_one(tmp_path):
    tokens = write_scenes(tmp_path / "tokens", SCENES, tags=TAGS)
    told = (
        "spatial_cnn.name=small trains a CNN from the pictures of scenes, .* keeps none: `extract "
        "run tiny --root VIDEOS frames=scenes:scenes/tiny pixels=centre --out STORE` makes a store"
    )
    with pytest.raises(UsageError, match=told):
        run(spatial(), tokens, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    named = {"temporal": tokens}
    with pytest.raises(UsageError, match="give --store spatial_pixels=PATH --store temporal=PATH"):
        run(small(temporal_cnn={"name": "none"}), named, tmp_path / "run")


def test_one_picture_of_a_scene_is_not_what_a_video_cnn_is_trained_from(stores, tmp_path):
    video = {"name": "r2plus1d_18", "weights": "random:0"}
    config = small(streams="temporal", spatial_cnn={"name": "none"}, temporal_cnn=video)
    told = (
        "temporal_cnn.name=r2plus1d_18 trains a CNN from the pictures of scenes, several of each, "
        ".* keeps one: `extract run tiny --root VIDEOS frames=scenes:scenes/tiny pixels=all"
    )
    with pytest.raises(UsageError, match=told):
        require_stores(config, open_store(stores["spatial_pixels"]))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["spatial_cnn.name=small"], "name=small has no trained weights: set weights=random:0"),
        (["spatial_cnn.weights=random"], "random:SEED, such as random:0"),
        (["spatial_cnn.weights=random:x"], "random:SEED, such as random:0"),
        (
            ["streams=temporal", "spatial_cnn.name=resnet18"],
            "spatial_cnn.name=resnet18 is of a stream that streams=temporal leaves out",
        ),
        (["spatial_cnn.name=resnet19"], "'seresnet50', 'r2plus1d_18' or 'small', got 'resnet19'"),
        (["pictures.least_area=0"], "greater than 0"),
    ],
)
def test_what_does_not_fit_together_is_refused(words, told):
    with pytest.raises(UsageError, match=told):
        apply_overrides(StanConfig(), words, root="fuse")


def test_first_weights_are_those_of_a_file_with_its_classifier_or_none_of_another_cnn(tmp_path):
    from torchvision.models import resnet18

    torch.manual_seed(5)
    state = resnet18(weights=None).state_dict()
    old = {name: value for name, value in state.items() if "num_batches" not in name}
    path = tmp_path / "resnet18.pth"
    torch.save(old, path)
    cnn = SceneCnn(CnnConfig(name="resnet18", weights=str(path)))
    load_first_weights(cnn)
    assert torch.equal(cnn.net.layer4[1].conv2.weight, state["layer4.1.conv2.weight"])
    torch.save({**old, "conv1.weight": torch.zeros(3, 3)}, path)
    told = (
        "not of resnet18: 1 tensors differ, the first is conv1.weight, of (3, 3) in place of (64, "
        "3, 7, 7): give a file of the weights of resnet18, named as in torchvision.models"
    )
    with pytest.raises(UsageError, match=re.escape(told)):
        load_first_weights(cnn)
    path.write_bytes(b"no weights")
    with pytest.raises(UsageError, match="not a file of weights"):
        load_first_weights(cnn)


def test_pretrained_weights_that_cannot_be_loaded_say_what_to_give(monkeypatch):
    def offline(name, **_):
        raise OSError("no network\nof any kind")

    cnn = SceneCnn(CnnConfig(name="resnet18"))
    monkeypatch.setattr(cnn_library, "make_cnn", offline)
    told = r"weights=pretrained: resnet18 could not be loaded \(OSError: no network\); .*random"
    with pytest.raises(UsageError, match=told):
        load_first_weights(cnn)


def test_first_weights_of_a_file_are_loaded_and_are_part_of_the_run(stores, tmp_path):
    file, one_step = tmp_path / "small.pth", OptimConfig(name="adamw", lr=1e-9, epochs=1)
    torch.manual_seed(1)
    net = SmallCnn()
    torch.save(net.state_dict(), file)
    cnn = {"name": "small", "weights": str(file)}
    config = spatial(spatial_cnn=cnn, optim=one_step)
    path = run(config, stores["spatial_pixels"], tmp_path / "run").path
    state = load_checkpoint(path / "checkpoint.pt")["model"]
    wanted = net.stages[0].weight.detach()
    torch.testing.assert_close(state["cnns.spatial.net.stages.0.weight"], wanted, atol=1e-6, rtol=0)
    nothing = spatial(spatial_cnn=cnn, optim=OptimConfig(epochs=0))
    untrained = run(nothing, stores["spatial_pixels"], tmp_path / "none")
    again = tmp_path / "e.h5"
    embed_run(untrained.path, stores["spatial_pixels"], again, device=CPU, progress=False)
    files = [read_embeddings(path).clips for path in (untrained.embeddings, again)]
    for here, there in zip(*files, strict=True):
        np.testing.assert_array_equal(here.embeddings, there.embeddings)
    torch.save(SmallCnn().state_dict(), file)
    with pytest.raises(WrongIdentity, match=r"first_weights_sha256\.spatial"):
        run(config, stores["spatial_pixels"], tmp_path / "run")
    file.unlink()
    with pytest.raises(UsageError, match=r"spatial_cnn.weights=.*small.pth: no such file: give"):
        run(config, stores["spatial_pixels"], tmp_path / "run")


@pytest.fixture
def library(monkeypatch):
    """A library that gives pre-trained weights of a version, or none without a network."""
    from torchvision.models import resnet18

    state = {"version": 1}

    def make(name, *, pretrained):
        if pretrained and state["version"] is None:
            raise OSError("no network")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(state["version"] or 0)
            return resnet18(weights=None)

    monkeypatch.setattr(cnn_library, "make_cnn", make)
    monkeypatch.setattr(cnn_library, "pretrained_sha256", cnn_library.pretrained_sha256.__wrapped__)
    return state


def test_pretrained_weights_are_known_by_the_hash_of_their_tensors_and_by_their_name(
    stores, tmp_path, library, caplog
):
    config = spatial(spatial_cnn={"name": "resnet18"}, optim=OptimConfig(epochs=0))
    out, store = tmp_path / "run", stores["spatial_pixels"]
    path = run(config, store, out).path
    described = json.loads((path / "run.json").read_text())
    name = "ResNet18_Weights.IMAGENET1K_V1 (resnet18-f37072fd.pth)"
    assert described["first_weights"] == {"spatial": name}
    [digest] = described["first_weights_sha256"].values()
    hasher = hashlib.sha256()
    for part, tensor in sorted(
        cnn_library.make_cnn("resnet18", pretrained=True).state_dict().items()
    ):
        if not part.startswith("fc."):
            hasher.update(f"{part}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
            hasher.update(tensor.numpy().tobytes())
    assert digest == hasher.hexdigest()
    library["version"] = 2
    with pytest.raises(WrongIdentity, match=rf"first_weights_sha256.spatial: run has '{digest}'"):
        run(config, store, out)
    library["version"] = None  # it was trained: weights are not read again
    assert run(config, store, out).was_done
    assert "first weights cannot be compared" in caplog.text
    with pytest.raises(UsageError, match=r"resnet18 could not be loaded \(OSError: no network"):
        run(config, store, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_the_command_explains_a_cnn_that_was_trained_by_the_pictures_of_its_store(stores, tmp_path):
    named = {name: stores[name] for name in ("spatial_pixels", "temporal_pixels")}
    path = run(small(), named, tmp_path / "run").path
    words = [f"--store={name}={store}" for name, store in named.items()]
    words += ["--clips", "val0,val1", "--threshold", "0.2", "--out", str(tmp_path / "maps")]
    done = CliRunner().invoke(fuse.app, ["explain", str(path), *words, "--device", "cpu"])
    assert done.exit_code == 0, (done.output, done.exception)
    assert "val0: " in done.output
    assert "no map of" not in done.output
    embedded = {clip.clip_id: clip for clip in read_embeddings(path / "embeddings.h5").clips}
    for clip, count in (("val0", 3), ("val1", 1)):
        with np.load(tmp_path / "maps" / f"{clip}.npz") as made:
            for stream in ("spatial", "temporal"):
                assert made[f"map_{stream}"].shape[0] == count
                assert made[f"map_{stream}"].min() >= 0
                assert made[f"attention_{stream}"].sum() == pytest.approx(1, abs=1e-5)
            np.testing.assert_allclose(made["scores"], embedded[clip].embeddings[0], rtol=1e-4)
        assert (tmp_path / "maps" / f"{clip}.png").stat().st_size > 2000


def test_a_picture_that_is_none_names_the_clip(stores, tmp_path, monkeypatch):
    source = make_source(StoreSet({"s": stores["spatial_pixels"]}), [spatial()], CPU)
    piece = Piece("train1", 0, np.arange(2))
    assert source.read([piece]).pictures.shape == (2, 1, 32, 32, 3)
    small_one = jpeg(np.zeros((8, 8, 3), np.uint8))
    for strings, told in (
        ([b"\xff\xd8\xff\xd9", b"\xff\xd8\xff\xd9"], "a picture cannot be decoded"),
        ([small_one, small_one], r"has pictures \(1, 8, 8, 3\), the store is of \(1, 32, 32, 3\)"),
    ):
        source._kept.clear()
        monkeypatch.setattr(type(source.store), "read_bytes", lambda *_, s=strings: s)
        with pytest.raises(Damaged, match=f"clip 'train1'.*{told}"):
            source.read([piece])


def test_what_is_read_is_what_the_store_keeps_and_is_counted(stores):
    store = open_store(stores["temporal_pixels"])
    source = make_source(StoreSet({"s": store}), [small(streams="temporal", spatial_cnn={})], CPU)
    found = source.read([Piece("val0", 0, np.array([0, 2])), Piece("train3", 0, np.array([1]))])
    wanted = store.read_bytes("val0", "pixels", [0, 2])
    wanted += store.read_bytes("train3", "pixels", [1])
    assert np.array_equal(found.pictures.numpy(), np.stack([decode_jpegs(x) for x in wanted]))
    assert found.num_bytes == found.pictures.numel() == 3 * 4 * 20 * 28 * 3
    lengths = {c: sum(map(len, store.read_bytes(c, "pixels"))) for c in ("train0", "val1")}
    assert jpeg_bytes(store, [store.record(clip) for clip in lengths]) == sum(lengths.values())


def test_pictures_do_not_stay_on_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (10**9, 10**9))
    gpu = torch.device("cuda")
    assert choose_placement("auto", 100, gpu, memory_bytes=1000).kind == "gpu"
    for wanted in ("auto", "gpu"):
        found = choose_placement(wanted, 100, gpu, on_gpu=False, memory_bytes=1000)
        assert found.kind == "ram"


def test_another_store_of_pictures_is_scored_and_one_of_tokens_refused(stores, tmp_path):
    config = spatial(optim=OptimConfig(epochs=1))
    path = run(config, stores["spatial_pixels"], tmp_path / "run").path
    other = write_pixel_store(tmp_path / "other", {"val7": 2}, tags={"val7": ("bright",)})
    embed_run(path, other, tmp_path / "e.h5", device=CPU, progress=False)
    assert read_embeddings(tmp_path / "e.h5").clips[0].embeddings.shape == (1, 3)
    tokens = write_scenes(tmp_path / "tokens", SCENES, tags=TAGS)
    with pytest.raises(WrongIdentity, match="architecture: run has 'pixels:centre'"):
        embed_run(path, tokens, tmp_path / "no.h5", device=CPU, progress=False)


def test_tags_of_the_training_clips_alone_are_learned_and_what_has_none_is_said(tmp_path):
    tags = {clip: own for clip, own in TAGS.items() if clip.startswith("train")}
    store = write_pixel_store(tmp_path / "s", SCENES, tags=tags)
    path = run(spatial(optim=OptimConfig(epochs=1)), store, tmp_path / "run").embeddings
    report = evaluate_files(
        [path], config=EvaluateConfig(split="val"), out=tmp_path, progress=False
    )
    [problem] = report.problems
    assert problem.startswith("run: mean: map, ")
    assert problem.endswith("no clip of the split val has a tag")


def test_one_scene_of_one_position_says_what_to_set(tmp_path):
    scenes = {"train0": 1, "train1": 1, "train2": 1}
    store = write_pixel_store(
        tmp_path / "s", scenes, tags=dict.fromkeys(scenes, ("a",)), size=(8, 8)
    )
    config = spatial(data=StanConfig().data.with_(num_frames=3, batch_clips=1))
    told = "trained on 1 scene.s. at once, of 1 picture.s. of 8 pixels, .*data.batch_clips"
    with pytest.raises(UsageError, match=told):
        run(config, store, tmp_path / "run")
