"""What the benchmarks of the kernels share: cases, limits of the machine, memory, rows.

Times are of the machine that they ran on; shares of its own copy bandwidth carry over.  On a CPU
they are processor seconds of one thread, which others that use the machine hardly change.
"""

import math
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from unittest import mock

import torch
from harness import K, Row, Timing, cpu_name, make_row, measure
from torch import Tensor

from tokenreel.fuse.kernels import CodedTokens, QueryWeights, pooled_attention
from tokenreel.fuse.kernels.attention.reference import project_and_attend

CHANNELS = 384  # of a query and of an entity, as published
TOGETHER = {"cpu": 0.15, "cuda": 0.02}  # seconds of calls that are timed as one
SHORT = {torch.int8: "int8", torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32"}


@dataclass(frozen=True)
class Case:
    """Frames of `layers` layers of `width` channels, pooled by `entities` queries."""

    dtype: torch.dtype
    frames: int
    layers: int = 3
    width: int = 768
    entities: int = 3
    tokens: int = 784

    @property
    def shape(self) -> str:
        """For a row; the number of frames first."""
        dim = f"D={self.layers}x{self.width}"
        return f"{self.frames} frames N={self.tokens} {dim} E={self.entities} {SHORT[self.dtype]}"

    @property
    def gradient_bytes(self) -> int:
        """Of the gradients of W_K, W_V and queries in float32, that every form returns."""
        return 4 * CHANNELS * (2 * self.layers * self.width + self.entities)

    @property
    def pass_bytes(self) -> int:
        """What one direction must move: codes and scales once, scores and pooled tokens once."""
        per_token = self.layers * (self.width * self.dtype.itemsize)
        per_token += 4 * self.layers * (self.dtype == torch.int8) + 4 * self.entities
        side = 4 * self.entities * self.layers * self.width
        return self.frames * (self.tokens * per_token + side)


def make_case(case: Case, device: torch.device) -> tuple[CodedTokens, QueryWeights]:
    """Codes of frames and the weights of a model, with scores about 1.5 apart."""
    rng = torch.Generator(device).manual_seed(0)
    shape = (case.frames, case.tokens, case.width)
    codes, scales = [], []
    for _ in range(case.layers):
        part = torch.empty(shape, dtype=torch.int8, device=device)
        part.random_(-127, 128, generator=rng)
        if case.dtype == torch.int8:
            scale = torch.rand(shape[:2], device=device, generator=rng)
            scales.append(scale * 0.004 + 0.012)  # tokens of standard deviation 1
        else:
            part = part.to(case.dtype).mul_(0.0137)
        codes.append(part)
    dim = case.layers * case.width
    parts = {
        "queries": torch.randn(case.entities, CHANNELS, device=device, generator=rng) * 1.5,
        "key": torch.randn(CHANNELS, dim, device=device, generator=rng) * dim**-0.5,
        "key_bias": torch.zeros(CHANNELS, device=device),
        "value": torch.randn(CHANNELS, dim, device=device, generator=rng) * dim**-0.5,
        "value_bias": torch.zeros(CHANNELS, device=device),
    }
    weights = QueryWeights(**{name: part.requires_grad_() for name, part in parts.items()})
    return CodedTokens(tuple(codes), tuple(scales)), weights


def make_subjects(
    implementation: str, tokens: CodedTokens, weights: QueryWeights
) -> dict[str, Callable[[], None]]:
    """Forward, and forward with backward, of an implementation; neither waits for the GPU.

    The reference gets decoded tokens, on a GPU in bfloat16 and under autocast: what a training
    loop without a token cache has.
    """
    device = tokens.device
    is_reference = implementation == "reference"
    half = device.type == "cuda"
    decoded = tokens.decode(torch.bfloat16 if half else torch.float32) if is_reference else None
    learned = [part for part in vars(weights).values() if isinstance(part, Tensor)]
    out_gradient = torch.ones(tokens.num_frames, weights.queries.shape[0], CHANNELS, device=device)

    def pool() -> Tensor:
        if decoded is None:
            return pooled_attention(tokens, [weights], implementation=implementation)[0].entities
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            return project_and_attend(decoded, weights, None, normalise=False, disjoint=False)[0]

    def forward() -> None:
        with torch.no_grad():
            pool()

    def both() -> None:
        out = pool()
        torch.autograd.grad(out, learned, out_gradient.to(out.dtype), allow_unused=True)

    return {"forward": forward, "forward+backward": both}


def timed(
    subjects: dict[K, Callable[[], object]], device: torch.device, *, repeats: int
) -> dict[K, Timing]:
    """The harness's :func:`measure` with the clock of the device: processor seconds on a CPU.

    A short subject is called many times at once, as a training loop calls it: a GPU does not wait
    for the launch of each, and a CPU's caches hold what its last call left there.
    """
    clock = time.perf_counter
    if device.type == "cpu":
        torch.set_num_threads(1)
        clock = time.process_time
    calls = {name: _calls_in(TOGETHER[device.type], run, device) for name, run in subjects.items()}
    many = {name: partial(_repeat, run, calls[name], device) for name, run in subjects.items()}
    found = measure(many, repeats=repeats, warmups=0, clock=clock)
    return {name: in_unit(timing, 1 / calls[name]) for name, timing in found.items()}


def _calls_in(seconds: float, run: Callable[[], object], device: torch.device) -> int:
    _repeat(run, 1, device)  # compiles
    start = time.perf_counter()
    _repeat(run, 1, device)
    return max(1, math.ceil(seconds / (time.perf_counter() - start)))


def _repeat(run: Callable[[], object], calls: int, device: torch.device) -> None:
    for _ in range(calls):
        run()
    wait(device)


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def device_name(device: torch.device) -> str:
    """As in a row."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{cpu_name()}, one thread"


def measure_limits(device: torch.device) -> tuple[float, list[Row]]:
    """Copy bandwidth in bytes a second, read and written; and the rows of it and of matrices."""
    is_gpu = device.type == "cuda"
    size, side = (1 << 32, 8192) if is_gpu else (1 << 28, 1024)
    source = torch.zeros(size, dtype=torch.int8, device=device)
    target = torch.ones_like(source)
    dtype = torch.bfloat16 if is_gpu else torch.float32
    matrix = torch.ones(side, side, dtype=dtype, device=device)

    subjects = {"copy": lambda: target.copy_(source), "multiply": lambda: matrix @ matrix}
    times = timed(subjects, device, repeats=9)
    name = device_name(device)
    rows = [
        make_row(
            "pooling",
            "copy of memory",
            rate(times["copy"], 2 * size / 1e9),
            unit="GB/s",
            shape=f"{size >> 20} MiB",
            baseline="itself",
            ratio=1.0,
            device=name,
        ),
        make_row(
            "pooling",
            f"matrix product {SHORT[dtype]}",
            rate(times["multiply"], 2 * side**3 / 1e12),
            unit="TFLOP/s",
            shape=f"{side}^3",
            baseline="itself",
            ratio=1.0,
            device=name,
        ),
    ]
    return 2 * size / times["copy"].median, rows


def rate(timing: Timing, amount: float) -> Timing:
    """Amounts a second of each repeat."""
    return Timing(tuple(amount / seconds for seconds in timing.seconds))


def in_unit(timing: Timing, factor: float) -> Timing:
    """Seconds in another unit."""
    return Timing(tuple(seconds * factor for seconds in timing.seconds))


def peak_bytes(run: Callable[[], object], device: torch.device) -> int:
    """Memory that a call takes over what is taken before it.

    On a CPU call it in a process of its own (:func:`in_fresh_process`): memory that was freed
    earlier is taken again without a trace.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    status = Path("/proc/self/status")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from now
    before = _kilobytes(status.read_text(), "VmRSS")
    run()
    return (_kilobytes(status.read_text(), "VmHWM") - before) * 1024


def _kilobytes(status: str, field: str) -> int:
    return int(next(line for line in status.splitlines() if line.startswith(field)).split()[1])


def in_fresh_process(function: Callable[..., int], *arguments: object) -> int:
    """The result of a function of a module, called in a new interpreter.

    Whose memory comes from the system and goes back to it: what was freed is not taken again.
    """
    context = multiprocessing.get_context("spawn")
    with (
        mock.patch.dict(os.environ, MALLOC_MMAP_THRESHOLD_=str(1 << 16)),
        ProcessPoolExecutor(1, mp_context=context) as pool,
    ):
        return pool.submit(function, *arguments).result()


def print_table(rows: Sequence[Row]) -> None:
    """Rows for reading, after all that was said while measuring."""
    for row in rows:
        print(
            f"{row.case:44s} {row.shape:44s} {row.median:10.4g} {row.unit:8s} "
            f"{row.ratio:8.3g} x {row.baseline}"
        )
