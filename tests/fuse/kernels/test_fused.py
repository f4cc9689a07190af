"""The fused kernels against float64: numbers, ragged ends, promises.

In Triton's interpreter through test_in_interpreter.py, or compiled where there is a GPU.
"""

import math
import random
from dataclasses import replace
from subprocess import CalledProcessError

import pytest
import torch
from triton.runtime.errors import OutOfResources, PTXASError

from tests.fuse.kernels import cases
from tests.fuse.kernels.cases import (
    TOLERANCE,
    error,
    gradients,
    in_float64,
    loss_of,
    make_weights,
    move,
    parameters,
)
from tokenreel.fuse.kernels import pooled_attention
from tokenreel.fuse.kernels.attention import absorbed, choose
from tokenreel.fuse.kernels.triton import launch
from tokenreel.fuse.kernels.triton.launch import LOW_WEIGHT, split_digits
from tokenreel.fuse.kernels.triton.tuned import Sizes

DEVICE = "cpu" if choose.is_interpreted() else "cuda"
pytestmark = [] if choose.is_interpreted() else [pytest.mark.gpu]
DTYPES = list(TOLERANCE)
WIDTH = 40  # channels of the tokens
SMALL = Sizes(tokens=16, channels=32, warps=4, stages=1)


def make_tokens(dtype, *, tokens=21, widths=(WIDTH,), **options):
    """Two tiles of tokens and two of channels by default, the second of each not full."""
    return cases.make_tokens(dtype, tokens=tokens, widths=widths, device=DEVICE, **options)


