"""The models against the official code: outputs in all modes, batch norms, parameter counts."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from tokenreel.fuse.config import (
    POOLINGS,
    DataConfig,
    FixedWidthConfig,
    FuseConfig,
    LstpConfig,
    MaxConfig,
    MeanConfig,
    SclConfig,
    TemporalConfig,
)
from tokenreel.fuse.layers.pooling import make_pooling, reduce_tokens
from tokenreel.fuse.layers.temporal import position_table
from tokenreel.fuse.losses.heads import apply_head, make_head
from tokenreel.fuse.systems.mvformer.model import build_model

GOLDEN = Path(__file__).parents[2] / "golden"
CASES = json.loads((GOLDEN / "models_small.json").read_text())["cases"]
MULTI_ENTITY = [name for name in CASES if name.startswith("mtf/")]
LATE = {"late/max": "max", "late/cls_1x1": "cls"}
ENTITY_IDS = {"pool": "pool", "enc": "encoder", "none": "none"}


def read_arrays(name):
    with np.load(GOLDEN / "models_small.npz") as file:
        prefix = f"{name}/"
        found = {k.removeprefix(prefix): file[k] for k in file.files if k.startswith(prefix)}
    return {key: torch.from_numpy(value) for key, value in found.items()}


def make_config(name):
    official = CASES[name]["config"]
    capacity = official["CAPACITY_SCALAR"]
    kind = LATE.get(name, "fixed_width" if official.get("FIXED_WIDTH_BASELINE") else "lstp")
    fields = {
        "num_entities": official["SMART_TOKENS"],
        "num_dynamic": official.get("SMART_DYNAMIC_TOKENS", 0),
        "dynamic": official.get("DYNAMIC_CTRL", "separate"),
        "channels": official["SMART_POOL_CHANNELS"],
        "normalise_keys": official.get("SMART_LN_KEYS", False),
        "disjoint": official.get("SMART_DISJOINT", False),
        "value_passthrough": official.get("VAL_PASS", False),
    }
    return FuseConfig(
        data=DataConfig(num_frames=CASES[name].get("train_num_frames", CASES[name]["T"])),
        pooling=POOLINGS[kind].model_validate(
            {name: value for name, value in fields.items() if name in POOLINGS[kind].model_fields}
        ),
        temporal=TemporalConfig(
            entity_ids=ENTITY_IDS[official["SMART_ONE_HOT"]],
            fc_width=official["FC_LAYERS"][0][0] * capacity,
            hidden=official["HIDDEN_SIZE"],
            heads=official["NUM_HEADS"],
            feed_forward=official["D_FF"],
            layers=official["NUM_LAYERS"],
            output=official["SMART_FINAL"],
            embedding=official["EMBEDDING_SIZE"],
            l2_normalise=False,
            dropout=0.0,
        ),
    )


def official_state(arrays):
    """The official state dict under our names."""
    state = {k.removeprefix("state/"): v for k, v in arrays.items() if k.startswith("state/")}
    ours = {}
    names = {
        "pooling.cross_att.Q_s_b": "pooling.query_bias",
        "pooling.lin_conv.": "pooling.split.",
        "pooling.cross_att.linear_K2d.": "pooling.key.",
        "pooling.cross_att.linear_V2d.": "pooling.value.",
        "pooling.cross_att.in2dynQ.": "pooling.dynamic.",
        "fc_layers.": "temporal.fc.",
        "video_emb.": "temporal.enter.",
        "embedding_layer.": "temporal.leave.",
        "smart_final_lin.": "temporal.join.",
    }
    inside = {
        "res_layer0.norm.": "norm1.",
        "res_layer1.norm.": "norm2.",
        "self_att.linear_d2Q.": "out.",
        "feed_forward.": "",
    }
    for name, value in state.items():
        if name == "pooling.cross_att.Q_s":
            ours["pooling.queries"] = value[0]
        elif name.startswith("video_encoder.enc_layers."):
            number, rest = name.removeprefix("video_encoder.enc_layers.").split(".", 1)
            block = f"temporal.blocks.{number}."
            if "linear_Q2d" in rest:
                q, k, v = (state[name.replace("Q2d", f"{x}2d")] for x in "QKV")
                ours[f"{block}qkv.{rest.rsplit('.', 1)[1]}"] = torch.cat([q, k, v])
            elif "linear_K2d" not in rest and "linear_V2d" not in rest:
                here = next(old for old in inside if rest.startswith(old))
                ours[block + inside[here] + rest.removeprefix(here)] = value
        else:
            here = next((old for old in names if name.startswith(old)), None)
            ours[names[here] + name.removeprefix(here) if here else "temporal.join." + name] = value
    return ours


def load_case(name):
    arrays = read_arrays(name)
    config = make_config(name)
    x = arrays["x"]
    cls = arrays.get("cls", x[..., 0, 0].flatten(0, 1))
    model = build_model(config, dim=x.shape[2], cls_dim=cls.shape[-1])
    state = official_state(arrays)
    for key in list(state):
        if key.startswith("temporal.join."):
            state["temporal.join." + key.rsplit(".", 1)[1]] = state.pop(key)
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected
    assert all("projection" in key or "num_batches" in key for key in missing)
    tokens = x.flatten(0, 1).flatten(2).transpose(1, 2)
    return model, arrays, tokens, cls


def context_of(model, arrays, cls):
    """What the dynamic queries of all frames are made from, clip by clip."""
    if not getattr(model.config.pooling, "num_dynamic", 0):
        return None
    return torch.cat([model.sequence_context(part) for part in cls.split(arrays["x"].shape[1])])


def run(model, arrays, tokens, cls, valid=None):
    entities = model.pool(tokens, cls, None, context_of(model, arrays, cls))
    return model.fuse(entities.unflatten(0, arrays["x"].shape[:2]), valid)


def run_exactly(name, valid=None, *, training=False):
    """The same in float64."""
    model, arrays, tokens, cls = load_case(name)
    with torch.no_grad():
        model = model.double().train(training)
        return run(model, arrays, tokens.double(), cls.double(), valid)


def assert_official(found, official, exact):
    """The official output is the exact one but for the rounding of float32, and ours as near."""
    largest = exact.abs().max()
    official_error, error = ((out - exact).abs().max() / largest for out in (official, found))
    assert official_error < 2e-6
    assert error < max(2 * official_error, 1e-6)


@pytest.mark.parametrize("name", [*MULTI_ENTITY, *LATE])
def test_evaluation_equals_the_official_output(name):
    model, arrays, tokens, cls = load_case(name)
    with torch.no_grad():
        out = run(model.eval(), arrays, tokens, cls)
        assert_official(out, arrays["out_eval"], run_exactly(name))
        if "video_masks" in arrays:
            valid = arrays["video_masks"][:, 0] > 0
            masked = run(model, arrays, tokens, cls, valid)
            assert_official(masked, arrays["out_eval_masked"], run_exactly(name, valid))


@pytest.mark.parametrize("name", [name for name in MULTI_ENTITY if "single" not in name])
def test_a_training_step_equals_the_official_output_and_batch_norms(name):
    model, arrays, tokens, cls = load_case(name)
    valid = arrays["video_masks"][:, 0] > 0
    with torch.no_grad():
        out = run(model.train(), arrays, tokens, cls, valid)
    assert_official(out, arrays["out_train_dropout0"], run_exactly(name, valid, training=True))
    for layer in (2, 6):
        for key in ("running_mean", "running_var"):
            wanted = arrays[f"state_after_one_train_forward/fc_layers.{layer}.{key}"]
            found = getattr(model.temporal.fc[layer], key)
            torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


def test_entities_and_masks_of_another_shape_are_refused():
    config = FuseConfig(
        pooling=LstpConfig(num_entities=2, channels=4),
        temporal=TemporalConfig(entity_ids="none", fc_width=4, hidden=4, heads=2, layers=1),
    )
    model = build_model(config, dim=4, cls_dim=4).eval()
    entities = torch.zeros(3, 5, 2, 4)
    with pytest.raises(ValueError, match=r"entities \(3, 5, 4, 4\): want \(B, T, 2, C\)"):
        model.fuse(torch.zeros(3, 5, 4, 4))
    with pytest.raises(ValueError, match=r"valid \(3, 4\): want \(3, 5\)"):
        model.fuse(entities, torch.ones(3, 4, dtype=torch.bool))
    with pytest.raises(TypeError, match=r"valid is torch.float32: want bool"):
        model.fuse(entities, torch.ones(3, 5))


def test_dropout_is_where_the_published_models_have_it():
    temporal = TemporalConfig(fc_width=24, hidden=16, heads=2, feed_forward=20, layers=2)
    config = FuseConfig(pooling=LstpConfig(num_entities=3, channels=12), temporal=temporal)
    model = build_model(config, dim=8, cls_dim=8)
    found = []
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            assert module.p == 0.1
            module.register_forward_hook(lambda _, args, __: found.append(args[0].shape))
    model.fuse(torch.randn(2, 5, 3, 12))
    fc, after_positions, branches = [(30, 15), (30, 24)], [(2, 5, 3, 16)], [(2, 15, 16)] * 4
    assert found == fc + after_positions + branches


@pytest.mark.parametrize("name", [name for name in MULTI_ENTITY if "fixed" not in name])
def test_pooled_tokens_and_attention_equal_the_official_ones(name):
    model, arrays, tokens, cls = load_case(name)
    with torch.no_grad():
        context = context_of(model, arrays, cls)
        pooled = model.pool(tokens, cls, None, context)
        attention = model.attention(tokens, cls, None, context)
    torch.testing.assert_close(pooled, arrays["pooled_tokens"].transpose(1, 2), rtol=0, atol=1e-5)
    last = attention[-arrays["x"].shape[1] :]
    torch.testing.assert_close(last, arrays["lstp_attention_last_video"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", MULTI_ENTITY)
def test_small_models_have_the_official_number_of_parameters(name):
    model, *_ = load_case(name)
    found = sum(p.numel() for n, p in model.named_parameters() if "projection" not in n)
    assert found == CASES[name]["num_params"]


@pytest.mark.parametrize(
    ("dim", "kind", "pooling", "temporal", "wanted"),
    [
        (2304, "lstp", {"num_entities": 3}, {"fc_width": 512}, 4_768_640),
        (
            2304,
            "lstp",
            {"num_entities": 6},
            {"fc_width": 1536, "embedding": 256, "output": "avg"},
            7_569_024,
        ),
        (768, "lstp", {"num_entities": 3}, {"fc_width": 512}, 3_588_992),
        (2048, "max", {}, {"fc_width": 512}, 3_847_296),
    ],
    ids=["penn", "finegym", "pouring", "carl"],
)
def test_the_published_models_have_the_published_number_of_parameters(
    dim, kind, pooling, temporal, wanted
):
    config = FuseConfig(pooling=POOLINGS[kind](**pooling), temporal=TemporalConfig(**temporal))
    model = build_model(config, dim=dim, cls_dim=768)
    found = sum(p.numel() for n, p in model.named_parameters() if "projection" not in n)
    assert found == wanted


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("S7_d16_T7", (7, 16, 7)),
        ("S12_d16_T7", (12, 16, 7)),
        ("S5_d16_T80", (5, 16, 80)),
        ("S1_d16_T80", (1, 16, 80)),
        ("S9_d13_T9", (9, 13, 9)),
    ],
)
def test_positions_equal_the_official_ones(name, shape):
    wanted = read_arrays(f"posenc/{name}")["pe"]
    torch.testing.assert_close(position_table(*shape), wanted, rtol=0, atol=1e-5)


def test_positions_of_the_published_size_equal_the_official_ones():
    wanted = read_arrays("posenc/S240_d256_T240")["rows_0_1_100_last"]
    found = position_table(240, 256, 240)[[0, 1, 100, 239]]
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("unit", [False, True])
def test_the_head_of_the_contrastive_loss_equals_the_official_one(unit):
    state, arrays = read_arrays("mlphead/state"), read_arrays("mlphead")
    config = SclConfig(projection_hidden=10)
    head = make_head(config, width=8, num_classes=0).eval()
    head.load_state_dict(
        {name.removeprefix("net."): value for name, value in state.items()}, strict=False
    )
    with torch.no_grad():
        found = (
            apply_head(head, config, arrays["x"])
            if unit
            else head(arrays["x"].flatten(0, 1)).unflatten(0, (2, 7))
        )
    torch.testing.assert_close(found, arrays["out_l2" if unit else "out"], rtol=0, atol=1e-5)


def test_embeddings_have_unit_length_as_the_official_ones():
    arrays = read_arrays("embedding_l2")
    found = torch.nn.functional.normalize(arrays["x"], dim=-1)
    torch.testing.assert_close(found, arrays["out"], rtol=0, atol=1e-5)
    model, inputs, tokens, cls = load_case("mtf/one_pool")
    model.temporal.config = model.temporal.config.with_(l2_normalise=True)
    with torch.no_grad():
        out = run(model.eval(), inputs, tokens, cls)
    wanted = torch.nn.functional.normalize(inputs["out_eval"], dim=-1)
    torch.testing.assert_close(out, wanted, rtol=0, atol=1e-5)


def test_frozen_pooling_sees_only_the_tokens_that_are_not_hidden():
    tokens = torch.tensor([[[-4.0, 1.0], [-2.0, 5.0], [9.0, 9.0]]])
    hidden = torch.tensor([[False, False, True]])
    assert reduce_tokens(tokens, "mean", hidden).tolist() == [[-3, 3]]
    assert reduce_tokens(tokens, "max", hidden).tolist() == [[-2, 5]]
    assert reduce_tokens(tokens, "max").tolist() == [[9, 9]]


def test_late_fusion_may_average_the_tokens():
    model, _, tokens, cls = load_case("late/max")
    model.pooling = make_pooling(MeanConfig(), tokens.shape[-1], cls.shape[-1])
    torch.testing.assert_close(model.pool(tokens, cls)[:, 0], tokens.mean(1))


@pytest.mark.skipif("TOKENREEL_GOLDEN" not in os.environ, reason="TOKENREEL_GOLDEN is not set")
def test_the_published_model_of_penn_action_equals_the_official_one():
    with np.load(Path(os.environ["TOKENREEL_GOLDEN"]) / "model_penn_real_dims.npz") as file:
        arrays = {
            key.removeprefix("penn/"): torch.from_numpy(file[key]).float() for key in file.files
        }
    config = FuseConfig(
        data=DataConfig(num_frames=80), temporal=TemporalConfig(l2_normalise=False, dropout=0.0)
    )
    model = build_model(config, dim=2304, cls_dim=768).eval()
    missing, unexpected = model.load_state_dict(official_state(arrays), strict=False)
    assert not unexpected
    assert all("projection" in key or "num_batches" in key for key in missing)
    tokens = arrays["x"].flatten(0, 1).flatten(2).transpose(1, 2)
    with torch.no_grad():
        pooled, attention = model.pool(tokens, None), model.attention(tokens, None)
        out = run(model, arrays, tokens, None)
        masked = run(model, arrays, tokens, None, arrays["video_masks"][:, 0] > 0)
    for found, wanted in (
        (pooled, arrays["pooled_tokens"].transpose(1, 2)),
        (attention, arrays["lstp_attention"]),
        (out, arrays["out_eval"]),
        (masked, arrays["out_eval_masked"]),
    ):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


def test_dynamic_queries_are_made_from_the_frame_the_first_or_the_mean():
    cls = torch.tensor([[1.0, 5.0], [2.0, 7.0], [6.0, 0.0]])
    wanted = {
        "separate": cls,
        "first": cls[:1].expand(3, -1),
        "average": torch.tensor([[3.0, 4.0]]),
    }
    for how, rows in wanted.items():
        pooling = LstpConfig(num_entities=0, num_dynamic=2, dynamic=how, channels=4)
        model = build_model(make_config("mtf/one_pool").with_(pooling=pooling), dim=24, cls_dim=2)
        torch.testing.assert_close(model.sequence_context(cls)[:, 0], rows.expand(3, -1))
        assert model.pooling.queries is None


def test_queries_of_a_sequence_are_not_made_of_a_frame_alone():
    pooling = LstpConfig(num_dynamic=1, dynamic="average", channels=4)
    config = make_config("mtf/one_pool").with_(pooling=pooling)
    model = build_model(config, dim=24, cls_dim=2)
    with pytest.raises(ValueError, match=r"pooling.dynamic=average needs the CLS vectors"):
        model.pool(torch.zeros(1, 2, 24), torch.zeros(1, 2))
    with pytest.raises(ValueError, match=r"pooling.kind=cls has no attention to show"):
        load_case("late/cls_1x1")[0].attention(torch.zeros(1, 2, 24), None)


@pytest.mark.parametrize(
    ("kind", "changes", "words"),
    [
        ("lstp", {"num_entities": 0}, "no entities: set num_entities, or num_dynamic"),
        ("fixed_width", {"num_entities": 0}, "no entities: set num_entities"),
        ("lstp", {"num_entities": 1, "disjoint": True}, "disjoint entities are two or more"),
        ("max", {"num_dynamic": 2}, r"num_dynamic\n  Extra inputs are not permitted"),
        ("mean", {"num_entities": 7}, r"num_entities\n  Extra inputs are not permitted"),
        ("cls", {"blocks": (1,)}, r"blocks\n  Extra inputs are not permitted"),
        ("fixed_width", {"normalise_keys": True}, r"normalise_keys\n  Extra inputs are not"),
    ],
)
def test_a_pooling_is_refused_what_would_change_nothing(kind, changes, words):
    with pytest.raises(ValidationError, match=words):
        POOLINGS[kind](**changes)


def test_the_encoder_needs_blocks_for_ids_and_channels_beside_them():
    with pytest.raises(
        ValidationError, match="entity_ids=encoder is for blocks, layers=0 has none"
    ):
        TemporalConfig(entity_ids="encoder", layers=0)
    temporal = TemporalConfig(entity_ids="encoder", hidden=4, heads=2)
    for kind in (LstpConfig, FixedWidthConfig):
        with pytest.raises(ValidationError, match=r"takes 4 channels of temporal\.hidden=4 for"):
            FuseConfig(temporal=temporal, pooling=kind(num_entities=4))
    FuseConfig(temporal=temporal, pooling=MaxConfig())
    config = FuseConfig(temporal=temporal, pooling=LstpConfig(num_entities=3, channels=8))
    assert build_model(config, dim=8, cls_dim=8).temporal.enter.out_features == 1


def test_the_seed_alone_decides_the_weights():
    config = make_config("mtf/one_pool")
    torch.manual_seed(123)
    first = build_model(config, dim=24, cls_dim=8).state_dict()
    second = build_model(config, dim=24, cls_dim=8).state_dict()
    other = build_model(config.with_(seed=1), dim=24, cls_dim=8).state_dict()

    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["pooling.queries"], other["pooling.queries"])


def test_a_hidden_token_changes_nothing():
    model, _, tokens, cls = load_case("mtf/one_pool")
    hidden = torch.zeros(tokens.shape[:2], dtype=torch.bool)
    hidden[:, 3] = True
    spoiled = tokens.clone()
    spoiled[:, 3] = 1e3
    torch.testing.assert_close(model.pool(tokens, cls, hidden), model.pool(spoiled, cls, hidden))
