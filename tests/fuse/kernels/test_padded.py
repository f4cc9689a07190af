"""Attention of padded sequences against a loop over sequences, heads and queries; MTF whole."""

import math
import os

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.fuse.kernels.cases import error
from tokenreel.fuse.config import TemporalConfig
from tokenreel.fuse.kernels import Padding, padded_attention
from tokenreel.fuse.kernels.attention import padded
from tokenreel.fuse.layers.temporal import TemporalFusion, position_table

LENGTHS = torch.tensor([7, 4, 1])
ENDS = torch.arange(7) < LENGTHS[:, None]
HOLES = torch.tensor([[1, 0, 1, 1, 0, 1, 1], [0, 0, 0, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1, 0]]).bool()
MASKS = {"ends": ENDS, "holes": HOLES, "full": torch.ones(3, 7, dtype=torch.bool)}


def make_heads(valid, repeats=2, dtype=torch.float64):
    rng = torch.Generator().manual_seed(0)
    shape = (*valid.shape, repeats, 3, 4)  # (B, T, E, H, C)
    return [torch.randn(shape, generator=rng).to(dtype).flatten(1, 2) for _ in range(3)]


def attend_slowly(query, key, value, valid, repeats):
    """Every query of every head against the valid keys of its sequence, as a sum written out."""
    seen = valid.repeat_interleave(repeats, dim=1)
    out = torch.zeros_like(query)
    for clip, mask in enumerate(seen):
        for head in range(query.shape[2]):
            scores = query[clip, :, head] @ key[clip, mask, head].T / math.sqrt(query.shape[-1])
            weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
            out[clip, :, head] = weights @ value[clip, mask, head]
    return out


@pytest.mark.parametrize("mask", MASKS)
def test_every_query_attends_to_the_valid_keys_alone(mask):
    valid = MASKS[mask]
    heads = make_heads(valid)
    found = padded_attention(*heads, Padding.of(valid, 2, torch.device("cpu")))
    assert error(found, attend_slowly(*heads, valid, 2)) < 1e-14


@pytest.mark.parametrize("mask", ["ends", "holes"])
def test_packed_keys_give_the_same(monkeypatch, mask):
    """The order and the ends that the packed form hands over, with a plain loop in CUDA's place."""

    def attend(query, key, value, starts, key_starts, longest_query, longest_key):
        assert longest_key == int(key_starts.diff().max())
        assert longest_query == int(starts.diff().max())
        out = torch.empty_like(query)
        for at, keys in zip(starts.tolist(), key_starts.unfold(0, 2, 1).tolist(), strict=False):
            rows, seen = slice(at, at + longest_query), slice(*keys)
            scores = torch.einsum("qhc,khc->hqk", query[rows], key[seen]) / math.sqrt(4)
            out[rows] = torch.einsum("hqk,khc->qhc", scores.softmax(-1), value[seen])
        return out

    monkeypatch.setattr(padded, "varlen_attn", attend)
    monkeypatch.setattr(padded, "takes_packed_keys", lambda _: True)
    valid = MASKS[mask]
    heads = make_heads(valid)
    found = padded_attention(*heads, Padding.of(valid, 2, torch.device("cpu")))
    assert error(found, attend_slowly(*heads, valid, 2)) < 1e-14


def on_gpu(*shape, dtype=torch.bfloat16):
    return torch.empty(*shape, device="cuda", dtype=dtype)


