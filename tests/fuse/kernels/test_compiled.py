"""Compiled loops: what plain torch computes, in the same bytes however the work is cut."""

import importlib.util
import logging
import math
import os
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numba
import numpy as np
import pytest
import torch
from numba.core.caching import FunctionCache

from tests.fuse.kernels.cases import error, gradients, in_float64, make_tokens, make_weights
from tokenreel.fuse.kernels import CodedTokens, ops, pooled_attention
from tokenreel.fuse.kernels.attention import absorbed, choose
from tokenreel.fuse.kernels.cpu import compiled, loops
from tokenreel.fuse.kernels.cpu import numba_cache as kept

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
        *(
            module.pool_backward(codes, gradient, scales, outputs, shared=shared)
            for shared in (True, False)
        ),
        module.dots(codes, rows, scales),
        *(module.mix(codes, weights, scales, shared=shared) for shared in (True, False)),
    ]


@contextmanager
def threads(count):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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
    monkeypatch.setattr(compiled, "BLOCK_BYTES", size)
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
    queries = rows_for(tokens, 3)
    found = []
    for count in (1, 2, 5):
        with threads(count), mode():
            found.append(run(compiled, tokens, queries))
    assert_equal(found[0], run(absorbed, tokens, queries.double()), 3e-6)
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
    queries = rows_for(tokens, 2)
    wanted = run(compiled, together, queries)
    assert all(map(torch.equal, run(compiled, apart, queries), wanted))


def test_memory_of_any_kind_is_read(tmp_path):
    """Expanded, at an offset of its storage, shared, mapped read-only, hidden with strides."""
    tokens = make_tokens(torch.int8, frames=3, widths=(17,))
    [codes], [scales] = tokens.codes, tokens.scales
    hidden = torch.rand(37, 6) < 0.3
    hidden = hidden.T[::2]
    queries = rows_for(tokens, 2)
    wanted = run(compiled, tokens, queries, hidden.contiguous())
    np.save(tmp_path / "codes.npy", codes.numpy())
    mapped = np.load(tmp_path / "codes.npy", mmap_mode="r")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch: not writable
        read_only = torch.from_numpy(mapped)
    moved = torch.cat([torch.zeros(5, dtype=torch.int8), codes.flatten()])[5:].view_as(codes)
    for other in (moved, codes.clone().share_memory_(), read_only):
        found = run(compiled, CodedTokens((other,), (scales.double(),)), queries, hidden)
        assert all(map(torch.equal, found, wanted))
    same = CodedTokens((codes[:1].expand(3, -1, -1),), (scales[:1].expand(3, -1),))
    pooled, _, _ = compiled.pool(same.codes, queries, same.scales, hidden[:1].expand(3, -1))
    assert torch.equal(pooled, wanted[0][:1].expand(3, -1, -1))


ONES = torch.ones(4, 9, 8, dtype=torch.int8)
SIDE = torch.ones(4, 9)
ROWS = torch.ones(3, 8)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([ONES, ONES[:, :5]], torch.ones(3, 16), [SIDE, SIDE], None), "want .F, N, d. a block"),
        (([ONES, ONES[:2]], torch.ones(3, 16), [SIDE, SIDE], None), "want .F, N, d. a block"),
        (([ONES, ONES.float()], torch.ones(3, 16), [SIDE, SIDE], None), "must be of one of"),
        (([ONES.short()], ROWS, [], None), "tokens are torch.int16"),
        (([ONES], ROWS, [SIDE[:, :5]], None), "want floats"),
        (([ONES, ONES], torch.ones(3, 16), [SIDE], None), "want 2"),
        (([ONES.transpose(1, 2)], torch.ones(3, 9), [SIDE[:, :8]], None), "have strides"),
        (([ONES], ROWS, [SIDE], SIDE[:, :5] > 0), "want bool"),
        (([ONES], ROWS, [SIDE], SIDE[:2] > 0), "want bool"),
        (([ONES], ROWS[:, :7], [SIDE], None), "queries of shape"),
        (([ONES], torch.ones(3, 3, 8), [SIDE], None), "queries of shape"),
    ],
)
def test_an_operator_refuses_what_it_would_read_beyond_its_end(arguments, words):
    with pytest.raises((ValueError, TypeError), match=words):
        ops.pool(*arguments, "auto")


