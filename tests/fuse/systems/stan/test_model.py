"""The model of STAN beside a naive one, the published counts, and what each option computes."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.nn import functional

from tokenreel.cache.errors import UsageError
from tokenreel.fuse.systems.stan.config import HeadConfig, StanConfig, TransformerConfig
from tokenreel.fuse.systems.stan.encoders import (
    Average,
    Lstm,
    TransformerEncoder,
    make_encoder,
    position_table,
)
from tokenreel.fuse.systems.stan.fusion import Head, make_fusion
from tokenreel.fuse.systems.stan.model import StanModel, loss_of, scores_of
from tokenreel.fuse.systems.stan.system import draw_scenes, number_of, shuffle_scenes, stores_of
from tokenreel.pipeline.override import apply_overrides

SMALL = TransformerConfig(width=8, layers=2, heads=2, feed_forward=6)
DIMS = {"spatial": 5, "temporal": 7}


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def make_model(**changes):
    fields = {"encoder": SMALL, "head": HeadConfig(widths=(6, 4)), **changes}
    config = StanConfig(**fields)
    torch.manual_seed(0)
    dims = {name: DIMS[name] for name in config.stream_names}
    return StanModel(config, dims=dims, num_classes=3).double().eval()


def make_scenes(num_clips=3, num_scenes=6):
    rng = torch.Generator().manual_seed(1)
    return {
        name: torch.randn(num_clips, num_scenes, dim, generator=rng, dtype=torch.float64)
        for name, dim in DIMS.items()
    }


def naive_stream(encoder, scenes):
    """One clip, (T, D) -> (C,): torch's own layer over CLS and scenes, positions by the formula."""
    config = encoder.config
    tokens = [encoder.cls[0], *(encoder.project(scene) for scene in scenes)]
    for place, token in enumerate(tokens):
        wave = []
        for channel in range(config.width):
            angle = place / config.position_base ** (2 * (channel // 2) / config.width)
            wave.append(math.cos(angle) if channel % 2 else math.sin(angle))
        tokens[place] = token + torch.tensor(wave, dtype=token.dtype)
    x = torch.stack(tokens)[None]
    for layer in encoder.layers:
        twin = nn.TransformerEncoderLayer(
            config.width, config.heads, config.feed_forward, batch_first=True
        ).to(x)
        twin.self_attn.in_proj_weight = layer.qkv.weight
        twin.self_attn.in_proj_bias = layer.qkv.bias
        twin.self_attn.out_proj = layer.out
        twin.linear1, twin.linear2 = layer.fc1, layer.fc2
        twin.norm1, twin.norm2 = layer.norm1, layer.norm2
        x = twin.train(False)(x)
    return x[0, 0]


def test_a_clip_is_scored_as_by_a_naive_model_of_the_text():
    model, scenes = make_model(), make_scenes()
    valid = torch.ones(3, 6, dtype=torch.bool)
    valid[1, 4:] = False  # a clip of four scenes: padding has no effect
    found = model(scenes, valid)
    q, head = model.fusion.q, model.heads[0]
    for clip, length in enumerate((6, 4, 6)):
        spatial, temporal = (
            naive_stream(model.encoders[name], scenes[name][clip, :length]) for name in DIMS
        )
        joined = q(spatial) + 0.6 * q(temporal)
        x = (joined - joined.mean()) / torch.sqrt(joined.var(correction=0) + 1e-5)
        for layer in head.layers:
            value, gate = layer(x).chunk(2)
            x = value * torch.sigmoid(gate)
        torch.testing.assert_close(found[clip, 0], head.leave(x), rtol=1e-9, atol=1e-9)


def test_the_published_parameters():
    stream = TransformerEncoder(TransformerConfig(), 512)
    assert count(stream.layers) == 16_549_376  # Table 4: 16.5 million without back-propagation
    assert count(stream.project) == 512 * 896 + 896 == 459_648
    assert count(stream) == 16_549_376 + 459_648 + 896
    head = Head(HeadConfig(gate="gelu"), 896, 19)
    assert count(head) == 896 * 512 + 512 + 512 * 128 + 128 + 128 * 19 + 19
    whole = StanModel(StanConfig(), dims={"spatial": 512, "temporal": 512}, num_classes=19)
    shared = 2 * (896 * 896 + 896)
    assert count(whole) == 2 * count(stream) + shared + count(whole.heads)


def test_positions_are_those_of_the_equation_and_of_the_base():
    for base in (10000.0, 1000.0):
        table = position_table(4, 6, base)
        for place in range(4):
            for i in range(3):
                angle = place / base ** (2 * i / 6)
                wanted = [math.sin(angle), math.cos(angle)]
                assert table[place, 2 * i : 2 * i + 2].tolist() == pytest.approx(wanted, abs=1e-6)


def test_only_positions_tell_the_order_of_scenes():
    scenes = make_scenes()
    turned = {name: x.flip(1) for name, x in scenes.items()}
    valid = torch.ones(3, 6, dtype=torch.bool)
    without = make_model(encoder=SMALL.with_(positions="none"))
    torch.testing.assert_close(without(scenes, valid), without(turned, valid))
    model = make_model()
    assert not torch.allclose(model(scenes, valid), model(turned, valid), atol=1e-3)


def test_a_stream_alone_is_scored_without_the_other():
    scenes, valid = make_scenes(), torch.ones(3, 6, dtype=torch.bool)
    model = make_model(streams="temporal")
    assert set(model.encoders) == {"temporal"}
    vector = model.encoders["temporal"](scenes["temporal"], valid)[:, 0]
    joined = functional.layer_norm(model.fusion.q(vector), (8,))
    torch.testing.assert_close(model(scenes, valid)[:, 0], model.heads[0](joined))


def test_the_fusions_compute_their_formulas():
    rng = torch.Generator().manual_seed(2)
    one, two = torch.randn(2, 4, 8, generator=rng)

    def fuse(kind, **fields):
        config = apply_overrides(StanConfig(), [f"fusion.kind={kind}"], root="fuse").fusion
        torch.manual_seed(0)
        return make_fusion(config.with_(**fields), [8, 8])

    total = fuse("sum", norm="l2", weight=0.25)
    wanted = total.q(one) + 0.25 * total.q(two)
    torch.testing.assert_close(
        total(one, two), wanted / torch.linalg.norm(wanted, dim=1, keepdim=True)
    )
    twice = fuse("spatial_twice")
    torch.testing.assert_close(
        twice(one, two), 2 * one / torch.linalg.norm(one, dim=1, keepdim=True)
    )
    assert torch.equal(twice(one, two), twice(one, -two))
    assert fuse("concat")(one, two).tolist() == torch.cat([one, two], 1).tolist()
    gating = fuse("gate", width=5)
    pair = gating.project(one + two)
    gated = gating.out(pair / (1 + torch.exp(-gating.gate(pair))))
    torch.testing.assert_close(
        gating(one, two), gated / torch.linalg.norm(gated, dim=1, keepdim=True)
    )


def test_average_and_lstm_see_the_valid_scenes_alone():
    scenes = make_scenes()["spatial"]
    valid = torch.tensor([[True] * 6, [True] * 2 + [False] * 4, [True] + [False] * 5])
    for config in (
        StanConfig.model_fields["encoder"].annotation.__args__[1](),
        StanConfig.model_fields["encoder"].annotation.__args__[2](width=4, layers=2),
    ):
        encoder = make_encoder(config, 5).double().eval()
        found = encoder(scenes, valid)
        for clip, length in enumerate((6, 2, 1)):
            alone = encoder(scenes[clip : clip + 1, :length], valid[clip : clip + 1, :length])
            torch.testing.assert_close(found[clip], alone[0])
    assert isinstance(make_encoder(StanConfig().encoder, 5), TransformerEncoder)
    torch.testing.assert_close(Average(5)(scenes, valid)[1, 0], scenes[1, :2].mean(dim=0))
    lstm = Lstm(StanConfig.model_fields["encoder"].annotation.__args__[2](), 5)
    sizes = [(layer.input_size, layer.hidden_size) for layer in lstm.layers]
    assert sizes == [(5, 512), *[(512, 512)] * 3]


def test_the_attention_of_cls_over_scenes_sums_to_one_with_itself_and_is_none_on_padding():
    encoder = make_model().encoders["spatial"]
    valid = torch.tensor([[True] * 6, [True] * 2 + [False] * 4])
    found = encoder.attention(make_scenes(2)["spatial"], valid)
    assert found.shape == (2, 2, 6)
    assert (found[1, :, 2:] == 0).all()
    assert (found.sum(dim=-1) < 1).all()


@pytest.mark.parametrize("targets", ["hard", "soft"])
def test_the_loss_of_distillation_is_that_of_both_streams_and_of_the_imitation(targets):
    config = StanConfig(fusion={"kind": "distil", "targets": targets})
    rng = np.random.default_rng(0)
    logits, tags = rng.normal(size=(2, 3, 4)), np.array([[1, 0, 1, 0], [0, 0, 0, 1]])

    def bce(scores, wanted):
        p = 1 / (1 + np.exp(-scores))
        return -np.mean(wanted * np.log(p) + (1 - wanted) * np.log(1 - p))

    student, distilled, teacher = logits.transpose(1, 0, 2)
    taught = 1 / (1 + np.exp(-teacher))
    shares = np.exp(distilled) / np.exp(distilled).sum(axis=1, keepdims=True)
    hard = -np.log(shares[np.arange(2), teacher.argmax(axis=1)]).mean()
    imitation = hard if targets == "hard" else bce(distilled, taught)
    wanted = bce(student, tags) + bce(teacher, tags) + imitation
    given = torch.tensor(logits, requires_grad=True)
    found = loss_of(given, torch.tensor(tags).double(), config)
    assert found.item() == pytest.approx(wanted)
    alone = torch.tensor(logits, requires_grad=True)
    loss_of(alone[:, 2:], torch.tensor(tags).double(), StanConfig()).backward()
    found.backward()  # the teacher is not moved by its student
    torch.testing.assert_close(given.grad[:, 2], alone.grad[:, 2])
    both = (1 / (1 + np.exp(-student)) + 1 / (1 + np.exp(-distilled))) / 2
    np.testing.assert_allclose(scores_of(torch.tensor(logits), config), both)


def test_one_tag_a_clip_is_learned_by_cross_entropy_and_scored_by_shares():
    config = StanConfig(loss="cross_entropy")
    logits = torch.tensor([[[2.0, 0.0, 1.0]]])
    shares = np.exp([2.0, 0.0, 1.0]) / np.exp([2.0, 0.0, 1.0]).sum()
    found = loss_of(logits, torch.tensor([[0.0, 0.0, 1.0]]), config)
    assert found.item() == pytest.approx(-math.log(shares[2]))
    np.testing.assert_allclose(scores_of(logits, config)[0], shares, rtol=1e-6)


def test_a_distilled_model_has_a_token_and_a_head_more():
    model = make_model(fusion={"kind": "distil"})
    assert [encoder.queries for encoder in model.encoders.values()] == [2, 1]
    found = model(make_scenes(), torch.ones(3, 6, dtype=torch.bool))
    assert found.shape == (3, 3, 3)


@pytest.mark.parametrize(
    ("scenes", "fill", "units", "valid"),
    [
        (1, "mask", [0, 0, 0, 0], [1, 0, 0, 0]),
        (3, "mask", [0, 1, 2, 2], [1, 1, 1, 0]),
        (3, "cycle", [0, 1, 2, 0], [1, 1, 1, 1]),
        (4, "mask", [0, 1, 2, 3], [1, 1, 1, 1]),
        (4, "cycle", [0, 1, 2, 3], [1, 1, 1, 1]),
        (5, "mask", [0, 1, 3, 4], [1, 1, 1, 1]),
        (8, "cycle", [1, 3, 5, 7], [1, 1, 1, 1]),
        (10800, "mask", [1350, 4050, 6750, 9450], [1, 1, 1, 1]),
    ],
)
def test_a_clip_of_any_number_of_scenes_gives_as_many_as_the_model_sees(scenes, fill, units, valid):
    config = StanConfig(fill=fill, data=StanConfig().data.with_(num_frames=4))
    drawn = draw_scenes(scenes, config)
    assert drawn.units.tolist() == [units]
    assert drawn.valid.tolist() == [[bool(one) for one in valid]]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["data.alpha=2"], "data.alpha is of windows of frames"),
        (["data.views=all"], "data.views is of windows"),
        (["streams=spatial", "fusion.kind=gate"], "fusion.kind=gate joins two streams"),
        (["streams=temporal", "fusion.kind=distil"], "fusion.kind=distil joins two streams"),
        (["encoder.kind=lstm", "fusion.kind=distil"], "set encoder.kind=transformer"),
        (["encoder.heads=5"], "width 896 does not divide into 5 heads"),
        (["encoder.kind=lstm", "encoder.heads=3"], "no such field of kind=lstm, but of kind=tran"),
        (["fusion.kind=some"], "no fusion 'some', did you mean sum"),
    ],
)
def test_what_does_not_fit_together_is_refused(words, told):
    with pytest.raises(UsageError, match=told):
        apply_overrides(StanConfig(), words, root="fuse")


