"""Pooled attention as torch sees it, one operator; and which implementation runs."""

import logging

import pytest
import torch

from tests.fuse.kernels.cases import error, gradients, make_tokens, make_weights
from tokenreel.fuse.kernels import ops, pooled_attention
from tokenreel.fuse.kernels.attention import choose


@pytest.fixture(autouse=True)
def clear_environment(monkeypatch):
    monkeypatch.delenv(choose.VARIABLE, raising=False)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # opcheck's own look at it
@pytest.mark.parametrize("dtype", [torch.int8, torch.float32])
@pytest.mark.parametrize("per_frame", [False, True])
def test_the_operators_keep_the_contract_of_torch(dtype, per_frame):
    tokens = make_tokens(dtype, tokens=7, widths=(12, 12))
    codes, scales = list(tokens.codes), list(tokens.scales)
    hidden = torch.zeros(2, 7, dtype=torch.bool)
    shape = (2, 3, 24) if per_frame else (3, 24)
    queries = torch.randn(shape, requires_grad=True)
    torch.library.opcheck(ops.pool, (codes, queries, scales, hidden, "auto"))
    torch.library.opcheck(ops.dots, (codes, queries, scales, "auto"))
    attention = torch.rand(2, 3, 7, requires_grad=True)
    torch.library.opcheck(ops.mix, (codes, attention, scales, not per_frame))
    outputs = ops.pool(codes, queries.detach(), scales, hidden, "auto")
    gradient = torch.randn(2, 3, 24)
    torch.library.opcheck(
        ops.pool_backward, (codes, gradient, scales, *outputs, not per_frame, "auto")
    )


@pytest.mark.parametrize(
    ("of_weights", "options"),
    [
        ({}, {}),
        ({"per_frame": True}, {}),
        ({}, {"disjoint": True}),
        ({}, {"normalise_keys": True}),
        ({}, {"implementation": "reference"}),
    ],
    ids=["plain", "per_frame", "disjoint", "normalised", "reference"],
)
def test_torch_compile_sees_one_graph(of_weights, options):
    tokens = make_tokens(torch.int8, tokens=13, widths=(24,), folds=True)
    weights = make_weights(tokens, **of_weights)

    def pool(given):
        return pooled_attention(tokens, [given], **options)[0].entities

    compiled = torch.compile(pool, fullgraph=True, backend="aot_eager")
    found, wanted = compiled(weights), pool(weights)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
    first = torch.autograd.grad(found.square().sum(), weights.key)[0]
    second = torch.autograd.grad(wanted.square().sum(), weights.key)[0]
    assert error(first, second) < 1e-6


def words_of(caplog):
    return [r.getMessage() for r in caplog.records if r.name.startswith("tokenreel.fuse.kernels")]


def test_the_implementation_is_said_at_debug_level(caplog):
    caplog.set_level(logging.DEBUG)
    tokens = make_tokens(torch.int8)
    pooled_attention(tokens, [make_weights(tokens)])
    [word] = words_of(caplog)
    assert word.startswith("pooled attention: absorbed, 1 blocks of torch.int8 (2, 37, 96) on cpu")


def test_the_environment_variable_forces_one(monkeypatch, caplog):
    tokens = make_tokens(torch.float32)
    weights = make_weights(tokens)
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv(choose.VARIABLE, "reference")
    pooled_attention(tokens, [weights])
    assert words_of(caplog) == ["pooled attention: reference"]
    caplog.clear()
    pooled_attention(tokens, [weights], implementation="absorbed")  # the argument has the last word
    assert "absorbed" in words_of(caplog)[0]


def test_an_unknown_word_is_refused(monkeypatch):
    tokens = make_tokens(torch.float32)
    weights = make_weights(tokens)
    with pytest.raises(ValueError, match=r"implementation='cuda': there are auto, reference, abso"):
        pooled_attention(tokens, [weights], implementation="cuda")
    monkeypatch.setenv(choose.VARIABLE, "fast")
    with pytest.raises(ValueError, match=r"TOKENREEL_KERNEL='fast': there are"):
        pooled_attention(tokens, [weights])


def test_triton_that_was_asked_for_and_cannot_run_is_an_error():
    tokens = make_tokens(torch.int8)
    weights = make_weights(tokens)
    with pytest.raises(ValueError, match=r"triton cannot run: tokens are on cpu.*use auto or"):
        pooled_attention(tokens, [weights], implementation="triton")
    with pytest.raises(ValueError, match="normalised keys and disjoint tokens take two passes"):
        pooled_attention(tokens, [weights], implementation="triton", disjoint=True)


ROWS = torch.zeros(3, 96)