def normal(*shape):
    """Random numbers, the same on every device."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5)).to(DEVICE)


def make_queries(tokens, rows, *, per_frame=False, seed=0):
    rng = torch.Generator().manual_seed(seed)
    width = sum(tokens.widths)
    shape = (tokens.num_frames, rows, width) if per_frame else (rows, width)
    spread = tokens.decode().std().item()
    return (torch.randn(shape, generator=rng) * 1.5 / spread / math.sqrt(width)).to(DEVICE)


def exact(tokens, queries, gradient=None, hidden=None):
    """Pooled codes, scores, lse, and the gradient of the queries, in float64 on the CPU."""
    tokens, queries = move(tokens, "cpu"), queries.cpu()
    gradient = None if gradient is None else gradient.cpu()
    hidden = None if hidden is None else hidden.cpu()
    scales = list(tokens.scales)
    outputs = absorbed.pool(list(tokens.codes), queries.double(), scales, hidden)
    if gradient is None:
        return outputs
    shared = queries.dim() == 2
    return *outputs, absorbed.pool_backward(
        list(tokens.codes), gradient.double(), scales, outputs, shared=shared
    )


def fused(tokens, queries, gradient=None, hidden=None, *, sizes=SMALL, splits=None, programs=None):
    codes, scales = list(tokens.codes), list(tokens.scales)
    outputs = launch.pool(codes, queries, scales, hidden, sizes=sizes, splits=splits)
    if gradient is None:
        return outputs
    shared = queries.dim() == 2
    return *outputs, launch.pool_backward(
        codes, gradient, scales, outputs, shared=shared, sizes=sizes, programs=programs
    )


def random_case(seed):
    """Sizes that end inside a tile more often than not."""
    rng = random.Random(seed)
    width = rng.choice([40, 64, 72, 96])
    tokens = make_tokens(
        DTYPES[seed % 4],
        frames=rng.randint(1, 3),
        tokens=rng.randint(1, 50),
        widths=(width,) * rng.choice([1, 1, 2, 3]),
        seed=seed,
    )
    queries = make_queries(tokens, rng.randint(1, 8), per_frame=seed % 3 == 0, seed=seed)
    return tokens, queries, rng.choice([1, 2, 3])


SEEDS = [seed if seed < 8 else pytest.param(seed, marks=pytest.mark.slow) for seed in range(24)]


@pytest.mark.parametrize("seed", SEEDS)
def test_random_sizes_equal_float64(seed):
    tokens, queries, splits = random_case(seed)
    gradient = normal(tokens.num_frames, queries.shape[-2], queries.shape[-1]) * 1e-3
    pooled, scores, lse, grad = fused(tokens, queries, gradient, splits=splits, programs=3)
    wanted = exact(tokens, queries, gradient)

    forward, backward = TOLERANCE[tokens.codes[0].dtype]
    assert error(pooled, wanted[0]) < forward
    torch.testing.assert_close(scores.cpu().double(), wanted[1], rtol=0, atol=20 * forward)
    torch.testing.assert_close(lse.cpu().double(), wanted[2], rtol=0, atol=20 * forward)
    assert grad.shape == queries.shape
    # one token: the softmax is constant, and so the truth is zero
    scale = (gradient.norm() * tokens.codes[0].float().norm()).item() * 1e-9
    assert error(grad, wanted[3]) < backward or (grad.cpu() - wanted[3]).norm() < scale


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_odd_frame_of_full_width_equals_float64(dtype):
    tokens = make_tokens(dtype, frames=1, tokens=65, widths=(400,))
    queries = make_queries(tokens, 3)
    gradient = normal(1, 3, 400)
    found = fused(tokens, queries, gradient, sizes=None)
    wanted = exact(tokens, queries, gradient)
    assert error(found[0], wanted[0]) < TOLERANCE[dtype][0]
    assert error(found[3], wanted[3]) < TOLERANCE[dtype][1]


@pytest.mark.parametrize(
    ("rows", "dtype"), list(zip((9, 16, 17, 24, 48), [*DTYPES, torch.int8], strict=True))
)
@pytest.mark.parametrize("per_frame", [False, True])
def test_more_rows_than_a_program_holds_share_one_launch(monkeypatch, rows, dtype, per_frame):
    """Heads times entities, or the entities of runs in lock-step: 48 are 16 runs of three."""
    launches = []
    for name in ("pool_kernel", "pool_backward_kernel"):
        kernel = getattr(launch.kernels, name)
        recorder = type(
            "", (), {"__getitem__": lambda _, grid, k=kernel: launches.append(k) or k[grid]}
        )
        monkeypatch.setattr(launch.kernels, name, recorder())
    frames = 2 if rows <= 17 else 1
    tokens = make_tokens(dtype, frames=frames)
    queries = make_queries(tokens, rows, per_frame=per_frame)
    gradient = normal(frames, rows, WIDTH)
    found = fused(tokens, queries, gradient, splits=2, programs=3)
    assert len(launches) == 2
    wanted = exact(tokens, queries, gradient)
    assert [tuple(part.shape) for part in found] == [tuple(part.shape) for part in wanted]
    assert error(found[0], wanted[0]) < TOLERANCE[dtype][0]
    assert error(found[3], wanted[3]) < TOLERANCE[dtype][1]
    if rows == 9 or DEVICE != "cpu":  # interpreted programs run in turn, however many they are
        again = fused(tokens, queries, gradient, splits=2, programs=3)
        assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
def test_digits_add_up_to_the_rows_and_multiply_them(dtype):
    rows = normal(2, 3, 2 * 40) * torch.tensor([1e-12, 1.0, 1e12], device=DEVICE)[:, None]
    pooled = normal(2, 3, 2 * 40)
    digits, worth, dots = split_digits(rows, dtype, 2, pooled)
    assert digits.dtype == dtype
    assert digits.shape == (2, 2, 1 if dtype == torch.float32 else 2, 3, 40)
    weights = torch.tensor([1.0, LOW_WEIGHT.get(dtype, 1.0)], device=DEVICE)[: digits.shape[2]]
    whole = torch.einsum("fldec,d->flec", digits.double(), weights.double()) * worth[..., None]
    whole = whole.movedim(1, 2).flatten(2)
    peak = (
        rows.unflatten(-1, (2, 40)).abs().amax(-1, keepdim=True).expand(-1, -1, -1, 40).flatten(2)
    )
    within = {torch.int8: 2**-15.9, torch.float16: 2**-21, torch.bfloat16: 2**-15}.get(
        dtype, 2**-22
    )
    assert ((whole - rows).abs() <= peak * within).all()
    torch.testing.assert_close(dots, (rows * pooled).sum(-1), rtol=1e-4, atol=0)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, in the interpreter
@pytest.mark.parametrize("dtype", [torch.int8, torch.float16])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_stays_so(dtype, bad):
    """A training loop must see it.  A GPU's maximum drops NaN, numpy's does not: it fails there."""
    tokens = make_tokens(dtype, tokens=9)
    queries, gradient = make_queries(tokens, 3), normal(2, 3, WIDTH)
    gradient[1, 2, 7] = bad
    grad = fused(tokens, queries, gradient)[3]
    assert torch.isfinite(grad[:2]).all()
    assert not torch.isfinite(grad[2]).any()


@pytest.mark.parametrize("dtype", [torch.int8, torch.float16])
@pytest.mark.parametrize("splits", [1, 3])
def test_hidden_tokens_have_no_weight(dtype, splits):
    tokens = make_tokens(dtype, tokens=37)
    queries = make_queries(tokens, 3)
    hidden = (torch.rand(2, 37, generator=torch.Generator().manual_seed(3)) < 0.5).to(DEVICE)
    hidden[0, :16] = True  # a whole tile, so that the first split of a frame sees nothing
    gradient = normal(2, 3, WIDTH)
    pooled, scores, lse, grad = fused(tokens, queries, gradient, hidden, splits=splits)
    wanted = exact(tokens, queries, gradient, hidden)
    assert torch.equal(scores.isinf(), hidden[:, None].expand(-1, 3, -1))
    assert error(pooled, wanted[0]) < TOLERANCE[dtype][0]
    assert error(grad, wanted[3]) < TOLERANCE[dtype][1]
    torch.testing.assert_close(lse.cpu().double(), wanted[2], rtol=0, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.int8, torch.float16, torch.float32])
def test_the_order_of_tokens_does_not_matter(dtype):
    tokens = make_tokens(dtype)
    queries = make_queries(tokens, 4)
    order = torch.randperm(21, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    turned = type(tokens)(
        tuple(part[:, order].contiguous() for part in tokens.codes),
        tuple(part[:, order] for part in tokens.scales),
    )
    assert error(fused(turned, queries)[0], fused(tokens, queries)[0]) < TOLERANCE[dtype][0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_queries_of_zero_give_the_mean(dtype):
    tokens = make_tokens(dtype)
    pooled = fused(tokens, torch.zeros(2, WIDTH, device=DEVICE))[0]
    mean = tokens.decode(torch.float64).mean(1, keepdim=True).expand(-1, 2, -1)
    assert error(pooled, mean) < TOLERANCE[dtype][0]


def test_a_shift_of_all_tokens_shifts_the_pooled_ones():
    tokens = make_tokens(torch.float32)
    queries, shift = make_queries(tokens, 3), normal(WIDTH)
    moved = type(tokens)((tokens.codes[0] + shift,))
    assert error(fused(moved, queries)[0], fused(tokens, queries)[0] + shift) < 1e-5


@pytest.mark.parametrize("dtype", DTYPES)
def test_scores_far_apart_choose_one_token(dtype):
    tokens = make_tokens(dtype)
    queries = make_queries(tokens, 3) * 1e4
    pooled, scores, *_ = fused(tokens, queries)
    assert torch.isfinite(pooled).all()
    chosen = scores.argmax(-1)[..., None].expand(-1, -1, WIDTH)
    assert error(pooled, tokens.decode().gather(1, chosen)) < 1e-2


@pytest.mark.parametrize("dtype", [torch.int8, torch.bfloat16])
def test_splits_and_tiles_do_not_change_the_result(dtype):
    tokens = make_tokens(dtype, frames=1, tokens=70, widths=(72,))
    queries, gradient = make_queries(tokens, 3), normal(1, 3, 72)
    first = fused(tokens, queries, gradient, splits=1, programs=1)
    other = Sizes(tokens=32, channels=64, warps=4, stages=1)
    second = fused(tokens, queries, gradient, sizes=other, splits=3, programs=5)
    assert error(second[0], first[0]) < TOLERANCE[dtype][0]
    assert error(second[3], first[3]) < TOLERANCE[dtype][1]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_tile_held_for_both_sweeps_gives_the_same(dtype):
    tokens = make_tokens(dtype, widths=(40, 40))
    queries, gradient = make_queries(tokens, 3), normal(2, 3, 80)
    plain = fused(tokens, queries, gradient, splits=2, programs=3)
    held = fused(tokens, queries, gradient, splits=2, programs=3, sizes=replace(SMALL, hold=True))
    assert error(held[0], plain[0]) < TOLERANCE[dtype][0]
    assert error(held[3], plain[3]) < TOLERANCE[dtype][1]


def test_gradients_of_frames_add_up_to_the_shared_one():
    tokens = make_tokens(torch.int8, frames=3)
    queries, gradient = make_queries(tokens, 3), normal(3, 3, WIDTH)
    outputs = launch.pool(list(tokens.codes), queries, list(tokens.scales), None, sizes=SMALL)
    codes, scales = list(tokens.codes), list(tokens.scales)
    each = launch.pool_backward(codes, gradient, scales, outputs, shared=False, sizes=SMALL)
    shared = launch.pool_backward(codes, gradient, scales, outputs, shared=True, sizes=SMALL)
    assert error(each.sum(0), shared) < 1e-4


def test_the_backward_gives_the_same_bits_each_time():
    tokens = make_tokens(torch.int8, frames=3)
    queries, gradient = make_queries(tokens, 3), normal(3, 3, WIDTH)
    first = fused(tokens, queries, gradient, programs=4)
    second = fused(tokens, queries, gradient, programs=4)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_every_element_of_the_outputs_is_written(monkeypatch):
    tokens = make_tokens(torch.int8, widths=(40, 40))
    queries, gradient = make_queries(tokens, 3), normal(2, 3, 80)
    wanted = fused(tokens, queries, gradient, splits=2, programs=3)
    make_empty = torch.empty

    def poisoned(*shape, **options):
        made = make_empty(*shape, **options)
        return made.fill_(torch.nan) if made.is_floating_point() else made

    monkeypatch.setattr(torch, "empty", poisoned)
    found = fused(tokens, queries, gradient, splits=2, programs=3)
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_frames_may_lie_apart():
    tokens = make_tokens(torch.int8, frames=4)
    every_other = type(tokens)(
        tuple(part[::2] for part in tokens.codes), tuple(part[::2] for part in tokens.scales)
    )
    queries = make_queries(tokens, 3)
    assert error(fused(every_other, queries)[0], fused(tokens, queries)[0][::2]) < 1e-6


def test_frames_may_lie_further_apart_than_32_bits_count():
    """Only the pages that are touched exist: 4 GB of codes that nobody reads take no memory."""
    stride = (1 << 31) + 4096
    huge = torch.empty(stride + 2 * 21 * WIDTH, dtype=torch.int8, device=DEVICE)
    codes = huge.as_strided((2, 21, WIDTH), (stride, WIDTH, 1))
    tokens = make_tokens(torch.int8)
    codes.copy_(tokens.codes[0])
    apart = type(tokens)((codes,), tokens.scales)
    queries, gradient = make_queries(tokens, 3), normal(2, 3, WIDTH)
    near, far = fused(tokens, queries, gradient), fused(apart, queries, gradient)
    assert all(torch.equal(a, b) for a, b in zip(near, far, strict=True))


@pytest.mark.parametrize("size", [1e-20, 1e20])
def test_scales_and_gradients_of_any_size_keep_their_precision(size):
    tokens = make_tokens(torch.int8)
    tiny = type(tokens)(tokens.codes, tuple(part * size for part in tokens.scales))
    queries, gradient = make_queries(tokens, 3), normal(2, 3, WIDTH)
    plain = exact(tokens, queries, gradient)
    pooled, _, _, grad = fused(tiny, queries / size, gradient / size)
    assert error(pooled / size, plain[0]) < TOLERANCE[torch.int8][0]
    assert error(grad / size, plain[3]) < TOLERANCE[torch.int8][1]


NO_COMPILER = "Failed to find C compiler. Please specify via CC environment variable"
FAILURES = {
    "shared memory": (
        OutOfResources(200, 100, "shared memory"),
        "no size .* fits this GPU: out of",
    ),
    "unknown GPU": (PTXASError("sm_999 is not defined"), "could not compile for this GPU"),
    "no compiler": (RuntimeError(NO_COMPILER), "could not build the launcher: Failed to find C"),
    "no headers": (CalledProcessError(1, "gcc"), "are Python's headers here"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_why_the_kernel_cannot_run_is_said(monkeypatch, case):
    raised, words = FAILURES[case]

    def fail(*_, **__):
        raise raised

    kernel = type("", (), {"__getitem__": lambda *_: fail})()
    monkeypatch.setattr(launch.kernels, "pool_kernel", kernel)
    tokens = make_tokens(torch.int8)
    with pytest.raises(choose.CannotRun, match=words):
        launch.pool(list(tokens.codes), make_queries(tokens, 3), list(tokens.scales), None)


def test_bfloat16_is_not_multiplied_as_raw_bits():
    """The interpreter's dot takes bfloat16 for uint16: results are then of the order of 1e8."""
    tokens = make_tokens(torch.bfloat16)
    assert fused(tokens, make_queries(tokens, 3))[0].abs().max() < 100


