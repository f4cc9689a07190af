"""Temporal fusion and a whole MV-Former step: time against published scores, memory, profile.

    python benchmarks/fusion.py [--quick | --whole-step]

On a GPU where there is one, else on the CPU.  Fusion: ratios are of attention that writes its
scores and masks them, as published / ours.  Memory: the bound / what 5,000 frames x 6 entities took
at evaluation; wanted is under 16 GB.  Step (B=4 clips x 2 views; on a GPU T=240, 6 entities, three
layers of int8 codes that stay there): ratios are shares of the step; wanted is less than half
outside MTF.  --whole-step: that step alone, also on a CPU, where it takes a minute and 8 GB.
"""

import argparse
import math
import time
from collections.abc import Callable
from functools import partial
from unittest.mock import patch

import torch
from harness import Row, Timing, make_row, quick_flag, write_rows
from kernels_fixture import (
    Case,
    device_name,
    in_fresh_process,
    in_unit,
    make_case,
    peak_bytes,
    timed,
    wait,
)
from torch import Tensor

from tokenreel.fuse.config import DataConfig, FuseConfig, LstpConfig, TemporalConfig
from tokenreel.fuse.kernels import CodedTokens, Padding
from tokenreel.fuse.layers.temporal import TemporalFusion
from tokenreel.fuse.losses.scl import sequence_contrastive_loss
from tokenreel.fuse.systems.mvformer.model import FusionModel, build_model

PUBLISHED = TemporalConfig(fc_width=1536, embedding=256, output="avg")  # FineGym99's
BOUND_BYTES = 16e9
PARTS = (
    "take frames",
    "pool",
    "fuse (MTF)",
    "loss",
    "backward of loss",
    "backward of fuse (MTF)",
    "backward of pool",
    "optimiser",
)


