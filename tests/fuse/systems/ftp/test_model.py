"""The model of FTP: its published parameters, hand-worked layers, and a naive twin."""

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional

from tokenreel.cache.errors import UsageError
from tokenreel.fuse.systems.ftp.config import FtpConfig
from tokenreel.fuse.systems.ftp.costs import costs_of, total
from tokenreel.fuse.systems.ftp.layers import (
    ClipMap,
    KernelIntegration,
    Processor,
    SumIntegration,
    average_2x2,
)
from tokenreel.fuse.systems.ftp.losses import class_targets, info_nce, soft_cross_entropy
from tokenreel.fuse.systems.ftp.model import FtpModel, MapShape, dropout_mask
from tokenreel.pipeline.override import apply_overrides

SHAPES = {  # the paper's five models: frames, grid, channels
    "B": MapShape(8, (14, 14), 768),
    "L": MapShape(32, (16, 16), 1024),
    "SSV2 B": MapShape(16, (14, 14), 768),
    "SSV2 L": MapShape(32, (16, 16), 1024),
    "L 64x336": MapShape(64, (24, 24), 1024),
}
TINY = MapShape(3, (2, 4), 6)


def make_model(shape=TINY, classes=("a", "b", "c"), **changes):
    fields = {"stage": "classify", "prompts": ("A", "B"), "head_channels": 3}
    return FtpModel(FtpConfig(**{**fields, **changes}), shape, classes).double().eval()


def make_map(clips=2, shape=TINY, seed=1, pool="mean"):
    rng = torch.Generator().manual_seed(seed)
    whole = torch.randn(clips, shape.frames, shape.places, shape.dim, generator=rng).double()
    return ClipMap.of(whole, shape.grid, pool=pool)


@pytest.mark.parametrize(
    ("words", "millions"),
    [
        (["reading=main"], [21.3, 37.8, 21.3, 37.8, 37.8]),
        (["reading=appendix"], [22.0, 46.3, 23.4, 46.3, 133]),
        (["reading=appendix", "conv_after_sum=true"], [27.3, 55.7, 28.7, 55.7, 142]),
    ],
)
def test_the_readings_have_the_parameters_of_the_specification(words, millions):
    for (name, shape), wanted in zip(SHAPES.items(), millions, strict=True):
        config = apply_overrides(FtpConfig(stage="classify"), words, root="fuse")
        with torch.device("meta"):
            model = FtpModel(config, shape, ("a", "b"))
        counted = sum(p.numel() for n, p in model.named_parameters() if not n.startswith("head."))
        digits = 0 if wanted > 100 else 1
        assert round(counted / 1e6, digits) == wanted, name
        assert total(costs_of(config, shape)).parameters == counted


def test_a_processor_has_two_layers_or_one_for_both():
    assert sum(p.numel() for p in Processor(6, 2).parameters()) == 2 * (36 + 6)
    shared = Processor(6, 1)
    assert sum(p.numel() for p in shared.parameters()) == 36 + 6
    x = torch.ones(1, 2, 6)
    assert torch.equal(*shared(x, x))


@pytest.mark.parametrize("pool", ["mean", "max"])
def test_a_map_is_pooled_over_places_and_over_frames(pool):
    whole = torch.tensor([[[[1.0], [5.0]], [[3.0], [-1.0]]]])  # 2 frames of 2 places
    clips = ClipMap.of(whole, (1, 2), pool=pool)
    wanted = {"mean": ([3.0, 1.0], [2.0, 2.0]), "max": ([5.0, 3.0], [3.0, 5.0])}[pool]
    assert clips.spatial[0, :, 0].tolist() == wanted[0]
    assert clips.temporal[0, :, 0].tolist() == wanted[1]


def naive_integration(layer, spatial, temporal, grid):
    """Replicated, summed, convolved frame by frame with torch's own convolutions."""
    replicated = spatial[:, :, None] + temporal[:, None]
    out = torch.zeros_like(replicated)
    for clip in range(len(spatial)):
        for frame in range(spatial.shape[1]):
            image = replicated[clip, frame].T.reshape(1, -1, *grid)
            depth = functional.conv2d(
                image,
                layer.depthwise.weight,
                layer.depthwise.bias,
                padding=1,
                groups=image.shape[1],
            )
            out[clip, frame] = layer.pointwise(depth.flatten(2)[0].T)
    return out


@pytest.mark.parametrize("grid", [(2, 4), (1, 8), (8, 1)])
def test_the_integration_is_the_convolution_of_the_replicated_sum(grid):
    torch.manual_seed(0)
    layer = SumIntegration(6).double()
    clips = make_map()
    found = layer(clips.spatial, clips.temporal, grid)
    wanted = naive_integration(layer, clips.spatial, clips.temporal, grid)
    torch.testing.assert_close(found, wanted)
    over_places, over_frames = layer.pooled(clips.spatial, clips.temporal, grid)
    torch.testing.assert_close(over_places, wanted.mean(dim=2))
    torch.testing.assert_close(over_frames, wanted.mean(dim=1))


