"""A plain DataLoader over TokenDataset against the training loop's own stream.

    python benchmarks/token_dataset.py [--quick]

The model of recipe `sample`, batches of 4 clips, windows of 48 frames, tokens as they are, on a
store of 36 clips (3 blocks of 7 x 7 x 192, int8), codes in memory on both sides.  An epoch, the
step included, is fed by `fuse train`'s stream, and by a DataLoader with 0 and with 2 workers:
frames per second of the better of the two over those of the stream, at least 0.8 wanted.  A second
row is the same without the step.  Two threads compute on both sides.
"""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from fuse_fixture import CPU, make_runs, make_store
from harness import Timing, make_row, measure, quick_flag, write_rows
from torch.utils.data import DataLoader

from tokenreel.fuse.config import AugmentConfig
from tokenreel.fuse.data.batches import Batch, stream_batches
from tokenreel.fuse.data.token_dataset import ClipSampler, TokenBatch, TokenDataset
from tokenreel.pipeline.recipes import get_recipe

WORKERS = (0, 2)
BATCH = 4  # clips


def as_step(batch: TokenBatch, grid: tuple[int, int], num_frames: int) -> Batch:
    """The batch as a step of `fuse train` takes it: the same arrays."""
    count = len(batch.clip_ids)
    return Batch(
        clip_ids=batch.clip_ids,
        frames=next(iter(batch.frames.values())),
        gather=batch.gather,
        steps=batch.steps,
        valid=batch.valid,
        labels=batch.labels,
        targets=torch.zeros(count, 0),  # the store has no tags
        num_frames=torch.full((count,), num_frames),
        actions=batch.actions,
        own=slice(0, count),
        grid=grid,
    )


def main() -> None:
    """Measure and write the rows."""
    clips, frames, repeats = (8, 64, 2) if quick_flag() else (36, 90, 7)
    config = get_recipe("sample").fuse
    data = config.data.with_(num_frames=48, alpha=1.5, batch_clips=BATCH)
    config = config.with_(data=data, augment=AugmentConfig())
    with tempfile.TemporaryDirectory(dir=".") as folder:
        store = make_store(
            Path(folder) / "s", "int8", grid=(7, 7), clips=clips, frames=frames, dim=192
        )
        [run], source = make_runs([config], store, Path(folder), placement="ram", device=CPU)
        records = source.store.select(split="train")
        dataset = TokenDataset(
            store,
            window=data.num_frames,
            windows=2,
            alpha=data.alpha,
            beta=data.beta,
            keep="memory",
        ).load()
        sampler = ClipSampler(dataset, seed=data.seed)
        loaders = {
            count: DataLoader(
                dataset,
                batch_size=data.batch_clips,
                sampler=sampler,
                collate_fn=dataset.collate,
                num_workers=count,
                persistent_workers=count > 0,
            )
            for count in WORKERS
        }

        def stream() -> Iterator[Batch]:
            for _, batch in stream_batches(source, records, run.sampling, epochs=1):
                yield batch

        def load(count: int) -> Iterator[Batch]:
            sampler.set_epoch(0)
            for batch in loaders[count]:
                yield as_step(batch, source.grid, frames)

        def epoch(feed: Callable[[], Iterator[Batch]], *, steps: bool) -> Callable[[], None]:
            def go() -> None:
                run.position = (0, 0)
                for batch in feed():
                    if steps:
                        run.step(batch)

            return go

        feeds: dict[str, Callable[[], Iterator[Batch]]] = {"the training loop's stream": stream}
        feeds |= {f"DataLoader, {n} workers": lambda n=n: load(n) for n in WORKERS}
        for steps in (True, False):
            subjects = {name: epoch(feed, steps=steps) for name, feed in feeds.items()}
            write(measure(subjects, repeats=repeats), clips, data.num_frames, steps=steps)


def write(timings: dict[str, Timing], clips: int, num_frames: int, *, steps: bool) -> None:
    """The rows of epochs with the step, or of reading alone."""
    baseline = "the training loop's stream"
    ours = timings[baseline].median
    what = "an epoch, step included" if steps else "an epoch, read only"
    rows = [
        make_row(
            "token_dataset",
            f"{what}: {name}",
            timing,
            shape=f"{clips} clips, B={BATCH} V=2 T={num_frames} L=3 7x7x192 int8",
            baseline=f"{baseline}, frames per second",
            ratio=ours / timing.median,
        )
        for name, timing in timings.items()
    ]
    write_rows(rows)


if __name__ == "__main__":
    main()
