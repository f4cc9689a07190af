"""Everything that needs a GPU, in one command: check the fused kernels, tune them, measure them.

    python benchmarks/kernels_gpu.py [--out FOLDER] [--kernels-only]   (make bench-gpu; < 8 minutes)

First the gate: numbers of the kernels against float64, status 1 where one is wrong and nothing is
timed.  Then sizes of tiles are compiled, in processes of their own, and tried for the common cases;
the best go into tuned.json of the package under the GPU's name.  Then rows: the kernels alone, as
shares of copy bandwidth; those of pooling.py; those of fusion.py, unless --kernels-only (they need
more packages than torch).  Then compute-sanitizer, where it is installed, on a small case; status 1
where it finds something.  The table comes last.

Wanted of int8 codes, 1,920 frames of 784 tokens and E=3, in a direction of the kernels alone: 55 %
of copy at D=2304 and 70 % at D=768; the rest as in pooling.py and fusion.py.

Status 2 and one line without a GPU.  With TRITON_INTERPRET=1 gate, tuning and rows run on tiny
cases on the CPU, to see that they run; nothing is kept.
"""

import argparse
import itertools
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from tokenreel.fuse.kernels import CodedTokens, QueryWeights, pooled_attention
from tokenreel.fuse.kernels.attention import choose

COMPILE_SECONDS = 120.0  # of all sizes, in processes side by side
TUNE_SECONDS = 60.0  # of all measurements
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
    parser.add_argument("--kernels-only", action="store_true", help="no rows of fusion.py")
    parser.add_argument(
        "--compile-seconds", type=float, default=COMPILE_SECONDS, help="of all sizes to try"
    )
    parser.add_argument("--small", action="store_true", help="the gate's cases alone, no bounds")
    options = parser.parse_args()
    is_interpreted = choose.is_interpreted()
    if not is_interpreted and not (torch.cuda.is_available() and choose.has_triton()):
        print(
            "bench-gpu: no NVIDIA GPU with Triton here; run it where `nvidia-smi` shows one",
            file=sys.stderr,
        )
        return 2
    # What is fixed by what Triton was imported as comes after the question.
    from kernels_fixture import device_name, print_table

    start = time.monotonic()
    device = torch.device("cpu" if is_interpreted else "cuda")
    name = device_name(device)
    print(f"{name}: torch {torch.__version__}, CUDA {torch.version.cuda}", flush=True)
    if not pass_gate(device, tokens=37 if is_interpreted or options.small else 785):
        return 1
    if options.small:
        return 0
    kernels_only = options.kernels_only or is_interpreted
    rows = measure_all(device, name, options.compile_seconds, kernels_only=kernels_only)
    is_clean = is_interpreted or sanitise()
    if options.out is not None:
        keep_copies(options.out)
    print(f"\n{name}, {time.monotonic() - start:.0f} s")
    print_table(rows)
    return 0 if is_clean else 1


def measure_all(
    device: torch.device, name: str, compile_seconds: float, *, kernels_only: bool
) -> list[object]:
    """Tune, keep the sizes, and measure; each row is written when it is there."""
    import pooling
    from harness import write_rows
    from kernels_fixture import Case, measure_limits
    from kernels_tuning_fixture import keep, tune

    if device.type == "cpu":
        small = Case(torch.int8, 2, 1, 64, tokens=33)
        print(tune(device, [small], seconds=(5.0, 2.0)))
        return kernel_rows(device, small, 1e9)
    cases = [
        Case(torch.int8, 1920),
        Case(torch.int8, 1920, layers=1),
        Case(torch.float16, 960),
        Case(torch.float16, 1920, layers=1),
    ]
    keep(name, tune(device, cases, seconds=(compile_seconds, TUNE_SECONDS)))
    if not pass_gate(device, tokens=785):
        raise RuntimeError(f"the tuned sizes give wrong numbers: take {name} out of tuned.json")
    copy_rate, _ = measure_limits(device)
    rows: list[object] = []
    for case in cases:
        found = kernel_rows(device, case, copy_rate)
        write_rows(found)
        rows += found
    rows += pooling.run(device)
    if not kernels_only:
        import fusion

        rows += fusion.run(device)
    return rows


def kernel_rows(device: torch.device, case: object, copy_rate: float) -> list[object]:
    """The kernels alone, with the sizes that are in the package: a direction's share of copy."""
    from harness import Timing, make_row
    from kernels_fixture import device_name
    from kernels_tuning_fixture import calls_of, milliseconds

    rows = []
    for direction, run in calls_of(device, case).items():
        took = milliseconds(lambda run=run: run(None), device)
        speed = case.pass_bytes / took / 1e6
        for words, value, unit, ratio in (
            ("time of a call", took, "ms", 1.0),
            ("bytes counted once", speed, "GB/s", speed * 1e9 / copy_rate),
        ):
            rows.append(
                make_row(
                    "kernels_gpu",
                    f"fused kernel {direction}, {words}",
                    Timing((value,)),
                    shape=case.shape,
                    unit=unit,
                    ratio=ratio,
                    baseline="copy" if unit == "GB/s" else "itself",
                    device=device_name(device),
                )
            )
    return rows


def sanitise() -> bool:
    """Whether compute-sanitizer finds no bad access in the gate's small cases."""
    tool = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    if not Path(tool).exists():
        print("sanitizer: compute-sanitizer is not installed: not run", flush=True)
        return True
    command = [tool, "--tool", "memcheck", "--error-exitcode", "9"]
    run = subprocess.run(
        [*command, sys.executable, __file__, "--small"],
        env={**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    print(
        f"sanitizer: {'nothing found' if run.returncode == 0 else run.stdout[-3000:]}", flush=True
    )
    return run.returncode == 0


def keep_copies(folder: Path) -> None:
    """Rows and tuned sizes, for who takes them home."""
    from harness import RESULTS
    from kernels_tuning_fixture import TUNED

    folder.mkdir(parents=True, exist_ok=True)
    for path in (
        TUNED,
        *(RESULTS / f"{name}.csv" for name in ("kernels_gpu", "pooling", "fusion")),
    ):
        if path.exists():
            shutil.copy(path, folder)


def pass_gate(device: torch.device, *, tokens: int) -> bool:
    """Whether every dtype, with one layer and three, is as near to float64 as promised."""
    from kernels_fixture import Case, make_case

    width = 96 if device.type == "cpu" else 768
    cases = [
        Case(dtype, 3, layers, width, tokens=tokens)
        for dtype, layers in itertools.product(BOUNDS, (1, 3))
    ]
    cases.append(replace(cases[0], entities=16))
    is_good = True
    for case in cases:
        errors = errors_of(*make_case(case, device))
        good = all(e <= bound for e, bound in zip(errors, BOUNDS[case.dtype], strict=True))
        is_good &= good
        print(
            f"gate: {case.shape}: pooled {errors[0]:.1e}, gradient {errors[1]:.1e}, "
            f"{'good' if good else f'WRONG: more than {BOUNDS[case.dtype]}'}",
            flush=True,
        )
    return is_good


def errors_of(codes: CodedTokens, weights: QueryWeights) -> tuple[float, float]:
    """Of pooled tokens and of the gradient of queries, against float64 on the CPU."""
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
    return difference(found, wanted), difference(ours, theirs)


def difference(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Relative, over all elements."""
    found, wanted = found.detach().cpu().double(), wanted.detach().cpu().double()
    return ((found - wanted).norm() / wanted.norm()).item()


if __name__ == "__main__":
    sys.exit(main())
