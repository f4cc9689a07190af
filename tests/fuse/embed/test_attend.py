"""Where LSTP looks: the weights that a run pools with, clip by clip."""

import numpy as np
import pytest
import torch

from tests.fuse.tiny import tiny_config, write_store
from tokenreel.cache.embeddings import read_embeddings
from tokenreel.cache.errors import ClipNotFound, UsageError
from tokenreel.cache.read.store_reader import open_store
from tokenreel.fuse.config import LstpConfig, MeanConfig
from tokenreel.fuse.embed.attend import attend
from tokenreel.fuse.embed.embed import load_run
from tokenreel.fuse.systems.base import make_source
from tokenreel.fuse.train.train import train

CPU = torch.device("cpu")


def test_the_weights_are_those_that_pool_the_tokens(store, run):
    opened = open_store(store)
    [found] = attend(run, opened, ["val1"], device=CPU)
    assert found.weights.shape == (9, 2, 2, 3)
    np.testing.assert_allclose(found.weights.sum(axis=(2, 3)), 1, atol=1e-5)

    source = make_source(opened, [tiny_config()], CPU, placement="disk")
    model = load_run(run, lambda config: source).model.eval()
    tokens = source.frames("val1", np.arange(9)).tokens()
    with torch.inference_mode():
        entities = model.pool(tokens, None, None)
        pooled = torch.from_numpy(found.weights).flatten(2) @ tokens
        torch.testing.assert_close(model.pooling.value(pooled), entities)


@pytest.mark.parametrize("dynamic", ["separate", "first", "average"])
def test_dynamic_queries_ask_for_the_piece_that_a_frame_is_in(store, tmp_path, dynamic):
    pooling = LstpConfig(num_entities=1, num_dynamic=2, dynamic=dynamic, channels=8)
    config = tiny_config(pooling=pooling, embed_frames=6)
    result = train(config, store=store, out=tmp_path / "run", device="cpu", progress=False)
    opened = open_store(store)
    source = make_source(opened, [config], CPU, placement="disk")
    model = load_run(tmp_path / "run", lambda config: source).model.eval()
    frames = source.frames("val1", np.arange(9))  # in two pieces, of 5 and of 4 frames
    [found] = attend(tmp_path / "run", opened, ["val1"], device=CPU)
    [clip] = [c for c in read_embeddings(result.embeddings).clips if c.clip_id == "val1"]
    for cut in (slice(0, 5), slice(5, 9)):
        context = model.sequence_context(frames.cls[cut])
        tokens, cls = frames.tokens()[cut], frames.cls[cut]
        with torch.inference_mode():
            weights = model.attention(tokens, cls, None, context).unflatten(2, (2, 3))
            whole = model.fuse(model.pool(tokens, cls, None, context)[None])[0]
        np.testing.assert_allclose(found.weights[cut], weights, atol=1e-5)
        np.testing.assert_allclose(clip.embeddings[cut], whole, atol=1e-5)


def test_a_long_clip_is_taken_in_parts_and_is_the_same(store, run, monkeypatch):
    [whole] = attend(run, open_store(store), ["train4"], device=CPU)
    monkeypatch.setattr("tokenreel.fuse.systems.mvformer.embed.FRAMES_AT_ONCE", 5)
    [parts] = attend(run, open_store(store), ["train4"], device=CPU)
    np.testing.assert_allclose(whole.weights, parts.weights, rtol=1e-5)


def test_tokens_that_a_codec_pooled_keep_their_grid(tmp_path):
    store = write_store(tmp_path / "pooled", codec="pool2+int8")
    train(tiny_config(), store=store, out=tmp_path / "run", device="cpu", progress=False)
    [found] = attend(tmp_path / "run", open_store(store), ["val0"], device=CPU)
    assert found.weights.shape[2:] == (1, 2)


def test_a_run_without_attention_is_refused(store, tmp_path):
    config = tiny_config(pooling=MeanConfig())
    train(config, store=store, out=tmp_path / "run", device="cpu", progress=False)
    with pytest.raises(UsageError, match=r"pooling\.kind=mean, without attention"):
        attend(tmp_path / "run", open_store(store), ["val0"], device=CPU)


def test_an_unknown_clip_is_told(store, run):
    with pytest.raises(ClipNotFound, match="val9"):
        attend(run, open_store(store), ["val9"], device=CPU)
