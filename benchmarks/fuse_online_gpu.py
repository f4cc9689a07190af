"""A training step from the cache against the same step with the frozen backbone online, on a GPU.

    python benchmarks/fuse_online_gpu.py [--quick]

MV-Former of Penn Action (two crops of T = 80 of B = 4 clips, three blocks, E = 3) and of Pouring
(T = 240, one block), bfloat16; random int8 codes.  online: the decoded frames are on the GPU
already; as in the released code, every position of a crop goes through the backbone, here a
compiled ViT-B/8 at 224 in bfloat16, and the model is trained on its tokens.  online, distinct: each
distinct frame goes through it once.  cached: the stream of batches of a run, read ahead.  The ratio
is online / this, at least 80 wanted on an H200 where the codes stay on the GPU.  gpu, ram: codes
stay there; gpu, compiled: with optim.compile.  disk: from the page cache.  200 MB/s, 2 GB/s: behind
links of that speed; where the ratio is below 1, caching loses.  --quick: ViT-B/16 and few frames,
on a CPU too, to see that it runs.  Status 2 and one line without a GPU.
"""

import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from fuse_fixture import OnlineFrames, bytes_of, make_runs, make_store, throttled
from harness import Timing, cpu_name, make_row, measure, quick_flag, write_rows
from torch import Tensor

from tokenreel.cache.format.clip import ClipRecord
from tokenreel.extract.backbone.timm_backbone import Backbone, backbone_shape, build_backbone
from tokenreel.extract.backbone.weights import load_weights
from tokenreel.extract.flow.devices import compile_blocks
from tokenreel.fuse.config import FuseConfig
from tokenreel.fuse.data.batches import Batch, make_batch, stream_batches
from tokenreel.fuse.data.source import TokenSource
from tokenreel.fuse.train.run import Run
from tokenreel.pipeline.override import apply_overrides
from tokenreel.pipeline.recipes import get_recipe

RECIPES = {"mvformer-penn": 150, "mvformer-pouring": 600}  # frames of a clip
LINKS = {"200 MB/s": 200e6, "2 GB/s": 2e9}  # bytes a second
IMAGES = 64  # through the backbone at once
STEPS = 8  # of one timing of the cached step


def make_backbone(name: str, blocks: tuple[int, ...], device: torch.device) -> Backbone:
    """The backbone as extraction runs it."""
    weights, shape = load_weights(name, "random:0"), backbone_shape(name, blocks, None)
    numeric = "bfloat16" if device.type == "cuda" else "float32"
    backbone = build_backbone(name, weights, shape, numeric=numeric, device=device).to(device)
    if device.type == "cuda":
        compile_blocks(backbone, torch.zeros(IMAGES, 3, 224, 224, dtype=torch.uint8, device=device))
    return backbone


def online_step(run: Run, backbone: Backbone, batch: Batch, images: Tensor) -> Callable[[], float]:
    """A step whose tokens are made from the images of its frames, uint8 (F, 3, 224, 224)."""
    precision = torch.bfloat16 if images.is_cuda else torch.float32

    def step() -> float:
        parts = []
        for some in images.split(IMAGES):
            found = backbone(some).tokens
            parts.append(torch.cat([t.to(precision) for _, t in sorted(found.items())], dim=-1))
        online = OnlineFrames(torch.cat(parts))
        return run.step(replace(batch, frames=online))  # type: ignore[arg-type]

    return step


def online_steps(run: Run, backbone: Backbone, batch: Batch) -> dict[str, Callable[[], object]]:
    """The step with every position through the backbone, and with each distinct frame once."""
    device, distinct = batch.gather.device, count_frames(batch)
    every = torch.arange(batch.gather.numel(), device=device).view_as(batch.gather)
    images = torch.randint(0, 256, (every.numel(), 3, 224, 224), dtype=torch.uint8, device=device)
    return {
        "online": online_step(run, backbone, replace(batch, gather=every), images),
        "online, distinct": online_step(run, backbone, batch, images[:distinct]),
    }


