"""Codecs of other packages, by name alone and after steps of ours, down to a store and back."""

import numpy as np
import pytest

from tests.cache.codec.plugin import Squares, install
from tests.cache.stores import GRID, make_store, make_tokens, write_clip
from tokenreel.cache.codec import (
    CODECS,
    calibrate,
    codec_from_identity,
    codec_identity,
    needs_calibration,
)
from tokenreel.cache.errors import UsageError
from tokenreel.cache.read.store_reader import open_store
from tokenreel.cache.tools.verify import verify_store
from tokenreel.cache.write.store_writer import StoreWriter


@pytest.fixture(autouse=True)
def plugin(tmp_path, monkeypatch):
    install(tmp_path, monkeypatch)


def test_names_are_listed_with_ours():
    assert CODECS.names() == [
        *("fp16", "int8", "int4", "pool2", "mean", "pca"),
        *("backwards", "bare", "gone", "squares"),
    ]


@pytest.mark.parametrize("name", ["squares", "squares:512", "pool2+squares", "pca:4+squares"])
def test_a_store_of_it_gives_back_what_was_written(tmp_path, name):
    path = make_store(tmp_path / "store", name)
    with StoreWriter(path, writer_id="a") as writer:
        write_clip(writer, "c", frames=70)
    store = open_store(path)
    tokens = make_tokens("c", 0, 3, 70)
    wanted = store.codec.decode(store.codec.encode(tokens, block=3, grid=GRID), block=3)
    found = store.read("c", blocks=(3,))
    assert found.codes[3].dtype == np.int16
    assert found.decode(3).tobytes() == wanted.tobytes()
    assert verify_store(path, deep=True).problems == ()
    if name == "squares":
        assert np.abs(found.decode(3) - tokens).max() < 2 / 1024
    assert needs_calibration(name) == ("pca" in name)
    assert store.codec.fold(3, 16) is None


def test_its_calibration_is_kept_and_its_rotation_taken_with_that_of_others(tmp_path):
    tokens = {1: np.random.default_rng(0).standard_normal((4, 16, 8)).astype(np.float32)}
    name = "backwards+pca:8+fp16"
    calibration = calibrate(name, tokens, grid=GRID)
    assert calibration.keys() == {"backwards/1", "pca_basis/1", "pca_sd/1"}
    codec = codec_from_identity(codec_identity(name, calibration), calibration)
    decoded = codec.decode(codec.encode(tokens[1], block=1, grid=GRID), block=1)
    np.testing.assert_allclose(decoded, tokens[1], atol=5e-3)
    assert needs_calibration(name)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("sqares", r"no codec 'sqares', did you mean squares\?.* by the entry point"),
        ("pool2+sqares", r"codec 'pool2\+sqares': no codec 'sqares', did you mean squares\?"),
        ("gone", r"codec 'gone' of codecs-of-others 0\.3 .* cannot be imported"),
        ("bare", r"codec 'bare': Bare lacks needs_calibration, .* inherit from cache\.codec\.base"),
        ("squares+pool2", "after the quantiser"),
        ("backwards+backwards", "one backwards at most"),
        ("int8:3", "codec 'int8' takes no parameter, got int8:3"),
    ],
)
def test_what_is_wrong_with_one_is_said(name, words):
    with pytest.raises(UsageError, match=words):
        codec_identity(name)


def test_codes_of_a_dtype_that_stores_lack_are_refused(monkeypatch):
    monkeypatch.setattr(Squares, "dtype", np.dtype("<c8"))
    with pytest.raises(UsageError, match="codes of complex64; a store holds int8, uint8, int16"):
        codec_identity("squares")


def test_codes_unlike_what_a_codec_says_are_refused(monkeypatch):
    monkeypatch.setattr(Squares, "dtype", np.dtype("i1"))
    codec = codec_from_identity(codec_identity("squares"), {})
    with pytest.raises(ValueError, match=r"codec squares gives .*int16.* but says .*int8"):
        codec.encode(make_tokens("c", 0, 3, 2), block=3, grid=GRID)