def test_streams_of_two_widths_are_not_added():
    with pytest.raises(ValueError, match=r"adds vectors of 5 and 7 channels: set fusion.kind=conc"):
        make_model(encoder={"kind": "average"})
    assert make_model(encoder={"kind": "average"}, fusion={"kind": "concat"}).fusion.channels == 12


def test_the_store_of_a_stream():
    assert stores_of(StanConfig(streams="spatial"), ("tokens",)) == {"spatial": "tokens"}
    both = stores_of(StanConfig(), ("temporal", "spatial"))
    assert both == {"spatial": "spatial", "temporal": "temporal"}
    assert stores_of(StanConfig(streams="temporal"), tuple(both)) == {"temporal": "temporal"}
    told = (
        "reads a store of spatial tokens and one of temporal tokens of the same scenes, given "
        "tokens: give --store spatial=PATH --store temporal=PATH, or for one store streams="
    )
    with pytest.raises(UsageError, match=told):
        stores_of(StanConfig(), ("tokens",))


def test_a_field_that_it_does_not_know_is_refused():
    with pytest.raises(ValidationError):
        StanConfig(pooling={})


def test_shuffled_scenes_are_the_same_scenes_with_padding_at_the_end():
    config = StanConfig(data={"num_frames": 6})
    drawn = draw_scenes(4, config)
    found = [shuffle_scenes(drawn, np.random.default_rng(seed)) for seed in range(20)]
    for draw in found:
        assert sorted(draw.units[0, :4].tolist()) == [0, 1, 2, 3]
        assert draw.units[0, 4:].tolist() == [3, 3]
        assert draw.valid[0].tolist() == [True] * 4 + [False] * 2
    assert len({tuple(draw.units[0]) for draw in found}) > 10
    assert drawn.units[0].tolist() == [0, 1, 2, 3, 3, 3]


