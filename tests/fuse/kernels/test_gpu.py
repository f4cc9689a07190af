"""What only a GPU can show of the kernels: precision of its units, races, waits, packed keys."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.fuse.kernels.cases import (
    error,
    gradients,
    in_float64,
    make_tokens,
    make_weights,
    move,
)
from tokenreel.fuse.kernels import Padding, Pooled, padded_attention, pooled_attention
from tokenreel.fuse.kernels.attention import padded
from tokenreel.fuse.kernels.attention.reference import project_and_attend

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
KEYS = ("queries", "key", "value")
ROOT = Path(__file__).parents[3]
SMALL_CASE = """
import torch
from tests.fuse.kernels.cases import gradients, make_tokens, make_weights
from tokenreel.fuse.kernels import pooled_attention
for dtype in (torch.int8, torch.float16):
    tokens = make_tokens(dtype, frames=3, tokens=65, widths=(72, 72), device="cuda")
    weights = make_weights(tokens)
    hidden = torch.zeros(3, 65, dtype=torch.bool, device="cuda")
    hidden[1, 3:40] = True
    found = pooled_attention(tokens, [weights], hidden=hidden, implementation="triton")
    assert torch.isfinite(gradients(found, weights)["queries"]).all()
torch.cuda.synchronize()
"""


def naive_errors(tokens, weights, wanted, wanted_gradients, dtype):
    """Of the reference as a training loop runs it: tokens and products in half precision."""
    decoded = tokens.decode(dtype)
    with torch.autocast("cuda", dtype):
        entities, _ = project_and_attend(decoded, weights, None, normalise=False, disjoint=False)
    grads = gradients([Pooled(entities.float(), None)], weights)
    return error(entities, wanted), {k: error(grads[k], wanted_gradients[k]) for k in KEYS}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("widths", [(768,), (768,) * 3])
def test_errors_are_at_most_twice_those_of_the_naive_form_in_the_same_precision(dtype, widths):
    tokens = make_tokens(dtype, frames=4, tokens=785, widths=widths, device="cuda")
    weights = make_weights(tokens, channels=64, values=64)
    truth = in_float64(weights)
    exact = pooled_attention(move(tokens, "cpu"), [truth], implementation="absorbed")
    exact_gradients = gradients(exact, truth)
    found = pooled_attention(tokens, [weights], implementation="triton")
    grads = gradients(found, weights)
    naive, naive_gradients = naive_errors(
        tokens, weights, exact[0].entities, exact_gradients, dtype
    )
    assert error(found[0].entities, exact[0].entities) <= 2 * naive
    for key in KEYS:
        assert error(grads[key], exact_gradients[key]) <= 2 * naive_gradients[key], key


def test_int8_codes_are_as_exact_as_their_floats():
    tokens = make_tokens(torch.int8, frames=4, tokens=785, widths=(768,) * 3, device="cuda")
    weights = make_weights(tokens, channels=64, values=64)
    [found] = pooled_attention(tokens, [weights], implementation="triton")
    [wanted] = pooled_attention(move(tokens, "cpu"), [in_float64(weights)])
    assert error(found.entities, wanted.entities) < 2e-4


def test_auto_takes_the_fused_kernel_and_gives_the_same_bits_each_time():
    tokens = make_tokens(torch.int8, frames=300, tokens=197, widths=(384,), device="cuda")
    weights = make_weights(tokens)
    results = []
    for word in ("auto", "triton", "triton"):
        found = pooled_attention(tokens, [weights], implementation=word)
        results.append([found[0].entities, *gradients(found, weights).values()])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_no_call_waits_for_the_gpu():
    tokens = make_tokens(torch.int8, widths=(384,), device="cuda")
    weights = make_weights(tokens)
    pooled_attention(tokens, [weights])  # compiles
    gradients(pooled_attention(tokens, [weights]), weights)
    torch.cuda.set_sync_debug_mode("error")
    try:
        [found] = pooled_attention(tokens, [weights], implementation="triton")
        torch.autograd.grad(found.entities.sum(), weights.queries)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_compiled_model_gives_the_same():
    tokens = make_tokens(torch.int8, widths=(384,), device="cuda")
    weights = make_weights(tokens)

    def pool(given):
        return pooled_attention(tokens, [given])[0].entities

    compiled = torch.compile(pool, fullgraph=True)
    assert error(compiled(weights), pool(weights)) < 1e-5


def test_memory_does_not_grow_with_the_tokens():
    """Beside scores, a step takes what its outputs take: no float copy of codes."""
    tokens = make_tokens(torch.int8, frames=64, tokens=784, widths=(768,), device="cuda")
    weights = make_weights(tokens)
    gradients(pooled_attention(tokens, [weights]), weights)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    gradients(pooled_attention(tokens, [weights], implementation="triton"), weights)
    taken = torch.cuda.max_memory_allocated() - before
    assert taken < tokens.codes[0].numel() / 4


def test_frames_past_2_to_the_31_bytes_are_read_and_written_where_they_lie():
    frames = 3700  # 3,700 x 784 x 768 codes pass 2^31
    codes = torch.zeros(frames, 784, 768, dtype=torch.int8, device="cuda")
    codes[-1].random_(-127, 128)
    scales = torch.full((frames, 784), 0.01, device="cuda")
    queries = torch.randn(3, 768, device="cuda")
    from tokenreel.fuse.kernels.triton import launch

    pooled, scores, lse = launch.pool([codes], queries, [scales], None)
    alone = launch.pool([codes[-1:]], queries, [scales[-1:]], None, splits=1)
    for whole, one in zip((pooled, scores, lse), alone, strict=True):
        torch.testing.assert_close(whole[-1:], one, rtol=0, atol=1e-5)
    assert not pooled[:-1].any()


@pytest.mark.parametrize("mask", ["ends", "holes"])
def test_packed_keys_equal_the_masked_form(mask):
    rng = torch.Generator().manual_seed(0)
    valid = torch.arange(40) < torch.tensor([40, 13, 1])[:, None]
    if mask == "holes":
        valid = torch.rand(3, 40, generator=rng) < 0.6
    padding = Padding.of(valid, 3, torch.device("cuda"))
    heads = [torch.randn(3, 120, 4, 32, generator=rng).cuda() for _ in range(3)]
    wanted = padded_attention(*(part.double() for part in heads), padding)
    half = [part.bfloat16() for part in heads]
    assert padded.takes_packed_keys(half[0])
    naive = torch.nn.functional.scaled_dot_product_attention(
        *(part.transpose(1, 2) for part in half), padding.may_attend
    ).transpose(1, 2)
    assert error(padded_attention(*half, padding), wanted) <= 2 * error(naive, wanted)


@pytest.mark.slow
def test_compute_sanitizer_finds_nothing():
    tool = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    if not Path(tool).exists():
        pytest.skip("compute-sanitizer is not installed")
    for check in ("memcheck", "racecheck"):
        run = subprocess.run(
            [tool, "--tool", check, "--error-exitcode", "9", sys.executable, "-c", SMALL_CASE],
            cwd=ROOT,
            env={**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1", "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
