"""Compiled loops: what plain torch computes, in the same bytes however the work is cut."""

import logging

import pytest
import torch

from tests.fuse.kernels.cases import error, make_tokens, make_weights
from tokenreel.fuse.kernels import (
    CodedTokens,
    absorbed,
    choose,
    compiled,
    layout,
    loops,
    ops,
    pooled_attention,
)

DTYPES = [torch.int8, torch.float16, torch.bfloat16, torch.float32]


def rows_for(tokens, count, *, per_frame=False, seed=0):
    rng = torch.Generator().manual_seed(seed)
    shape = (tokens.num_frames, count) if per_frame else (count,)
    return torch.randn(*shape, sum(tokens.widths), generator=rng) * 0.1


def run(module, tokens, rows, hidden=None):
    """Everything that a module computes: outputs of pooling, its gradient, dots and mix."""
    codes, scales = list(tokens.codes), list(tokens.scales)
    outputs = module.pool(codes, rows, scales, hidden)
    gradient = torch.randn(outputs[0].shape, generator=torch.Generator().manual_seed(9)).to(rows)
    weights = torch.nan_to_num(outputs[1], neginf=0.0)
    return [
        *outputs,
        *(module.pool_backward(codes, gradient, scales, outputs, shared=shared)
          for shared in (True, False)),
        module.dots(codes, rows, scales),
        *(module.mix(codes, weights, scales, shared=shared) for shared in (True, False)),
    ]  # fmt: skip


def assert_equal(found, wanted, tolerance):
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.shape == theirs.shape
        seen = theirs.isfinite()
        assert torch.equal(ours[~seen].double(), theirs[~seen].double())
        assert error(ours[seen], theirs[seen]) < tolerance


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("num_tokens", [2, 3, 5, 37])
@pytest.mark.parametrize("rows", [1, 3, 4])
def test_loops_compute_what_plain_torch_computes(dtype, num_tokens, rows):
    tokens = make_tokens(dtype, frames=3, tokens=num_tokens, widths=(20, 7))
    queries = rows_for(tokens, rows, per_frame=rows == 4)
    found = run(compiled, tokens, queries)
    assert_equal(found, run(absorbed, tokens, queries.double()), 3e-6)


@pytest.mark.parametrize("size", [1, 700, 1 << 20])
def test_any_size_of_blocks_and_of_what_becomes_floats_at_once_gives_the_same(monkeypatch, size):
    tokens = make_tokens(torch.int8, frames=11, widths=(24, 24))
    hidden = torch.zeros(11, 37, dtype=torch.bool)
    hidden[1::2, 3:29] = True  # whole blocks of a frame, but not the frame
    hidden[2, :30] = True
    queries = rows_for(tokens, 3)
    wanted = run(absorbed, tokens, queries.double(), hidden)
    monkeypatch.setattr(layout, "BLOCK_BYTES", size)
    monkeypatch.setattr(absorbed, "FLOATS_BYTES", size)
    assert_equal(run(compiled, tokens, queries, hidden), wanted, 3e-6)
    assert_equal(run(absorbed, tokens, queries.double(), hidden), wanted, 1e-13)


def test_attention_over_one_token_is_that_token():
    tokens = make_tokens(torch.float32, tokens=1, widths=(5,))
    pooled, _, _ = compiled.pool(tokens.codes, rows_for(tokens, 2), [], None)
    assert torch.equal(pooled, tokens.codes[0].expand(-1, 2, -1))


def test_a_frame_that_is_hidden_whole_gives_nan_and_leaves_the_others():
    tokens = make_tokens(torch.int8, frames=3)
    hidden = torch.zeros(3, 37, dtype=torch.bool)
    hidden[1] = True
    pooled, _, _ = compiled.pool(tokens.codes, rows_for(tokens, 3), tokens.scales, hidden)
    assert pooled.isnan().flatten(1).any(1).tolist() == [False, True, False]


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_bytes_do_not_depend_on_the_number_of_threads(dtype, mode):
    tokens = make_tokens(dtype, frames=2 * compiled.CHUNK + 5, tokens=9, widths=(16,))
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            with mode():
                found.append(run(compiled, tokens, rows_for(tokens, 3)))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(map(torch.equal, other, found[0]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_model_gets_the_same_bytes_beside_others(dtype):
    tokens = make_tokens(dtype, frames=5, widths=(19, 24))
    models = [rows_for(tokens, count, seed=count) for count in (1, 2, 3, 4, 7)]
    together = compiled.pool_each(tokens.codes, models, tokens.scales, None)
    gradients = [torch.randn_like(pooled) for pooled, _, _ in together]
    rows = {
        shared: compiled.pool_backward_each(
            tokens.codes, gradients, tokens.scales, together, shared=shared
        )
        for shared in (True, False)
    }
    for i, (queries, gradient) in enumerate(zip(models, gradients, strict=True)):
        alone = compiled.pool(tokens.codes, queries, tokens.scales, None)
        assert all(map(torch.equal, together[i], alone))
        for shared, found in rows.items():
            wanted = compiled.pool_backward(
                tokens.codes, gradient, tokens.scales, alone, shared=shared
            )
            assert torch.equal(found[i], wanted)


def test_codes_are_read_right_however_they_lie():
    tokens = make_tokens(torch.int8, frames=6, widths=(16, 16))
    apart = CodedTokens(
        tuple(codes[::2] for codes in tokens.codes), tuple(part[::2] for part in tokens.scales)
    )
    together = CodedTokens(
        tuple(codes.contiguous() for codes in apart.codes),
        tuple(part.contiguous() for part in apart.scales),
    )
    turned = CodedTokens(
        tuple(codes.transpose(1, 2).contiguous().transpose(1, 2) for codes in apart.codes),
        apart.scales,
    )
    queries = rows_for(tokens, 2)
    wanted = run(compiled, together, queries)
    assert all(map(torch.equal, run(compiled, apart, queries), wanted))
    assert all(map(torch.equal, run(compiled, turned, queries), wanted))


def test_half_floats_keep_what_they_are():
    odd = [0.0, -0.0, 1.0, -2.5, 6e-8, 65504.0, float("inf"), float("nan")]
    for dtype in (torch.float16, torch.bfloat16):
        values = torch.tensor(odd, dtype=dtype)
        dots = compiled.dots([values[None, :, None]], torch.ones(1, 1), [])
        torch.testing.assert_close(dots[0, 0], values.float(), rtol=0, atol=0, equal_nan=True)


def test_what_a_thread_raises_is_raised(monkeypatch):
    def fail(*_):
        raise MemoryError("no room")

    monkeypatch.setattr(loops, "dots", fail)
    tokens = make_tokens(torch.int8, frames=4)
    with pytest.raises(MemoryError, match="no room"):
        compiled.dots(tokens.codes, rows_for(tokens, 3), tokens.scales)


def test_without_numba_plain_torch_runs_with_one_line(monkeypatch, caplog):
    monkeypatch.setattr(ops, "has_numba", lambda: False)
    choose.fall_back.cache_clear()
    tokens = make_tokens(torch.int8)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            pooled_attention(tokens, [make_weights(tokens)])
    [line] = [record.getMessage() for record in caplog.records]
    assert line.endswith("Numba is not installed")