def test_a_number_is_predicted_with_its_squared_error_from_the_mean_of_training_clips_on():
    config = StanConfig(loss="mse", encoder=SMALL, head=HeadConfig(widths=(6, 4)))
    numbers, counts = [1.0, 2.0, 6.0], [3, 1, 0]  # the last is of a clip of another split
    model = StanModel(config, dims=DIMS, num_classes=1, numbers=numbers, counts=counts)
    model = model.double().eval()
    assert model.heads[0].leave.bias.tolist() == pytest.approx([1.25])
    logits = model(make_scenes(), torch.ones(3, 6, dtype=torch.bool)).detach()
    assert scores_of(logits, config).shape == (3, 1)
    wanted = torch.tensor([1.0, 6.0, 2.0], dtype=torch.float64)
    loss = loss_of(logits, torch.eye(3, dtype=torch.float64)[[0, 2, 1]] @ model.numbers, config)
    assert float(loss) == pytest.approx(float(((logits[:, 0, 0] - wanted) ** 2).mean()))
    with pytest.raises(ValidationError, match="loss=mse predicts a number"):
        StanConfig(loss="mse", fusion={"kind": "distil"})


@pytest.mark.parametrize("tags", [(), ("drama",), ("1", "2"), ("nan",), ("inf",)])
def test_a_clip_without_a_number_is_named(tags):
    record = SimpleNamespace(clip_id="a.mp4", tags=tags)
    with pytest.raises(UsageError, match=r"the number that a clip has as its only tag, 'a\.mp4'"):
        number_of(record)
    assert number_of(SimpleNamespace(clip_id="a", tags=("-2.5e1",))) == -25.0
