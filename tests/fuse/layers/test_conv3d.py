"""CARL's C3D on cached features: what a frame sees, by hand and as a run."""

import numpy as np
import pytest
import torch

from tests.fuse.tiny import tiny_config, write_store
from tokenreel.cache.embeddings import read_embeddings
from tokenreel.cache.read.store_reader import open_store
from tokenreel.fuse.config import AugmentConfig, FuseConfig, GridConfig, TemporalConfig
from tokenreel.fuse.data.batches import make_batch
from tokenreel.fuse.embed.embed import load_run
from tokenreel.fuse.layers.conv3d import ConvolutionalFusion
from tokenreel.fuse.systems.base import make_source, sampling_of
from tokenreel.fuse.systems.mvformer.model import batch_loss, build_model
from tokenreel.fuse.systems.mvformer.requirements import pooled_dim
from tokenreel.fuse.train.train import train

GRID = GridConfig()
SMALL = TemporalConfig(kind="conv3d", hidden=8, heads=2, fc_width=8, layers=2, embedding=4)


def fusion(grid=(2, 3), channels=5, **changes):
    torch.manual_seed(0)
    config = SMALL.with_(**changes)
    return ConvolutionalFusion(config, channels=channels, grid=grid).eval()


def test_a_frame_is_the_largest_of_what_its_convolutions_find_on_the_grid():
    model = fusion(
        channels=1, hidden=1, heads=1, layers=1, fc_width=1, embedding=1, l2_normalise=False
    )
    kernel = torch.zeros(3, 3, 3)
    kernel[0, 1, 0], kernel[1, 1, 1] = 10, 1  # left of it a frame before, and itself
    with torch.no_grad():
        model.convolutions[0].weight.copy_(kernel[None, None])
        model.convolutions[0].bias.zero_()
        for layer in (model.fc[0], model.fc[3], model.leave):
            layer.weight.fill_(1)
            layer.bias.zero_()
    grids = torch.tensor([[[1, 2, 3], [4, 0, 0]], [[0, 0, 5], [0, 0, 0]]], dtype=torch.float32)
    found = model(grids.view(1, 2, 6, 1))
    # The first frame's largest is 4; the second's is 10 * 4, right of where the 4 was before it.
    norm = (1 + 1e-5) ** -1.5  # three batch norms without statistics
    torch.testing.assert_close(found.flatten(), norm * torch.tensor([4.0, 40.0]))


def test_two_convolutions_see_two_frames_to_either_side_and_no_more():
    model = fusion()
    tokens = torch.randn(1, 9, 6, 5, requires_grad=True)
    model(tokens)[0, 4].sum().backward()
    seen = tokens.grad.abs().sum(dim=(0, 2, 3)) > 0
    assert seen.tolist() == [False] * 2 + [True] * 5 + [False] * 2


def test_the_grid_counts_and_a_clip_of_one_frame_has_an_embedding():
    tokens = torch.randn(2, 1, 6, 5)
    assert fusion()(tokens).shape == (2, 1, 4)
    assert not torch.allclose(fusion()(tokens), fusion(grid=(3, 2))(tokens))


def test_a_run_trains_and_embeds_each_clip_as_its_whole_sequence(tmp_path):
    store = write_store(tmp_path / "s", first_frames=65)  # more than are pooled at once
    config = tiny_config(pooling=GRID, temporal=SMALL, augment=AugmentConfig(dropout=0.3))
    result = train(config, store=store, out=tmp_path / "run", device="cpu", progress=False)
    embedded = {clip.clip_id: clip for clip in read_embeddings(result.embeddings).clips}
    source = make_source(open_store(store), [config], torch.device("cpu"))
    model = load_run(tmp_path / "run", lambda _: source).model.eval()
    tokens = source.frames("val0", np.arange(65)).tokens()
    with torch.inference_mode():
        wanted = model.fuse(tokens[None])[0]
    np.testing.assert_allclose(embedded["val0"].embeddings, wanted, atol=1e-5)


def test_hidden_tokens_are_zero_where_the_grid_stays_whole():
    config = tiny_config(pooling=GRID, temporal=SMALL)
    model = build_model(config, dim=5, cls_dim=5, grid=(2, 3))
    tokens, hidden = torch.randn(4, 6, 5), torch.zeros(4, 6, dtype=torch.bool)
    hidden[1, 2] = True
    found = model.pool(tokens, None, hidden)
    assert (found[1, 2] == 0).all()
    torch.testing.assert_close(found[~hidden], tokens[~hidden])


def test_what_is_mirrored_in_training_are_the_tokens(store):
    plain = tiny_config(pooling=GRID, temporal=SMALL)
    config = plain.with_(augment=AugmentConfig(flip=True))
    source = make_source(open_store(store), [config], torch.device("cpu"))
    model = build_model(
        config,
        dim=pooled_dim(config, source.store),
        cls_dim=source.store.identity.dim,
        grid=source.grid,
    ).train()
    clips = source.store.select(split="train")
    batch = make_batch(source, clips, range(5), sampling_of(config), 0)
    losses = []
    for each in (plain, plain, config):
        torch.manual_seed(0)
        losses.append(batch_loss(model, batch, each, rng=np.random.default_rng(0)).item())
    assert losses[0] == losses[1] != losses[2]


def test_convolutions_and_the_whole_grid_are_asked_for_together():
    with pytest.raises(ValueError, match=r"temporal\.kind=conv3d with pooling\.kind=lstp"):
        FuseConfig(temporal=SMALL)
    with pytest.raises(ValueError, match=r"temporal\.kind=transformer with pooling\.kind=grid"):
        FuseConfig(pooling=GRID)
    with pytest.raises(ValueError, match="needs the grid of the tokens"):
        build_model(tiny_config(pooling=GRID, temporal=SMALL), dim=5, cls_dim=5)
