"""A training step from the cache against the same step with the frozen backbone run online.

    python benchmarks/fuse_online.py [--quick]

ViT-B/8 at 224 (--quick: a tiny one), blocks 3, 7 and 11, int8, one clip of two crops of T = 4.
online: decode the video, preprocess, run the backbone on each distinct frame once, train on its
tokens; the released code runs it on every position, which costs more.  cached: draw the same
batch, read its codes, train.  The ratio is online / cached, at least 50 wanted where the codes stay
in memory.  resident: codes in memory.  disk: from the page cache.  disk, cold: the pages are
dropped before each step.  200 MB/s: behind a link of that speed.
"""

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from fuse_fixture import OnlineFrames, bytes_of, make_runs, small_config, throttled
from harness import make_row, measure, quick_flag, write_rows
from store_training_read import drop_pages

from tokenreel.cache.format.clip import ClipRecord
from tokenreel.cache.read.store_reader import Store
from tokenreel.extract.backbone.timm_backbone import Backbone, backbone_shape, build_backbone
from tokenreel.extract.backbone.weights import load_weights
from tokenreel.extract.preview.show import frames_as_seen
from tokenreel.fuse.data.batches import Batch, make_batch
from tokenreel.fuse.data.source import TokenSource
from tokenreel.fuse.train.run import Run
from tokenreel.pipeline.datasets.render import render_clip
from tokenreel.pipeline.datasets.script import write_script
from tokenreel.pipeline.phases.extraction import extract_dataset

BLOCKS = (3, 7, 11)
LINK = 200e6  # bytes a second


def make_store(folder: Path, backbone: str, frames: int) -> tuple[Path, Path]:
    """The root of a video of so many frames, and the store of its tokens."""
    root = folder / "videos"
    (root / "train").mkdir(parents=True)
    script = write_script("train", 0)
    short = replace(
        script, video="train/a.mp4", phases=script.phases[:frames], poses=script.poses[:frames]
    )
    render_clip(root, short)
    words = [f"backbone={backbone}", "weights=random:0", "blocks=3,7,11"]
    report, store = extract_dataset("folder", words, root=root, out=folder / "s")
    assert not report.failed
    return root, store


def online_step(
    run: Run, store: Store, record: ClipRecord, root: Path, model: Backbone, batch: Batch
) -> Callable[[], float]:
    """A step whose tokens are made from the video."""
    distinct = batch.steps.unique().numpy()

    def step() -> float:
        images = np.stack(list(frames_as_seen(store, record, distinct, root / record.video)))
        found = model(torch.from_numpy(images).permute(0, 3, 1, 2))
        tokens = torch.cat([found.tokens[block] for block in BLOCKS], dim=-1)
        return run.step(replace(batch, frames=OnlineFrames(tokens)))  # type: ignore[arg-type]

    return step


def cached_step(run: Run, source: TokenSource, record: ClipRecord) -> Callable[[], float]:
    """The same step from the store: draw, read, train."""

    def step() -> float:
        return run.step(make_batch(source, [record], [0], run.sampling, 0))

    return step


def main() -> None:
    """Measure and write the rows."""
    is_quick = quick_flag()
    backbone = "vit_tiny_patch16_224" if is_quick else "vit_base_patch8_224"
    config = small_config(num_frames=4, batch_clips=1)
    folder = Path(tempfile.mkdtemp(dir="."))
    try:
        root, path = make_store(folder, backbone, 12)
        made = {p: make_runs([config], path, folder / p, placement=p) for p in ("ram", "disk")}
        [[resident], ram], [[on_disk], disk] = made["ram"], made["disk"]
        [record] = ram.store.select(split="train")
        batch = make_batch(ram, [record], [0], resident.sampling, 0)
        model = build_backbone(
            backbone, load_weights(backbone, "random:0"), backbone_shape(backbone, BLOCKS, None)
        )
        [[other], _] = make_runs([config], path, folder / "online", placement="ram")
        from_disk = cached_step(on_disk, disk, record)

        def cold() -> None:
            drop_pages(path)
            from_disk()

        def slow() -> None:
            with throttled(LINK):
                from_disk()

        timings = measure(
            {
                "online": online_step(other, ram.store, record, root, model, batch),
                "resident": cached_step(resident, ram, record),
                "disk": from_disk,
                "disk, cold": cold,
                "disk, 200 MB/s": slow,
            },
            repeats=2,
        )
    finally:
        shutil.rmtree(folder)
    frames = len(batch.steps.unique())
    shape = (
        f"{backbone} L=3 T=4 B=1, {frames} distinct frames, {bytes_of(batch.frames) / 1e6:.1f} MB"
    )
    rows = []
    for name, timing in timings.items():
        ratio = timings["online"].median / timing.median
        rows.append(
            make_row(
                "fuse_online",
                f"step, {name}",
                timing,
                shape=shape,
                baseline="online / this",
                ratio=ratio,
            )
        )
    write_rows(rows)


if __name__ == "__main__":
    main()