@pytest.mark.parametrize("part", [0, 1, 2])
def test_operators_refuse_outputs_and_weights_of_other_shapes(part):
    outputs = list(compiled.pool([ONES], ROWS, [SIDE], None))
    outputs[part] = outputs[part][..., :2]
    gradient = torch.ones(4, 3, 8)
    with pytest.raises(ValueError, match=r"of shape .*: want"):
        ops.pool_backward([ONES], gradient, [SIDE], *outputs, True, "auto")
    with pytest.raises(ValueError, match=r"weights of shape .*: want"):
        ops.mix([ONES], torch.ones(4, 3, 50_000), [SIDE], False)


@pytest.mark.parametrize("count", [1, 2])
def test_modes_of_the_caller_change_nothing(count):
    """Neither of inference nor of a device, and scales that ask for a gradient get none."""
    tokens = make_tokens(torch.int8, frames=20)
    queries = rows_for(tokens, 3)
    wanted = run(compiled, tokens, queries)
    tokens.scales[0].requires_grad_()
    with threads(count):
        found = ops.pool(list(tokens.codes), queries, list(tokens.scales), None, "auto")
        assert all(map(torch.equal, found, wanted))
        with torch.inference_mode(), torch.device("meta"):
            found = ops.pool(list(tokens.codes), queries, list(tokens.scales), None, "auto")
        assert all(map(torch.equal, found, wanted))