def cached_steps(
    run: Run, source: TokenSource, records: Sequence[ClipRecord]
) -> Callable[[], object]:
    """STEPS steps of the stream; every one waits for the loss."""

    def steps() -> None:
        for _, batch in stream_batches(source, records, run.sampling, epochs=STEPS):
            run.position = (0, 0)
            run.step(batch)

    return steps


def main() -> int:
    """Measure and write the rows; the status."""
    is_quick = quick_flag()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and not is_quick:
        print(
            "fuse_online_gpu: no NVIDIA GPU here; run it where `nvidia-smi` shows one",
            file=sys.stderr,
        )
        return 2
    name, side = ("vit_base_patch16_224", 14) if is_quick else ("vit_base_patch8_224", 28)
    sizes = ["data.num_frames=4", "data.batch_clips=2"] if is_quick else []
    for recipe, frames in RECIPES.items():
        config = apply_overrides(get_recipe(recipe).fuse, sizes, root="fuse")
        with tempfile.TemporaryDirectory(dir=".") as folder:
            store = make_store(
                Path(folder) / "s",
                "int8",
                grid=(side, side),
                clips=config.data.batch_clips,
                frames=10 if is_quick else frames,
                blocks=blocks_of(config),
            )
            timings, batch = measure_steps(config, store, Path(folder), name, device)
        write(timings, batch, f"{recipe} {name}", device, config)
    return 0


def measure_steps(
    config: FuseConfig, store: Path, folder: Path, name: str, device: torch.device
) -> tuple[dict[str, Timing], Batch]:
    """Seconds of a step of each kind, and the batch of the online ones."""
    [[other], source] = make_runs([config], store, folder / "o", placement="ram", device=device)
    records = source.store.select(split="train")
    batch = make_batch(source, records, range(len(records)), other.sampling, 0).to(device)
    subjects = cached_subjects(config, store, folder, device)
    found = measure(subjects, repeats=3)
    cached = {k: Timing(tuple(s / STEPS for s in t.seconds)) for k, t in found.items()}
    backbone = make_backbone(name, blocks_of(config), device)
    return measure(online_steps(other, backbone, batch), repeats=5, warmups=2) | cached, batch


def cached_subjects(
    config: FuseConfig, store: Path, folder: Path, device: torch.device
) -> dict[str, Callable[[], object]]:
    """STEPS steps from each place that codes can be in."""
    compiled = config.with_(optim=config.optim.with_(compile=True))
    kinds = {"ram": ("ram", config), "disk": ("disk", config)}
    if device.type == "cuda":
        kinds = {"gpu": ("gpu", config), "gpu, compiled": ("gpu", compiled)} | kinds
    subjects = {}
    for kind, (placement, of_kind) in kinds.items():
        [[run], source] = make_runs(
            [of_kind], store, folder / kind, placement=placement, device=device
        )
        subjects[kind] = cached_steps(run, source, source.store.select(split="train"))

    def behind(link: float) -> Callable[[], object]:
        def slow() -> None:
            with throttled(link):
                subjects["disk"]()

        return slow

    return subjects | {f"disk, {words}": behind(link) for words, link in LINKS.items()}


def blocks_of(config: FuseConfig) -> tuple[int, ...]:
    """The blocks that a recipe reads."""
    assert config.pooling.blocks is not None
    return tuple(config.pooling.blocks)


def count_frames(batch: Batch) -> int:
    """Its distinct frames."""
    return len(next(iter(batch.frames.codes.values())))


def write(
    timings: dict[str, Timing], batch: Batch, name: str, device: torch.device, config: FuseConfig
) -> None:
    """The rows."""
    data, positions = config.data, batch.gather.numel()
    shape = (
        f"{name} L={len(blocks_of(config))} T={data.num_frames} B={data.batch_clips}, "
        f"{count_frames(batch)} distinct frames of {positions}, "
        f"{bytes_of(batch.frames) / 1e6:.0f} MB"
    )
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()
    write_rows(
        [
            make_row(
                "fuse_online_gpu",
                f"step, {kind}",
                timing,
                shape=shape,
                device=where,
                baseline="online / this",
                ratio=timings["online"].median / timing.median,
            )
            for kind, timing in timings.items()
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