def test_torch_takes_what_the_packed_form_hands_over(monkeypatch):
    """Its own checks of arguments, and the shape it promises, for a GPU that is not here."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    with FakeTensorMode():
        heads = [on_gpu(3, 120, 4, 32) for _ in range(3)]
        padding = Padding(
            longest=100,
            size=120,
            may_attend=on_gpu(3, 1, 1, 120, dtype=torch.bool),
            starts=on_gpu(4, dtype=torch.int32),
            key_starts=on_gpu(4, dtype=torch.int32),
            valid_index=on_gpu(250, dtype=torch.int64),
        )
        out = padded.attend_packed(*heads, padding)
    assert out.shape == (3, 120, 4, 32)
    assert out.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("channels", "dtype", "capability", "takes"),
    [
        (32, torch.bfloat16, (8, 0), True),
        (20, torch.float16, (9, 0), False),  # torch pads to a multiple of 8 for others alone
        (256, torch.float16, (8, 9), False),
        (32, torch.float32, (9, 0), False),
        (32, torch.bfloat16, (7, 5), False),
    ],
)
def test_packed_keys_are_for_heads_that_torch_takes(
    monkeypatch, channels, dtype, capability, takes
):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
    with FakeTensorMode():
        assert padded.takes_packed_keys(on_gpu(1, 5, 2, channels, dtype=dtype)) == takes


def test_nothing_padded_needs_no_mask(monkeypatch):
    masks = []
    attend = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        padded.functional,
        "scaled_dot_product_attention",
        lambda q, k, v, mask: masks.append(mask) or attend(q, k, v, mask),
    )
    for valid in (MASKS["full"], ENDS):
        padded_attention(*make_heads(valid), Padding.of(valid, 2, torch.device("cpu")))
    assert masks[0] is None
    assert masks[1].shape == (3, 1, 1, 14)


def test_a_sequence_of_padding_alone_is_refused():
    valid = ENDS.clone()
    valid[1] = False
    with pytest.raises(ValueError, match=r"sequences \[1\] have no valid frame: leave them out"):
        Padding.of(valid, 3, torch.device("cpu"))


# --- the temporal fusion ------------------------------------------------------------------------


def make_fusion(output="lin", entity_ids="pool"):
    torch.manual_seed(0)
    config = TemporalConfig(
        entity_ids=entity_ids,
        fc_width=12,
        hidden=16,
        heads=2,
        feed_forward=24,
        layers=3,
        output=output,
        embedding=8,
        dropout=0.0,
    )
    fusion = TemporalFusion(config, channels=5, num_entities=3, train_frames=7)
    with torch.no_grad():
        for part in fusion.parameters():  # also those that start as zeros, ones or copies
            part.add_(0.3 * torch.randn_like(part))
    return fusion.double()


def fuse_as_published(fusion, entities, valid):
    """Entity by entity, with scores of padded keys put to -inf: (B, E T, hidden) tokens."""
    count, config = fusion.num_entities, fusion.config
    clips, frames = entities.shape[:2]
    ids = torch.eye(count).double().expand(clips, frames, count, count)
    x = torch.cat([entities, ids], -1)
    x = fusion.enter(fusion.fc(x.flatten(0, 2))).unflatten(0, (clips, frames, count))
    x = x + position_table(frames, config.hidden, 7).double()[:, None]
    x = x.transpose(1, 2).flatten(1, 2)
    hides = ~valid.repeat(1, count)[:, None, None]
    for block in fusion.blocks:
        q, k, v = (
            part.unflatten(-1, (config.heads, -1)).transpose(1, 2)
            for part in block.qkv(block.norm1(x)).chunk(3, -1)
        )
        scores = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).masked_fill(hides, -torch.inf)
        x = x + block.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
        x = x + block.fc2(block.fc1(block.norm2(x)).relu())
    x = x.unflatten(1, (count, frames)).transpose(1, 2)  # (B, T, E, hidden)
    x = {"one": x[:, :, 0], "avg": x.mean(2), "max": x.amax(2), "lin": x.flatten(2)}[config.output]
    x = fusion.leave(fusion.join(x) if fusion.join is not None else x)
    return torch.nn.functional.normalize(x, dim=-1)


@pytest.mark.parametrize("output", ["one", "avg", "max", "lin"])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("training", [False, True])
def test_mtf_equals_the_published_layout_on_all_positions(output, mask, training):
    fusion = make_fusion(output).train(training)
    entities = torch.randn(3, 7, 3, 5, dtype=torch.float64, requires_grad=True)
    found, wanted = fusion(entities, MASKS[mask]), fuse_as_published(fusion, entities, MASKS[mask])
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
    weight = torch.randn_like(found)
    [ours] = torch.autograd.grad(found, entities, weight)
    [theirs] = torch.autograd.grad(wanted, entities, weight)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_a_batch_without_padding_is_that_without_a_mask():
    fusion = make_fusion().eval()
    entities = torch.randn(3, 7, 3, 5, dtype=torch.float64)
    assert torch.equal(fusion(entities, MASKS["full"]), fusion(entities))


def test_what_padding_holds_does_not_reach_valid_frames():
    fusion = make_fusion().eval()
    entities = torch.randn(3, 7, 3, 5, dtype=torch.float64)
    spoiled = torch.where(ENDS[..., None, None], entities, 1e3)
    first, second = fusion(entities, ENDS), fusion(spoiled, ENDS)
    torch.testing.assert_close(first[ENDS], second[ENDS], rtol=0, atol=1e-12)
    assert not torch.allclose(first[~ENDS], second[~ENDS])


def test_a_compiled_fusion_gives_the_same():
    fusion = make_fusion().eval()
    compiled = torch.compile(fusion, backend="aot_eager")
    for seed, valid in enumerate((ENDS, HOLES, MASKS["full"])):
        rng = torch.Generator().manual_seed(seed)
        entities = torch.randn(3, 7, 3, 5, dtype=torch.float64, generator=rng)
        torch.testing.assert_close(
            compiled(entities, valid), fusion(entities, valid), rtol=0, atol=1e-12
        )


def test_position_tables_are_kept_up_to_a_bound():
    position_table.cache_clear()
    for frames in range(2, 42):
        position_table(frames, 4, 7)
    found = position_table.cache_info()
    assert found.currsize == found.maxsize <= 16
    assert position_table(41, 4, 7) is position_table(41, 4, 7)


def test_a_table_made_while_embedding_may_serve_training():
    position_table.cache_clear()
    with torch.inference_mode():
        assert not position_table(9, 4, 7).is_inference()


@pytest.mark.slow
def test_5000_frames_of_6_entities_embed_within_16_gb():
    """The scores of one block alone would be 28.8 GB."""
    import resource

    fusion = TemporalFusion(
        TemporalConfig(fc_width=1536, embedding=256, output="avg"),
        channels=384,
        num_entities=6,
        train_frames=240,
    ).eval()
    with torch.inference_mode():
        out = fusion(torch.randn(1, 5000, 6, 384))
    assert torch.isfinite(out).all()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if os.uname().sysname == "Darwin" else 1024
    )
    assert peak < 16e9