class OnGpu:
    """What :func:`choose.decide` looks at, of codes on a GPU."""

    is_cuda, device = True, torch.device("cuda:0")

    def __init__(self, dtype=torch.int8, shape=(2, 37, 96)):
        self.dtype, self.shape = dtype, shape


@pytest.mark.parametrize(
    ("codes", "has_triton", "capability", "reason"),
    [
        ([OnGpu()], False, (9, 0), "Triton is not installed"),
        ([OnGpu()], True, (7, 5), r"compute capability (7, 5); it needs (8, 0) or later"),
        ([OnGpu(torch.float64)], True, (9, 0), "tokens are torch.float64; it takes torch.int8"),
        ([OnGpu(torch.uint8)], True, (9, 0), "tokens are torch.uint8; it takes"),
        ([OnGpu(), OnGpu(shape=(2, 37, 64))], True, (9, 0), "blocks have [96, 64] channels"),
        ([OnGpu()] * 5, True, (9, 0), "up to 4 blocks of one width"),
        ([OnGpu(shape=(2, 9, 4096))], True, (9, 0), "3072 channels together"),
    ],
    ids=["no triton", "old gpu", "float64", "packed", "widths", "blocks", "wide"],
)
def test_what_the_kernel_cannot_take_goes_the_absorbed_way_with_one_line(
    monkeypatch, caplog, codes, has_triton, capability, reason
):
    monkeypatch.setattr(choose, "has_triton", lambda: has_triton)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    choose.fall_back.cache_clear()
    assert [choose.decide(codes, ROWS, "auto") for _ in range(3)] == ["absorbed"] * 3
    [line] = words_of(caplog)
    assert line.startswith("pooled attention takes the absorbed path in plain torch: ")
    assert reason in line
    with pytest.raises(ValueError, match="implementation triton cannot run"):
        choose.decide(codes, ROWS, "triton")


def test_codes_on_a_gpu_that_can_take_them_go_to_the_kernel(monkeypatch, caplog):
    monkeypatch.setattr(choose, "has_triton", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    assert choose.decide([OnGpu()] * 3, ROWS, "auto") == "triton"
    assert choose.decide([OnGpu()], ROWS, "absorbed") == "absorbed"
    assert not words_of(caplog)


def test_queries_in_float64_and_gpus_of_others_go_the_absorbed_way(monkeypatch):
    monkeypatch.setattr(choose, "has_triton", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    reason = choose.obstacle([OnGpu()], torch.float64)
    assert reason == "queries are torch.float64; it computes in float32"
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert choose.obstacle([OnGpu()], torch.float32) == "the GPU is not one of NVIDIA's"


@pytest.mark.skipif(not choose.has_triton(), reason="needs Triton")
def test_a_kernel_that_fits_no_gpu_falls_back_unless_it_was_asked_for(monkeypatch, caplog):
    from tokenreel.fuse.kernels.triton import launch

    def fail(*_, **__):
        raise choose.CannotRun("no size of the fused kernel fits this GPU: shared memory")

    monkeypatch.setattr(choose, "obstacle", lambda *_: None)
    monkeypatch.setattr(launch, "pool", fail)
    monkeypatch.setattr(launch, "pool_backward", fail)
    choose.fall_back.cache_clear()
    monkeypatch.setattr(ops, "decide", lambda *_, **__: "triton")
    tokens = make_tokens(torch.int8)
    weights = make_weights(tokens)
    found = pooled_attention(tokens, [weights])
    wanted = pooled_attention(tokens, [weights], implementation="reference")
    assert error(found[0].entities, wanted[0].entities) < 1e-5
    assert torch.isfinite(gradients(found, weights)["queries"]).all()
    assert len([word for word in words_of(caplog) if "no size of the fused kernel" in word]) == 1
    with pytest.raises(ValueError, match="implementation triton cannot run: no size"):
        pooled_attention(tokens, [weights], implementation="triton")


def test_a_backward_inside_autocast_keeps_the_precision_of_the_operators():
    tokens = make_tokens(torch.float32)
    codes = list(tokens.codes)
    queries = torch.randn(3, 96, requires_grad=True)
    attention = torch.rand(2, 3, 37, requires_grad=True)
    outputs = [
        (ops.pool(codes, queries, [], None, "auto")[0], queries),
        (ops.dots(codes, queries, [], "auto"), queries),
        (ops.mix(codes, attention, [], False), attention),
    ]
    for found, leaf in outputs:
        weight = torch.randn_like(found)
        [plain] = torch.autograd.grad(found, leaf, weight, retain_graph=True)
        with torch.autocast("cpu", torch.bfloat16):
            [inside] = torch.autograd.grad(found, leaf, weight)
        assert torch.equal(inside, plain)
