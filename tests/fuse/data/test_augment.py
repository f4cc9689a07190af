"""Augmentation of cached tokens: what is hidden, that a window changes as a whole, and seeds."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from tests.fuse.tiny import tiny_config, write_store
from tokenreel.cache.embeddings import read_embeddings
from tokenreel.cache.read.store_reader import open_store
from tokenreel.cache.read.store_set import StoreSet
from tokenreel.fuse.config import AugmentConfig, ClsConfig, LstpConfig, MeanConfig
from tokenreel.fuse.data.augment import WindowTokens, augment_windows, hidden_tokens
from tokenreel.fuse.data.batches import stream_batches
from tokenreel.fuse.kernels import CodedTokens
from tokenreel.fuse.layers.pooling import reduce_tokens
from tokenreel.fuse.runs.provenance import describe_run
from tokenreel.fuse.systems.base import make_source, sampling_of
from tokenreel.fuse.systems.mvformer.model import batch_loss, build_model
from tokenreel.fuse.systems.mvformer.requirements import pooled_dim
from tokenreel.fuse.train.train import train

GRID = (4, 6)


def masks(config, grid=GRID, count=200):
    rngs = (np.random.default_rng(seed) for seed in range(count))
    return np.stack([hidden_tokens(grid, config, rng)[0].reshape(grid) for rng in rngs])


def seen_of(frames=5, clips=1):
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(frames * clips, 24, 8, generator=generator)
    cls = torch.randn(frames * clips, 8, generator=generator)
    gather = torch.tensor([[0, 1, 2, 4], [1, 2, 2, 3]])
    gather = torch.stack([gather + frames * clip for clip in range(clips)])
    return WindowTokens(tokens, cls, gather)


def augment(seen, config, seed=7, grid=GRID):
    names = [f"clip{number}" for number in range(len(seen.gather))]
    return augment_windows(seen, config, grid=grid, clip_ids=names, seed=seed)


@pytest.mark.parametrize("grid", [(4, 6), (6, 4), (1, 9), (7, 7)])
def test_a_crop_is_a_rectangle_of_at_least_its_share(grid):
    shares = []
    for hidden in masks(AugmentConfig(crop=0.4), grid):
        rows, columns = (~hidden).any(1), (~hidden).any(0)
        np.testing.assert_array_equal(~hidden, rows[:, None] & columns)
        for side in (rows, columns):
            assert (np.diff(np.flatnonzero(side)) == 1).all()
        shares.append((~hidden).mean())
    assert min(shares) >= 0.4 * 0.85  # a side that the grid is too short for costs some
    assert max(shares) == 1
    assert np.mean(shares) < 0.95


def test_a_rectangle_changes_its_shape_and_keeps_its_area():
    seen = ~masks(AugmentConfig(crop=0.5), (100, 60))
    assert seen.mean((1, 2)).min() >= 0.5
    heights, widths = seen.any(2).mean(1), seen.any(1).mean(1)
    assert (heights / widths).min() < 0.85
    assert (heights / widths).max() > 1.2


def test_every_token_is_cropped_away_about_as_often_at_both_ends():
    share = masks(AugmentConfig(crop=0.3), count=2000).mean(0)
    np.testing.assert_allclose(share, share[::-1, ::-1], atol=0.06)


def test_dropout_hides_its_share_and_never_all():
    hidden = masks(AugmentConfig(dropout=0.3), count=1000)
    assert hidden.mean() == pytest.approx(0.3, abs=0.01)
    assert not masks(AugmentConfig(dropout=0.99), (1, 2), count=300).all((1, 2)).any()


def test_half_of_the_windows_are_mirrored():
    plain = masks(AugmentConfig(crop=0.7, dropout=0.5))
    flipped = masks(AugmentConfig(crop=0.7, dropout=0.5, flip=True))
    same = (plain == flipped).all((1, 2))
    mirrored = (plain == flipped[:, :, ::-1]).all((1, 2))
    assert (same | mirrored).all()
    assert 70 < mirrored.sum() < 130


@pytest.mark.parametrize("kind", ["mean", "max", "lstp"])
def test_to_mirror_what_is_hidden_is_to_mirror_the_tokens(kind):
    tokens = seen_of().tokens
    hidden = torch.from_numpy(masks(AugmentConfig(crop=0.4), count=5).reshape(5, 24))

    def mirrored(x):
        return x.unflatten(1, GRID).flip(2).flatten(1, 2)

    def pool(x, unseen):
        if kind != "lstp":
            return reduce_tokens(x, kind, unseen)
        model = build_model(
            tiny_config(pooling=LstpConfig(num_entities=2, channels=8)), dim=8, cls_dim=8
        )
        return model.pool(x, None, unseen)

    torch.testing.assert_close(pool(tokens, mirrored(hidden)), pool(mirrored(tokens), hidden))


def test_tokens_of_half_of_the_windows_are_mirrored_for_a_spatial_model():
    clips = 40
    seen = seen_of(clips=clips)
    names = [f"clip{number}" for number in range(clips)]
    changed, plain = (
        augment_windows(
            seen, AugmentConfig(flip=True), grid=GRID, clip_ids=names, seed=7, is_spatial=places
        )
        for places in (True, False)
    )
    views, turned = changed.tokens[changed.gather], seen.tokens[seen.gather]
    assert torch.equal(plain.tokens[plain.gather], turned)
    turned = turned.unflatten(3, GRID).flip(4).flatten(3, 4)
    same = (views == seen.tokens[seen.gather]).flatten(2).all(2)
    mirrored = (views == turned).flatten(2).all(2)
    assert (same ^ mirrored).all()
    assert 25 < mirrored.sum() < 55


def test_a_window_is_changed_alike_in_all_its_frames_and_windows_differ():
    seen = seen_of(clips=2)
    changed = augment(seen, AugmentConfig(crop=0.5, dropout=0.1, noise=0.2))

    hidden = changed.hidden[changed.gather]  # (B, V, T, N)
    assert (hidden == hidden[:, :, :1]).all()
    views = hidden[:, :, 0].flatten(0, 1)
    assert len(torch.unique(views, dim=0)) == 4
    factors = changed.tokens[changed.gather] / seen.tokens[seen.gather]
    torch.testing.assert_close(factors, factors[:, :, :1, :1].expand_as(factors))
    assert 0.05 < (factors[:, :, 0, 0] - 1).std() < 0.5
    in_cls = changed.cls[changed.gather] / seen.cls[seen.gather]
    torch.testing.assert_close(in_cls, in_cls[:, :, :1].expand_as(in_cls))


def test_without_noise_codes_stay_codes():
    seen = seen_of()
    codes = CodedTokens((seen.tokens.half(),))
    changed = augment(WindowTokens(codes, None, seen.gather), AugmentConfig(dropout=0.5))

    assert changed.tokens.codes[0].dtype == torch.float16
    torch.testing.assert_close(changed.tokens.decode()[changed.gather], codes.decode()[seen.gather])
    assert changed.cls is None


def test_the_seed_the_clip_and_the_window_decide_and_not_other_clips():
    config = AugmentConfig(crop=0.5, noise=0.1)
    both, alone = augment(seen_of(clips=2), config), augment(seen_of(), config)
    again, other = augment(seen_of(), config), augment(seen_of(), config, seed=8)

    torch.testing.assert_close(both.tokens[both.gather[0]], alone.tokens[alone.gather[0]])
    torch.testing.assert_close(both.hidden[both.gather[0]], alone.hidden[alone.gather[0]])
    assert torch.equal(alone.tokens, again.tokens)
    assert not torch.equal(alone.tokens, other.tokens)


@pytest.mark.parametrize(
    "pooling",
    [
        LstpConfig(num_entities=2, channels=8),
        LstpConfig(num_entities=1, num_dynamic=1, channels=8),
        MeanConfig(),
        ClsConfig(),
    ],
    ids=["static", "dynamic", "mean", "cls"],
)
def test_only_training_is_augmented_and_it_is_repeatable(store, pooling):
    plain = tiny_config(pooling=pooling)
    hiding = {"crop": 0.3, "dropout": 0.2} if pooling.uses_tokens else {}
    config = plain.with_(augment=AugmentConfig(noise=0.3, **hiding))
    source = make_source(open_store(store), [config], torch.device("cpu"))
    model = build_model(
        config, dim=pooled_dim(config, source.store), cls_dim=source.store.identity.dim
    )
    clips = source.store.select(split="train")
    _, batch = next(stream_batches(source, clips, sampling_of(config), epochs=1))

    def loss(which, seed=0):
        torch.manual_seed(0)
        return batch_loss(model, batch, which, rng=np.random.default_rng(seed)).item()

    model.eval()
    assert loss(config) == loss(plain)
    model.train()
    assert loss(config) == loss(config) != loss(config, seed=1)
    assert loss(config) != loss(plain)


def test_a_run_says_what_was_done_to_its_tokens(tmp_path):
    path = write_store(tmp_path / "s", train=3, views=2)
    for name, views, words in (
        ("tokens", "clean", "of tokens: crop 0.5, flip"),
        ("both", "all", "1 stored view(s) and the clean one; of tokens: crop 0.5, flip"),
    ):
        plain = tiny_config()
        config = plain.with_(
            augment=AugmentConfig(crop=0.5, flip=True), data=plain.data.with_(views=views)
        )
        result = train(config, store=path, out=tmp_path / name, device="cpu", progress=False)
        assert read_embeddings(result.embeddings).provenance["augmentation"] == words


@pytest.mark.parametrize(("noise", "words"), [(0.0, "none"), (0.1, "of CLS: noise 0.1")])
def test_a_run_on_cls_vectors_hides_no_tokens(store, noise, words):
    for hiding in ({"crop": 0.4}, {"flip": True}, {"dropout": 0.2}):
        with pytest.raises(ValidationError, match=r"augment changes tokens.*kind=cls pools none"):
            tiny_config(pooling=ClsConfig(), augment=AugmentConfig(noise=noise, **hiding))
    config = tiny_config(pooling=ClsConfig(), augment=AugmentConfig(noise=noise))
    assert describe_run(config, StoreSet({"tokens": store}), {})["augmentation"] == words
