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


@pytest.mark.parametrize(
    ("context", "keep"),
    [
        ("fork", "disk"),
        ("fork", "memory"),
        ("spawn", "memory"),
        pytest.param("spawn", "disk", marks=pytest.mark.slow),  # as in tests/cache: test_workers_of
    ],
)
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
        ({"views": "all"}, "holds no augmented views"),
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


def drawn(dataset, epoch=0):
    """Steps and validity of every clip."""
    dataset.set_epoch(epoch)
    return [
        (sample.steps.tolist(), sample.valid.tolist())
        for sample in map(dataset.__getitem__, range(len(dataset)))
    ]


def test_a_contiguous_window_begins_wherever_it_fits_and_pads_a_short_clip(store):
    dataset = TokenDataset(store, window=8, sampling="contiguous")
    seen = {0: set(), 1: set()}  # clips of 6 and of 9 frames
    for epoch in range(20):
        for number, (steps, valid) in enumerate(drawn(dataset, epoch)[:2]):
            seen[number].add((tuple(steps[0]), tuple(valid[0])))
    assert seen[0] == {((0, 1, 2, 3, 4, 5, 5, 5), (True,) * 6 + (False,) * 2)}
    assert seen[1] == {(tuple(range(at, at + 8)), (True,) * 8) for at in (0, 1)}


def test_windows_depend_on_seed_epoch_and_clip(store):
    base = drawn(TokenDataset(store, window=4))
    assert base == drawn(TokenDataset(store, window=4))
    assert base != drawn(TokenDataset(store, window=4, seed=1))
    assert base != drawn(TokenDataset(store, window=4), epoch=1)
    # of clips of 9 frames and more the second is drawn apart from the first
    assert base[1] != base[2]


def test_alpha_beta_and_the_kind_of_windows_are_those_of_the_arguments(store):
    tight = TokenDataset(store, window=6, alpha=1.0)
    for epoch in range(5):
        for steps, valid in drawn(tight, epoch):
            assert np.ptp(steps[0]) == sum(valid[0]) - 1 == 5  # T frames of T
    loose = [
        np.ptp(s[0]) for e in range(5) for s, _ in drawn(TokenDataset(store, window=6, alpha=3), e)
    ]
    assert max(loose) > 9
    whole = TokenDataset(store, window=6, windows=2, alpha=1.0, beta=1.0)
    for steps, _ in drawn(whole):
        assert steps[0] == steps[1]  # windows of T frames that overlap whole
    even = TokenDataset(store, window=4, alpha=3, sampling="even")
    for epoch in range(5):
        for steps, valid in drawn(even, epoch):
            gaps = np.diff(np.array(steps[0])[valid[0]])
            assert gaps.max(initial=0) - gaps.min(initial=9 if len(gaps) else 0) <= 1
    uniform = TokenDataset(store, window=6, sampling="uniform")
    assert drawn(uniform)[0] == ([list(range(6))], [[True] * 6])


@pytest.mark.parametrize("keep", ["disk", "memory"])
def test_kept_codes_and_cls_vectors_are_those_of_the_view_that_was_drawn(keep, views_store):
    dataset = TokenDataset(views_store, window=4, views="all", keep=keep, cls=True)
    opened, seen = open_store(views_store), set()
    for epoch in range(6):
        dataset.set_epoch(epoch)
        sample = dataset[1]
        frames = np.unique(sample.steps.numpy())
        views = [
            view
            for view in range(3)
            if np.array_equal(
                opened.read(sample.clip_id, frames, view=view).codes[3], sample.codes["tokens"][3]
            )
        ]
        assert len(views) == 1
        wanted = opened.read_cls(sample.clip_id, frames, view=views[0])
        np.testing.assert_array_equal(sample.cls["tokens"], wanted)
        seen |= set(views)
    assert seen == {0, 1, 2}
    assert len(dataset._kept) == (3 if keep == "memory" else 0)


def test_clean_views_are_taken_where_no_other_is_wanted(views_store):
    for epoch in range(4):
        [batch, *_] = batches_of(TokenDataset(views_store, window=4), epoch=epoch)
        wanted = decoded(views_store, batch.clip_ids[0], batch.steps[0, 0].numpy())
        np.testing.assert_allclose(batch.tokens()[0, 0], wanted, rtol=1e-5, atol=1e-5)


def test_load_reads_every_clip_once_and_needs_memory(store):
    dataset = TokenDataset(store, window=4, keep="memory").load()
    assert sorted(dataset._kept) == [("tokens", f"train{n}", 0) for n in range(5)]
    assert {len(codes[1]) for codes, _ in dataset._kept.values()} == {6, 9, 12, 15, 18}
    for one, other in zip(
        batches_of(dataset), batches_of(TokenDataset(store, window=4)), strict=True
    ):
        same(one, other)
    with pytest.raises(UsageError, match="keep='disk' keeps nothing in memory"):
        TokenDataset(store).load()