def main() -> None:
    """Measure every case and write its rows."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    parser = argparse.ArgumentParser()
    parser.add_argument("--whole-step", action="store_true")
    if parser.parse_known_args()[0].whole_step:
        torch.set_num_threads(1)  # as in the other rows
        write_rows(_step(device, quick=False, whole=True))
    else:
        run(device, quick=quick_flag())


def run(device: torch.device, *, quick: bool = False) -> list[Row]:
    """All rows of a device; each case is written when it is measured."""
    is_gpu = device.type == "cuda"
    if quick:
        sizes = [(2, 8, 2)]
    else:
        sizes = [(8, 80, 3), (8, 240, 6)] if is_gpu else [(2, 80, 3), (2, 240, 6)]
    measured = [partial(_training, *size, device) for size in sizes]
    measured.append(partial(_step, device, quick=quick, whole=is_gpu))
    if not quick:
        measured.append(partial(_embedding, device))
    rows: list[Row] = []
    for one in measured:
        found = one()
        write_rows(found)
        rows += found
    return rows


def publish_scores(query: Tensor, key: Tensor, value: Tensor, padding: Padding | None) -> Tensor:
    """Attention that writes its scores, and masks those of padding: what was published."""
    query, key, value = (part.transpose(1, 2) for part in (query, key, value))
    scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    if padding is not None:
        scores = scores.masked_fill(
            ~padding.may_attend, -1e9 if scores.dtype.itemsize > 2 else -1e4
        )
    return (scores.softmax(-1) @ value).transpose(1, 2)


def _training(clips: int, frames: int, entities: int, device: torch.device) -> list[Row]:
    """Forward and backward of MTF, with and without padding."""
    fusion = TemporalFusion(PUBLISHED, channels=384, num_entities=entities, train_frames=frames).to(
        device
    )
    x = torch.randn(clips, frames, entities, 384, device=device, requires_grad=True)
    whole = torch.ones(clips, frames, dtype=torch.bool)
    padded = whole.clone()
    padded[::2, frames // 2 :] = False
    rows = []
    for words, valid in (("nothing padded", whole), ("a quarter padded", padded)):

        def train(valid: Tensor = valid) -> None:
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                out = fusion(x, valid)
            torch.autograd.grad(out.float().square().sum(), list(fusion.parameters()))
            wait(device)

        def train_published(train: Callable[[], None] = train) -> None:
            with patch("tokenreel.fuse.layers.temporal.padded_attention", publish_scores):
                train()

        repeats = 5 if device.type == "cuda" else 3  # 4 s each on a CPU
        times = timed({"ours": train, "published": train_published}, device, repeats=repeats)
        for name, timing in times.items():
            rows.append(
                make_row(
                    "fusion",
                    f"MTF {name} forward+backward, {words}",
                    in_unit(timing, 1e3),
                    shape=f"{clips} sequences T={frames} E={entities}",
                    unit="ms",
                    baseline="published",
                    device=device_name(device),
                    ratio=times["published"].median / timing.median,
                )
            )
    return rows


def embed_long(device_type: str) -> int:
    """Extra memory of 5,000 frames x 6 entities at evaluation."""
    device = torch.device(device_type)
    fusion = TemporalFusion(PUBLISHED, channels=384, num_entities=6, train_frames=240)
    fusion.to(device).eval()
    x = torch.randn(1, 5000, 6, 384, device=device)

    def embed() -> None:
        half = device.type == "cuda"
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=half):
            fusion(x)
        wait(device)

    return peak_bytes(embed, device)


def _embedding(device: torch.device) -> list[Row]:
    """Extra memory of a long clip, against the bound."""
    start = time.perf_counter()
    taken = in_fresh_process(embed_long, "cpu") if device.type == "cpu" else embed_long(device.type)
    print(f"fusion: 5,000 frames x 6 entities in {time.perf_counter() - start:.1f} s", flush=True)
    return [
        make_row(
            "fusion",
            "MTF at evaluation, extra memory",
            Timing((taken / 1e9,)),
            shape="1 sequence T=5000 E=6",
            unit="GB",
            baseline="the bound of 16 GB",
            ratio=BOUND_BYTES / taken,
            device=device_name(device),
        )
    ]


def _step(device: torch.device, *, quick: bool, whole: bool) -> list[Row]:
    """Milliseconds of each part of a training step, and its share of the whole."""
    views, entities = 8, 6
    frames = 4 if quick else 240 if whole else 40
    case = Case(
        torch.int8,
        views * frames,
        layers=3 if whole else 1,
        entities=entities,
        tokens=784 if whole and not quick else 196,
    )
    tokens, _ = make_case(case, device)
    config = FuseConfig(
        data=DataConfig(num_frames=frames),
        pooling=LstpConfig(num_entities=entities),
        temporal=PUBLISHED,
    )
    model = build_model(config, dim=case.layers * case.width, cls_dim=case.width).to(device)
    optimiser = torch.optim.Adam(model.parameters(), 1e-4, fused=True)
    step = partial(_take_step, model, optimiser, tokens, frames)
    count = 2 if quick or (whole and device.type == "cpu") else 8
    repeats = [step() for _ in range(count)][min(2, count - 1) :]
    total = [sum(one.values()) for one in repeats]
    shape = f"4 clips x 2 views T={frames} {case.shape}"
    about = {"shape": shape, "unit": "ms", "baseline": "step", "device": device_name(device)}
    whole = Timing(tuple(total))
    outside = [sum(v for k, v in one.items() if "MTF" not in k) for one in repeats]
    named = {part: Timing(tuple(one[part] for one in repeats)) for part in PARTS}
    named |= {"outside MTF": Timing(tuple(outside)), "all": whole}
    return [
        make_row(
            "fusion",
            f"step: {name}",
            in_unit(timing, 1e3),
            ratio=timing.median / whole.median,
            **about,
        )
        for name, timing in named.items()
    ]


def _take_step(
    model: FusionModel, optimiser: torch.optim.Optimizer, resident: CodedTokens, frames: int
) -> dict[str, float]:
    """One step; seconds of each part.  The gradient stops at each part's door and is handed on."""
    device = resident.device
    half = device.type == "cuda"
    seconds: dict[str, float] = {}
    clock = [0.0]

    def lap(part: str | None) -> None:
        wait(device)
        now = time.perf_counter() if half else time.process_time()
        if part is not None:
            seconds[part] = now - clock[0]
        clock[0] = now

    clips = resident.num_frames // (2 * frames)
    gather = torch.arange(resident.num_frames, device=device).unflatten(0, (clips, 2, frames))
    valid = torch.ones(clips, 2, frames, dtype=torch.bool)
    model.train()
    optimiser.zero_grad(set_to_none=True)
    with torch.autocast(device.type, torch.bfloat16, enabled=half):
        lap(None)
        rows = torch.arange(resident.num_frames, device=device)
        taken = CodedTokens(
            tuple(codes.index_select(0, rows) for codes in resident.codes),
            tuple(scales.index_select(0, rows) for scales in resident.scales),
        )
        lap("take frames")
        views = model.pool_windows(taken, None, gather)
        lap("pool")
        entities = views.detach().requires_grad_()
        embeddings = model.fuse(entities, valid.flatten(0, 1))
        lap("fuse (MTF)")
        leaf = embeddings.detach().requires_grad_()
        projected = model.project(leaf).float().unflatten(0, (clips, 2))
        steps = gather - gather[:, :, :1]
        loss = sequence_contrastive_loss(
            projected, steps, valid.to(device), temperature=0.1, label_variance=10.0
        )
    lap("loss")
    loss.backward()
    lap("backward of loss")
    embeddings.backward(leaf.grad)
    lap("backward of fuse (MTF)")
    views.backward(entities.grad)
    lap("backward of pool")
    torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
    optimiser.step()
    lap("optimiser")
    return seconds


if __name__ == "__main__":
    main()
