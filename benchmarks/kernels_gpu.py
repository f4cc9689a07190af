"""Everything that needs a GPU, in one command: check the fused kernels, tune them, measure them.

    python benchmarks/kernels_gpu.py [--out FOLDER]        (make bench-gpu; under 8 minutes)

First the gate: numbers of the kernels against float64, status 1 where one is wrong and nothing is
timed.  Then sizes of tiles are tried for the common cases, and the best go into tuned.json of the
package under the GPU's name.  Then the rows of pooling.py and fusion.py, and the table last.
Status 2 and one line without a GPU.  With TRITON_INTERPRET=1 gate and tuning run on tiny cases on
the CPU, to see that they run; nothing is kept.
"""

import argparse
import itertools
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from tokenreel.fuse.kernels import (
    CodedTokens,
    QueryWeights,
    absorbed,
    choose,
    pooled_attention,
    tuned,
)
from tokenreel.fuse.kernels.tuned import Sizes

TUNE_SECONDS = 180.0
TUNED = Path(tuned.__file__).with_name("tuned.json")
# Largest relative error of pooled tokens and of the gradient of queries against float64.
BOUNDS = {
    torch.int8: (2e-4, 2e-3),
    torch.float16: (2e-5, 2e-4),
    torch.bfloat16: (1e-4, 1e-3),
    torch.float32: (5e-6, 5e-5),
}


def main() -> int:
    """Gate, tune, measure, table; the status."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, help="folder for copies of rows and of tuned.json")
    options = parser.parse_args()
    is_interpreted = choose.is_interpreted()
    if not is_interpreted and not (torch.cuda.is_available() and choose.has_triton()):
        print(
            "bench-gpu: no NVIDIA GPU with Triton here; run it where `nvidia-smi` shows one",
            file=sys.stderr,
        )
        return 2
    # What is fixed by what Triton was imported as comes after the question.
    import fusion
    import pooling
    from harness import RESULTS
    from kernels_fixture import Case, device_name, print_table

    start = time.monotonic()
    device = torch.device("cpu" if is_interpreted else "cuda")
    name = device_name(device)
    print(f"{name}: torch {torch.__version__}, CUDA {torch.version.cuda}", flush=True)
    if not pass_gate(device, Case, tokens=37 if is_interpreted else 785):
        return 1
    if is_interpreted:
        print(tune(device, [Case(torch.int8, 2, 1, 64, tokens=33)], seconds=2.0))
        return 0
    cases = [Case(torch.int8, 1920), Case(torch.int8, 1920, layers=1), Case(torch.float16, 960),
             Case(torch.float16, 1920, layers=1)]  # fmt: skip
    keep(name, tune(device, cases, seconds=TUNE_SECONDS))
    rows = pooling.run(device) + fusion.run(device)
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        for path in (TUNED, RESULTS / "pooling.csv", RESULTS / "fusion.csv"):
            shutil.copy(path, options.out)
    print(f"\n{name}, {time.monotonic() - start:.0f} s")
    print_table(rows)
    return 0


def pass_gate(device: torch.device, make: Callable[..., object], *, tokens: int) -> bool:
    """Whether every dtype, with one layer and three, is as near to float64 as promised."""
    from kernels_fixture import make_case

    is_good = True
    for dtype, layers in itertools.product(BOUNDS, (1, 3)):
        width = 96 if device.type == "cpu" else 768
        case = make(dtype, 3, layers, width, tokens=tokens)
        codes, weights = make_case(case, device)
        truth = CodedTokens(
            tuple(part.cpu() for part in codes.codes), tuple(part.cpu() for part in codes.scales)
        )
        learned = {key: part for key, part in vars(weights).items() if key != "heads"}
        weights64 = QueryWeights(
            **{key: part.detach().cpu().double().requires_grad_() for key, part in learned.items()}
        )
        found = pooled_attention(codes, [weights], implementation="triton")[0].entities
        wanted = pooled_attention(truth, [weights64], implementation="absorbed")[0].entities
        gradient = torch.randn(wanted.shape, dtype=torch.float64)
        [ours] = torch.autograd.grad(found, weights.queries, gradient.to(found))
        [theirs] = torch.autograd.grad(wanted, weights64.queries, gradient)
        errors = (difference(found, wanted), difference(ours, theirs))
        good = all(error <= bound for error, bound in zip(errors, BOUNDS[dtype], strict=True))
        is_good &= good
        print(f"gate: {case.shape}: pooled {errors[0]:.1e}, gradient {errors[1]:.1e}, "
              f"{'good' if good else f'WRONG: more than {BOUNDS[dtype]}'}", flush=True)  # fmt: skip
    return is_good


def difference(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Relative, over all elements."""
    found, wanted = found.detach().cpu().double(), wanted.detach().cpu().double()
    return ((found - wanted).norm() / wanted.norm()).item()