def test_the_kernel_of_the_appendix_sees_rows_as_channels():
    torch.manual_seed(0)
    layer = KernelIntegration(6, 3, 8).double()
    assert layer.depthwise.weight.shape == (11, 1, 3, 8)  # T + N channels, kernel (T, N)
    assert layer.pointwise.weight.shape == (6, 11, 1, 1)
    clips = make_map()
    rows = torch.cat([clips.spatial, clips.temporal], dim=1)[0]
    image = torch.stack([torch.cat([row] * 4)[:24].reshape(3, 8) for row in rows])
    wanted = layer.pointwise(
        functional.conv2d(
            functional.pad(image[None], (3, 4, 1, 1)),
            layer.depthwise.weight,
            layer.depthwise.bias,
            groups=11,
        )
    )
    found = layer(clips.spatial, clips.temporal, (2, 4))
    torch.testing.assert_close(found[0], wanted[0].permute(1, 2, 0))


def naive_scores(model, clips):
    """The reading `main` clip by clip and head by head."""
    scores = []
    for clip in range(len(clips.whole)):
        f = clips.whole[clip].clone()
        for prompt, layer in model.integrations.items():
            processor = model.processors[prompt]
            s = processor.spatial(clips.whole[clip].mean(dim=1))
            t = processor.temporal(clips.whole[clip].mean(dim=0))
            f += naive_integration(layer, s[None], t[None], clips.grid)[0]
        x = f.flatten(0, 1)
        for block in model.blocks:
            normed = functional.layer_norm(x, x.shape[-1:], block.norm1.weight, block.norm1.bias)
            q, k, v = block.attention.qkv(normed).chunk(3, dim=1)
            parts = []
            for head in range(block.attention.heads):
                own = slice(3 * head, 3 * head + 3)
                weights = (q[:, own] @ k[:, own].T / math.sqrt(3)).softmax(dim=1)
                parts.append(weights @ v[:, own])
            x = x + block.attention.out(torch.cat(parts, dim=1))
            normed = functional.layer_norm(x, x.shape[-1:], block.norm2.weight, block.norm2.bias)
            x = x + block.narrow(functional.gelu(block.wide(normed)))
        scores.append(model.head.last(x.mean(dim=0)))
    return torch.stack(scores)


def test_a_clip_is_scored_as_by_a_naive_model_of_the_text():
    model, clips = make_model(), make_map()
    torch.testing.assert_close(model(clips), naive_scores(model, clips))


def test_blocks_of_the_pooled_map_see_the_means_of_the_joined_one():
    full, clips = make_model(blocks=0), make_map()
    pooled = make_model(blocks=0, map="pooled")
    f = full._joined(clips).unflatten(1, (3, 8))
    means = torch.cat([f.mean(dim=2), f.mean(dim=1)], dim=1)
    torch.testing.assert_close(pooled._joined(clips), means)
    bare = ClipMap(clips.spatial, clips.temporal, clips.grid)
    assert torch.equal(pooled(bare), pooled(clips))


def test_without_prompts_and_blocks_it_is_a_linear_layer_of_the_mean_token():
    model, clips = make_model(prompts=(), blocks=0), make_map()
    wanted = model.head.last(clips.whole.mean(dim=(1, 2)))
    torch.testing.assert_close(model(clips), wanted)
    assert {name.partition(".")[0] for name, _ in model.named_parameters()} == {"head"}


@pytest.mark.parametrize("changes", [{}, {"conv_after_sum": True}, {"head_width": 5}])
def test_the_reading_of_the_appendix_scores_every_grid(changes):
    for grid in ((2, 4), (3, 3), (1, 2)):
        shape = MapShape(3, grid, 6)
        model = make_model(shape, reading="appendix", **changes)
        clips = make_map(shape=shape)
        assert model(clips).shape == (2, 3)
        assert model.features(clips).shape == (2, changes.get("head_width", 6))


def test_a_last_odd_row_is_left_out_of_the_means_of_2x2():
    x = torch.arange(9.0).reshape(1, 9, 1)
    assert average_2x2(x, 1, (3, 3)).flatten().tolist() == [2.0]  # of 0, 1, 3, 4
    assert average_2x2(x, 9, (1, 1)).flatten().tolist() == x.flatten().tolist()


def test_weights_of_a_prompt_depend_on_the_seed_and_its_name_alone():
    alone = make_model(prompts=("B",)).state_dict()
    four = make_model(prompts=("A", "B", "C", "D")).state_dict()
    assert all(torch.equal(value, four[name]) for name, value in alone.items())
    assert not torch.equal(four["processors.A.spatial.weight"], four["processors.B.spatial.weight"])
    other = make_model(prompts=("B",), seed=1).state_dict()
    assert not torch.equal(
        alone["processors.B.spatial.weight"], other["processors.B.spatial.weight"]
    )


