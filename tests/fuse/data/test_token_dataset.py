"""TokenDataset: the tokens of a store to train a model of one's own."""

import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from tests.fuse.tiny import tiny_config, write_store
from tokenreel.cache.errors import UsageError
from tokenreel.cache.read.store_reader import open_store
from tokenreel.fuse.data.batches import make_batch
from tokenreel.fuse.data.epoch_plan import plan_epoch
from tokenreel.fuse.data.token_dataset import ClipSampler, TokenDataset
from tokenreel.fuse.systems.base import make_source, sampling_of


@pytest.fixture(scope="module")
def views_store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("views") / "s", views=3)


def decoded(store, clip_id, frames, *, view=0):
    """(T, N, D) of all blocks, by the reader."""
    tokens = open_store(store).read(clip_id, frames, view=view)
    return np.concatenate([tokens.decode(block) for block in (1, 3)], axis=-1)


def batches_of(dataset, *, epoch=0, sampler=None, **options):
    dataset.set_epoch(epoch)
    loader = DataLoader(
        dataset, batch_size=2, collate_fn=dataset.collate, sampler=sampler, **options
    )
    return list(loader)


def same(one, other):
    assert one.clip_ids == other.clip_ids
    for name in ("gather", "steps", "valid", "labels", "times_seconds"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    assert torch.equal(one.tokens(), other.tokens())


@pytest.mark.parametrize("codec", ["int8", "int4", "fp16", "pca:4+int8"])
def test_tokens_are_those_of_the_store_at_the_steps_that_the_batch_names(codec, tmp_path):
    store = write_store(tmp_path / "s", codec=codec)
    for batch in batches_of(TokenDataset(store, window=4, windows=2)):
        tokens = batch.tokens()
        assert tokens.shape == (len(batch.clip_ids), 2, 4, 6, 16)
        for number, clip_id in enumerate(batch.clip_ids):
            for window in range(2):
                wanted = decoded(store, clip_id, batch.steps[number, window].numpy())
                np.testing.assert_allclose(tokens[number, window], wanted, rtol=1e-5, atol=1e-5)


def test_labels_and_times_are_those_of_the_frames(store):
    opened = open_store(store)
    for batch in batches_of(TokenDataset(store, window=4)):
        for number, clip_id in enumerate(batch.clip_ids):
            steps = batch.steps[number, 0].numpy()
            assert batch.labels[number, 0].tolist() == opened.labels(clip_id)[steps].tolist()
            times = opened.times_seconds(clip_id)[steps]
            assert batch.times_seconds[number, 0].tolist() == times.tolist()


def test_whole_clips_are_padded_to_the_longest_and_invalid_there(store):
    batch = TokenDataset(store, window=None).collate(
        [TokenDataset(store, window=None)[number] for number in (0, 1)]
    )
    assert batch.valid.sum(-1).tolist() == [[6], [9]]
    assert batch.labels[0, 0, 6:].tolist() == [-1, -1, -1]
    assert batch.steps[0, 0].tolist() == [0, 1, 2, 3, 4, 5, 5, 5, 5]
    np.testing.assert_allclose(
        batch.tokens()[1, 0], decoded(store, batch.clip_ids[1], None), rtol=1e-5, atol=1e-5
    )


def test_windows_are_those_that_fuse_train_draws(store):
    config = tiny_config()
    sampling = sampling_of(config)
    opened = open_store(store)
    clips = opened.select(split="train")
    source = make_source(opened, [config], torch.device("cpu"))
    dataset = TokenDataset(store, window=6, windows=2)
    for epoch in range(2):
        plan = plan_epoch(clips, sampling, epoch)
        dataset.set_epoch(epoch)
        sampler = ClipSampler(dataset)
        sampler.set_epoch(epoch)
        assert list(sampler) == [number for step in plan for number in step]
        for numbers in plan:
            trained = make_batch(source, clips, numbers, sampling, epoch)
            batch = dataset.collate([dataset[number] for number in numbers])
            assert torch.equal(batch.steps, trained.steps)
            assert torch.equal(batch.valid, trained.valid)
            assert torch.equal(batch.tokens(), trained.frames.tokens()[trained.gather])


def workers(number, **options):
    return {"num_workers": number, "multiprocessing_context": options.pop("context"), **options}


@pytest.mark.parametrize("context", ["fork", "spawn"])
@pytest.mark.parametrize("keep", ["disk", "memory"])
def test_workers_give_what_one_process_gives_also_after_the_parent_has_read(context, keep, store):
    dataset = TokenDataset(store, window=4, keep=keep, cls=True)
    wanted = batches_of(dataset, epoch=3)  # the parent has read
    number = 2 if context == "fork" else 1  # a spawned one imports torch, for seconds
    found = batches_of(dataset, epoch=3, **workers(number, context=context))
    for one, other in zip(wanted, found, strict=True):
        same(one, other)
        assert torch.equal(one.cls(), other.cls())


def test_workers_that_persist_see_the_epoch_change(store):
    dataset = TokenDataset(store, window=4)
    wanted = [batches_of(dataset, epoch=epoch) for epoch in range(3)]
    loader = DataLoader(
        dataset,
        batch_size=2,
        collate_fn=dataset.collate,
        num_workers=2,
        persistent_workers=True,
        multiprocessing_context="fork",
    )
    for epoch in range(3):
        dataset.set_epoch(epoch)
        for one, other in zip(wanted[epoch], loader, strict=True):
            same(one, other)
    assert not torch.equal(wanted[0][0].steps, wanted[1][0].steps)


def test_the_order_is_a_function_of_seed_and_epoch(store):
    dataset = TokenDataset(store, window=4)
    orders = {}
    for seed in range(2):
        for epoch in range(2):
            sampler = ClipSampler(dataset, seed=seed)
            sampler.set_epoch(epoch)
            orders[seed, epoch] = list(sampler)
            assert sorted(orders[seed, epoch]) == list(range(5))
            assert orders[seed, epoch] == list(sampler)
    assert len({tuple(order) for order in orders.values()}) > 1


def test_an_epoch_resumes_in_its_middle_with_the_batches_that_were_left(store):
    dataset = TokenDataset(store, window=4)
    sampler = ClipSampler(dataset)
    sampler.set_epoch(7)
    whole = batches_of(dataset, epoch=7, sampler=sampler)
    again = TokenDataset(store, window=4)
    resumed = ClipSampler(again)
    resumed.set_epoch(7, start=2)
    rest = batches_of(again, epoch=7, sampler=resumed)
    assert len(rest) == len(whole) - 1 == len(resumed) // 2 + 1
    for one, other in zip(whole[1:], rest, strict=True):
        same(one, other)


def test_ranks_share_an_epoch(store):
    dataset = TokenDataset(store, window=4)
    ranks = [ClipSampler(dataset, rank=rank, world=2) for rank in range(2)]
    taken = [list(sampler) for sampler in ranks]
    assert [len(part) for part in taken] == [3, 3]
    assert set(taken[0]) | set(taken[1]) == set(range(5))
    torchs = [list(DistributedSampler(dataset, num_replicas=2, rank=rank)) for rank in range(2)]
    assert set(torchs[0]) | set(torchs[1]) == set(range(5))


def test_a_crop_hides_tokens_outside_a_rectangle_the_same_in_all_frames(store):
    dataset = TokenDataset(store, window=4, windows=2, crop=0.3, flip=True)
    batch = batches_of(dataset)[0]
    assert batch.hidden.shape == (2, 2, 6)
    assert batch.hidden.any()
    assert not batch.hidden.all(-1).any()
    assert torch.equal(batch.hidden, batches_of(dataset)[0].hidden)


def test_views_are_drawn_from_the_stored_ones(views_store):
    dataset = TokenDataset(views_store, window=4, views="augmented")
    seen = set()
    for epoch in range(6):
        for batch in batches_of(dataset, epoch=epoch):
            steps, tokens = batch.steps[0, 0].numpy(), batch.tokens()[0, 0]
            for view in range(3):
                wanted = decoded(views_store, batch.clip_ids[0], steps, view=view)
                if np.allclose(tokens, wanted, rtol=1e-5, atol=1e-5):
                    seen.add(view)
    assert seen == {1, 2}


def test_several_stores_give_their_tokens_of_the_same_frames(store, tmp_path):
    other = write_store(tmp_path / "o", codec="fp16", blocks=(2,))
    batch = batches_of(TokenDataset({"int8": store, "fp16": other}, window=4))[0]
    assert batch.tokens("int8").shape[-1] == 16
    tokens = batch.tokens("fp16", blocks=(2,))
    clip = open_store(other).read(batch.clip_ids[0], batch.steps[0, 0].numpy())
    np.testing.assert_allclose(tokens[0, 0], clip.decode(2), rtol=1e-5, atol=1e-5)
    with pytest.raises(UsageError, match="no store 'int4' in this batch: it has int8, fp16"):
        batch.tokens("int4")


def test_codes_of_a_batch_stay_codes_until_they_are_decoded(store):
    batch = batches_of(TokenDataset(store, window=4))[0].to("cpu")
    assert [codes.dtype for codes in batch.coded().codes] == [torch.int8, torch.int8]
    assert torch.equal(batch.coded().decode()[batch.gather], batch.tokens())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"window": 0}, "window=0: give the frames"),
        ({"windows": 3}, "windows=3: a clip gives 1 window"),
        ({"window": None, "windows": 2}, "windows=2 are drawn in time"),
        ({"sampling": "even", "blocks": (7,)}, r"holds blocks \[1, 3\], not \[7\]"),
        ({"sampling": "evne"}, "sampling='evne': choose one of random, contiguous, paper, even"),
        ({"views": "all"}, "holds the clean view alone"),
        ({"split": "test"}, "has no clip of split=test"),
        ({"windows": 2, "sampling": "contiguous"}, "contiguous draws one window"),
    ],
)
def test_wrong_arguments_are_refused(options, words, store):
    with pytest.raises(UsageError, match=words):
        TokenDataset(store, **options)


def test_a_data_set_of_12000_clips_crosses_processes_in_less_than_a_megabyte(store):
    dataset = TokenDataset(store, window=4)
    dataset.clip_ids = tuple(f"videos/action {n % 300}/clip {n:05}.mp4" for n in range(12_000))
    data = pickle.dumps(dataset)
    assert len(data) < 1_000_000
    again = pickle.loads(data)
    assert again.clip_ids == dataset.clip_ids