def tune(device: torch.device, cases: list[object], *, seconds: float) -> dict[str, Sizes]:
    """The fastest sizes of each case and direction, by their key in tuned.json."""
    share = seconds / (2 * len(cases))
    best: dict[str, Sizes] = {}
    for case in cases:
        dtype = str(case.dtype).removeprefix("torch.")
        for direction, run in calls_of(device, case).items():
            end = time.monotonic() + share
            key = tuned.key_of(direction, dtype, case.layers, case.width)
            found: list[tuple[float, Sizes]] = []
            for sizes in candidates(direction, dtype, case.layers, case.width):
                if time.monotonic() > end:
                    break
                took = milliseconds(run, sizes, device)
                if took is not None:
                    found.append((took, sizes))
            best_ms, best[key] = min(found, key=lambda pair: pair[0])
            print(f"tune: {key}: {best_ms:.3f} ms with {best[key]}, {found[0][0]:.3f} ms by "
                  f"default, {len(found)} tried", flush=True)  # fmt: skip
    return best


def calls_of(device: torch.device, case: object) -> dict[str, Callable[[Sizes], object]]:
    """The two directions of the kernels as functions of their sizes."""
    from kernels_fixture import make_case

    from tokenreel.fuse.kernels import launch
    from tokenreel.fuse.kernels.weights import absorb_queries

    tokens, weights = make_case(case, device)
    codes, scales = list(tokens.codes), list(tokens.scales)
    queries = absorb_queries(tokens, weights).detach()
    outputs = launch.pool(codes, queries, scales, None)
    wanted = absorbed.pool(codes, queries, scales, None)
    assert difference(outputs[0], wanted[0]) < 1e-3
    gradient = torch.randn_like(outputs[0])
    return {
        "forward": lambda sizes: launch.pool(codes, queries, scales, None, sizes=sizes),
        "backward": lambda sizes: launch.pool_backward(
            codes, gradient, scales, outputs, shared=True, sizes=sizes
        ),
    }


def candidates(direction: str, dtype: str, layers: int, width: int) -> Iterator[Sizes]:
    """Sizes worth a try, the default first; sums of 16 rows must fit the registers."""
    default = tuned.default_sizes(dtype, layers, width)
    yield default
    blocks = [block for block in (128, 256, 64) if width % block == 0] or [default.channels]
    programs = (1, 2) if direction == "backward" else (1,)
    grid = itertools.product((64, 32, 128), blocks, (8, 4, 16), (2, 1, 3), programs)
    for tokens, channels, warps, stages, count in grid:
        registers = 16 * layers * width / (32 * warps)
        sizes = Sizes(tokens, channels, warps, stages, count)
        if registers <= 170 and sizes != default:
            yield sizes


def milliseconds(
    run: Callable[[Sizes], object], sizes: Sizes, device: torch.device
) -> float | None:
    """Median of five calls; None where the sizes do not fit the GPU."""
    from kernels_fixture import wait

    try:
        run(sizes)
    except choose.CannotRun:
        return None
    took = []
    for _ in range(5):
        wait(device)
        start = time.perf_counter()
        run(sizes)
        wait(device)
        took.append(time.perf_counter() - start)
    return sorted(took)[2] * 1e3


def keep(gpu: str, best: dict[str, Sizes]) -> None:
    """Write the sizes of a GPU beside those of others."""
    known = json.loads(TUNED.read_text())
    known[gpu] = {**known.get(gpu, {}), **{key: sizes.as_json() for key, sizes in best.items()}}
    beside = TUNED.with_suffix(f".{os.getpid()}")
    beside.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
    beside.replace(TUNED)
    tuned.forget()


if __name__ == "__main__":
    sys.exit(main())