def test_info_nce_of_a_pair_that_is_worked_by_hand():
    visual = torch.tensor([[2.0, 0.0], [0.0, 3.0]]).double()
    text = torch.tensor([[1.0, 0.0], [1.0, 1.0]]).double()
    scale = torch.tensor(math.log(2.0)).double()
    # cosines 1, 1/sqrt 2; 0, 1/sqrt 2; all times 2
    a, b, c, d = 2.0, math.sqrt(2), 0.0, math.sqrt(2)
    rows = (math.log(1 + math.exp(b - a)) + math.log(1 + math.exp(c - d))) / 2
    columns = (math.log(1 + math.exp(c - a)) + math.log(1 + math.exp(b - d))) / 2
    assert info_nce(visual, text, scale).item() == pytest.approx((rows + columns) / 2, abs=1e-6)


def test_info_nce_is_that_of_a_naive_loop_also_for_rows_of_tokens():
    rng = np.random.default_rng(0)
    visual, text = rng.normal(size=(2, 5, 3, 4))

    def cosine(one, two):
        return one @ two / np.linalg.norm(one) / np.linalg.norm(two)

    table = np.array(
        [[np.mean([cosine(v[r], t[r]) for r in range(3)]) for t in text] for v in visual]
    )
    logits = table / 0.07
    shares = [np.exp(logits) / np.exp(logits).sum(axis=axis, keepdims=True) for axis in (0, 1)]
    wanted = np.mean([-np.log(np.diag(share)).mean() for share in shares])
    scale = torch.tensor(math.log(1 / 0.07))
    found = info_nce(torch.tensor(visual), torch.tensor(text), scale)
    assert found.item() == pytest.approx(wanted, rel=1e-5)
    flat = info_nce(torch.tensor(visual[:, 0]), torch.tensor(text[:, 0]), scale * 10)
    at_most = info_nce(torch.tensor(visual[:, 0]), torch.tensor(text[:, 0]), torch.tensor(1e3))
    assert flat.item() == pytest.approx(at_most.item())  # a scale of at most 100


def test_fewer_than_two_pairs_have_no_loss_and_zero_gradients():
    scale = torch.tensor(1.0, requires_grad=True)
    for count in (0, 1):
        x = torch.ones(count, 3, requires_grad=True)
        loss = info_nce(x, torch.ones(count, 3), scale)
        loss.backward()
        assert loss.item() == 0
        assert scale.grad.item() == 0


def test_smoothed_targets_and_their_cross_entropy():
    targets = class_targets(torch.tensor([1, 0]), 4, 0.2)
    assert targets.tolist() == [
        pytest.approx([0.05, 0.85, 0.05, 0.05]),
        pytest.approx([0.85, 0.05, 0.05, 0.05]),
    ]
    scores = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
    wanted = functional.cross_entropy(scores, torch.tensor([1, 0]), label_smoothing=0.2)
    torch.testing.assert_close(soft_cross_entropy(scores, targets), wanted)


def test_dropout_of_a_prompt_is_that_of_the_whole_batch_on_every_process():
    cpu = torch.device("cpu")
    whole = dropout_mask((5, 2, 3), slice(0, 5), 0.4, 7, cpu)
    assert torch.equal(dropout_mask((5, 2, 3), slice(3, 5), 0.4, 7, cpu), whole[3:])
    assert whole.unique().tolist() == [0.0, pytest.approx(1 / 0.6)]
    assert dropout_mask((5, 2, 3), slice(0, 5), 0.0, 7, cpu) is None


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["prompts=A,A"], "names one twice"),
        (["prompts=A b"], "'A b' is no name of a prompt"),
        (["stage=align", "prompts=[]"], "stage=align trains processors"),
        (["processors=runs/a"], "set stage=classify"),
        (["align.optim.precision=float16"], "must not depend on one another"),
        (["data.alpha=2"], "data.alpha is of windows of frames"),
        (["data.action=x"], "data.action is of windows"),
        (["repeats=2"], "set data.views=all"),
        (["map=pooled", "reading=appendix"], "reading=appendix needs whole maps"),
        (["map=pooled", "pool=max"], "pool=max needs whole maps"),
        (["class_texts=x"], "set stage=align"),
        (["pool=median"], "pool"),
    ],
)
def test_what_does_not_fit_together_is_refused(words, told):
    with pytest.raises(UsageError, match=told):
        apply_overrides(FtpConfig(), words, root="fuse")


def test_heads_that_do_not_divide_the_channels_are_refused():
    with pytest.raises(ValueError, match=r"head_channels=2: 7 channels do not divide into 3 heads"):
        make_model(MapShape(3, (2, 4), 7), head_channels=2)


def test_a_field_that_it_does_not_know_is_refused():
    with pytest.raises(ValidationError):
        FtpConfig(pooling={})
