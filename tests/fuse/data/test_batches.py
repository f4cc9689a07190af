"""Batches: who is trained on, in which order, and that each distinct frame is read once."""

import itertools
import pickle
import threading
import weakref

import numpy as np
import pytest
import torch

from tests.fuse.tiny import tiny_config, write_store
from tokenreel.cache.embeddings import read_embeddings
from tokenreel.cache.errors import UsageError
from tokenreel.cache.read.store_reader import open_store
from tokenreel.fuse.config import POOLINGS, DataConfig
from tokenreel.fuse.data import batches
from tokenreel.fuse.data.batches import Prefetch, make_batch, stream_batches
from tokenreel.fuse.data.epoch_plan import hold_out, plan_epoch
from tokenreel.fuse.systems.base import make_source, sampling_of
from tokenreel.fuse.systems.mvformer.model import build_model
from tokenreel.fuse.systems.mvformer.requirements import pooled_dim
from tokenreel.fuse.train.train import train

CPU = torch.device("cpu")


def source_of(store, **options):
    return make_source(open_store(store), [tiny_config()], CPU, **options)


def sampling(**changes):
    return sampling_of(tiny_config(data=DataConfig(num_frames=6, batch_clips=2, **changes)))


def test_each_distinct_frame_is_read_once_and_gathered_to_every_position(store):
    source = source_of(store)
    clips = source.store.select(split="train")
    batch = make_batch(source, clips, [0, 3], sampling(), 0)
    frames = batch.frames.tokens()
    assert len(frames) == sum(len(np.unique(steps)) for steps in batch.steps.numpy())
    for clip, steps, gather in zip(batch.clip_ids, batch.steps, batch.gather, strict=True):
        for view_steps, view_gather in zip(steps, gather, strict=True):
            every = source.frames(clip, np.arange(source.store.record(clip).num_frames)).tokens()
            torch.testing.assert_close(frames[view_gather], every[view_steps], rtol=0, atol=0)


@pytest.mark.parametrize("placement", ["disk", "ram"])
@pytest.mark.parametrize("kind", ["lstp", "cls"])
def test_a_process_may_have_no_clip_of_a_small_batch(store, placement, kind):
    config = tiny_config(pooling=POOLINGS[kind]())
    source = make_source(open_store(store), [config], CPU, placement=placement)
    clips = source.store.select(split="train")
    model = build_model(
        config, dim=pooled_dim(config, source.store), cls_dim=source.store.identity.dim
    ).eval()
    batch = make_batch(source, clips, [2], sampling(), 0, rank=1, world=2)
    assert (batch.own, len(batch.clip_ids), tuple(batch.gather.shape)) == (
        slice(1, 1),
        1,
        (0, 2, 6),
    )
    tokens = batch.frames.tokens() if kind == "lstp" else None
    entities = model.pool(tokens, batch.frames.cls, None)[batch.gather.flatten(0, 1)]
    assert tuple(model.fuse(entities, torch.ones(0, 6, dtype=torch.bool)).shape) == (0, 6, 4)


@pytest.mark.parametrize(("views", "among"), [("all", {0, 1, 2}), ("augmented", {1, 2})])
def test_windows_are_drawn_from_two_different_stored_views_of_those_requested(
    tmp_path, views, among
):
    path = write_store(tmp_path / "s", views=3, codec="fp16")
    config = tiny_config(data=DataConfig(num_frames=6, batch_clips=2, views=views))
    source = make_source(open_store(path), [config], CPU)
    clips = source.store.select(split="train")
    used = set()
    for epoch in range(6):
        batch = make_batch(source, clips, [1, 4], sampling_of(config), epoch)
        frames = batch.frames.tokens()
        for clip, steps, gather in zip(batch.clip_ids, batch.steps, batch.gather, strict=True):
            found = []
            for crop_steps, crop_gather in zip(steps, gather, strict=True):
                read = frames[crop_gather]
                same = [
                    view
                    for view in range(3)
                    if torch.equal(
                        source.frames(clip, crop_steps.unique().numpy(), view=view).tokens(),
                        read[crop_steps.diff(prepend=-torch.ones(1)) > 0],
                    )
                ]
                found += same
            assert len(found) == len(set(found)) == 2
            used |= set(found)
    assert used == among
    clean = make_batch(source, clips, [1, 4], sampling(), 0)
    every = source.frames("train1", np.arange(9)).tokens()
    torch.testing.assert_close(clean.frames.tokens()[clean.gather[0]], every[clean.steps[0]])


@pytest.mark.parametrize(
    ("views", "held", "words"),
    [
        ("all", 1, "data.views=all wants augmented views, .* has the clean one"),
        ("augmented", 1, "data.views=augmented wants two augmented views, .* has the clean one"),
        ("augmented", 2, "wants two augmented views, .* has 1 besides the clean one"),
    ],
)
def test_augmented_views_that_the_store_lacks_are_refused_with_the_command(
    tmp_path, views, held, words
):
    config = tiny_config(data=DataConfig(num_frames=6, views=views))
    store = write_store(tmp_path / "s", views=held)
    told = words + ": `extract run tiny .* views=2.* --out STORE` makes"
    with pytest.raises(UsageError, match=told):
        train(config, store=store, out=tmp_path / "run", device="cpu", progress=False)
    assert not (tmp_path / "run").exists()


def test_a_run_says_what_augmentation_it_had(tmp_path):
    path = write_store(tmp_path / "s", views=3)
    for views, words in (
        ("all", "2 stored view(s) and the clean one"),
        ("augmented", "2 stored view(s)"),
        ("clean", "none"),
    ):
        config = tiny_config(data=DataConfig(num_frames=6, batch_clips=2, views=views))
        result = train(config, store=path, out=tmp_path / views, device="cpu", progress=False)
        assert read_embeddings(result.embeddings).provenance["augmentation"] == words


