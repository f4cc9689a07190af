"""What no loss takes: NaN, infinity, half precision, short steps, wrong masks and labels."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tokenreel.fuse.config import GtaConfig, LavConfig, SclConfig, TccConfig
from tokenreel.fuse.config.loss import LOSSES
from tokenreel.fuse.losses.checks import NotFinite
from tokenreel.fuse.losses.cross_entropy import frame_classification_loss
from tokenreel.fuse.losses.dtw import path_table
from tokenreel.fuse.losses.gta import cycle_loss, global_alignment_loss, match_costs
from tokenreel.fuse.losses.heads import apply_head, make_head
from tokenreel.fuse.losses.inputs import LossInput
from tokenreel.fuse.losses.lav import align_videos_loss, inverse_difference_moment, soft_dtw
from tokenreel.fuse.losses.sal import draw_triplets, shuffle_and_learn_loss
from tokenreel.fuse.losses.scl import gaussian_labels, scl, sequence_contrastive_loss
from tokenreel.fuse.losses.tcc import cycle_back_logits, temporal_cycle_consistency_loss
from tokenreel.fuse.losses.tcn import time_contrastive_loss
from tokenreel.fuse.losses.vsp import (
    draw_bridges,
    phase_bridges,
    process_contrastive_loss,
    supervised_contrastive_loss,
)


def unit(*shape):
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.normalize(values, dim=-1)


def true(*shape):
    return torch.ones(*shape, dtype=torch.bool)


RNG = np.random.default_rng(0)
PAIRS = torch.tensor([[0, 1], [2, 3]])
TIMES = torch.arange(6.0).expand(4, 6)
INPUT = {
    "embeddings": unit(2, 2, 6, 3),
    "steps": torch.arange(6).expand(2, 2, 6),
    "valid": true(2, 2, 6),
    "padding": torch.zeros(0, dtype=torch.long),
    "labels": torch.zeros(2, 2, 6, dtype=torch.long),
    "actions": ("a", "a"),
    "num_frames": torch.tensor([6, 6]),
    "head": torch.nn.Identity(),
    "rng": RNG,
}
CALLS = {
    "LossInput": (LossInput, INPUT),
    "scl": (
        sequence_contrastive_loss,
        {name: INPUT[name] for name in ("embeddings", "steps", "valid")}
        | {"temperature": 0.1, "label_variance": 10.0},
    ),
    "gaussian_labels": (
        gaussian_labels,
        {
            "distance": torch.zeros(1, 6, 6),
            "both": true(1, 6, 6),
            "variance": 10.0,
            "mode": "stable",
        },
    ),
    "cross_entropy": (
        frame_classification_loss,
        {"logits": unit(4, 6, 3), "labels": torch.zeros(4, 6).long(), "valid": true(4, 6)},
    ),
    "path_table": (path_table, {"cost": unit(2, 4, 5), "minimum": lambda values: values.amin(-1)}),
    "gta": (
        global_alignment_loss,
        {"embeddings": unit(4, 6, 3), "valid": true(4, 6), "pairs": PAIRS, "config": GtaConfig()},
    ),
    "match_costs": (
        match_costs,
        {"a": unit(2, 6, 3), "b": unit(2, 6, 3), "in_a": true(2, 6), "gamma": 0.1},
    ),
    "cycle_loss": (
        cycle_loss,
        {
            "forth": unit(2, 6, 6),
            "back": unit(2, 6, 6),
            "in_a": true(2, 6),
            "in_b": true(2, 6),
            "smoothing": 0.1,
        },
    ),
    "lav": (
        align_videos_loss,
        {
            "embeddings": unit(4, 6, 3),
            "times": TIMES,
            "lengths": torch.full((4,), 6.0),
            "valid": true(4, 6),
            "pairs": PAIRS,
            "config": LavConfig(),
        },
    ),
    "soft_dtw": (
        soft_dtw,
        {
            "a": unit(2, 6, 3),
            "b": unit(2, 6, 3),
            "in_a": true(2, 6),
            "in_b": true(2, 6),
            "gamma": 0.1,
        },
    ),
    "inverse_difference_moment": (
        inverse_difference_moment,
        {
            "embeddings": unit(4, 6, 3),
            "times": TIMES,
            "valid": true(4, 6),
            "window": torch.ones(4),
            "margin": 2.0,
        },
    ),
    "draw_triplets": (
        draw_triplets,
        {"valid": true(4, 6), "rng": RNG, "count": 2, "shuffled": 0.5},
    ),
    "sal": (shuffle_and_learn_loss, {"logits": unit(6, 2), "is_ordered": true(6)}),
    "tcc": (
        temporal_cycle_consistency_loss,
        {
            "embeddings": unit(4, 6, 3),
            "times": TIMES,
            "valid": true(4, 6),
            "pairs": PAIRS,
            "config": TccConfig(),
        },
    ),
    "cycle_back_logits": (
        cycle_back_logits,
        {
            "first": unit(2, 6, 3),
            "second": unit(2, 6, 3),
            "has_second": true(2, 6),
            "config": TccConfig(),
        },
    ),
    "tcn": (
        time_contrastive_loss,
        {"embeddings": unit(4, 6, 3), "valid": true(4, 6), "regularisation": 0.002},
    ),
    "draw_bridges": (draw_bridges, {"valid": true(4, 6), "rng": RNG}),
    "phase_bridges": (
        phase_bridges,
        {"valid": true(4, 6), "labels": torch.zeros(4, 6).long(), "rng": RNG},
    ),
    "vsp": (
        process_contrastive_loss,
        {"points": unit(4, 3, 5), "times": torch.tensor([[0, 1, 2]]).expand(4, 3)},
    ),
    "supervised": (
        supervised_contrastive_loss,
        {"frames": unit(4, 3), "labels": torch.tensor([0, 1, 0, 1]), "temperature": 0.1},
    ),
}


def arguments(*dtypes, unchecked=("pairs", "padding")):
    """Every argument of those dtypes: (function, its name)."""
    return [
        pytest.param(call, name, id=f"{call}-{name}")
        for call, (_, given) in CALLS.items()
        for name, value in given.items()
        if getattr(value, "dtype", None) in dtypes and name not in unchecked
    ]


def call_with(call, **changed):
    function, given = CALLS[call]
    return function(**given | changed)


@pytest.mark.parametrize("call", CALLS)
def test_what_is_spoilt_below_is_good_before(call):
    found = call_with(call)
    if isinstance(found, torch.Tensor):
        assert found.isfinite().all()


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize(("call", "name"), arguments(torch.float32))
def test_nan_and_infinity_are_refused_by_the_name_of_the_argument(call, name, value):
    spoilt = CALLS[call][1][name].clone(memory_format=torch.contiguous_format)
    spoilt.view(-1)[-1] = value
    with pytest.raises(NotFinite, match=rf"^{name}: 1 of {spoilt.numel()} values are NaN or inf"):
        call_with(call, **{name: spoilt})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("call", "name"), arguments(torch.float32))
def test_half_precision_is_refused_by_the_name_of_the_argument(call, name, dtype):
    with pytest.raises(TypeError, match=rf"^{name}: {dtype}, want "):
        call_with(call, **{name: CALLS[call][1][name].to(dtype)})


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8, torch.int64])
@pytest.mark.parametrize(("call", "name"), arguments(torch.bool))
def test_a_mask_that_is_not_bool_is_refused(call, name, dtype):
    with pytest.raises(TypeError, match=rf"^{name}: {dtype}, want bool"):
        call_with(call, **{name: CALLS[call][1][name].to(dtype)})


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.float16])
@pytest.mark.parametrize(("call", "name"), arguments(torch.int64))
def test_steps_and_labels_of_short_dtypes_are_refused(call, name, dtype):
    with pytest.raises(TypeError, match=rf"^{name}: {dtype}, want int64"):
        call_with(call, **{name: CALLS[call][1][name].to(dtype)})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0, -1.0])
@pytest.mark.parametrize(
    ("call", "name"),
    [
        ("scl", "temperature"),
        ("scl", "label_variance"),
        ("gaussian_labels", "variance"),
        ("match_costs", "gamma"),
        ("soft_dtw", "gamma"),
        ("supervised", "temperature"),
    ],
)
def test_a_constant_that_divides_is_finite_and_above_zero(call, name, value):
    with pytest.raises(ValueError, match=rf"^{name}: {value}, want a finite number above 0"):
        call_with(call, **{name: value})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_refused(value):
    with pytest.raises(ValueError, match=rf"^regularisation: {value}"):
        call_with("tcn", regularisation=value)


@pytest.mark.parametrize(
    ("call", "name", "shape"),
    [
        ("scl", "embeddings", (2, 3, 6, 3)),  # three windows
        ("scl", "embeddings", (2, 6, 3)),
        ("LossInput", "embeddings", (4, 6, 3)),
        ("scl", "steps", (2, 2, 5)),
        ("scl", "valid", (2, 1, 6)),
        ("LossInput", "labels", (2, 2, 5)),
        ("LossInput", "num_frames", (3,)),
        ("cross_entropy", "labels", (4, 5)),
        ("gta", "valid", (4, 5)),
        ("lav", "lengths", (3,)),
        ("tcc", "times", (4, 5)),
        ("tcn", "valid", (3, 6)),
        ("vsp", "points", (4, 2, 5)),
        ("supervised", "labels", (3,)),
    ],
)
def test_another_shape_is_refused_with_both(call, name, shape):
    other = torch.zeros(shape, dtype=CALLS[call][1][name].dtype)
    words = ", ".join(map(str, shape))
    with pytest.raises(ValueError, match=rf"^{name}: shape \({words},?\), want \("):
        call_with(call, **{name: other})


@pytest.mark.parametrize("label", [-2, 3])
def test_a_label_that_no_class_has_is_refused(label):
    labels = torch.zeros(4, 6).long()
    labels[1, 2] = label
    with pytest.raises(ValueError, match=r"^labels: from -?\d to \d, want -1 to 2"):
        call_with("cross_entropy", labels=labels)


def test_a_bridge_whose_times_do_not_increase_is_refused():
    times = torch.tensor([[0, 1, 2], [0, 0, 2], [0, 1, 2], [0, 1, 2]])
    with pytest.raises(ValueError, match=r"^times: of a bridge they must increase"):
        call_with("vsp", times=times)


@pytest.mark.parametrize("name", LOSSES.ours)
def test_every_loss_of_the_table_is_finite_of_good_input_and_refuses_nan_behind_its_head(name):
    loss = LOSSES.load(name)
    config = loss.config()
    torch.manual_seed(0)
    head = make_head(config, width=3, num_classes=2)
    seen = (
        apply_head(head, config, INPUT["embeddings"].flatten(0, 1))
        .unflatten(0, (2, 2))
        .detach()
        .clone()
    )
    given = INPUT | {"embeddings": seen, "head": head}
    assert loss.compute(LossInput(**given), config).isfinite()
    spoilt = LossInput(**given)
    spoilt.embeddings[1, 1, :, 0] = torch.nan  # after its own check
    with pytest.raises(NotFinite, match=r"^\w+: \d+ of \d+ values are NaN"):
        loss.compute(spoilt, config)


def test_only_a_cpu_is_asked_for_values():
    on_meta = {
        name: value.to("meta") if isinstance(value, torch.Tensor) else value
        for name, value in INPUT.items()
    }
    assert LossInput(**on_meta).valid.device.type == "meta"
    far = SimpleNamespace(**on_meta)
    loss = sequence_contrastive_loss(
        far.embeddings, far.steps, far.valid, far.padding, temperature=0.1, label_variance=10.0
    )
    assert loss.device.type == "meta"


def test_scl_uses_what_its_config_says_and_not_the_defaults():
    base = {"temperature": 0.1, "label_variance": 10.0}
    changes = [
        {"temperature": 0.7},
        {"label_variance": 2.0},
        {"label_mode": "stable"},
        {"negatives": "clip"},
        {"negatives": "batch_noself"},
        {"negatives": "batch"},
    ]
    # labels of some frames are 0, not the smallest floats that some processors round to 0
    steps = torch.arange(6).expand(2, 2, 6) * torch.tensor([1, 30])[:, None]
    inputs = LossInput(**INPUT | {"steps": steps})
    values = [scl(inputs, SclConfig()).item()]
    for change in changes:
        values.append(scl(inputs, SclConfig(**change)).item())
        wanted = sequence_contrastive_loss(
            inputs.embeddings, inputs.steps, inputs.valid, **base | change
        )
        assert values[-1] == wanted.item()
    assert len(set(values)) == len(values)