def test_clips_are_those_of_split_action_or_of_a_list_in_its_order(tmp_path):
    store = write_store(tmp_path / "s", actions=("run", "swim"))
    assert TokenDataset(store, action="swim").clip_ids == ("train1", "train3")
    assert TokenDataset(store, split="val").clip_ids == ("val0", "val1")
    assert len(TokenDataset(store, split=None)) == 7
    assert TokenDataset(store, clips=["val1", "train0"]).clip_ids == ("val1", "train0")
    assert [TokenDataset(store)[n].action for n in range(3)] == ["run", "swim", "run"]
    with pytest.raises(UsageError, match="has no clip of split=train and action=walk"):
        TokenDataset(store, action="walk")


def test_blocks_are_read_in_the_order_of_the_store(store):
    batch = batches_of(TokenDataset(store, window=4, blocks=(3,)))[0]
    steps = batch.steps[0, 0].numpy()
    wanted = open_store(store).read(batch.clip_ids[0], steps).decode(3)
    np.testing.assert_allclose(batch.tokens()[0, 0], wanted, rtol=1e-5, atol=1e-5)
    assert TokenDataset(store, blocks=(3, 1)).blocks == (1, 3)


def test_a_store_without_cls_vectors_or_a_batch_without_them_is_told(tmp_path, store):
    bare = write_store(tmp_path / "s", cls=False)
    with pytest.raises(UsageError, match=r"tokens=.* holds no CLS vectors: set cls=False"):
        TokenDataset(bare, cls=True)
    with pytest.raises(
        UsageError, match=r"no CLS vectors in this batch: TokenDataset\(..., cls=Tr"
    ):
        batches_of(TokenDataset(store, window=4))[0].cls()


def test_cls_vectors_stand_where_their_frames_do(store):
    batch = batches_of(TokenDataset(store, window=4, windows=2, cls=True))[0]
    for number, clip_id in enumerate(batch.clip_ids):
        for window in range(2):
            steps = batch.steps[number, window].numpy()
            wanted = open_store(store).read_cls(clip_id, steps)
            np.testing.assert_array_equal(batch.cls()[number, window], wanted)


def test_a_store_that_changed_after_the_data_set_was_made_is_refused(tmp_path):
    dataset = TokenDataset(write_store(tmp_path / "s"), window=4)
    data = pickle.dumps(dataset)
    (tmp_path / "s").rename(tmp_path / "old")
    write_store(tmp_path / "s", architecture="another")
    with pytest.raises(UsageError, match="changed since this data set was made"):
        pickle.loads(data)[0]


def test_a_flipped_crop_is_another_crop_and_a_plain_one_hides_nothing(store):
    def hidden(**options):
        dataset = TokenDataset(store, window=4, crop=0.1, **options)
        found = []
        for epoch in range(8):
            dataset.set_epoch(epoch)
            found += [dataset[number].hidden.numpy() for number in range(5)]
        return np.stack(found)  # (40, V, N)

    plain, flipped = hidden(), hidden(flip=True)
    turned = plain.reshape(40, 1, 2, 3)[..., ::-1].reshape(plain.shape)
    assert plain.shape == (40, 1, 6)
    is_turned = (flipped != plain).any(axis=(1, 2))
    np.testing.assert_array_equal(flipped[is_turned], turned[is_turned])
    is_lopsided = (turned != plain).any(axis=(1, 2))  # others are their own mirror image
    assert 2 < is_turned.sum() < is_lopsided.sum() - 2
    two = hidden(windows=2)
    assert two.shape == (40, 2, 6)
    assert (two[:, 0] != two[:, 1]).any()
    assert TokenDataset(store, window=4)[0].hidden is None


def test_without_shuffling_clips_come_in_order_and_ranks_take_turns(store):
    dataset = TokenDataset(store, window=4)
    assert list(ClipSampler(dataset, shuffle=False)) == [0, 1, 2, 3, 4]
    ranks = [list(ClipSampler(dataset, shuffle=False, rank=rank, world=2)) for rank in (0, 1)]
    assert ranks == [[0, 2, 4], [1, 3, 0]]
    sampler = ClipSampler(dataset, shuffle=False)
    sampler.set_epoch(3, start=4)
    assert (list(sampler), len(sampler), dataset.epoch) == ([4], 1, 3)
    sampler.set_epoch(3, start=5)
    assert list(sampler) == []
    orders = {tuple(ClipSampler(dataset, seed=seed)) for seed in range(4)}
    assert len(orders) > 1


@pytest.mark.parametrize(("rank", "world"), [(2, 2), (-1, 2), (0, 0)])
def test_a_rank_that_there_is_not_is_refused(rank, world, store):
    with pytest.raises(UsageError, match=f"rank={rank} of world={world}: ranks go from 0"):
        ClipSampler(TokenDataset(store, window=4), rank=rank, world=world)


@pytest.mark.parametrize("start", [-1, 6])
def test_a_start_beyond_the_epoch_is_refused(start, store):
    with pytest.raises(UsageError, match=f"start={start}: an epoch gives this process 5 clips"):
        ClipSampler(TokenDataset(store, window=4)).set_epoch(0, start=start)
