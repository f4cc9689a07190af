"""Sizes of the fused kernels' tiles: what is tried, compiled side by side, timed, and kept.

It imports the kernels: whether Triton compiles or interprets is settled by then.
"""

import itertools
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, wait
from dataclasses import replace
from pathlib import Path

import torch
from kernels_fixture import Case, make_case
from kernels_fixture import wait as wait_for

from tokenreel.fuse.kernels.attention import absorbed, choose
from tokenreel.fuse.kernels.attention.weights import absorb_queries
from tokenreel.fuse.kernels.triton import launch, tuned
from tokenreel.fuse.kernels.triton.tuned import Sizes

Job = tuple[Case, str, Sizes]

# Largest relative difference of sizes from others of the same kernel.
AGREE = {torch.int8: 2e-3, torch.float16: 2e-4}
SUMS = 100  # registers of a thread for sums: with more, the rest is spilled
TUNED = Path(tuned.__file__).with_name("tuned.json")


def tune(
    device: torch.device, cases: list[Case], *, seconds: tuple[float, float]
) -> dict[str, Sizes]:
    """The fastest sizes of each case and direction, by their key in tuned.json.

    What is not compiled in time, or does not fit the GPU, is left out; what spills registers is
    left to the clock.
    """
    queues = [
        [job_of(case, direction, sizes) for sizes in candidates_of(case, direction)]
        for case in cases
        for direction in ("forward", "backward")
    ]
    # The defaults first, then every queue's second, and so on: a short time leaves none without.
    turns = itertools.chain.from_iterable(itertools.zip_longest(*queues))
    ready = compile_all(device, list(dict.fromkeys(job for job in turns if job)), seconds[0])
    share = seconds[1] / (2 * len(cases))
    best: dict[str, Sizes] = {}
    for case in cases:
        for direction, run in calls_of(device, case).items():
            end = time.monotonic() + share
            key = tuned.key_of(direction, word_of(case), case.layers, case.width)
            found: list[tuple[float, Sizes]] = []
            for sizes in candidates_of(case, direction):
                is_ready = job_of(case, direction, sizes) in ready
                if found and (not is_ready or time.monotonic() > end):
                    continue
                took = milliseconds(lambda run=run, sizes=sizes: run(sizes), device)
                if took is not None and is_right(run, sizes, case.dtype):
                    found.append((took, sizes))
            best_ms, best[key] = min(found, key=lambda pair: pair[0])
            print(
                f"tune: {key}: {best_ms:.3f} ms with {best[key]}, {found[0][0]:.3f} ms by "
                f"default, {len(found)} tried",
                flush=True,
            )
    return best


def is_right(run: Callable[[Sizes | None], object], sizes: Sizes, dtype: torch.dtype) -> bool:
    """Whether sizes give the numbers of the default ones, which the gate has seen; said if not."""
    ours, wanted = run(sizes), run(None)
    pairs = zip(ours, wanted, strict=True) if isinstance(ours, tuple) else ((ours, wanted),)
    error = max(((a - b).norm() / b.norm()).item() for a, b in pairs)
    good = error <= AGREE[dtype]
    if not good:
        print(f"tune: {sizes}: WRONG by {error:.1e}, left out", flush=True)
    return good


def word_of(case: Case) -> str:
    """The dtype's name."""
    return str(case.dtype).removeprefix("torch.")


def job_of(case: Case, direction: str, sizes: Sizes) -> Job:
    """What there is to compile: the number of programs is no part of it."""
    return case, direction, replace(sizes, programs=1)


def compile_all(device: torch.device, jobs: list[Job], seconds: float) -> set[Job]:
    """Fill Triton's cache on disk from several processes; the jobs that were done in time."""
    start = time.monotonic()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max(1, min(12, (os.cpu_count() or 2) - 2)), context) as pool:
        futures = {pool.submit(compile_one, device, *job): job for job in jobs}
        wait(futures, timeout=seconds)
        pool.shutdown(wait=True, cancel_futures=True)
    done = {job for future, job in futures.items() if not future.cancelled() and fits(future, job)}
    print(
        f"tune: {len(done)} of {len(jobs)} sizes compiled in {time.monotonic() - start:.0f} s",
        flush=True,
    )
    return done


def fits(future: Future[bool], job: Job) -> bool:
    """Whether the sizes fit the GPU; what went wrong otherwise is said, and they are left out."""
    error = future.exception()
    if error is not None:
        print(f"tune: {job[1]} {job[0].shape} {job[2]}: {error}", flush=True)
    return error is None and future.result()


def compile_one(device: torch.device, case: Case, direction: str, sizes: Sizes) -> bool:
    """Compile what the whole case needs, by two of its frames; False where it does not fit."""
    try:
        calls_of(device, replace(case, frames=2))[direction](sizes)
    except choose.CannotRun:
        return False
    return True


def calls_of(device: torch.device, case: Case) -> dict[str, Callable[[Sizes | None], object]]:
    """The two directions of the kernels as functions of their sizes, None for those in use."""
    tokens, weights = make_case(case, device)
    codes, scales = list(tokens.codes), list(tokens.scales)
    queries = absorb_queries(tokens, weights).detach()
    outputs = absorbed.pool(codes, queries, scales, None)
    gradient = torch.randn_like(outputs[0])
    return {
        "forward": lambda sizes: launch.pool(codes, queries, scales, None, sizes=sizes, splits=1),
        "backward": lambda sizes: launch.pool_backward(
            codes, gradient, scales, outputs, shared=True, sizes=sizes
        ),
    }


def candidates_of(case: Case, direction: str) -> Iterator[Sizes]:
    """Sizes worth a try, the default first; the sums of 8 rows must fit the registers."""
    default = tuned.default_sizes(word_of(case), case.layers, case.width)
    yield default
    blocks = [block for block in (128, 256) if case.width % block == 0] or [default.channels]
    programs = (1, 2, 3) if direction == "backward" else (1,)
    held = itertools.product((2, 3), (64, 32), (4, 8), blocks[:1], programs, (True,))
    grid = itertools.product((4, 3, 2), (64, 32, 128), (4, 8, 2), blocks, programs, (False,))
    for stages, tokens, warps, channels, count, hold in (*held, *grid):
        sizes = Sizes(tokens, channels, warps, stages, count, hold)
        if 8 * case.layers * case.width / (32 * warps) <= SUMS and sizes != default:
            yield sizes


def milliseconds(run: Callable[[], object], device: torch.device) -> float | None:
    """Of a call, as one of ten that a GPU is given at once; None where it does not fit the GPU."""
    try:
        run()
    except choose.CannotRun:
        return None
    calls = 10 if device.type == "cuda" else 1
    took = []
    for _ in range(5):
        wait_for(device)
        start = time.perf_counter()
        for _ in range(calls):
            run()
        wait_for(device)
        took.append((time.perf_counter() - start) / calls)
    return sorted(took)[2] * 1e3


def keep(gpu: str, best: dict[str, Sizes]) -> None:
    """Write the sizes of a GPU beside those of others."""
    known = json.loads(TUNED.read_text())
    known[gpu] = {**known.get(gpu, {}), **{key: sizes.as_json() for key, sizes in best.items()}}
    beside = TUNED.with_suffix(f".{os.getpid()}")
    beside.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
    beside.replace(TUNED)
    tuned.forget()