def test_several_threads_of_python_and_a_forked_process_get_the_same():
    tokens = make_tokens(torch.bfloat16, frames=12)
    queries = rows_for(tokens, 4)
    wanted = run(compiled, tokens, queries)
    with threads(2), ThreadPoolExecutor(4) as workers:
        for found in workers.map(lambda _: run(compiled, tokens, queries), range(8)):
            assert all(map(torch.equal, found, wanted))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python: threads of others might hold a lock
        child = os.fork()
    if not child:
        os._exit(not all(map(torch.equal, run(compiled, tokens, queries), wanted)))
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("size", [1, 1 << 19])
@pytest.mark.parametrize("bad", ["codes", "scales", "queries"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_and_infinity_come_out(monkeypatch, size, bad, value):
    """Also where they are all that the first block of a frame holds."""
    monkeypatch.setattr(compiled, "BLOCK_BYTES", size)
    tokens = make_tokens(torch.int8 if bad == "scales" else torch.float16, frames=2)
    queries = rows_for(tokens, 3).abs()
    if bad == "queries":
        queries[:, 5] = value
    else:
        getattr(tokens, bad)[0][1, :8] = value
    pooled, _, lse = compiled.pool(tokens.codes, queries, tokens.scales, None)
    frames = slice(0 if bad == "queries" else 1, 2)
    assert pooled[frames].isnan().all()
    assert lse[frames].isnan().all()
    assert pooled[: frames.start].isfinite().all()
    outputs = compiled.pool(tokens.codes, queries, tokens.scales, None)
    gradient = compiled.pool_backward(
        tokens.codes, torch.ones(2, 3, 96), tokens.scales, outputs, shared=True
    )
    assert gradient.isnan().all()


@pytest.mark.parametrize("spread", [0.0, 1.0, 3e3])
def test_scores_that_are_equal_or_far_apart_are_attended_to_exactly(monkeypatch, spread):
    monkeypatch.setattr(compiled, "BLOCK_BYTES", 1)
    tokens = make_tokens(torch.float32, frames=4)
    queries = rows_for(tokens, 3) * spread
    found = compiled.pool(tokens.codes, queries, [], None)
    exact = absorbed.pool([tokens.codes[0].double()], queries.double(), [], None)
    assert exact[1].abs().max() < 1 or spread == 1.0 or exact[1].abs().max() > 1e4
    assert_equal(found[1:], exact[1:], 1e-6)
    assert error(found[0], exact[0]) < 1e-6 * max(1, exact[1].abs().max())


@pytest.mark.parametrize("dtype", DTYPES)
def test_errors_at_full_size_are_at_most_twice_those_of_float32_without_a_trick(dtype):
    """N=784, D=2304, against float64: entities and the gradients of all weights."""
    tokens = make_tokens(dtype, frames=4, tokens=784, widths=(768, 768, 768))
    weights = make_weights(tokens, channels=32, values=32)
    exact = in_float64(weights)
    decoded = CodedTokens((tokens.decode(torch.float64),))
    results = [
        (own, pooled_attention(given, [own], implementation=word))
        for own, given, word in (
            (exact, decoded, "reference"),
            (weights, tokens, "reference"),
            (weights, tokens, "absorbed"),
        )
    ]
    wanted, naive, found = (
        {"entities": pooled[0].entities, **gradients(pooled, own)} for own, pooled in results
    )
    for name in ("entities", "queries", "key", "value"):
        assert error(found[name], wanted[name]) <= 2 * error(naive[name], wanted[name]), name


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


@pytest.fixture
def lines(caplog):
    """What is said at warning level."""
    for said in (choose.fall_back, choose.loops_obstacle, kept._log_once):
        said.cache_clear()
    with caplog.at_level(logging.WARNING):
        yield lambda: [record.getMessage() for record in caplog.records]
    choose.loops_obstacle.cache_clear()


def test_without_numba_plain_torch_runs_with_one_line(monkeypatch, lines):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    tokens = make_tokens(torch.int8)
    for _ in range(2):
        pooled_attention(tokens, [make_weights(tokens)])
    [line] = lines()
    assert line.endswith("Numba is not installed")


def test_why_numba_can_compile_nothing_is_said(monkeypatch, tmp_path, lines):
    with monkeypatch.context() as changed:
        changed.setattr(numba.config, "DISABLE_JIT", 1)
        assert choose.loops_obstacle() == "NUMBA_DISABLE_JIT is set"
    choose.loops_obstacle.cache_clear()
    (tmp_path / "numba.py").write_text("raise ImportError('Numba needs NumPy 2.4 or less')")
    for name in ("numba", "numba.core"):
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    reason = choose.loops_obstacle()
    assert reason == "Numba cannot be imported: Numba needs NumPy 2.4 or less"


DIGEST = """
import hashlib, os, sys, torch
from tests.fuse.kernels.test_compiled import rows_for, run
from tests.fuse.kernels.cases import make_tokens
from tokenreel.fuse.kernels.cpu import compiled, loops
torch.set_num_threads(1)  # a forked child has no threads of its parent
tokens = make_tokens(torch.int8, frames=64, tokens=49, widths=(192,))
rows = rows_for(tokens, 3)
for _ in range(2):
    child = os.fork()
    if child:
        if os.waitpid(child, 0)[1]:
            sys.exit("a child failed")
        continue
    found = run(compiled, tokens, rows)
    print([hashlib.sha256(part.numpy().tobytes()).hexdigest() for part in found])
    print(sum(sum(entry.stats.cache_hits.values()) > 0
              for entry in (loops.attend, loops.attend_backward, loops.dots, loops.mix)))
    sys.stdout.flush()
    os._exit(0)
"""


def test_a_process_that_compiles_gets_the_bytes_of_one_that_finds_the_code(tmp_path):
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    printed = subprocess.run(
        [sys.executable, "-c", DIGEST], env=environment, check=True, capture_output=True, text=True
    )
    compiled_bytes, compiled_hits, found_bytes, found_hits = printed.stdout.splitlines()
    assert (compiled_hits, found_hits) == ("0", "4")
    assert compiled_bytes == found_bytes


def twice(value):
    return value + value


def keep_twice(function=twice):
    made = numba.njit(function)
    kept.keep(made, function)
    return made


def test_code_of_another_dtype_is_not_taken_from_the_disk(monkeypatch, tmp_path):
    """What two processes leave that compile for two dtypes at once."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    assert keep_twice()(2) == 4
    [code] = tmp_path.rglob("*.nbc")
    of_integers = code.read_bytes()
    for path in tmp_path.rglob("*.nb?"):
        path.unlink()
    assert keep_twice()(2.5) == 5
    code.write_bytes(of_integers)
    for hits in (0, 1):
        made = keep_twice()
        assert made(2.5) == 5
        assert sum(made.stats.cache_hits.values()) == hits


def test_a_change_of_what_the_loops_call_makes_their_code_stale(monkeypatch, tmp_path):
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    for sources, hits in (("first", 0), ("first", 1), ("second", 0)):
        monkeypatch.setattr(kept, "_sources", lambda sources=sources: sources)
        made = keep_twice()
        assert made(2) == 4
        assert sum(made.stats.cache_hits.values()) == hits
    folder = Path(kept.__file__).parent
    wanted = {path.name for path in folder.glob("*.py") if "numba" in path.read_text()}
    assert set(kept.SOURCES) == wanted - {"numba_cache.py"}


def test_a_full_disk_and_folders_that_cannot_be_written_are_said_once(monkeypatch, lines):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(FunctionCache, "save_overload", fail)
    made = keep_twice()
    assert (made(2), made(2.5)) == (4, 5)
    [line] = lines()
    assert "No space left on device; set NUMBA_CACHE_DIR" in line
    scope = {}
    exec("def nowhere(value): return value + value", scope)  # of no file: Numba has no folder
    for _ in range(2):
        assert keep_twice(scope["nowhere"])(2) == 4
    assert len(lines()) == 2
    assert "neither the folder of the package nor the user's cache can be written" in lines()[1]
