"""Parts of extract_gpu.py: the extraction that is measured, its gate, and times on the device."""

import time
from collections.abc import Callable
from contextlib import nullcontext

import numpy as np
import torch

FRAME = (360, 640)  # height and width of frames in the profile
BOUNDS = {"float32": 1e-5, "bfloat16": 3e-2}  # relative error of tokens against the CPU's


def config_of(device: torch.device, codec: str):
    """The extraction that is measured; a small one on a CPU."""
    from tokenreel.extract.config import ExtractConfig

    if device.type == "cpu":
        return ExtractConfig(
            backbone="test_vit",
            weights="random:0",
            blocks=(3, 4, 5),
            image_size=64,
            codec=codec.replace("pca:128", "pca:8"),
            device="cpu",
            batch_frames=8,
        )
    return ExtractConfig(
        backbone="vit_base_patch8_224.dino",
        weights="random:0",
        blocks=(9, 10, 11),
        codec=codec,
        numeric="bfloat16",
        compile_backbone=True,
        device=str(device),
    )


def pass_gate(device: torch.device, say: Callable[[str], None]) -> bool:
    """Whether pixels, codes and tokens on the device are those of the CPU."""
    from tokenreel.extract.backbone.timm_backbone import backbone_shape, build_backbone
    from tokenreel.extract.backbone.weights import load_weights
    from tokenreel.extract.encode.torch_codecs import int8
    from tokenreel.extract.images.resize import resize_on_device
    from tokenreel.extract.images.transforms import (
        apply_transform,
        plan_on_device,
        transform_parameters,
    )

    config = config_of(device, "int8")
    shape = backbone_shape(config.backbone, config.blocks, config.image_size)
    parameters = transform_parameters(config.transform, shape.image_size[0])
    draw = np.random.default_rng(0)
    frames = draw.integers(0, 256, (2, *FRAME, 3), np.uint8)
    plan = plan_on_device(FRAME, parameters)
    windows = torch.from_numpy(np.stack([frame[plan.window] for frame in frames]))
    images = torch.stack([apply_transform(frame, parameters) for frame in frames])
    same_pixels = torch.equal(resize_on_device(windows.to(device), plan).cpu(), images)
    say(f"gate: resized pixels {'are' if same_pixels else 'ARE NOT'} the CPU's")

    state = load_weights(config.backbone, config.weights)
    wanted = build_backbone(config.backbone, state, shape)(images).tokens
    good = same_pixels
    for numeric, bound in BOUNDS.items():
        backbone = build_backbone(config.backbone, state, shape, numeric=numeric, device=device)
        found = backbone(images.to(device)).tokens
        errors = [
            ((found[block].cpu() - wanted[block]).norm() / wanted[block].norm()).item()
            for block in config.blocks
        ]
        good &= max(errors) <= bound
        say(
            f"gate: tokens in {numeric}: {max(errors):.1e} from the CPU's float32, "
            f"{'good' if max(errors) <= bound else f'WRONG: more than {bound:g}'}"
        )
    sides = [torch.rand(shape.dim) + 0.5, torch.rand(shape.dim), torch.tensor([127.0])]
    tokens = wanted[config.blocks[0]]
    ours = int8(tokens.to(device), *(side.to(device) for side in sides))
    same_codes = all(
        torch.equal(one.cpu(), other) for one, other in zip(ours, int8(tokens, *sides), strict=True)
    )
    say(f"gate: int8 codes and scales {'are' if same_codes else 'ARE NOT'} the CPU's")
    return good and same_codes


def times_of(device: torch.device, work: Callable[[], object], *, repeats: int) -> list[float]:
    """Seconds of each run on the device, after five to warm up; on a CPU after one."""
    seconds = []
    for number in range(repeats + 5 if device.type == "cuda" else 3):
        if device.type == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            work()
            end.record()
            end.synchronize()
            seconds.append(begin.elapsed_time(end) / 1e3)
        else:
            start = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - start)
        if number < (5 if device.type == "cuda" else 1):
            seconds.pop()
    return seconds


def stage_times(machine, backbone, quantiser, recipe) -> dict[str, float]:
    """Median seconds of the parts of a batch, one after another."""
    from tokenreel.extract.images.resize import resize_on_device
    from tokenreel.extract.images.transforms import plan_on_device

    device, count = machine.device, machine.batch_frames
    plan = plan_on_device(FRAME, recipe.transform)
    draw = np.random.default_rng(0)
    windows = torch.from_numpy(draw.integers(0, 256, (count, *plan.window_shape), np.uint8))
    windows = windows.pin_memory() if machine.is_cuda else windows
    there = windows.to(device)
    images = resize_on_device(there, plan)
    found = backbone(images)
    codes = quantiser.on_device(found)
    below = {
        name: torch.empty(values.shape, dtype=values.dtype, pin_memory=machine.is_cuda)
        for name, values in codes.items()
    }

    @torch.inference_mode()
    def copy_down() -> None:
        for name, values in codes.items():
            below[name].copy_(values, non_blocking=True)

    parts = {
        "up (beside the others)": lambda: windows.to(device, non_blocking=True),
        "resize": lambda: resize_on_device(there, plan),
        "backbone": lambda: backbone(images),
        "quantise": lambda: quantiser.on_device(found),
        "down (beside the others)": copy_down,
    }
    times = {name: sorted(times_of(device, work, repeats=9)) for name, work in parts.items()}
    return {name: seconds[len(seconds) // 2] for name, seconds in times.items()}


def attention_times(machine) -> dict[str, str]:
    """Milliseconds of the attention of a block of ViT-B/8, by the kernels torch has for it."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    if not machine.is_cuda:
        return {}
    shape = (machine.batch_frames, 785, 3, 12, 64)
    q, k, v = torch.randn(shape, device=machine.device, dtype=torch.bfloat16).permute(2, 0, 3, 1, 4)
    found = {}
    for kind in (None, SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION):
        name = "as torch chooses" if kind is None else kind.name.lower()

        def run(kind=kind) -> None:
            with nullcontext() if kind is None else sdpa_kernel(kind):
                torch.nn.functional.scaled_dot_product_attention(q, k, v)

        try:
            seconds = sorted(times_of(machine.device, run, repeats=9))
            found[name] = f"{seconds[len(seconds) // 2] * 1e3:.2f} ms"
        except RuntimeError as error:
            found[name] = f"not here ({str(error).splitlines()[0]})"
    return found


def kernel_table(machine, backbone, quantiser, batches: int = 3) -> str:
    """The kernels of a few batches, the longest first."""
    if not machine.is_cuda:
        return "kernels: of a GPU only"
    shape = (machine.batch_frames, 3, *backbone.shape.image_size)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, device=machine.device)
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as found:
        for _ in range(batches):
            quantiser.on_device(backbone(images))
        torch.cuda.synchronize()
    averages = found.key_averages()
    if not len(averages):
        return "kernels: the profiler saw none here"
    table = averages.table(sort_by="device_time_total", row_limit=25, max_name_column_width=70)
    return f"{batches} batches, by kernel:\n{table}"