def test_loops_over_tiles_run_on_this_numpy():
    """Triton 3.6 interprets no loop with numpy >= 2.4: range() over an array of one element."""
    tokens = make_tokens(torch.float16, frames=1, tokens=49)
    assert torch.isfinite(fused(tokens, make_queries(tokens, 1))[0]).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("per_frame", [False, True])
def test_the_public_function_equals_the_reference_in_float64(dtype, per_frame):
    tokens = make_tokens(dtype, tokens=19, widths=(40, 40), folds=True)
    weights = make_weights(tokens, heads=2, per_frame=per_frame)
    truth = in_float64(weights)
    wanted = pooled_attention(
        move(tokens, "cpu"), [truth], implementation="reference", with_attention=True
    )
    found = pooled_attention(tokens, [weights], implementation="triton", with_attention=True)
    forward, backward = TOLERANCE[dtype]
    assert error(found[0].entities, wanted[0].entities) < forward
    assert error(found[0].attention, wanted[0].attention) < 10 * forward
    grads, true_grads = gradients(found, weights), gradients(wanted, truth)
    assert not grads.pop("key_bias").any()
    for name, grad in grads.items():
        assert error(grad, true_grads[name]) < backward, name


def test_models_that_share_a_read_get_what_each_gets_alone():
    tokens = make_tokens(torch.int8)
    models = [make_weights(tokens, entities=n, values=4 * n, seed=n) for n in (1, 3, 6)]
    together = pooled_attention(tokens, models, implementation="triton")
    alone = [pooled_attention(tokens, [one], implementation="triton")[0] for one in models]
    for shared, own in zip(together, alone, strict=True):
        torch.testing.assert_close(shared.entities, own.entities, rtol=0, atol=1e-5)

    named = [name_part for one in models for name_part in parameters(one).items()]
    found = torch.autograd.grad(loss_of(together), [part for _, part in named])
    wanted = torch.autograd.grad(loss_of(alone), [part for _, part in named])
    for (name, _), ours, theirs in zip(named, found, wanted, strict=True):
        assert error(ours, theirs) < 1e-4 or (name == "key_bias" and not ours.any()), name
