"""Each distinct frame once: bytes and seconds of a step on `sample`, numbers equal.

    python benchmarks/fuse_dedup.py [--quick]

The naive step reads and pools every position of both crops, padding included; ours reads and pools
the distinct frames and gathers.  Batch norms see every position in both.  Bytes are the mean over
an epoch of the recipe `sample` with T = 48 and alpha = 1.5 (B = 4), at most 0.75 of the naive ones
wanted; simulated shares of other lengths are rows of their own.
"""

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from fuse_fixture import CPU, bytes_of
from harness import Timing, make_row, measure, quick_flag, write_rows

from tokenreel.cache.read.store_reader import open_store
from tokenreel.fuse.config import FuseConfig
from tokenreel.fuse.config.windows import sample_windows
from tokenreel.fuse.data.batches import Batch, stream_batches
from tokenreel.fuse.data.frames import Piece
from tokenreel.fuse.data.source import TokenSource
from tokenreel.fuse.systems.base import make_source, sampling_of
from tokenreel.fuse.systems.mvformer.model import FusionModel, batch_loss, build_model
from tokenreel.fuse.systems.mvformer.requirements import pooled_dim
from tokenreel.pipeline.phases.extraction import extract_dataset
from tokenreel.pipeline.recipes import get_recipe


def naive(batch: Batch, source: TokenSource) -> Batch:
    """The batch with a frame for every position, read anew."""
    pieces = [
        Piece(clip, 0, frames)
        for clip, crops in zip(batch.clip_ids, batch.steps.numpy(), strict=True)
        for frames in crops.reshape(-1, 1)
    ]
    everywhere = torch.arange(batch.gather.numel()).view(batch.gather.shape)
    return replace(batch, frames=source.read(pieces), gather=everywhere)


def step_of(batch: Batch, config: FuseConfig, model: FusionModel) -> tuple[float, torch.Tensor]:
    """Loss and gradients of a batch, end to end."""
    torch.manual_seed(0)
    model.zero_grad()
    loss = batch_loss(model, batch, config, rng=np.random.default_rng(0))
    loss.backward()
    gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return loss.item(), torch.cat(gradients)


def simulated_share(num_frames: int, clip_frames: int) -> float:
    """Distinct frames of both crops as a share of their positions."""
    rng = np.random.default_rng(0)
    drawn = [
        sample_windows(clip_frames, num_frames, alpha=1.5, beta=0.2, rng=rng).frames
        for _ in range(500)
    ]
    return float(np.mean([len(np.unique(frames)) / frames.size for frames in drawn]))


def main() -> None:
    """Measure and write the rows."""
    words = ["data.train=8", "data.val=1", *(["image_size=32"] if quick_flag() else [])]
    config = get_recipe("sample").fuse
    config = config.with_(data=config.data.with_(num_frames=48, alpha=1.5))
    with tempfile.TemporaryDirectory(dir=".") as folder:
        _, store = extract_dataset(
            "sample", words, root=Path(folder) / "videos", out=Path(folder) / "s"
        )
        source = make_source(open_store(store), [config], CPU, placement="disk")
        clips = source.store.select(split="train")
        epoch = [one for _, one in stream_batches(source, clips, sampling_of(config), epochs=1)]
        every = [naive(one, source) for one in epoch]
        ours, whole = (np.array([bytes_of(b.frames) for b in some]) for some in (epoch, every))
        model = build_model(
            config, dim=pooled_dim(config, source.store), cls_dim=source.store.identity.dim
        ).train()
        found = {
            name: step_of(some[0], config, model)
            for name, some in (("distinct", epoch), ("naive", every))
        }
        timings = measure(
            {
                "distinct": lambda: step_of(epoch[0], config, model),
                "naive": lambda: step_of(every[0], config, model),
            },
            repeats=9,
        )
    shape = f"sample T={config.data.num_frames} B={config.data.batch_clips} {len(epoch)} steps"
    rows = []
    for name, some in (("naive", whole), ("distinct", ours)):
        rows.append(
            make_row(
                "fuse_dedup",
                f"{name}, read in a step",
                Timing(tuple(some / 1e6)),
                shape=shape,
                unit="MB",
                baseline="naive",
                ratio=float(some.sum() / whole.sum()),
            )
        )
        rows.append(
            make_row(
                "fuse_dedup",
                f"{name}, a step in memory",
                timings[name],
                shape=shape,
                baseline="naive",
                ratio=timings[name].median / timings["naive"].median,
            )
        )
    one, other = found["distinct"], found["naive"]
    worst = abs(one[0] - other[0]), float((one[1] - other[1]).abs().max() / other[1].abs().max())
    for what, value in zip(("loss", "largest gradient, relative"), worst, strict=True):
        rows.append(
            make_row(
                "fuse_dedup",
                f"difference of the {what}",
                Timing((value,)),
                shape=shape,
                unit="absolute",
                baseline="1e-5",
                ratio=value / 1e-5,
            )
        )
    for t, frames in ((80, 70), (80, 150), (240, 500), (240, 2000)):
        share = simulated_share(t, frames)
        rows.append(
            make_row(
                "fuse_dedup",
                "distinct frames, simulated",
                Timing((share,)),
                shape=f"T={t} clip of {frames}",
                unit="share",
                baseline="positions",
                ratio=share,
            )
        )
    write_rows(rows)


if __name__ == "__main__":
    main()