def test_a_clip_shorter_than_a_window_is_padded_with_its_last_frame(store):
    source = source_of(store)
    clips = source.store.select(split="train")
    short = sampling_of(tiny_config(data=DataConfig(num_frames=12, batch_clips=1)))
    batch = make_batch(source, clips, [0], short, 0)
    assert source.store.record(batch.clip_ids[0]).num_frames == 6
    assert not batch.valid.all()
    assert (batch.steps[~batch.valid] == 5).all()


def test_every_clip_is_in_an_epoch_once_and_no_batch_has_one_clip(store):
    clips = open_store(store).select(split="train")
    plan = plan_epoch(clips, sampling(), 0)
    assert sorted(itertools.chain.from_iterable(plan)) == list(range(5))
    assert [len(numbers) for numbers in plan] == [2, 3]
    assert plan_epoch(clips, sampling(), 0) == plan
    assert plan_epoch(clips, sampling(), 1) != plan


def test_another_data_seed_takes_other_clips_other_windows_and_other_stored_views(
    tmp_path, monkeypatch
):
    path = write_store(tmp_path / "s", train=40, views=3)
    draw = batches._draw_windows
    source = make_source(open_store(path), [tiny_config(data=DataConfig(views="all"))], CPU)
    clips = source.store.select(split="train")
    plans, steps, views = [], [], []
    for seed in (0, 0, 1):
        drawn = sampling(seed=seed, views="all")
        plans.append(plan_epoch(clips, drawn, 0))
        batch = make_batch(source, clips, range(30, 40), drawn, 0)
        steps.append(batch.steps.tolist())
        with monkeypatch.context() as patch:  # the same windows: views of the store alone differ
            same = sampling(views="all")
            patch.setattr(
                batches, "_draw_windows", lambda a, b, _, d, same=same: draw(a, b, same, d)
            )
            batch = make_batch(source, clips, range(10), drawn, 0)
        views.append(batch.frames.tokens()[batch.gather].tolist())
    for found in (plans, steps, views):
        assert found[0] == found[1] != found[2]


def test_a_stream_that_starts_later_gives_what_the_whole_one_gives_there(store):
    source = source_of(store)
    clips = source.store.select(split="train")
    whole = list(stream_batches(source, clips, sampling(), epochs=3))
    part = list(stream_batches(source, clips, sampling(), start=(1, 1), epochs=3))
    assert [place for place, _ in part] == [place for place, _ in whole[3:]]
    for (_, here), (_, there) in zip(part, whole[3:], strict=True):
        assert here.clip_ids == there.clip_ids
        torch.testing.assert_close(here.steps, there.steps)


def test_clips_of_one_group_are_on_one_side_and_the_same_whatever_the_seed(store):
    clips = open_store(store).select(split="train")
    kept, out = hold_out(clips, 0.4)
    assert len(out) == 2
    assert {clip.video for clip in kept}.isdisjoint(clip.video for clip in out)
    assert hold_out(clips, 0.4)[1] == out
    assert hold_out(clips, 0)[1] == []


def test_an_error_of_the_reader_is_raised_where_the_batch_is_taken():
    def items():
        yield 1
        raise OSError("gone")

    with Prefetch(items(), ahead=2) as ahead:
        found = iter(ahead)
        assert next(found) == 1
        with pytest.raises(OSError, match="gone"):
            next(found)


def test_a_stream_that_is_left_early_ends_its_thread():
    with Prefetch(iter(range(1000)), ahead=2) as ahead:
        assert next(iter(ahead)) == 0
    assert not ahead._thread.is_alive()


def test_a_stream_holds_nothing_that_it_has_handed_over():
    resumed, over = threading.Event(), threading.Event()

    def items():
        yield np.zeros(1)
        resumed.set()
        over.wait()

    with Prefetch(items(), ahead=1) as ahead:
        first = weakref.ref(next(ahead))
        assert resumed.wait(10)
        assert first() is None
        over.set()
        for _ in range(2):
            with pytest.raises(StopIteration):
                next(ahead)


def test_codes_that_stay_on_the_disk_are_not_kept_and_those_in_memory_are_within_the_bound(store):
    disk, ram = source_of(store, placement="disk"), source_of(store, placement="ram")
    for source in (disk, ram):
        for number in range(5):
            source.frames(f"train{number}", np.arange(6))
    assert disk._kept == {}
    kept = sum(
        part.nbytes
        for whole in ram._kept.values()
        for parts in (whole.codes, whole.scales)
        for part in parts.values()
    )
    assert 0 < kept <= ram.placement.num_bytes
    ram.frames("val0", np.arange(6))  # not of the split train: never kept
    assert ("val0", 0) not in ram._kept


@pytest.mark.parametrize("placement", ["disk", "ram"])
def test_a_source_goes_to_a_spawned_process_without_its_memory(store, placement):
    source = source_of(store, placement=placement)
    before = source.frames("train0", np.arange(3)).tokens()
    copy = pickle.loads(pickle.dumps(source))
    assert copy._kept == {}
    torch.testing.assert_close(copy.frames("train0", np.arange(3)).tokens(), before)


@pytest.mark.parametrize("codec", ["fp16", "int8", "int4", "pool2+int8"])
def test_tokens_of_every_codec_are_those_that_the_codec_decodes(tmp_path, codec):
    source = source_of(write_store(tmp_path / "s", codec=codec, train=1))
    frames = np.array([0, 2, 5])
    stored = source.store.read("train0", frames)
    wanted = np.concatenate([stored.decode(1), stored.decode(3)], axis=-1)
    np.testing.assert_allclose(source.frames("train0", frames).tokens(), wanted, atol=1e-5)
