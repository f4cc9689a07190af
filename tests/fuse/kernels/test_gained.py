"""Frames of windows that are decoded where they are pooled: the bytes of floats made first."""

from dataclasses import replace

import pytest
import torch

from tests.fuse.kernels.cases import make_tokens, make_weights
from tokenreel.fuse.config import LstpConfig
from tokenreel.fuse.kernels import CodedTokens, Folding, GainedTokens, ops, pooled_attention
from tokenreel.fuse.kernels.cpu import compiled
from tokenreel.fuse.layers import pooling
from tokenreel.fuse.layers.pooling import Lstp, Plain, reduce_tokens

FRAMES, TOKENS = 21, 37


def gained(dtype=torch.int8, *, turns=False, widths=(24, 40)):
    """Frames of three windows; some are in several."""
    tokens = make_tokens(dtype, frames=9, tokens=TOKENS, widths=widths, folds=True)
    if not turns:
        tokens = replace(
            tokens, foldings=tuple(replace(fold, rotation=None) for fold in tokens.foldings)
        )
    rng = torch.Generator().manual_seed(3)
    rows = torch.randint(0, 9, (FRAMES,), generator=rng)
    gains = 1 + 0.3 * torch.randn(3, sum(widths), generator=rng)
    return GainedTokens(tokens, rows, gains, torch.arange(FRAMES) % 3)


def hide(frames=FRAMES):
    hidden = torch.rand(frames, TOKENS, generator=torch.Generator().manual_seed(4)) < 0.4
    hidden[:, 5] = False
    return hidden


def pooled(tokens, *, hidden=None, **words):
    """Entities, attention, and the gradient of each weight."""
    weights = make_weights(gained().tokens)
    [found] = pooled_attention(tokens, [weights], hidden=hidden, with_attention=True, **words)
    (
        found.entities * torch.linspace(-1, 1, found.entities.numel()).view_as(found.entities)
    ).sum().backward()
    parts = (weights.queries, weights.key, weights.value, weights.value_bias)
    return [found.entities.detach(), found.attention, *(part.grad for part in parts)]


def test_a_token_is_its_code_times_what_it_is_scaled_with_plus_the_offset_times_the_gain():
    fold = Folding(torch.tensor([2.0, 1.0]), torch.tensor([0.5, -1.0]))
    codes = torch.tensor([[[1, 2]], [[3, -4]]], dtype=torch.int8)
    tokens = CodedTokens((codes,), (torch.tensor([[1.0], [0.25]]),), (fold,))
    found = ops.decode_gained(
        GainedTokens(
            tokens,
            torch.tensor([1, 0]),
            torch.tensor([[1.0, 1.0], [3.0, 0.5]]),
            torch.tensor([1, 0]),
        )
    )
    assert found.tolist() == [[[3 * (3 * 0.25 * 2 + 0.5), 0.5 * (-4 * 0.25 - 1)]], [[2.5, 1.0]]]


@pytest.mark.parametrize("size", [1, 1 << 30])
@pytest.mark.parametrize("threads", [1, 3])
def test_floats_that_are_made_in_parts_give_the_bytes_of_floats_made_first(
    monkeypatch, size, threads
):
    tokens, hidden = gained(), hide()
    monkeypatch.setattr(compiled, "DECODED_BYTES", size)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        floats = ops.decode_gained(tokens)
        assert torch.equal(floats, tokens.decode())
        for mask in (None, hidden):
            found = pooled(tokens, hidden=mask)
            wanted = pooled(CodedTokens((floats,)), hidden=mask)
            assert all(map(torch.equal, found, wanted))
    finally:
        torch.set_num_threads(before)


def test_no_array_of_all_floats_is_made(monkeypatch):
    def fail(*_):
        raise AssertionError("all floats at once")

    monkeypatch.setattr(ops, "decode_gained", fail)
    monkeypatch.setattr(GainedTokens, "decode", fail)
    pooled(gained(), hidden=hide())


@pytest.mark.parametrize(
    "make",
    [lambda: gained(torch.float16), lambda: gained(torch.float32), lambda: gained(turns=True)],
    ids=["float16", "float32", "rotated"],
)
def test_other_codes_are_decoded_first(make):
    tokens = make()
    floats = tokens.decode()
    assert torch.equal(ops.decode_gained(tokens), floats)
    found, wanted = pooled(tokens), pooled(CodedTokens((floats,)))
    assert all(map(torch.equal, found, wanted))


@pytest.mark.parametrize(
    "words",
    [{"normalise_keys": True}, {"disjoint": True}, {"implementation": "reference"}],
    ids=["normalised", "disjoint", "reference"],
)
def test_what_takes_two_passes_takes_floats(words):
    tokens = gained()
    found = pooled(tokens, hidden=hide(), **words)
    wanted = pooled(CodedTokens((tokens.decode(),)), hidden=hide(), **words)
    assert all(map(torch.equal, found, wanted))


def test_without_numba_the_floats_are_the_same(monkeypatch):
    tokens = gained()
    wanted = ops.decode_gained(tokens)
    monkeypatch.setattr(ops, "loops_obstacle", lambda: "Numba is not installed")
    monkeypatch.setattr(compiled, "Decoder", None)
    assert torch.equal(ops.decode_gained(tokens), wanted)
    found = pooled(tokens)
    assert all(map(torch.equal, found, pooled(CodedTokens((wanted,)))))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": torch.full((FRAMES,), 9)}, "rows 9 to 9: want 0 to 8"),
        ({"rows": torch.full((FRAMES,), -1)}, "rows -1 to -1: want 0 to 8"),
        ({"window": torch.full((FRAMES,), 3)}, "window 3 to 3: want 0 to 2"),
        ({"window": torch.zeros(4, dtype=torch.int64)}, r"window of shape \(4,\): want \(21,\)"),
        ({"gains": torch.ones(3, 63)}, r"gains of shape \(3, 63\): want \(3, 64\)"),
    ],
    ids=["frame", "negative", "window", "windows", "gains"],
)
def test_what_is_not_there_is_not_read(change, message):
    with pytest.raises(ValueError, match=message):
        ops.decode_gained(replace(gained(), **change))


@pytest.mark.parametrize("size", [1, 1 << 30])
@pytest.mark.parametrize("kind", ["mean", "max"])
@pytest.mark.parametrize("masks", [False, True])
def test_a_pooling_without_weights_reduces_the_floats(monkeypatch, size, kind, masks):
    monkeypatch.setattr(pooling, "PART_BYTES", size)
    tokens, hidden = gained(), hide() if masks else None
    found = Plain(kind, 64)(tokens, None, hidden)
    assert torch.equal(found, reduce_tokens(tokens.decode(), kind, hidden)[:, None])


def test_a_mask_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"hidden is torch.bool \(20, 37\): want bool \(21, 37\)"):
        pooled(gained(), hidden=hide(20))


def test_lstp_attends_over_them():
    layer = Lstp(64, 8, LstpConfig(num_entities=2, channels=8))
    tokens = gained()
    wanted = layer(tokens.decode(), None, hide())
    assert torch.equal(layer(tokens, None, hide()), wanted)
