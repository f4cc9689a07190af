"""LSTP on cached tokens: reference, absorbed and fused; time, share of copy bandwidth, memory.

    python benchmarks/pooling.py [--quick]

On a GPU where there is one, else on the CPU.  Ratios: of times, reference / this one (decoded
tokens, on a GPU under autocast); of GB/s, share of the copy bandwidth measured first, each byte
counted once a direction; of memory, the reference's / this one's.

Wanted on a CPU in fp32 with 8 to 32 frames: absorbed at least 10 times the reference
forward+backward, at most 1/8 of its extra memory beyond the gradients of the weights, which both
return (at 8 frames and D=2304 those alone are 1/4 of what the reference takes).

Wanted on a GPU with int8 codes, 1,920 frames and E=3: 55 % of copy at D=2304 and 70 % at D=768,
6 times the reference, 2.5 times absorbed, 1/20 of the reference's memory.
"""

import torch
from harness import Row, Timing, make_row, quick_flag, write_rows
from kernels_fixture import (
    Case,
    device_name,
    in_fresh_process,
    in_unit,
    make_case,
    make_subjects,
    measure_limits,
    peak_bytes,
    rate,
    timed,
)

F32, I8, F16, BF16 = torch.float32, torch.int8, torch.float16, torch.bfloat16


def main() -> None:
    """Measure every case and write its rows."""
    run(torch.device("cuda" if torch.cuda.is_available() else "cpu"), quick=quick_flag())


def run(device: torch.device, *, quick: bool = False) -> list[Row]:
    """All rows of a device, limits first; each case is written when it is measured."""
    copy_rate, rows = measure_limits(device)
    write_rows(rows)
    for case, implementations in _cases(device, quick):
        found = _rows_of(case, implementations, device, copy_rate, 3 if quick else 5)
        write_rows(found)
        rows += found
    return rows


def _cases(device: torch.device, quick: bool) -> list[tuple[Case, tuple[str, ...]]]:
    if device.type == "cpu":
        both, alone = ("reference", "absorbed"), ("absorbed",)
        if quick:
            return [(Case(F32, 2, tokens=49), both), (Case(I8, 2, tokens=49), alone)]
        return [
            (Case(F32, 8), both),
            (Case(F32, 32), both),
            (Case(F32, 32, layers=1), both),
            (Case(F32, 8, layers=1, entities=6), both),
            (Case(I8, 8), both),
            (Case(F16, 8), alone),
        ]
    every, ours = ("reference", "absorbed", "triton"), ("absorbed", "triton")
    if quick:
        return [(Case(I8, 64), every)]
    return [
        *((Case(I8, 1920, layers=layers), every) for layers in (1, 3)),
        *((Case(dtype, 1920), ours) for dtype in (F16, BF16)),
        (Case(F16, 1920, layers=1), ours),
        (Case(F32, 480), ours),
        (Case(I8, 1920, entities=6), every),
        (Case(I8, 1920, entities=8), ours),
        (Case(I8, 1920, entities=16), ours),
        (Case(I8, 64), every),
    ]


def _rows_of(
    case: Case,
    implementations: tuple[str, ...],
    device: torch.device,
    copy_rate: float,
    repeats: int,
) -> list[Row]:
    tokens, weights = make_case(case, device)
    subjects, memory = {}, {}
    for name in implementations:
        found = make_subjects(name, tokens, weights)
        subjects |= {(name, direction): run for direction, run in found.items()}
        if device.type == "cuda":
            found["forward+backward"]()
            memory[name] = peak_bytes(found["forward+backward"], device)
        elif case.dtype == F32 and case.entities == 3:
            memory[name] = in_fresh_process(cpu_peak, name, case)
    times = timed(subjects, device, repeats=repeats)
    rows = []
    baseline = implementations[0]
    about = {"shape": case.shape, "device": device_name(device)}
    for (name, direction), timing in times.items():
        speed = rate(timing, case.pass_bytes * (2 if "+" in direction else 1) / 1e9)
        ratio = times[baseline, direction].median / timing.median
        rows += [
            make_row(
                "pooling",
                f"{name} {direction}",
                in_unit(timing, 1e3),
                unit="ms",
                baseline=baseline,
                ratio=ratio,
                **about,
            ),
            make_row(
                "pooling",
                f"{name} {direction}, bytes counted once",
                speed,
                unit="GB/s",
                baseline="copy",
                ratio=speed.median * 1e9 / copy_rate,
                **about,
            ),
        ]
    for name in memory:
        for what, less in (("", 0), (" beyond the gradients", case.gradient_bytes)):
            taken, most = (max(1, memory[each] - less) for each in (name, baseline))
            rows.append(
                make_row(
                    "pooling",
                    f"{name} forward+backward, extra memory{what}",
                    Timing((taken / 2**20,)),
                    unit="MiB",
                    baseline=baseline,
                    ratio=most / taken,
                    **about,
                )
            )
    return rows


def cpu_peak(implementation: str, case: Case) -> int:
    """Extra memory of a forward and backward, in a process that did nothing else yet."""
    device = torch.device("cpu")
    small = Case(case.dtype, 1, layers=1, width=32, tokens=16)  # what it frees serves nobody
    make_subjects(implementation, *make_case(small, device))["forward+backward"]()
    tokens, weights = make_case(case, device)
    return peak_bytes(make_subjects(implementation, tokens, weights)["forward+backward"], device)


if __name__ == "__main__":
    main()
